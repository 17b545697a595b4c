"""One training run, compiled once for each task, entrant and length: steps in a scan, looks at the losses between."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contest.cells import Trial
from contest.entrants import Entrant
from contest.schedules import schedule, shape
from contest.tasks import Horizon, Instance, Task
from jax import Array

from eqtoolbox import zoo

SETS = ("train", "valid", "test")
Run = Callable[[Trial, Instance], dict[str, Any]]


def step_function(task: Task, entrant: Entrant, steps: int, rate: Array, form: Any, extra: Any):
    """The optimizer and (carry, batch, key) -> carry, with the parameters and its state as carry."""
    tx = entrant.build(schedule(rate, form, steps), task, extra, **entrant.options)
    tx = optax.with_extra_args_support(tx)

    def step(carry: tuple[Any, Any], batch: Any, key: Array) -> tuple[Any, Any]:
        params, state = carry
        value, gradient = jax.value_and_grad(task.loss)(params, batch)
        more = entrant.arguments(task, params, batch, value, gradient, key) if entrant.arguments else {}
        updates, state = tx.update(gradient, state, params, **more)
        return optax.apply_updates(params, updates), state

    return tx, step


def runner(task: Task, entrant: Entrant, horizon: Horizon) -> Run:
    """Trial and instance -> losses of the three sets, at the steps looked at.

    Args:
      task: what is trained.
      entrant: by whom.
      horizon: how long.

    Returns:
      A function that compiles in its first call, or in each call with another ``extra`` where that is static.
    """
    if entrant.own_loop:
        return functools.partial(_adaptive, task, horizon, adaptive_optimizer(task, entrant))
    looks = horizon.steps // horizon.every

    def train(rate, form, extra, instance: Instance, rows, key):
        tx, step = step_function(task, entrant, horizon.steps, rate, form, extra)

        def one(carry, x):
            rows, key = x
            batch = instance.train if task.batch is None else zoo.take(instance.train, rows)
            return step(carry, batch, key), None

        def part(carry, x):
            carry, _ = jax.lax.scan(one, carry, x)
            return carry, losses(task, carry[0], instance)

        keys = jax.random.split(key, horizon.steps)
        xs = jax.tree.map(lambda a: a.reshape(looks, horizon.every, *a.shape[1:]), (rows, keys))
        return jax.lax.scan(part, (instance.params, tx.init(instance.params)), xs)[1]

    compiled: dict[Any, Any] = {}

    def run(trial: Trial, instance: Instance) -> dict[str, Any]:
        static = trial.extra if entrant.static else None
        if static not in compiled:
            extra = () if static is None else (static,)
            compiled[static] = jax.jit(
                (lambda r, f, e, *rest: train(r, f, extra[0], *rest)) if extra else train
            )
        form = shape("constant" if entrant.rates is None else trial.schedule)
        rows = task.indices(trial.seed, len(instance.train.targets), horizon.steps)
        key = jax.random.fold_in(jax.random.key(trial.seed), 2)
        numbers = jnp.float32(trial.rate), jax.tree.map(jnp.float32, form), jnp.float32(trial.extra)
        start = time.perf_counter()
        found = jax.device_get(compiled[static](*numbers, instance, rows, key))
        return _record(horizon, found, time.perf_counter() - start)

    return run


def losses(task: Task, params: Any, instance: Instance) -> dict[str, Array]:
    """The loss of each set."""
    return {name: task.loss(params, getattr(instance, name)) for name in SETS}


def _record(horizon: Horizon, found: dict[str, np.ndarray], seconds: float) -> dict[str, Any]:
    """Numbers of JSON: what is not finite is None."""
    out: dict[str, Any] = {"step": list(range(horizon.every, horizon.steps + 1, horizon.every))}
    for name in SETS:
        values = np.asarray(found[name], np.float64)
        out[name] = [float(f"{v:.6g}") if np.isfinite(v) else None for v in values]
    return {**out, "seconds": round(seconds, 3)}


def _adaptive(task: Task, horizon: Horizon, optimizer: Any, trial: Trial, instance: Instance):
    """A run of kfac-jax, which compiles and makes its own steps."""
    rows = np.asarray(task.indices(trial.seed, len(instance.train.targets), horizon.steps))
    key = jax.random.fold_in(jax.random.key(trial.seed), 2)
    params, state = jax.tree.map(jnp.copy, instance.params), None  # it donates them
    look, seen, start = jax.jit(functools.partial(losses, task)), [], time.perf_counter()
    for i in range(horizon.steps):
        batch = instance.train if task.batch is None else zoo.take(instance.train, rows[i])
        key, draw = jax.random.split(key)
        if state is None:
            state = optimizer.init(params, jax.random.key_data(draw), tuple(batch))
            state.damping = jnp.asarray(trial.extra, state.damping.dtype)
        params, state, _ = optimizer.step(
            params, state, jax.random.key_data(draw), batch=tuple(batch), global_step_int=i
        )
        if (i + 1) % horizon.every == 0:
            seen.append(jax.device_get(look(params, instance)))
    found = {name: np.array([row[name] for row in seen]) for name in SETS}
    return _record(horizon, found, time.perf_counter() - start)


def adaptive_optimizer(task: Task, entrant: Entrant) -> Any:
    """kfac-jax with everything adaptive: learning rate, momentum and damping, whose start is part of its state."""
    import kfac_jax  # pyright: ignore[reportMissingImports]

    def loss(params, batch):
        outputs = task.apply(params, batch[0])
        if task.kind == "squared":
            kfac_jax.register_squared_error_loss(outputs, batch[1], weight=0.5)
        else:
            kfac_jax.register_softmax_cross_entropy_loss(outputs, batch[1])
        return task.output_loss(outputs, batch[1])

    return kfac_jax.Optimizer(
        value_and_grad_func=jax.value_and_grad(loss),
        l2_reg=0.0,
        use_adaptive_learning_rate=True,
        use_adaptive_momentum=True,
        use_adaptive_damping=True,
        initial_damping=1.0,
        num_burnin_steps=0,
        multi_device=False,
        **entrant.options,
    )
