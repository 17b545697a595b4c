"""Hessian-vector products along characteristic directions, by the right side of the identity, against jvp(grad).

Every network is measured by the operations XLA counts in the compiled program and by time; both programs make the
direction X ξ from ξ. A scaling symmetry costs one gradient at any size. With GL(n) both sides also multiply the
weights by an n x n matrix, which shows where the batch is small: (6 batch + 2 n) / (12 batch + 2 n). A general
equivariance needs two backward passes; a homogeneous model, by its own formula, one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from benchmarks.timing import Row, interleaved

from eqtoolbox import Symmetry, groups, identities
from eqtoolbox.linalg import hvp

#: The widths of the networks by the power of ten of their number of parameters.
SIZES = {
    "1e3": (10, 24, 24, 5),
    "1e4": (32, 80, 80, 10),
    "1e5": (64, 256, 256, 64),
    "5e5": (256, 512, 512, 256),
    "1e6": (384, 768, 768, 192),
    "1e7": (1024, 2304, 2304, 1024),
}
BATCH = 256
#: Time of a symmetry from 5e5 parameters on, and operations at any size.
TIME_BAR, FLOP_BAR = 0.65, 1.0


def _network(widths: tuple[int, ...], batch: int, activation: Callable):
    """Parameters of an MLP without biases, its outputs on random inputs, their squared loss, its labels."""
    *keys, x_key, y_key = jax.random.split(jax.random.key(0), len(widths) + 1)
    params, axes = {}, {}
    last = len(widths) - 2
    for i, (key, m, n) in enumerate(zip(keys, widths[:-1], widths[1:], strict=True)):
        params[f"w{i}"] = jax.random.normal(key, (m, n)) * (2 / m) ** 0.5
        axes[f"w{i}"] = f"{'_' if i == 0 else f'h{i}*'} {'_' if i == last else f'h{i + 1}'}"
    x, y = jax.random.normal(x_key, (batch, widths[0])), jax.random.normal(y_key, (batch, widths[-1]))

    def outputs(params, x):
        for i in range(last):
            x = activation(x @ params[f"w{i}"])
        return x @ params[f"w{last}"]

    def loss(outputs, y):
        return jnp.mean(jnp.sum((outputs - y) ** 2, axis=1)) / 2

    return params, outputs, loss, (x, y), axes


def _rows(title: str, ours: Callable, reference: Callable, args: tuple[Any, ...], bars, repeats: int):
    """Operations and time of two functions of the same arguments, after checking that they agree."""
    compiled = {n: jax.jit(f).lower(*args).compile() for n, f in (("ours", ours), ("hvp", reference))}
    a, b = (jax.tree.leaves(f(*args)) for f in compiled.values())
    error = max(float(jnp.abs(x - y).max() / jnp.abs(y).max()) for x, y in zip(a, b, strict=True))
    if not error < 1e-3:
        raise AssertionError(f"{title}: the two sides differ by {error:.1e}")
    flops = {name: float(f.cost_analysis()["flops"]) for name, f in compiled.items()}
    seconds = interleaved({n: functools.partial(f, *args) for n, f in compiled.items()}, repeats)
    against = "jvp(grad)"
    return [
        Row(f"{title}: operations", flops["ours"], flops["hvp"], against, bars[0], "MFLOP"),
        Row(f"{title}: time", seconds["ours"], seconds["hvp"], against, bars[1]),
    ]


def _symmetry(name: str, widths, group, activation, batch: int, bars, repeats: int) -> list[Row]:
    params, outputs, loss, data, axes = _network(widths, batch, activation)
    sym = Symmetry(axes, {f"h{i}": group(n) for i, n in enumerate(widths[1:-1], 1)})
    xi = sym.sample_algebra(jax.random.key(1))

    def ours(params, xi, x, y):
        return identities.hvp_along(
            sym, lambda p: outputs(p, x), lambda out: loss(out, y), params, direction=xi
        )

    def plain(params, xi, x, y):
        return hvp(lambda p: loss(outputs(p, x), y), params, sym.generator(xi, params))

    return _rows(name, ours, plain, (params, xi, *data), bars, repeats)


def _homogeneous(name: str, widths, repeats: int) -> list[Row]:
    params, outputs, loss, data, _ = _network(widths, BATCH, jax.nn.relu)
    degree = len(widths) - 1
    eq = identities.homogeneous(degree)

    def general(params, x, y):
        return identities.hvp_along(
            eq, lambda p: outputs(p, x), lambda out: loss(out, y), params, direction=1.0
        )

    def radial(params, x, y):
        return identities.radial_hvp(lambda p: outputs(p, x), lambda out: loss(out, y), params, degree)

    def plain(params, x, y):
        return hvp(lambda p: loss(outputs(p, x), y), params, params)

    args, free = (params, *data), (None, None)
    return [
        *_rows(f"any equivariance (homogeneity), {name}", general, plain, args, free, repeats),
        *_rows(f"homogeneity by radial_hvp, {name}", radial, plain, args, free, repeats),
    ]


def bench(repeats: int = 21) -> list[Row]:
    rows = []
    for name, widths in SIZES.items():
        bars = FLOP_BAR, TIME_BAR if float(name) >= 5e5 else None
        count = repeats if float(name) < 5e6 else max(repeats // 3, 1)
        rows += _symmetry(
            f"scalings of a ReLU network, {name} parameters",
            widths,
            groups.PositiveScaling,
            jax.nn.relu,
            BATCH,
            bars,
            count,
        )
    linear = "GL of a linear network, 5e5 parameters"
    for batch, bars in ((1024, (FLOP_BAR, TIME_BAR)), (128, (FLOP_BAR, None))):
        rows += _symmetry(
            f"{linear}, batch {batch}",
            SIZES["5e5"],
            groups.GeneralLinear,
            lambda z: z,
            batch,
            bars,
            repeats,
        )
    for name in ("1e4", "5e5"):
        rows += _homogeneous(f"{name} parameters", SIZES[name], repeats)
    return rows
