"""Models a second of an ensemble against loops over models, and its arithmetic against bare matmuls.

Small: (5, 5, 5) tanh with biases, 500 examples, 20 steps of gradient descent and a gradient at the end. The references
are one jitted model at a time, the way a program without ``vmap`` would run it, and ``jit(vmap)``. A serial loop in
PyTorch took 4.05 ms a model on two cores of this kind, 5.8 times what a single jitted model took beside it (0.7 ms):
that ratio, frozen, stands for it, so that the row means something on another machine.

Large: (100, 70, 40) tanh without biases, 5000 examples, 20 steps. The reference is the chain of its matmuls alone: two
forward, three backward, in the same process.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import optax
from benchmarks.timing import Row, interleaved
from rich import print

from eqtoolbox.ensemble import LAYOUTS, Ensemble, Net, choose_plan, losses

#: Time of the serial PyTorch loop over that of a single jitted model, measured together.
TORCH = 4.05 / 0.7
STEPS, SMALL, LARGE = 20, 256, 2


def bench(repeats: int = 21) -> list[Row]:
    return [*_small(repeats), *_large(repeats)]


def _make(net: Net, steps: int) -> Ensemble:
    return Ensemble.of(net.problem(), optax.sgd(0.3), times=(steps,), statistics={"loss": losses()})


def _keys(count: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(count))


def _small(repeats: int) -> list[Row]:
    ensemble = _make(Net((5, 5, 5), "tanh", True, 500), STEPS)
    keys = _keys(SMALL)
    single = jax.jit(ensemble.samples)
    parts = list(keys[:8])

    def batched(layout: str, size: int):
        chunks = keys.reshape(-1, size)
        return jax.jit(lambda: jax.lax.map(functools.partial(ensemble.batch, layout=layout), chunks))

    calls = {
        "ours": batched("last", 128),
        "vmap": batched("first", 128),
        "single": lambda: [single(key) for key in parts],
    }
    seconds = interleaved(calls, repeats)
    ours, vmap, one = seconds["ours"] / SMALL, seconds["vmap"] / SMALL, seconds["single"] / len(parts)
    flops = _flops((5, 5, 5), 500) * (STEPS + 1)
    print(
        f"(5, 5, 5): {1 / ours:.0f} models a second ({flops / ours / 1e9:.1f} GFLOP/s); jit(vmap) {1 / vmap:.0f}, "
        f"one jitted model at a time {1 / one:.0f}, serial PyTorch by the frozen ratio {1 / (one * TORCH):.0f}"
    )
    return [
        Row("(5, 5, 5) tanh, a model", ours, one * TORCH, "a serial PyTorch loop (frozen ratio)", 0.1),
        Row("(5, 5, 5) tanh, a model", ours, one, "one jitted model at a time"),
        Row("(5, 5, 5) tanh, a model", ours, vmap, "jit(vmap)"),
    ]


def _large(repeats: int) -> list[Row]:
    net = Net((100, 70, 40), "tanh", False, 5000, 5.0)
    ensemble = _make(net, STEPS)
    keys = _keys(LARGE)
    plan = choose_plan(ensemble, jax.random.key(0), most=LARGE)
    run = jax.jit(lambda data: ensemble.batch(keys, data, plan.layout))
    data = ensemble.data
    x = data.inputs
    weights = jax.vmap(net.init)(keys)

    @jax.jit
    def matmuls(x, weights):
        """The five products of a gradient of every model, as many times as there are steps."""

        def chain(w):
            def again(_, c):
                a, b = c
                h = x @ a
                r = h @ b
                return a + 1e-9 * (x.T @ (r @ b.T)), b + 1e-9 * (h.T @ r)

            return jax.lax.fori_loop(0, STEPS, again, (w["Dense_0"]["kernel"], w["Dense_1"]["kernel"]))

        return jax.lax.map(chain, weights)

    seconds = interleaved({"ours": lambda: run(data), "bare": lambda: matmuls(x, weights)}, repeats)
    flops = _flops((100, 70, 40), 5000) * STEPS * LARGE
    print(
        f"(100, 70, 40), layout {plan.layout!r} of {', '.join(LAYOUTS)}: {flops / seconds['ours'] / 1e9:.0f} GFLOP/s, "
        f"bare matmuls {flops / seconds['bare'] / 1e9:.0f} GFLOP/s"
    )
    return [Row("(100, 70, 40), 5000 examples", seconds["ours"], seconds["bare"], "its matmuls alone", 1.25)]


def _flops(widths: tuple[int, ...], examples: int) -> int:
    """The floating-point operations of the matmuls of one gradient; nothing flows back into the inputs."""
    products = [a * b for a, b in itertools.pairwise(widths)]
    return 2 * examples * (3 * sum(products) - products[0])
