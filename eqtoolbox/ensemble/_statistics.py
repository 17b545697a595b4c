"""What is averaged over an ensemble: functions of one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from eqtoolbox.curvature import Blocks, Commutant
from eqtoolbox.linalg import (
    Estimate,
    Moments,
    hvp_fn,
    moments_covariance,
    moments_mean,
    moments_standard_error,
)
from eqtoolbox.noether import charge_fn
from eqtoolbox.symmetry import Symmetry

Params = Any


class Model(NamedTuple):
    """One model at the time of a measurement.

    Attributes:
      params: θ.
      loss: L(θ).
      gradient: ∇L(θ).
      loss_fn: L, to differentiate.
    """

    params: Params
    loss: Array
    gradient: Params
    loss_fn: Callable[[Params], Array]


@dataclass(frozen=True)
class Statistic:
    """A function of a model whose mean over the ensemble is wanted, with its standard error.

    Attributes:
      function: ``Model`` -> a pytree of real arrays.
      covariance: whether the covariance of all entries is wanted too; for small ones.
    """

    function: Callable[[Model], Any]
    covariance: bool = False


def losses() -> Statistic:
    """The loss."""
    return Statistic(lambda model: model.loss)


def gradients() -> Statistic:
    """The gradient, like the parameters."""
    return Statistic(lambda model: model.gradient)


def factors(com: Commutant) -> Statistic:
    """What the factors of the gradient covariance are made of (GC-3.4); ``covariance_blocks`` makes them.

    Args:
      com: the commutant of the symmetry of the models.
    """

    def function(model: Model) -> dict[str, Blocks]:
        coordinates = com.coordinates(model.gradient)
        still = {c.name: coordinates[c.name] for c in com.components if c.is_invariant}
        return {"gram": com.gram(model.gradient), "mean": still}

    return Statistic(function)


def covariance_blocks(com: Commutant, moments: Moments) -> Estimate:
    """The gradient covariance projected on the commutant: unbiased, with the standard error of every entry.

    A component that is not trivial has mean 0, so that its uncentred mean is its covariance.

    Args:
      com: the commutant.
      moments: of the statistic ``factors``.

    Returns:
      An ``Estimate`` of blocks; the errors are those of the uncentred means.
    """
    mean, error = moments_mean(moments), moments_standard_error(moments)["gram"]
    n = moments.count
    blocks = dict(mean["gram"])
    for name, a in mean["mean"].items():
        scale = n.astype(a.dtype) / jnp.maximum(n - 1, 1).astype(a.dtype)
        outer = jnp.matmul(a, a.mT, precision=jax.lax.Precision.HIGHEST)
        blocks[name] = (blocks[name] - outer) * scale
    return Estimate(blocks, error, n)


def flat_gradients(power: int = 1) -> Statistic:
    """The entries of the gradient to a power, in the order of ``ravel_pytree``, with their covariance; for tiny models.

    Args:
      power: 1 for the covariance itself, 2 for its standard error.
    """

    def function(model: Model) -> Array:
        return ravel_pytree(model.gradient)[0] ** power

    return Statistic(function, covariance=True)


def full_covariance(moments: Moments, squares: Moments) -> Estimate:
    """The p × p gradient covariance with the standard error of every entry.

    Args:
      moments: of ``flat_gradients()``.
      squares: of ``flat_gradients(2)``.

    Returns:
      An ``Estimate``; the errors are those of the uncentred mean of g gᵀ.
    """
    variance = jnp.maximum(second_moment(squares) - second_moment(moments) ** 2, 0)
    error = jnp.sqrt(variance / jnp.maximum(moments.count - 1, 1).astype(variance.dtype))
    return Estimate(moments_covariance(moments), error, moments.count)


def second_moment(moments: Moments) -> Array:
    """The mean of x xᵀ, not centred."""
    mean = moments_mean(moments)
    return moments_covariance(moments, ddof=0) + jnp.outer(mean, mean)


def hessians(com: Commutant | None = None) -> Statistic:
    """The Hessian: p × p in the order of ``ravel_pytree`` for tiny models, or its blocks.

    Args:
      com: the commutant on which it is projected, by Σ m products instead of p; None for the whole matrix.
    """

    def dense(model: Model) -> Array:
        flat, unravel = ravel_pytree(model.params)
        product = hvp_fn(lambda v: model.loss_fn(unravel(v)), flat)
        return jax.lax.map(product, jnp.eye(flat.size, dtype=flat.dtype))

    if com is None:
        return Statistic(dense)
    return Statistic(lambda model: com.hessian(model.loss_fn, model.params, exact=True).value)


def charges(sym: Symmetry) -> Statistic:
    """The charges of a symmetry that gradient flow conserves, ``noether.charge_fn``."""
    function = charge_fn(sym)
    return Statistic(lambda model: function(model.params))
