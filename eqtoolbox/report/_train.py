"""Training runs that watch themselves: probes see every step, inside one compiled loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.pages import SILENT, Progress
from eqtoolbox.problem import Batch, Problem

Params = Any


class Step(NamedTuple):
    """What a probe sees: θ_t before the update, and the update.

    Attributes:
      params: θ_t.
      batch: the examples of this step.
      loss: their loss at θ_t.
      gradient: its gradient.
      updates: θ_{t+1} - θ_t.
    """

    params: Params
    batch: Batch
    loss: Array
    gradient: Params
    updates: Params


class Probe(NamedTuple):
    """A measurement along training.

    Attributes:
      init: θ_0 -> the probe's state.
      record: (state, step) -> (state, record), jittable.
    """

    init: Callable[[Params], Any]
    record: Callable[[Any, Step], tuple[Any, Any]]


class Run(NamedTuple):
    """What is known of a training run.

    Attributes:
      params: at the end.
      loss: of the batch of every step, shape (steps,).
      records: for each probe, its records stacked on a leading axis of length steps.
      snapshots: pairs (step, parameters before that step); the first at 0, the last at the end.
    """

    params: Params
    loss: np.ndarray
    records: dict[str, Any]
    snapshots: tuple[tuple[int, Params], ...]


def take(data: Batch, rows: Array) -> Batch:
    """The examples of those rows."""
    return jax.tree.map(lambda a: jnp.take(a, rows, axis=0), data)


def descend(
    problem: Problem, optimizer: optax.GradientTransformation, params: Params, state: Any, batch: Batch
) -> tuple[Params, Any, Step]:
    """One step of training.

    Returns:
      The new parameters and optimizer state, and what a probe sees of the step.
    """
    loss, gradient = jax.value_and_grad(problem.batch_loss)(params, batch)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, Step(params, batch, loss, gradient, updates)


def train(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    params: Params,
    data: Batch,
    indices: Array,
    *,
    probes: Mapping[str, Probe] | None = None,
    snapshots: int = 8,
    progress: Progress = SILENT,
) -> Run:
    """Trains, with probes.

    Args:
      problem: gives the loss.
      optimizer: any optax transformation that yields updates to add.
      params: the initial parameters θ_0.
      data: the training examples, arrays.
      indices: the rows of each step's batch, shape (steps, batch_size).
      probes: measurements by name.
      snapshots: into how many parts the run is cut; the parameters between them are kept.
      progress: told the number of steps, and how many were done after each part.

    Returns:
      The run.
    """
    probes = dict(probes or {})

    @jax.jit
    def part(carry: Any, data: Batch, indices: Array) -> tuple[Any, Any]:
        def step(carry: Any, rows: Array) -> tuple[Any, Any]:
            params, state, states = carry
            params, state, seen = descend(problem, optimizer, params, state, take(data, rows))
            recorded = {name: probe.record(states[name], seen) for name, probe in probes.items()}
            states = {name: new for name, (new, _) in recorded.items()}
            records = {name: record for name, (_, record) in recorded.items()}
            return (params, state, states), (seen.loss, records)

        return jax.lax.scan(step, carry, indices)

    @jax.jit
    def begin(params: Params) -> Any:
        return optimizer.init(params), {name: probe.init(params) for name, probe in probes.items()}

    progress.expect(len(indices))
    carry = (params, *begin(params))
    kept, records, done = [(0, params)], [], 0
    for rows in np.array_split(np.asarray(indices), min(snapshots, len(indices))):
        carry, record = part(carry, data, rows)
        records.append(jax.device_get(record))
        done += len(rows)
        kept.append((done, carry[0]))
        progress.advance(len(rows))
    loss, measured = jax.tree.map(lambda *parts: np.concatenate(parts), *records)
    return Run(carry[0], loss, measured, tuple(kept))
