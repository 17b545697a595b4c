"""What a teleport costs: against the evaluations of its objective, and what steps without one cost.

A teleport of n steps looks n + 1 times at the objective and its gradient in the parameters. The reference is a scan of
just these, with the pairing that makes a gradient on the group of each. The bar: all else (group elements with exact
inverses, the action, the judging of steps) costs at most a tenth of that. It is for scalings, at a width where a step
is not all overhead; GL has no bar, because its inverses and products cost n³ whatever the batch. A second reference is
the search that differentiates through the exponential.

Small triangular systems are slow where the threads of OpenBLAS fight for busy cores (50 ms for 0.1 ms):

    OPENBLAS_NUM_THREADS=1 python scripts/benchmark.py teleport
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
from benchmarks.timing import Row, interleaved

from eqtoolbox import Symmetry, groups, orbits

STEPS = 10
#: Width and batch.
SIZES = ((64, 256), (256, 256), (256, 1024))
BAR, IDLE_BAR = 1.10, 1.05


def bench(repeats: int = 11) -> list[Row]:
    rows = []
    for width, batch in SIZES:
        for name in ("scaling", "GL"):
            rows += _rows(name, width, batch, repeats)
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

    def objective(p):
        return orbits.gradient_norm(loss, p)

    def teleport(p):
        moved, info = orbits.teleport_params(sym, loss, p, steps=STEPS)
        return moved, info.objective

    def looks(p):
        # What is left of a search without moves: the state passes through, so that nothing is looked at only once.
        def look(carry, _):
            p, total = carry
            value, gradient = jax.value_and_grad(objective)(p)
            slope = sym.pullback(p, gradient)
            small = 1e-12 * sum(jnp.sum(s) for s in jax.tree.leaves(slope))
            return (jax.tree.map(lambda w: w + small, p), total + value), None

        return jax.lax.scan(look, (p, 0.0), None, length=STEPS + 1)[0]

    def printed(p):
        return orbits.teleport_params(sym, loss, p, steps=STEPS, exact="exp", retract=False)[0]

    calls = {
        "ours": functools.partial(jax.jit(teleport), params),
        "looks": functools.partial(jax.jit(looks), params),
        "printed": functools.partial(jax.jit(printed), params),
    }
    seconds = interleaved(calls, repeats)
    title = f"{name}, width {width}, batch {batch}"
    return [
        Row(
            title,
            seconds["ours"],
            seconds["looks"],
            "its looks at the objective",
            BAR if name == "scaling" and (width, batch) == SIZES[-1] else None,
        ),
        Row(f"{title}, through exp", seconds["ours"], seconds["printed"], "differentiating exp"),
    ]


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
