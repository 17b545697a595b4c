"""What a step costs: all entrants of a task in turns in one process, in compiled chunks of steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from benchmarks.timing import interleaved
from contest.entrants import Entrant
from contest.runs import adaptive_optimizer, step_function
from contest.schedules import shape
from contest.tasks import Task

from eqtoolbox import zoo


class Cost(NamedTuple):
    """Of one step, gradient and all.

    Attributes:
      seconds: median time.
      memory: bytes of temporaries and outputs of the compiled step, None where it is not one program.
      state: bytes of the optimizer's state.
    """

    seconds: float
    memory: int | None
    state: int


def costs(
    task: Task, entrants: Mapping[str, Entrant], repeats: int = 5, start: int = 0, steps: int | None = None
) -> dict[str, Cost]:
    """The cost of a step of every entrant that can run here and takes the task.

    Args:
      task: what is trained, at small learning rates.
      entrants: by name.
      repeats: times that each trains, in turns.
      start: steps made before, which are not timed: some refresh less often later on.
      steps: steps timed, all of the task's first length where None; the cost is their mean.

    Returns:
      The costs by name.
    """
    steps = task.horizons[0].steps if steps is None else steps
    able = {n: e for n, e in entrants.items() if e.absent(task) is None}
    calls, memory = {}, {}
    for name, entrant in able.items():
        calls[name], memory[name] = _chunk(task, entrant, start, steps)
    seconds = interleaved(calls, repeats)
    return {name: Cost(seconds[name] / steps, *memory[name]) for name in able}


def _chunk(
    task: Task, entrant: Entrant, start: int, steps: int
) -> tuple[Callable[[], Any], tuple[int | None, int]]:
    """A call that makes the steps, always the same ones, and what they need of memory."""
    instance = task.make(0)
    rows = task.indices(0, len(instance.train.targets), start + steps)
    keys = jax.random.split(jax.random.key(0), start + steps)
    extra = entrant.second(task)[len(entrant.second(task)) // 2]
    if entrant.own_loop:
        return _own_chunk(task, entrant, instance, rows[-steps:], keys[-steps:], extra)
    rate = jnp.float32(min(entrant.grid(task)) / 4)
    tx, step = step_function(task, entrant, start + steps, rate, shape("constant"), extra)

    def one(carry, x, train):
        rows, key = x
        return step(carry, train if task.batch is None else zoo.take(train, rows), key)

    @jax.jit
    def chunk(carry, xs, train):
        return jax.lax.scan(lambda c, x: (one(c, x, train), None), carry, xs)[0]

    carry = instance.params, jax.jit(tx.init)(instance.params)
    used = jax.jit(one).lower(carry, (rows[0], keys[0]), instance.train).compile().memory_analysis()
    if start:
        carry = chunk(carry, (rows[:start], keys[:start]), instance.train)
    peak = None if used is None else used.temp_size_in_bytes + used.output_size_in_bytes
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(carry[1]))
    return functools.partial(chunk, carry, (rows[start:], keys[start:]), instance.train), (peak, size)


def _own_chunk(task: Task, entrant: Entrant, instance, rows, keys, extra):
    optimizer = adaptive_optimizer(task, entrant)
    full = tuple(instance.train)
    draws = [jax.random.key_data(k) for k in keys]
    batches = [full if task.batch is None else tuple(zoo.take(instance.train, r)) for r in rows]
    first = optimizer.init(jax.tree.map(jnp.copy, instance.params), draws[0], batches[0])
    first.damping = jnp.asarray(extra, first.damping.dtype)
    held = [jax.tree.map(jnp.copy, instance.params), first, 0]
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in map(jnp.asarray, jax.tree.leaves(first)))

    def call():  # goes on from where it was: its steps destroy what they are given
        for draw, batch in zip(draws, batches, strict=True):
            held[0], held[1], _ = optimizer.step(held[0], held[1], draw, batch=batch, global_step_int=held[2])
            held[2] += 1
        return held[0]

    return call, (None, size)
