"""Shrinkage of estimated covariances towards a multiple of the identity, component by component."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def oas(block: Array, samples: float) -> tuple[Array, Array]:
    """Oracle approximating shrinkage of covariance matrices of Gaussian samples with known mean.

    Args:
      block: matrices (..., m, m).
      samples: the number of samples behind each.

    Returns:
      The shrunk matrices, and the weight of the identity, shape (...).

    Reference:
      Chen, Wiesel, Eldar & Hero, Shrinkage algorithms for MMSE covariance estimation (2010), eq. 23.
    """
    m = block.shape[-1]
    trace, square = jnp.trace(block, axis1=-2, axis2=-1), jnp.sum(block**2, (-2, -1))
    above = (1 - 2 / m) * square + trace**2
    below = (samples + 1 - 2 / m) * (square - trace**2 / m)
    return _towards_identity(block, jnp.where(below > above, above / jnp.where(below > 0, below, 1), 1.0))


def ledoit_wolf(block: Array, fourth: Array, samples: int) -> tuple[Array, Array]:
    """Ledoit and Wolf's shrinkage, from the samples.

    Args:
      block: the mean of the samples' matrices, (..., m, m).
      fourth: the mean of the squared Frobenius norms of these, (...).
      samples: how many they are.

    Returns:
      The shrunk matrices, and the weight of the identity, shape (...).

    Reference:
      Ledoit & Wolf, A well-conditioned estimator for large-dimensional covariance matrices (2004), lemma 3.3.
    """
    m = block.shape[-1]
    square = jnp.sum(block**2, (-2, -1))
    spread = square - jnp.trace(block, axis1=-2, axis2=-1) ** 2 / m
    noise = jnp.maximum(fourth - square, 0) / samples
    weight = jnp.where(spread > 0, noise / jnp.where(spread > 0, spread, 1), 1.0)
    return _towards_identity(block, jnp.clip(weight, 0, 1))


def _towards_identity(block: Array, weight: Array) -> tuple[Array, Array]:
    m = block.shape[-1]
    level = jnp.trace(block, axis1=-2, axis2=-1) / m
    w = weight[..., None, None].astype(block.dtype)
    return (1 - w) * block + w * level[..., None, None] * jnp.eye(m, dtype=block.dtype), weight
