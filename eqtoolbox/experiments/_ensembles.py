"""Averages over initialisations, and how they depend on the number of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Params = Any


def gradient_descent(loss: Callable[[Params], Array], params: Params, rate: float, steps: int) -> Params:
    """The parameters after some steps of gradient descent."""

    def step(params: Params, _: Any) -> tuple[Params, None]:
        return jax.tree.map(
            lambda x, g: x - jnp.asarray(rate, x.dtype) * g, params, jax.grad(loss)(params)
        ), None

    return jax.lax.scan(step, params, None, length=steps)[0]


def in_chunks(
    function: Callable[[Array], Any], key: Array, models: int, chunks: int, batch_size: int = 256
) -> Any:
    """Means of a function of a key over ``chunks`` disjoint sets of ``models / chunks`` keys.

    Args:
      function: key -> tree of arrays.
      key: split into one key per model.
      models: how many keys.
      chunks: how many means.
      batch_size: models taken together, at most.

    Returns:
      The means with a leading axis ``chunks``.

    Raises:
      ValueError: ``models`` is not a multiple of ``chunks``.
    """
    if models % chunks:
        raise ValueError(f"models must be a multiple of {chunks}, got {models}")
    size = models // chunks
    batch = max(b for b in range(1, min(size, batch_size) + 1) if size % b == 0)
    keys = jax.random.split(key, (chunks, size // batch, batch))

    @jax.jit
    def mean(keys: Array) -> Any:
        def add(total: Any, some: Array) -> tuple[Any, None]:
            return jax.tree.map(lambda t, x: t + jnp.sum(x, 0), total, jax.vmap(function)(some)), None

        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, keys[0, 0]))
        total, _ = jax.lax.scan(add, zero, keys)
        return jax.tree.map(lambda t: t / size, total)

    means = [jax.device_get(mean(some)) for some in keys]
    return jax.tree.map(lambda *x: np.stack(x), *means)


def halved(means: np.ndarray) -> list[np.ndarray]:
    """The means over 1, 2, 4, … chunks: a stack of disjoint ones for each size, the last of all chunks."""
    levels = [means]
    while len(levels[-1]) > 1:
        levels.append((levels[-1][0::2] + levels[-1][1::2]) / 2)
    return levels


def slope(models: np.ndarray, values: np.ndarray, counts: np.ndarray) -> float:
    """The exponent of a power law through log-values, each the mean of some independent ones."""
    return float(np.polyfit(np.log(models), np.log(values), 1, w=np.sqrt(counts))[0])
