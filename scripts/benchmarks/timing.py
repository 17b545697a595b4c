"""Timing by ratios: calls run in turns in one process, medians compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax


class Row(NamedTuple):
    """One comparison.

    Attributes:
      name: what is measured.
      ours: median seconds, or operations.
      reference: those of what it is compared with.
      against: what that is.
      bar: the largest ratio that is good enough, or None where the number is only reported.
      unit: in which both are shown: "ms" of seconds, or "MFLOP" of operations counted by the compiler.
    """

    name: str
    ours: float
    reference: float
    against: str
    bar: float | None = None
    unit: str = "ms"

    @property
    def ratio(self) -> float:
        return self.ours / self.reference


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = 31,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median seconds of each call, after one run that compiles; the calls take turns.

    With ``clock=time.process_time`` they are those of processors, of all threads, and other work counts less.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            jax.block_until_ready(call())
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
