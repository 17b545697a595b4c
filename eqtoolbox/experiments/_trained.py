"""Long training runs in segments: a killed run goes on from its last segment, to the same bits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.experiments._errors import ExperimentError
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._trees import load_tree
from eqtoolbox.pages import save_tree

State = Any
Step = Callable[[State, Array], tuple[State, Any]]


class Trained(NamedTuple):
    """A finished training run.

    Attributes:
      state: at the end, with JAX arrays.
      records: what every step recorded, stacked: leading axis ``steps``.
      times: the steps before which was measured, and the end: 0, every, 2·every, …, steps.
      measured: what was measured then, stacked: leading axis ``len(times)``; None without ``measure``.
    """

    state: State
    records: Any
    times: np.ndarray
    measured: Any


def descent(
    loss: Callable[[Any, Array], Array], optimizer: optax.GradientTransformation
) -> tuple[Callable[[Any], State], Step]:
    """Training by an optax optimizer, as ``trained`` takes it.

    Args:
      loss: (params, t) -> scalar; t, the number of the step, picks the batch where there are batches.
      optimizer: any optax transformation.

    Returns:
      ``start(params) -> state`` with ``state["params"]``, and ``step(state, t)``, which records ``{"loss": …}``.
    """

    def start(params: Any) -> State:
        return {"params": params, "optimizer": optimizer.init(params)}

    def step(state: State, t: Array) -> tuple[State, Any]:
        value, gradient = jax.value_and_grad(loss)(state["params"], t)
        updates, inner = optimizer.update(gradient, state["optimizer"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "optimizer": inner}, {"loss": value}

    return start, step


def trained(
    store: Store,
    name: str,
    state: State,
    step: Step,
    *,
    steps: int,
    every: int,
    measure: Callable[[State], Any] | None = None,
) -> Trained:
    """Trains segment by segment and saves each, so that a killed run loses at most the segment in flight.

    Segments are the same whether the run was interrupted or not, and states are saved to the bit: so is the result.

    Args:
      store: where segments are kept.
      name: of this training run.
      state: at the start, any pytree of arrays.
      step: (state, t) -> (state, record), jittable; t is the number of the step.
      steps: how many.
      every: steps of a segment.
      measure: state -> arrays, called at the start of each segment and at the end; jit it yourself.

    Returns:
      The run.

    Raises:
      ValueError: ``steps`` or ``every`` is not positive.
      ExperimentError: what is saved is of a run with other steps, segments or shapes.
    """
    if steps < 1 or every < 1:
        raise ValueError(f"`steps` and `every` must be positive, got {steps} and {every}")
    begin, times = time.perf_counter(), np.unique([*range(0, steps, every), steps])
    leaves, treedef = jax.tree.flatten(state)
    header = {
        "steps": steps,
        "every": every,
        "leaves": [f"{jnp.result_type(x)}{jnp.shape(x)}" for x in leaves],
    }
    done, spent, path = 0, 0.0, store.path(f"{name}/state")
    if path.exists():
        saved = load_tree(path)
        if saved["header"] != header:
            raise ExperimentError(
                f"{path} was saved by a run of {saved['header']}, this one is of {header}: raise the version of "
                "the experiment, or run again with --force"
            )
        done, leaves, spent = saved["done"], saved["leaves"], saved["seconds"]
        store.seconds += spent
    # Through the same door as a saved state, so that weak types cannot make a difference.
    carry = treedef.unflatten([x if _is_key(x) else jnp.asarray(np.asarray(x)) for x in leaves])

    @jax.jit
    def segment(carry: State, numbers: Array) -> tuple[State, Any]:
        return jax.lax.scan(step, carry, numbers)

    look = (lambda state: None) if measure is None else measure
    store.progress.expect(steps)
    store.progress.advance(int(times[done]))
    for k in range(done, len(times) - 1):
        before = look(carry)
        carry, records = segment(carry, jnp.arange(times[k], times[k + 1], dtype=jnp.int32))
        save_tree(store.path(f"{name}/{k:05d}"), jax.device_get({"records": records, "measured": before}))
        if k == len(times) - 2:
            save_tree(store.path(f"{name}/end"), jax.device_get(look(carry)))
        seconds = spent + time.perf_counter() - begin
        content = {"header": header, "done": k + 1, "leaves": jax.tree.leaves(carry), "seconds": seconds}
        save_tree(path, content)
        store.progress.advance(int(times[k + 1] - times[k]))
    parts = [load_tree(store.path(f"{name}/{k:05d}")) for k in range(len(times) - 1)]
    records = jax.tree.map(lambda *x: np.concatenate(x), *(part["records"] for part in parts))
    looked = [*(part["measured"] for part in parts), load_tree(store.path(f"{name}/end"))]
    measured = None if measure is None else jax.tree.map(lambda *x: np.stack(x), *looked)
    return Trained(carry, records, times, measured)


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
