"""Momentum that comes after a preconditioner."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class NesterovState(NamedTuple):
    """State of ``nesterov_average``: steps taken, and the average of the updates."""

    nesterov_count: Array
    average: Any


def nesterov_average(decay: float = 0.9) -> optax.GradientTransformationExtraArgs:
    """z ← βz + (1-β)u, and the update β z / (1-βᵗ) + (1-β) u: an average that looks one step ahead.

    Its weights add up to one in the first step and tend to it later; ``optax.trace`` would start at a tenth.

    Args:
      decay: β.

    Returns:
      The transformation.
    """

    def init(params):
        return NesterovState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None, **extra):
        del params, extra
        count = optax.safe_increment(state.nesterov_count)
        average = optax.tree.update_moment(updates, state.average, decay, 1)
        corrected = optax.tree.bias_correction(average, decay, count)
        out = jax.tree.map(lambda z, u: decay * z + (1 - decay) * u, corrected, updates)
        return out, NesterovState(count, average)

    return optax.GradientTransformationExtraArgs(init, update)
