"""Products of the coordinates of a component, rows A (…, m, D), with themselves and with a block (…, m, m)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.curvature._piece import ones

HIGHEST = jax.lax.Precision.HIGHEST


def gram(a: Array) -> Array:
    """A Aᵀ. A single row is squared and summed where it is made, instead of being written down for a matmul."""
    if a.shape[-2] == 1:
        k = math.gcd(a.shape[-1], 2 ** (a.shape[-1].bit_length() // 2))
        parts = jnp.sum(jnp.square(a.reshape(*a.shape[:-1], -1, k)), -1)  # sums of sums: exact to rounding
        return jnp.matmul(parts, ones(parts.shape[-1], a.dtype), precision=HIGHEST)
    return jnp.matmul(a, a.mT, precision=HIGHEST)


def product(block: Array, a: Array) -> Array:
    """B A; a single row is multiplied where it is used."""
    return block * a if a.shape[-2] == 1 else jnp.matmul(block, a, precision=HIGHEST)
