"""Theorem 1 (ii): the Hessian along a characteristic direction is known from first derivatives of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities import _directions
from eqtoolbox.identities._hessian import hessian_images
from eqtoolbox.identities._identity import Identity, first, identity, negative, zeros
from eqtoolbox.identities._position import evaluate, settle, sides
from eqtoolbox.linalg import hvp_fn, tree_norm
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any


def second_order(
    eq: Equivariance | Symmetry,
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    lam: Tree | None = None,
    *,
    directions: Tree | None = None,
) -> Identity:
    """The second-order identity ∇²L(θ)·X v = A + B + C + D + E (EQ-T1-ii).

    With a = ∇L (∇_θH)⁻¹ and b = ∇ℓ (∇_yG)⁻¹ the signed terms are
        A = J_fᵀ ∇²ℓ Y v,
        B = -∂_θ ⟨a, ∂_λH v⟩,        C = ∂_θ ⟨a, ∂_θH u⟩ at u = X v,
        D = J_fᵀ ∂_y ⟨b, ∂_λG v⟩,    E = -J_fᵀ ∂_y ⟨b, ∂_yG w⟩ at w = Y v,
    a, b, u and w held fixed. For a symmetry A, D and E are exactly 0, for H linear in θ so is C. The left side
    is a product with the true Hessian, forward over reverse, which shares nothing with the right side.

    Args:
      eq: the equivariance, or a symmetry (λ an algebra vector).
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ, a pytree of real arrays.
      lam: λ; None for 0 or ``eq.identity``.
      directions: as for ``first_order``.

    Returns:
      An ``Identity`` of pytrees like ``params`` (with a leading axis for a stack of directions), terms "A" to
      "E". Its scale is ‖∇²L‖_F ‖Xv‖ + Σ ‖term‖, where one random probe estimates the Frobenius norm.

    Raises:
      TypeError: a discrete symmetry (see ``discrete``), or a leaf that does not hold real numbers.
      ValueError: no λ, directions of the wrong shape or too many, or not a good position (NaN under ``jit``).

    Reference:
      Yang & Ziyin, Theorem 1 (ii); the right side alone is ``hvp_along``.
    """
    at = evaluate(model, output_loss, params)
    both = sides(eq, at.params, at.outputs, lam)
    stacked, single = _directions.stack(directions, both.lam)
    us, u_residual = _directions.over(both.h.direction, stacked)
    ws, w_residual = _directions.over(both.g.direction, stacked)
    a, a_residual = both.h.pull(at.gradient)
    b, b_residual = both.g.pull(at.slope)
    images, size = hessian_images(at.loss, at.params, us)
    output_hessian = hvp_fn(output_loss, at.outputs)

    def one(row: Tree) -> Identity:
        v, u, w, image, solves = row
        terms = {
            "A": lambda: at.transpose(output_hessian(w)),
            "B": lambda: negative(both.h.mixed(a, v)),
            "C": lambda: both.h.bend(a, u),
            "D": lambda: at.transpose(both.g.mixed(b, v)),
            "E": lambda: negative(at.transpose(both.g.bend(b, w))),
        }
        values = {k: zeros(at.params) if both.g.still and k in "ADE" else term() for k, term in terms.items()}
        return identity(image, values, size * tree_norm(u), solves)

    solves = jnp.maximum(jnp.maximum(u_residual, w_residual), jnp.maximum(a_residual, b_residual))
    result = _directions.over(one, (stacked, us, ws, images, solves))
    result = settle(result, result.solve_residual, both.h, both.g)
    return first(result) if single else result
