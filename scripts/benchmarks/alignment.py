"""Alignment of wide networks, against the products of weights that any matching needs.

Two ReLU MLPs 784-n-n-10: one the other with 30 % noise, moved by a random element. The reference is one sweep of
the similarities of units, A Bᵀ for both hidden layers: without it there is nothing to assign. Seconds, after
compilation; ``--sizes 4096 --groups permutations`` is the one that counts.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
from benchmarks.timing import Row

from eqtoolbox import orbits
from eqtoolbox.symmetry import catalog

LAYERS = ["a", "b", "c"]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 4096], help="widths n")
    parser.add_argument(
        "--groups",
        nargs="+",
        default=["permutations"],
        choices=["permutations", "scalings"],
        help="what moves",
    )
    parser.add_argument("--repeats", type=int, default=3)


def bench(options: argparse.Namespace | None = None) -> list[Row]:
    if options is None:
        parser = argparse.ArgumentParser()
        arguments(parser)
        options = parser.parse_args([])
    return [_row(n, group, options.repeats) for group in options.groups for n in options.sizes]


def _network(key: jax.Array, n: int):
    sizes = (784, n, n, 10)
    keys = jax.random.split(key, 3)
    return {
        name: {"kernel": jax.random.normal(k, (i, o)) / i**0.5, "bias": jnp.zeros(o)}
        for name, k, i, o in zip(LAYERS, keys, sizes, sizes[1:], strict=False)
    }


def _row(n: int, group: str, repeats: int) -> Row:
    keys = jax.random.split(jax.random.key(n), 3)
    a, noise = _network(keys[0], n), _network(keys[1], n)
    sym = catalog.mlp(a, LAYERS, "gelu" if group == "permutations" else "relu")
    b = sym.act(sym.sample(keys[2]), jax.tree.map(lambda x, y: x + 0.3 * y, a, noise))

    @jax.jit
    def products(a, b):
        first = a["a"]["kernel"].T @ b["a"]["kernel"] + a["b"]["kernel"] @ b["b"]["kernel"].T
        return first, a["b"]["kernel"].T @ b["b"]["kernel"] + a["c"]["kernel"] @ b["c"]["kernel"].T

    def align():
        found = orbits.match_weights(sym, b, to=a)
        assert found.after < 0.4 * found.before
        return found.after

    return Row(
        f"{group}, width {n}",
        _seconds(align, repeats),
        _seconds(lambda: products(a, b), repeats),
        "similarities of one sweep",
    )


def _seconds(call, repeats: int) -> float:
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]
