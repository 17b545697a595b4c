"""Training with ``track_charges`` against training without, on the digits MLP of the report.

A call is one compiled scan of many steps, as in the report, or, without a bar, one step called from Python. Every call
passes the arrays of the state in and out, of which there are more with charges. That is most of the cost of a single
step, and in a scan of 100 steps of 50 µs still 3 % of it: the cost of a step itself is that in a scan of 1000.
Both have heavy ball and batches of 128.
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

BATCH, RATE = 128, 0.05
#: Hidden layers (those of the report, of which a step takes 50 µs, and wider ones), and the steps of scans: the first
#: of all has the bars.
SCANS = {(32, 32): (1000, 100), (256, 256): (100,)}
#: Largest cost relative to training without, by how often the charges are looked at.
BARS = {1: 1.25, 10: 1.03}


def bench(repeats: int = 51) -> list[Row]:
    return [row for widths in SCANS for row in _rows(widths, repeats)]


def _rows(widths: tuple[int, ...], repeats: int) -> list[Row]:
    problem = digits_problem("relu", widths)
    params = problem.init(jax.random.key(0))
    sym = infer_symmetry(problem.apply, params, problem.train.inputs[:8])
    plain = optax.sgd(RATE, 0.9)
    law = noether.Law(RATE, 0.9)
    tracked = {every: track_charges(plain, sym, every=every) for every in BARS}
    tracked["law"] = track_charges(plain, sym, law=law)
    data = jax.tree.map(jnp.asarray, problem.train)
    size, draw = len(jax.tree.leaves(data)[0]), np.random.default_rng(0).integers
    rows = []
    for steps in (*SCANS[widths], None):
        indices = jnp.asarray(draw(0, size, (steps or 1, BATCH)))
        calls = {}
        for name, tx in {"plain": plain, **tracked}.items():

            def step(carry, rows, tx=tx):
                params, state = carry
                batch = jax.tree.map(lambda a: jnp.take(a, rows, axis=0), data)
                gradient = jax.grad(problem.batch_loss)(params, batch)
                updates, state = tx.update(gradient, state, params)
                return (optax.apply_updates(params, updates), state), None

            def run(carry, step=step, indices=indices, one=steps is None):
                return step(carry, indices[0])[0] if one else jax.lax.scan(step, carry, indices)[0]

            calls[name] = functools.partial(jax.jit(run), (params, tx.init(params)))
        seconds = interleaved(calls, 10 * repeats if steps is None else repeats)
        what = "one step" if steps is None else f"scan of {steps}"
        for name in tracked:
            title = "with its law" if name == "law" else f"every={name}"
            bar = BARS.get(name) if (widths, steps) == ((32, 32), 1000) else None
            title = f"{what}, width {widths[0]}, {title}"
            rows.append(Row(title, seconds[name], seconds["plain"], "training without", bar))
    return rows
