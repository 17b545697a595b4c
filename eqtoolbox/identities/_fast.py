"""∇²L·X v by the right side of the identity: a Hessian-vector product for the price of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities import _directions
from eqtoolbox.identities._identity import negative, total
from eqtoolbox.identities._position import evaluate, settle, sides
from eqtoolbox.linalg import hvp
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any


def hvp_along(
    eq: Equivariance | Symmetry,
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    lam: Tree | None = None,
    *,
    direction: Tree,
) -> Tree:
    """The product ∇²L(θ)·X v, without a second derivative of the model.

    With s(y) = ⟨∇ℓ(y), Y(y, λ) v⟩ for fixed v, the identity (ii) reads
    ∇²L·X v = J_fᵀ ∇s(f(θ)) - (∂_θ[X v])ᵀ ∇L(θ).
    A symmetry has s = 0: at λ = 0 the product is minus the transpose of the (affine) generator applied to the
    gradient, one gradient in all. A general equivariance needs two backward passes through the model, a
    Hessian-vector product about twice a gradient.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"u": "h", "w": "h*"}, {"h": groups.PositiveScaling(2)})
    >>> params = {"u": jnp.array([1.0, 2.0]), "w": jnp.array([3.0, -1.0])}
    >>> model, loss = lambda p: jnp.vdot(p["u"], p["w"]), lambda y: (y - 3) ** 2 / 2
    >>> hvp_along(sym, model, loss, params, direction={"h": jnp.array([1.0, 0.0])})["u"].tolist()
    [6.0, -0.0]

    Args:
      eq: the equivariance, or a symmetry (λ an algebra vector).
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ, a pytree of real arrays.
      lam: λ; None for 0 or ``eq.identity``.
      direction: the tangent v, a pytree like λ; spaces of a symmetry left out count as zero.

    Returns:
      A pytree like ``params``. It is ∇²L·X v where the equivariance holds; ``second_order`` tells whether.

    Raises:
      TypeError: a discrete symmetry, or a leaf that does not hold real numbers.
      ValueError: as for ``second_order``.

    Reference:
      Yang & Ziyin, Theorem 1 (ii), with its last four terms gathered into derivatives of X v and Y v.
    """
    at = evaluate(model, output_loss, params)
    both = sides(eq, at.params, at.outputs, lam)
    v = _directions.single(direction, both.lam)
    u, u_residual = both.h.direction(v)
    a, a_residual = both.h.pull(at.gradient)
    result = negative(both.h.turn(a, u, v))
    residuals = [u_residual, a_residual]
    if not both.g.still:
        w, w_residual = both.g.direction(v)
        b, b_residual = both.g.pull(at.slope)
        covector = total(hvp(output_loss, at.outputs, w), both.g.turn(b, w, v))
        result = total(at.transpose(covector), result)
        residuals += [w_residual, b_residual]
    return settle(result, jnp.max(jnp.stack(residuals)), both.h, both.g)
