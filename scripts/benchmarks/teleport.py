"""What a teleport costs: against the evaluations of its objective, and what steps without one cost.

A teleport of n steps makes n + 1 inner gradient evaluations: the objective (here ‖∇L‖) at a place, its gradient in
the parameters, and the pairing of that with the generators, which is its gradient on the group. The reference is a
scan of just these. All else is what the bar is for: group elements with exact inverses, the action on all leaves, the
loss (part of the evaluation already, and not computed again), and the judging of steps. In processor time, since the
machine is shared; that of the search which differentiates through the exponential, a second reference, is wall-clock.

For scalings all else is O(n²) for kernels n × n, and an evaluation O(B n²): the bar is for them. For GL it is O(n³):
in each step an inverse (8/3 n³ operations) and a product of elements (2 n³) for each space, and a product (2 n³) for
each kernel and space. So a teleport by full matrices does not keep to a tenth at small batches. The ratio by
operations is shown, with those that the compiler counts for an evaluation, and the batch from which it is within the
bar. Measured ratios are above it, because LAPACK does fewer operations a second in an inverse than in a product.

Small triangular systems are slow where the threads of OpenBLAS fight for busy cores (50 ms for 0.1 ms):

    OPENBLAS_NUM_THREADS=1 python scripts/benchmark.py teleport
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from benchmarks.timing import Row, interleaved

from eqtoolbox import Symmetry, groups, orbits

STEPS = 10
#: Width and batch.
SIZES = {
    "scaling": ((64, 256), (256, 256), (256, 1024)),
    "GL": ((64, 256), (64, 2048), (256, 256), (256, 2048)),
}
BAR, IDLE_BAR = 1.10, 1.05


def bench(repeats: int = 11) -> list[Row]:
    rows = [row for name, sizes in SIZES.items() for w, b in sizes for row in _rows(name, w, b, repeats)]
    return [*rows, *_idle(repeats)]


def problem(name: str, width: int, batch: int):
    """Three layers: ReLU with a scaling of its units, or linear with GL, for the inner two."""
    keys = jax.random.split(jax.random.key(0), 5)
    sizes = ((width, width), (width, width), (width, 10))
    params = {
        k: jax.random.normal(key, s) / s[0] ** 0.5 for k, key, s in zip("abc", keys, sizes, strict=False)
    }
    x, y = jax.random.normal(keys[3], (batch, width)), jax.random.normal(keys[4], (batch, 10))
    sigma = jax.nn.relu if name == "scaling" else (lambda z: z)
    group = groups.PositiveScaling if name == "scaling" else groups.GeneralLinear
    sym = Symmetry({"a": "_ h", "b": "h^-1 k", "c": "k^-1 _"}, {"h": group(width), "k": group(width)})
    return params, sym, lambda p: jnp.mean((sigma(sigma(x @ p["a"]) @ p["b"]) @ p["c"] - y) ** 2)


def _rows(name: str, width: int, batch: int, repeats: int) -> list[Row]:
    params, sym, loss = problem(name, width, batch)

    def teleport(p):
        moved, info = orbits.teleport_params(sym, loss, p, steps=STEPS)
        return moved, info.objective

    def looks(p):
        # What is left of a search without moves: the state passes through, so that nothing is looked at only once.
        def look(carry, _):
            p, total = carry
            value, slope = evaluation(sym, loss, p)
            small = 1e-12 * sum(jnp.sum(s) for s in jax.tree.leaves(slope))
            return (jax.tree.map(lambda w: w + small, p), total + value), None

        return jax.lax.scan(look, (p, 0.0), None, length=STEPS + 1)[0]

    def printed(p):
        return orbits.teleport_params(sym, loss, p, steps=STEPS, exact="exp", retract=False)[0]

    calls = {
        "ours": functools.partial(jax.jit(teleport), params),
        "looks": functools.partial(jax.jit(looks), params),
    }
    seconds = interleaved(calls, repeats, time.process_time)
    title = f"{name}, width {width}, batch {batch}"
    bar = BAR if name == "scaling" else None
    rows = [Row(title, seconds["ours"], seconds["looks"], "its inner gradient evaluations", bar)]
    if name == "GL":
        rows.append(_bound(title, width, batch))
    if batch == SIZES[name][0][1]:
        calls["printed"] = functools.partial(jax.jit(printed), params)
        seconds = interleaved({k: calls[k] for k in ("ours", "printed")}, repeats)
        rows.append(Row(f"{title}, through exp", seconds["ours"], seconds["printed"], "differentiating exp"))
    return rows


def evaluation(sym: Symmetry, loss, params):
    """One inner gradient evaluation: the objective, and its gradient on the group."""
    value, gradient = jax.value_and_grad(lambda p: orbits.gradient_norm(loss, p))(params)
    return value, sym.pullback(params, gradient)


def _operations(width: int, batch: int) -> float:
    """Of one evaluation for GL, as the compiler counts them."""
    params, sym, loss = problem("GL", width, batch)
    cost: Any = jax.jit(lambda p: evaluation(sym, loss, p)).lower(params).compile().cost_analysis()
    return cost["flops"]


def _bound(title: str, width: int, batch: int) -> Row:
    """The operations of a step over those of its evaluation, which grow linearly with the batch."""
    one, two = _operations(width, batch), _operations(width, 2 * batch)
    # Two spaces; three products on kernels n x n, and one on the last, n x 10.
    more = 2 * (8 / 3 + 2) * width**3 + 3 * 2 * width**3 + 2 * width**2 * 10
    least = batch + (more / (BAR - 1) - one) * batch / (two - one)
    return Row(
        f"{title}: by operations, within {BAR:g} from batch {least:.0f}",
        one + more,
        one,
        "operations",
        unit="MFLOP",
    )


def _idle(repeats: int) -> list[Row]:
    """A thousand steps with a wrapper that never teleports, against the optimizer alone."""
    params, sym, loss = problem("scaling", 64, 256)
    inner = optax.adam(1e-3)
    calls = {}
    for name, tx in (("plain", inner), ("idle", orbits.teleport(inner, sym, every=10**6))):

        def step(carry, _, tx=tx):
            params, state = carry
            extra = {"value_fn": loss} if tx is not inner else {}
            updates, state = tx.update(jax.grad(loss)(params), state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, None, length=300)[0])
        calls[name] = functools.partial(run, (params, tx.init(params)))
    seconds = interleaved(calls, repeats)
    return [Row("300 steps of Adam, no teleport", seconds["idle"], seconds["plain"], "Adam alone", IDLE_BAR)]
