"""Training with ``track_charges`` against training without, on the digits MLP of the report.

A call is ``STEPS`` steps in one compiled scan, as in the report, or, without a bar, one step called from Python: there
most of the time goes into passing arrays, of which the state has more. Both have heavy ball and batches of 128.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmarks.timing import Row, interleaved

from eqtoolbox import infer_symmetry, noether, track_charges
from eqtoolbox.report._digits import digits_problem

STEPS, BATCH, RATE = 100, 128, 0.05
#: Hidden layers: those of the report, of which a step takes 50 µs, and wider ones, which have no bar.
WIDTHS = ((32, 32), (256, 256))
#: Largest cost relative to training without, by how often the charges are looked at.
BARS = {1: 1.25, 10: 1.03}


def bench(repeats: int = 51) -> list[Row]:
    return [row for widths in WIDTHS for row in _rows(widths, repeats)]


def _rows(widths: tuple[int, ...], repeats: int) -> list[Row]:
    problem = digits_problem("relu", widths)
    params = problem.init(jax.random.key(0))
    sym = infer_symmetry(problem.apply, params, problem.train.inputs[:8])
    plain = optax.sgd(RATE, 0.9)
    law = noether.Law(RATE, 0.9)
    tracked = {every: track_charges(plain, sym, every=every) for every in BARS}
    tracked["law"] = track_charges(plain, sym, law=law)
    data = jax.tree.map(jnp.asarray, problem.train)
    indices = jnp.asarray(np.random.default_rng(0).integers(0, len(jax.tree.leaves(data)[0]), (STEPS, BATCH)))
    calls, single, rows = {}, {}, []
    for name, tx in {"plain": plain, **tracked}.items():

        def step(carry, rows, tx=tx):
            params, state = carry
            batch = jax.tree.map(lambda a: jnp.take(a, rows, axis=0), data)
            gradient = jax.grad(problem.batch_loss)(params, batch)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, indices)[0])
        calls[name] = functools.partial(run, (params, tx.init(params)))
        one = jax.jit(lambda carry, step=step: step(carry, indices[0])[0])
        single[name] = functools.partial(one, (params, tx.init(params)))
    for what, group in (("scan", calls), ("one step", single)):
        seconds = interleaved(group, repeats if group is calls else 10 * repeats)
        for name in tracked:
            title = "with its law" if name == "law" else f"every={name}"
            title = f"{what}, width {widths[0]}, {title}"
            bar = BARS.get(name) if group is calls and widths == WIDTHS[0] else None
            rows.append(Row(title, seconds[name], seconds["plain"], "training without", bar))
    return rows
