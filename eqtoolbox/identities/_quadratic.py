"""Theorem 1 (iii): the quadratic form of the Hessian on the characteristic directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities import _directions
from eqtoolbox.identities._hessian import hessian_images
from eqtoolbox.identities._identity import Identity, relative, total
from eqtoolbox.identities._position import evaluate, settle, sides
from eqtoolbox.linalg import hvp_fn, stack_vdot, tree_norm
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any


def quadratic(
    eq: Equivariance | Symmetry,
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    lam: Tree | None = None,
    *,
    directions: Tree | None = None,
) -> Identity:
    """The quadratic identity Xᵀ∇²L X = A + B + C + D + E, matrices over pairs of directions (EQ-T1-iii).

    With a = ∇L (∇_θH)⁻¹, b = ∇ℓ (∇_yG)⁻¹, u_i = X v_i and w_i = Y v_i the signed terms are
        A = ∇²ℓ[w_i, w_j],
        B = -⟨a, ∇²_λH[v_i, v_j]⟩,   C = ⟨a, ∇²_θH[u_i, u_j]⟩,
        D = ⟨b, ∇²_λG[v_i, v_j]⟩,    E = -⟨b, ∇²_yG[w_i, w_j]⟩.
    (Equation (20) of the proof prints ∇²_λH in the place of ∇²_θH; the theorem itself is right.)
    At λ = 0 a symmetry has ∇²_λH[v_i, v_j] = ½ (D(Xv_i)[Xv_j] + D(Xv_j)[Xv_i]) by its generators.

    Args:
      eq: the equivariance, or a symmetry (λ an algebra vector).
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ, a pytree of real arrays.
      lam: λ; None for 0 or ``eq.identity``.
      directions: as for ``first_order``; their characteristic directions are all held at once.

    Returns:
      An ``Identity`` of k x k matrices (of numbers, for one direction), terms "A" to "E". The scale is a matrix
      too, ‖∇²L‖_F ‖u_i‖ ‖u_j‖ + Σ |term|; the residual of a direction is the largest of its row.

    Raises:
      TypeError: a discrete symmetry (see ``discrete``), or a leaf that does not hold real numbers.
      ValueError: no λ, directions of the wrong shape or too many, or not a good position (NaN under ``jit``).

    Reference:
      Yang & Ziyin, Theorem 1 (iii).
    """
    at = evaluate(model, output_loss, params)
    both = sides(eq, at.params, at.outputs, lam)
    stacked, single = _directions.stack(directions, both.lam)
    output_hessian = hvp_fn(output_loss, at.outputs)
    a, a_residual = both.h.pull(at.gradient)
    b, b_residual = both.g.pull(at.slope)
    us, u_residual = _directions.over(both.h.direction, stacked)
    ws, w_residual = _directions.over(both.g.direction, stacked)

    images, size = hessian_images(at.loss, at.params, us)

    def row(pair: Tree) -> tuple[Array, dict[str, Array]]:
        v, u, w, image = pair
        terms = {
            "A": stack_vdot(ws, output_hessian(w)),
            "B": -both.h.twist(a, v, stacked, us),
            "C": stack_vdot(us, both.h.bend(a, u)),
            "D": both.g.twist(b, v, stacked, ws),
            "E": -stack_vdot(ws, both.g.bend(b, w)),
        }
        return stack_vdot(us, image), terms

    lhs, terms = _directions.over(row, (stacked, us, ws, images))
    terms = {name: (term + term.T) / 2 for name, term in terms.items()}
    rhs = total(*terms.values())
    lengths = jax.vmap(tree_norm)(us)
    scale = size * lengths[:, None] * lengths[None, :] + sum(jnp.abs(term) for term in terms.values())
    residual = jnp.max(relative(jnp.abs(lhs - rhs), scale), axis=1)
    solves = jnp.maximum(jnp.maximum(u_residual, w_residual), jnp.maximum(a_residual, b_residual))
    result = Identity(lhs, rhs, terms, residual, scale, solves)
    result = settle(result, solves, both.h, both.g)
    return jax.tree.map(lambda x: x.reshape(()), result) if single else result
