"""Approximate and local equivariances: how far each identity is from holding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities import _directions
from eqtoolbox.identities._characteristic import equivariance_error
from eqtoolbox.identities._first_order import first_order
from eqtoolbox.identities._quadratic import quadratic
from eqtoolbox.identities._second_order import second_order
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any


class Defects(NamedTuple):
    """The relative residual of everything an equivariance implies, one number per direction.

    Attributes:
      equivariance: ‖f(H(θ, λ + v)) - G(f(θ), λ + v)‖ / ‖G(f(θ), λ + v)‖ for each direction v: at a distance.
      first: of ∇L·X = ∇ℓ·Y.
      second: of ∇²L·X.
      quadratic: of Xᵀ∇²L X.
    """

    equivariance: Array
    first: Array
    second: Array
    quadratic: Array


def defects(
    eq: Equivariance | Symmetry,
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    lam: Tree | None = None,
    *,
    directions: Tree | None = None,
) -> Defects:
    """How far an approximate or local equivariance is from satisfying (i), (ii) and (iii) at θ (EQ-7).

    All are 0 for an exact one, and of the order of the violation for an approximate one. The identities only
    see θ and its derivatives: a local equivariance, one that holds near θ, has vanishing ``first``, ``second``
    and ``quadratic`` while ``equivariance``, taken at a finite distance, may not vanish. Along training, call it
    on the parameters of each step (``jax.vmap`` over checkpoints).

    To first order the reason is explicit: with D(θ, λ) = f(H(θ, λ)) - G(f(θ), λ),
    ∇L·X v - ∇ℓ·Y v = ∇ℓ (∇_yG)⁻¹ (∂_λD v - ∂_θD X v).

    Args:
      eq: the equivariance, or a symmetry (λ an algebra vector).
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ.
      lam: λ; None for 0 or ``eq.identity``.
      directions: as for ``first_order``.

    Returns:
      A ``Defects``, each with one number per direction.

    Raises:
      TypeError: a discrete symmetry (use ``discrete``), or a leaf that does not hold real numbers.
      ValueError: as for ``second_order``.

    Reference:
      Yang & Ziyin, section 7, "Beyond global equivariances".
    """
    point = _directions.point(eq, params, lam)
    stacked, single = _directions.stack(directions, point)

    def distance(v: Tree) -> Array:
        return equivariance_error(eq, model, params, jax.tree.map(jnp.add, point, v))

    results = (
        identity(eq, model, output_loss, params, lam, directions=stacked).residual
        for identity in (first_order, second_order, quadratic)
    )
    found = Defects(_directions.over(distance, stacked), *results)
    return jax.tree.map(lambda x: x[0], found) if single else found
