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

#: Steps of a chunk: two refreshes of what is refreshed every ten.
CHUNK = 20


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


def costs(task: Task, entrants: Mapping[str, Entrant], repeats: int = 15) -> dict[str, Cost]:
    """The cost of a step of every entrant that can run here and takes the task."""
    able = {n: e for n, e in entrants.items() if e.absent(task) is None}
    calls, memory = {}, {}
    for name, entrant in able.items():
        calls[name], memory[name] = _chunk(task, entrant)
    seconds = interleaved(calls, repeats)
    return {name: Cost(seconds[name] / CHUNK, *memory[name]) for name in able}


def _chunk(task: Task, entrant: Entrant) -> tuple[Callable[[], Any], tuple[int | None, int]]:
    """A call that makes a chunk of steps from always the same point, not the first one, and its memory."""
    instance = task.make(0)
    rows = task.indices(0, len(instance.train.targets), CHUNK)
    keys = jax.random.split(jax.random.key(0), CHUNK)
    extra = entrant.second(task)[len(entrant.second(task)) // 2]
    if entrant.own_loop:
        return _own_chunk(task, entrant, instance, rows, keys, extra)
    rate = jnp.float32(min(entrant.grid(task)) / 4)
    tx, step = step_function(task, entrant, 10 * CHUNK, rate, shape("constant"), extra)

    def one(carry, x, train):
        rows, key = x
        return step(carry, train if task.batch is None else zoo.take(train, rows), key)

    @jax.jit
    def chunk(carry, xs, train):
        return jax.lax.scan(lambda c, x: (one(c, x, train), None), carry, xs)[0]

    state = jax.jit(tx.init)(instance.params)
    compiled = jax.jit(one).lower((instance.params, state), (rows[0], keys[0]), instance.train).compile()
    carry = chunk((instance.params, state), (rows, keys), instance.train)
    used = compiled.memory_analysis()
    peak = None if used is None else used.temp_size_in_bytes + used.output_size_in_bytes
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    return functools.partial(chunk, carry, (rows, keys), instance.train), (peak, size)


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
