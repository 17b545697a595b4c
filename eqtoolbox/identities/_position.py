"""A point (θ, λ): the model and loss there, both sides of the equivariance, and whether the position is good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities import _directions
from eqtoolbox.identities._side import Side, generator_side, map_side, still_side
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any


class Sides(NamedTuple):
    """Both maps at one point.

    Attributes:
      lam: λ, a pytree of arrays.
      h: H at θ.
      g: G at f(θ).
    """

    lam: Tree
    h: Side
    g: Side


class Model(NamedTuple):
    """The model and its loss at θ.

    Attributes:
      params: θ, arrays.
      outputs: y = f(θ).
      slope: ∇ℓ(y).
      gradient: ∇L(θ).
      transpose: c -> J_fᵀ c.
      loss: L = ℓ∘f.
    """

    params: Tree
    outputs: Tree
    slope: Tree
    gradient: Tree
    transpose: Callable[[Tree], Tree]
    loss: Callable[[Tree], Array]


def evaluate(model: Callable[[Tree], Tree], output_loss: Callable[[Tree], Array], params: Tree) -> Model:
    """The model at θ: one forward and one backward pass."""
    params = real_arrays(params, "params")
    outputs, vjp = jax.vjp(model, params)
    real_arrays(outputs, "model(params)")
    slope = jax.grad(output_loss)(outputs)
    return Model(params, outputs, slope, vjp(slope)[0], lambda c: vjp(c)[0], lambda p: output_loss(model(p)))


def sides(eq: Equivariance | Symmetry, params: Tree, outputs: Tree, lam: Tree | None) -> Sides:
    """H at θ and G at y, each by the cheapest way it allows."""
    point = _directions.point(eq, params, lam)
    return Sides(point, params_side(eq, params, lam, point), outputs_side(eq, outputs, lam, point))


def params_side(eq: Equivariance | Symmetry, params: Tree, lam: Tree | None, point: Tree) -> Side:
    """H at θ; ``lam`` is what the caller gave and ``point`` what it means."""
    if isinstance(eq, Symmetry):
        if lam is None:
            return generator_side(eq, params)
        eq = Equivariance.of(eq)
    return map_side("H", eq.act, eq.act_inverse, lam is None, params, point)


def outputs_side(eq: Equivariance | Symmetry, outputs: Tree, lam: Tree | None, point: Tree) -> Side:
    """G at y; ``lam`` is what the caller gave and ``point`` what it means."""
    if isinstance(eq, Symmetry) or eq.is_symmetry:
        return still_side(outputs)
    return map_side("G", eq.act_output, eq.output_inverse, lam is None, outputs, point)


def settle(result: Tree, solve_residual: Array, *used: Side) -> Tree:
    """``result`` where (θ, λ) is a good position; else a ``ValueError``, or NaN where arrays are traced.

    A position is refused where σ_min ≤ d ε σ_max for ∇_θH or ∇_yG, where a solve left a residual above √ε, or
    where the inverse map or the identity is off by more than √ε.

    Args:
      result: what was computed.
      solve_residual: of all solves behind it.
      *used: the sides it was computed with.
    """
    checks = []
    for side in used:
        eps, size = coarsest(side.at), sum(leaf.size for leaf in jax.tree.leaves(side.at))
        x = {"H": "θ", "G": "y"}[side.name]
        if side.conditioning is not None:
            floor = min(eps * size, eps**0.5)
            text = f"∇_{x}{side.name} must be invertible, with σ_min/σ_max above {floor:.1e}"
            checks.append((side.conditioning > floor, side.conditioning, text))
            worst = jnp.max(solve_residual)
            text = f"the linear solves must leave a relative residual below {eps**0.5:.1e}"
            checks.append((worst <= eps**0.5, worst, text))
        if side.defect is not None:
            text = (
                f"{side.name}⁻¹({side.name}({x}, λ), λ) = {x}, or {side.name}({x}, λ0) = {x} at the identity, must "
                f"hold to a relative error of {eps**0.5:.1e}"
            )
            checks.append((side.defect <= eps**0.5, side.defect, text))
    return require(result, [(p, v, f"not a good position (θ, λ): {t}") for p, v, t in checks])


def require(result: Tree, checks: list[tuple[Array, Array, str]]) -> Tree:
    """``result`` where all checks (passed, value, text) pass; else a ``ValueError``, or NaN where traced."""
    good, traced = jnp.bool_(True), False
    for passed, value, text in checks:
        try:
            if not bool(passed):
                raise ValueError(f"{text}, got {float(value):.1e}")
        except jax.errors.ConcretizationTypeError:
            good, traced = good & passed, True

    def poison(x: Array) -> Array:
        return jnp.where(good, x, jnp.asarray(jnp.nan, x.dtype))

    return jax.tree.map(poison, result) if traced else result


def coarsest(tree: Tree) -> float:
    """The largest machine epsilon of the leaves."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree))


def real_arrays(tree: Tree, name: str) -> Tree:
    """The leaves as arrays.

    Raises:
      TypeError: naming a leaf that does not hold real numbers.
    """

    def leaf(path: tuple, x: Any) -> Array:
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            place = jax.tree_util.keystr(path, simple=True, separator="/") or "."
            raise TypeError(
                f"leaf `{place}` of `{name}` must hold real numbers, got {jnp.result_type(x)}: close over it"
            )
        return jnp.asarray(x)

    return jax.tree_util.tree_map_with_path(leaf, tree)
