"""A stochastic estimate with its standard error."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


class Estimate(NamedTuple):
    """A mean over independent samples.

    Attributes:
      value: the estimate, an array or a pytree.
      standard_error: its standard error (sample deviation / √samples), like ``value``.
      samples: the number of independent samples averaged.
    """

    value: Any
    standard_error: Any
    samples: int | Array


def estimate_mean(samples: Float[Array, "n *shape"]) -> Estimate:
    """The mean over the leading axis (n at least 2) with its standard error."""
    n = samples.shape[0]
    deviation = jnp.std(samples, axis=0, ddof=1)
    return Estimate(jnp.mean(samples, axis=0), deviation / math.sqrt(n), n)
