"""Theorem 1 (i): the derivative of the loss along a characteristic direction is known from the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities import _directions
from eqtoolbox.identities._identity import Identity, first, relative
from eqtoolbox.identities._position import evaluate, settle, sides
from eqtoolbox.linalg import tree_norm, tree_vdot
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any


def first_order(
    eq: Equivariance | Symmetry,
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    lam: Tree | None = None,
    *,
    directions: Tree | None = None,
) -> Identity:
    """The first-order identity ∇L(θ)·X v = ∇ℓ(f(θ))·Y v (EQ-T1-i).

    For a symmetry Y = 0: the gradient is orthogonal to every orbit. For a homogeneous model it is Euler's
    relation ⟨∇L, θ⟩ = m ⟨∇ℓ, f⟩.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox.identities import first_order, homogeneous
    >>> params = {"u": jnp.array([1.0, 2.0]), "w": jnp.array([3.0, -1.0])}
    >>> result = first_order(homogeneous(2), lambda p: p["u"] * p["w"], lambda y: jnp.sum(y**2) / 2, params)
    >>> result.lhs.tolist(), result.rhs.tolist(), result.residual.tolist()
    ([26.0], [26.0], [0.0])

    Args:
      eq: the equivariance, or a symmetry (λ an algebra vector, H(θ, λ) = act(exp λ, θ)).
      model: θ -> outputs, data closed over; any pytree of real arrays.
      output_loss: outputs -> the loss, a scalar.
      params: θ, a pytree of real arrays.
      lam: λ; None for 0 or ``eq.identity``.
      directions: tangents v at λ: a pytree like λ, or one with a leading axis for k of them; None for every
        basis vector.

    Returns:
      An ``Identity`` of numbers, one per direction, without that axis where one direction is given. Its scale
      is ‖∇L‖ ‖Xv‖ + ‖∇ℓ‖ ‖Yv‖, its one term "Y".

    Raises:
      TypeError: a discrete symmetry (see ``discrete``), or a leaf that does not hold real numbers.
      ValueError: no λ, directions of the wrong shape or too many, or not a good position (NaN under ``jit``).

    Reference:
      Yang & Ziyin, Theorem 1 (i).
    """
    at = evaluate(model, output_loss, params)
    both = sides(eq, at.params, at.outputs, lam)
    stacked, single = _directions.stack(directions, both.lam)
    slope, gradient = tree_norm(at.slope), tree_norm(at.gradient)

    def one(v: Tree) -> Identity:
        u, u_residual = both.h.direction(v)
        w, w_residual = both.g.direction(v)
        lhs, rhs = tree_vdot(at.gradient, u), tree_vdot(at.slope, w)
        scale = gradient * tree_norm(u) + slope * tree_norm(w)
        residual = relative(jnp.abs(lhs - rhs), scale)
        return Identity(lhs, rhs, {"Y": rhs}, residual, scale, jnp.maximum(u_residual, w_residual))

    result = _directions.over(one, stacked)
    result = settle(result, result.solve_residual, both.h, both.g)
    return first(result) if single else result
