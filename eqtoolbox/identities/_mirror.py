"""Fixed points of a transformation of finite order, and the blocks it forces on the Hessian there."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities._discrete import PROBES, transformation
from eqtoolbox.identities._identity import relative, total
from eqtoolbox.identities._position import coarsest, real_arrays, require
from eqtoolbox.linalg import random_stack, tree_norm
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any


def project_fixed(eq: Equivariance | Symmetry, g: Tree, params: Tree, order: int = 2) -> Tree:
    """The nearest invariant point in the sense of the group: the mean of θ, Hθ, …, Hⁿ⁻¹θ (EQ-D3).

    For an involution this is (I + P)/2. The paper's "eigenvalues ±1 (e.g. permutations)" is not enough: a
    3-cycle has the eigenvalues 1, e^{±2πi/3}, and the shear [[1, 1], [0, 1]] has the eigenvalue 1 alone and is
    not fixed by (I + P)/2. What is needed is Pⁿ = I; then the mean over the powers is the projection on Fix(P),
    orthogonal where P is.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"w": "h"}, {"h": groups.Permutation(3)})
    >>> cycle = {"h": jnp.array([1, 2, 0])}
    >>> project_fixed(sym, cycle, {"w": jnp.array([0.0, 3.0, 6.0])}, order=3)["w"].tolist()
    [3.0, 3.0, 3.0]

    Args:
      eq: a symmetry, or an equivariance.
      g: a group element of the symmetry, or λ0 of the equivariance, whose action is affine.
      params: θ, a pytree of real arrays.
      order: n, with Hⁿ = I.

    Returns:
      A pytree like ``params``.

    Raises:
      TypeError: ``order`` is no integer, or a leaf does not hold real numbers.
      ValueError: Hⁿθ ≠ θ, or the mean is not fixed because H is not affine (NaN under ``jit``).

    Reference:
      Yang & Ziyin, Definition 3.
    """
    params = real_arrays(params, "params")
    act = transformation(eq, g)
    powers = _powers(act, params, order)
    result = jax.tree.map(lambda x: x / order, total(*powers))
    size, limit = tree_norm(params), coarsest(params) ** 0.5
    checks = []
    for a, b, text in (
        (act(powers[-1]), params, f"H applied order={order} times must be the identity at θ"),
        (act(result), result, "H must be affine: the mean over its powers must be fixed"),
    ):
        error = relative(tree_norm(jax.tree.map(jnp.subtract, a, b)), size)
        checks.append((error <= limit, error, f"{text}, to a relative error of {limit:.1e}"))
    return require(result, checks)


class MirrorBlocks(NamedTuple):
    """The gradient and the Hessian in the parts that the eigenspaces of P cut them into.

    Attributes:
      gradient: ‖∇L - its invariant part‖ / ‖∇L‖; for a mirror, ‖Oᵀ∇L‖ / ‖∇L‖.
      diagonal: an estimate of the Frobenius norm of the blocks that P allows.
      off_diagonal: of those it forbids.
    """

    gradient: Array
    diagonal: Array
    off_diagonal: Array


def mirror_blocks(
    eq: Equivariance | Symmetry,
    g: Tree,
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    *,
    order: int = 2,
    probes: int = PROBES,
    key: Array | None = None,
) -> MirrorBlocks:
    """How far ∇L and ∇²L at θ are from what a linear symmetry P of finite order asks on Fix(P) (EQ-6, EQ-6.1).

    At θ = Pθ the gradient has only the invariant part of the mean over Pᵏᵀ, and the Hessian equals its mean
    T(∇²L) over PᵏᵀMPᵏ. The rest, ∇²L - T(∇²L), holds the blocks between eigenvectors of P whose eigenvalues have
    μ ν̄ ≠ 1. For an orthogonal P (mirrors, sign flips, permutations, rotations) these are all blocks between
    different eigenspaces, as printed, and ∇²L commutes with P. For a general P the printed claim fails:
    P = diag(2, ½) is a symmetry of f = uw and couples just its two eigenspaces at the fixed point 0.
    For P = I - 2OOᵀ the forbidden blocks are OᵀMO⊥ and its transpose.

    Args:
      eq: a symmetry, or an equivariance that leaves the outputs alone.
      g: a group element of the symmetry, or λ0 of the equivariance, acting linearly.
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ; the statement is about fixed points, see ``project_fixed``.
      order: n, with Pⁿ = I.
      probes: random vectors for the Frobenius norms, ``order`` Hessian products each.
      key: a typed key; key 0 by default.

    Returns:
      A ``MirrorBlocks``; at a fixed point ``gradient`` and ``off_diagonal`` vanish.

    Raises:
      TypeError: ``order`` is no integer, or a leaf does not hold real numbers.
      ValueError: Pⁿ ≠ I on θ, or on the probes (NaN under ``jit``).

    Reference:
      Yang & Ziyin, section 6, equations (8) and (9), Corollary 4.
    """
    if isinstance(eq, Equivariance) and not eq.is_symmetry:
        raise TypeError("`eq` must leave the outputs alone (act_output is given): use `discrete`")
    params = real_arrays(params, "params")
    act = transformation(eq, g)
    _, tangent = jax.linearize(act, params)
    transpose = jax.linear_transpose(tangent, params)
    gradient, hessian = jax.linearize(jax.grad(lambda p: output_loss(model(p))), params)

    def invariant_part(parts: list[Tree]) -> Tree:
        """(1/n) Σ_k Pᵏᵀ parts[k], by Horner's rule."""
        result = parts[-1]
        for part in reversed(parts[:-1]):
            result = total(part, transpose(result)[0])
        return jax.tree.map(lambda x: x / order, result)

    def split(z: Tree) -> tuple[Array, Array, Array, Array]:
        powers = _powers(tangent, z, order)
        images = [hessian(power) for power in powers]
        allowed = invariant_part(images)
        rest = jax.tree.map(jnp.subtract, images[0], allowed)
        back = jax.tree.map(jnp.subtract, tangent(powers[-1]), z)
        return tree_norm(allowed), tree_norm(rest), tree_norm(back), tree_norm(z)

    stack = random_stack(jax.random.key(0) if key is None else key, params, probes)
    allowed, rest, back, lengths = jax.vmap(split)(stack)
    invariant = invariant_part([gradient] * order)
    slope = relative(tree_norm(jax.tree.map(jnp.subtract, gradient, invariant)), tree_norm(gradient))
    blocks = MirrorBlocks(slope, *(jnp.sqrt(jnp.mean(x**2)) for x in (allowed, rest)))
    error, limit = jnp.max(back / lengths), coarsest(params) ** 0.5
    text = f"P applied order={order} times must be the identity, to a relative error of {limit:.1e}"
    return require(blocks, [(error <= limit, error, text)])


def _powers(act: Callable[[Tree], Tree], x: Tree, order: int) -> list[Tree]:
    """x, Hx, …, Hⁿ⁻¹x."""
    if operator.index(order) < 1:
        raise ValueError(f"`order` must be at least 1, got {order}")
    powers = [x]
    for _ in range(order - 1):
        powers.append(act(powers[-1]))
    return powers
