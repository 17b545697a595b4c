"""One of the two maps of an equivariance, F = H at θ or F = G at f(θ), as what the theorems need of it.

With a = c (∇_xF)⁻¹ for a covector c, every term of Theorem 1 is a second derivative of the one scalar function
⟨a, F(x, λ)⟩: mixed in (x, λ), twice in x, or twice in λ. So nothing larger than a vector is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities._identity import relative, zeros
from eqtoolbox.identities._solve import Solver, jacobian_solver
from eqtoolbox.linalg import stack_vdot, tree_norm, vary_with
from eqtoolbox.symmetry import Symmetry

Tree = Any
Map = Callable[[Tree, Tree], Tree]


@dataclass(frozen=True)
class Side:
    """The map F(x, λ) at one point.

    Attributes:
      name: "H" or "G", for messages.
      at: the point x.
      direction: v -> ((∇_xF)⁻¹ ∇_λF v, residual of the solve): X v or Y v.
      pull: c -> (a = c (∇_xF)⁻¹, residual of the solve).
      mixed: (a, v) -> ∂_x ⟨a, ∂_λF v⟩.
      bend: (a, u) -> ∂_x ⟨a, ∂_xF u⟩.
      turn: (a, u, v) -> ∂_x ⟨a, ∂_λF v - ∂_xF u⟩ at once.
      twist: (a, v, V, U) -> ⟨a, ∇²_λF[v, v_i]⟩ for the rows v_i of V, with U their directions; a generator gives
        ⟨a, D(Xv)[Xv_i]⟩, of which the symmetric part is wanted (``quadratic`` takes it).
      still: whether F leaves everything where it is, for every λ.
      conditioning: σ_min / σ_max of ∇_xF where a linear solve is needed (1 where it was not found), else None.
      defect: how far the inverse map or the identity is from being one, relative; None where there is neither.
    """

    name: str
    at: Tree
    direction: Callable[[Tree], tuple[Tree, Array]]
    pull: Callable[[Tree], tuple[Tree, Array]]
    mixed: Callable[[Tree, Tree], Tree]
    bend: Callable[[Tree, Tree], Tree]
    turn: Callable[[Tree, Tree, Tree], Tree]
    twist: Callable[[Tree, Tree, Tree, Tree], Array]
    still: bool
    conditioning: Array | None
    defect: Array | None


def exact(tree: Tree) -> tuple[Tree, Array]:
    """A result that needed no solve."""
    return tree, jnp.float32(0)


def still_side(x: Tree) -> Side:
    """The side of a map that moves nothing: G of a symmetry."""

    def nothing(*_: Tree) -> Tree:
        return zeros(x)

    def twist(a: Tree, v: Tree, stack: Tree, directions: Tree) -> Array:
        return jnp.zeros(jax.tree.leaves(stack)[0].shape[0], jnp.float32)

    return Side("G", x, lambda v: exact(zeros(x)), exact, nothing, nothing, nothing, twist, True, None, None)


def generator_side(sym: Symmetry, params: Tree) -> Side:
    """H(θ, λ) = act(exp λ, θ) at λ = 0, by its generators: X v is affine in θ, so ∇²_θH = 0.

    Along the one-parameter group of v the second derivative is D(Xv)[Xv]; hence
    ∇²_λH[v, v'] = ½ (D(Xv)[Xv'] + D(Xv')[Xv]).
    """

    def field(v: Tree) -> Callable[[Tree], Tree]:
        return lambda p: sym.generator(v, p)

    def mixed(a: Tree, v: Tree) -> Tree:
        return jax.vjp(field(v), params)[1](a)[0]

    def twist(a: Tree, v: Tree, stack: Tree, directions: Tree) -> Array:
        return stack_vdot(directions, mixed(a, v))

    return Side(
        name="H",
        at=params,
        direction=lambda v: exact(sym.generator(v, params)),
        pull=exact,
        mixed=mixed,
        bend=lambda a, u: zeros(params),
        turn=lambda a, u, v: mixed(a, v),
        twist=twist,
        still=False,
        conditioning=None,
        defect=None,
    )


def map_side(name: str, function: Map, inverse: Map | None, at_identity: bool, x: Tree, lam: Tree) -> Side:
    """The side of a map given by a function.

    At the identity ∇_xF is the identity; else by the inverse map, X v = d/dε F⁻¹(F(x, λ + εv), λ), and the
    covectors by its transpose; else by a linear solve.

    Args:
      name: "H" or "G".
      function: F(x, λ).
      inverse: F⁻¹(x, λ), or None.
      at_identity: whether F(·, λ) is the identity.
      x: the point, a pytree of real arrays.
      lam: λ.

    Raises:
      ValueError: naming the leaf, where F does not return a pytree like x.
    """
    lam = vary_with(lam, x)
    f = _same(name, function, x, lam)
    moved, derivative = jax.linearize(lambda lam: f(x, lam), lam)

    def along(v: Tree) -> Tree:
        return derivative(vary_with(v, x))

    if at_identity:
        direction: Any = lambda v: exact(along(v))  # noqa: E731
        pull: Any = exact
        conditioning, defect = None, _apart(moved, x, moved)
    elif inverse is not None:
        g = _same(f"{name}⁻¹", inverse, x, lam)
        back, undo = jax.linearize(lambda z: g(z, lam), moved)
        transpose = jax.linear_transpose(undo, moved)
        direction = lambda v: exact(undo(along(v)))  # noqa: E731
        pull = lambda c: exact(transpose(c)[0])  # noqa: E731
        conditioning, defect = None, _apart(back, x, moved)
    else:
        solver: Solver = jacobian_solver(lambda x: f(x, lam), x)
        direction = lambda v: solver.solve(along(v))  # noqa: E731
        pull = solver.transposed
        conditioning, defect = solver.conditioning, None

    def slope(a: Tree, x: Tree, lam: Tree) -> Tree:
        """∂_x ⟨a, F(x, λ)⟩."""
        return jax.vjp(lambda x: f(x, lam), x)[1](a)[0]

    def mixed(a: Tree, v: Tree) -> Tree:
        return jax.jvp(lambda lam: slope(a, x, lam), (lam,), (vary_with(v, x),))[1]

    def bend(a: Tree, u: Tree) -> Tree:
        return zeros(x) if at_identity else jax.jvp(lambda x: slope(a, x, lam), (x,), (u,))[1]

    def turn(a: Tree, u: Tree, v: Tree) -> Tree:
        if at_identity:
            return mixed(a, v)
        back = jax.tree.map(jnp.negative, u)
        return jax.jvp(lambda x, lam: slope(a, x, lam), (x, lam), (back, vary_with(v, x)))[1]

    def twist(a: Tree, v: Tree, stack: Tree, directions: Tree) -> Array:
        def slope_in_lam(lam: Tree) -> Tree:
            return jax.vjp(lambda lam: f(x, lam), lam)[1](a)[0]

        return stack_vdot(stack, jax.jvp(slope_in_lam, (lam,), (vary_with(v, x),))[1])

    return Side(name, x, direction, pull, mixed, bend, turn, twist, False, conditioning, defect)


def _apart(tree: Tree, x: Tree, moved: Tree) -> Array:
    """The distance of ``tree`` from x, relative to the sizes of x and of its image."""
    gap = tree_norm(jax.tree.map(jnp.subtract, tree, x))
    return relative(gap, tree_norm(x) + tree_norm(moved))


def _same(name: str, function: Map, x: Tree, lam: Tree) -> Map:
    """``function`` with its results in the dtypes of ``x``, after checking their shapes."""
    image = jax.eval_shape(function, x, lam)
    want, got = jax.tree.structure(x), jax.tree.structure(image)
    if want != got:
        raise ValueError(f"`{name}` must return a pytree like its first argument: {want}, got {got}")
    for (path, leaf), other in zip(jax.tree.leaves_with_path(x), jax.tree.leaves(image), strict=True):
        if other.shape != jnp.shape(leaf):
            place = jax.tree_util.keystr(path, simple=True, separator="/") or "."
            raise ValueError(f"leaf `{place}` of `{name}`: the shape {jnp.shape(leaf)} became {other.shape}")
    dtypes = jax.tree.map(jnp.result_type, x)
    return lambda x, lam: jax.tree.map(lambda y, d: jnp.asarray(y).astype(d), function(x, lam), dtypes)
