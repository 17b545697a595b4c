"""How many models are taken together, and in which layout: from memory and by measurement."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.ensemble._ensemble import LAYOUTS, Ensemble
from eqtoolbox.linalg import check_integer

#: Largest batches that are tried on a CPU, where more models only leave the cache.
CPU_BATCH = {"last": 128, "first": 32, "loop": 32}
#: The same on accelerators, where memory is the limit.
LARGEST_BATCH = 4096
#: Training steps of a trial, at most.
STEPS = 5
#: The share of a device's memory that a batch may take where no limit is given.
SHARE = 0.5


class Plan(NamedTuple):
    """How a batch of models is run.

    Attributes:
      layout: one of ``LAYOUTS``.
      batch_size: models taken together on one device.
      bytes: memory of a batch, as the compiler sees it.
      seconds: for each model, a few steps and one measurement; what was compared; infinite where there was
        nothing to compare.
    """

    layout: str
    batch_size: int
    bytes: int
    seconds: float


def memory_limit() -> int:
    """The bytes that a batch may take: half of a device's memory, or of the machine's for all CPU devices."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(SHARE * stats["bytes_limit"])
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(SHARE * machine / jax.local_device_count())


def choose_plan(
    ensemble: Ensemble,
    key: Array,
    *,
    most: int,
    limit: int | None = None,
    layouts: Sequence[str] = LAYOUTS,
    batch_size: int | None = None,
) -> Plan:
    """Compiles a few steps and a measurement of a batch in each layout, keeps to the memory, and takes the fastest.

    Args:
      ensemble: what is run.
      key: of the models that are tried.
      most: the largest batch that is of use.
      limit: bytes that a batch may take; ``memory_limit()`` when None.
      layouts: those that are tried.
      batch_size: models taken together; from the memory when None.

    Returns:
      The plan.

    Raises:
      ValueError: a number is not positive, or not even one model fits into the memory.
    """
    limit = memory_limit() if limit is None else check_integer(limit, "limit", 1)
    check_integer(most, "most", 1)
    short = ensemble.replace(times=(min(STEPS, ensemble.times[-1]),))
    tried = [_tried(short, key, layout, most, limit, batch_size) for layout in layouts]
    seconds = _seconds([run for _, run in tried])
    plans = [plan._replace(seconds=s / plan.batch_size) for (plan, _), s in zip(tried, seconds, strict=True)]
    return min(plans, key=lambda plan: plan.seconds)


def _tried(
    ensemble: Ensemble, key: Array, layout: str, most: int, limit: int, batch_size: int | None
) -> tuple[Plan, Callable[[], Any]]:
    largest = CPU_BATCH[layout] if jax.default_backend() == "cpu" else LARGEST_BATCH
    size = min(most, largest) if batch_size is None else min(most, check_integer(batch_size, "batch_size", 1))
    while True:
        compiled, arguments = _compiled(ensemble, key, layout, size)
        analysis = compiled.memory_analysis()
        used = int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes)
        if used <= limit or batch_size is not None:
            break
        if size == 1:
            raise ValueError(f"one model takes {used} bytes, more than the limit of {limit}")
        # Memory grows with the number of models: the size that fits, and certainly a smaller one.
        size = max(1, min(size // 2, int(size * limit / used)))
        size = 1 << (size.bit_length() - 1)
    return Plan(layout, size, used, math.nan), lambda: compiled(*arguments)


def _compiled(ensemble: Ensemble, key: Array, layout: str, size: int) -> tuple[Any, tuple[Any, ...]]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))
    data = jax.device_put(ensemble.data, jax.local_devices()[0])
    program = jax.jit(lambda keys, data: ensemble.batch(keys, data, layout))
    return program.lower(keys, data).compile(), (keys, data)


def _seconds(runs: Sequence[Callable[[], Any]], least: float = 0.3) -> list[float]:
    """The shortest time of each of some calls, which take turns: what else the machine does meets all of them."""
    best, spent = [math.inf] * len(runs), 0.0
    for run in runs:
        jax.block_until_ready(run())
    while len(runs) > 1 and spent < least * len(runs):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            jax.block_until_ready(run())
            taken = time.perf_counter() - start
            best[i], spent = min(best[i], taken), spent + taken
    return best
