"""Conditions under ``vmap``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_batching.custom_vmap
def any_of_batch(condition: Array) -> Array:
    """The condition; for a batch whether it holds for any: ``vmap`` of a conditional on it pays one branch only.

    Both branches must then be right for those of the batch for which the condition does not hold.

    Args:
      condition: a boolean scalar.

    Returns:
      A boolean scalar, not batched.
    """
    return condition


@any_of_batch.def_vmap
def _of_batch(size: int, batched: list[bool], condition: Array) -> tuple[Array, bool]:
    del size, batched
    return any_of_batch(jnp.any(condition, 0)), False
