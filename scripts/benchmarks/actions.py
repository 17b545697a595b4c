"""Group actions against the least they could cost: one copy of the parameters, or their matmuls."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from benchmarks.timing import Row, interleaved

from eqtoolbox import Symmetry, groups

HIGHEST = jax.lax.Precision.HIGHEST


def _mlp(widths: tuple[int, ...]):
    """Parameters of an MLP and the labels of its hidden layers h1, h2, …."""
    keys = jax.random.split(jax.random.key(0), len(widths) - 1)
    last = len(widths) - 2
    params, axes = {}, {}
    for i, (key, m, n) in enumerate(zip(keys, widths[:-1], widths[1:], strict=True)):
        params[f"Dense_{i}"] = {"kernel": jax.random.normal(key, (m, n)), "bias": jnp.ones(n)}
        before = "_" if i == 0 else f"h{i}*"
        after = "_" if i == last else f"h{i + 1}"
        axes[f"Dense_{i}"] = {"kernel": f"{before} {after}", "bias": after}
    return params, axes


def _symmetry(widths, axes, group):
    return Symmetry(axes, {f"h{i}": group(n) for i, n in enumerate(widths[1:-1], 1)})


def _size(params) -> str:
    return f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.2f}M"


def bench(repeats: int = 101) -> list[Row]:
    copy = jax.jit(lambda p: jax.tree.map(jnp.copy, p))
    rows = []
    for widths in ((784, 1024, 192, 10), (784, 640, 640, 128), (1000, 1000, 10)):
        params, axes = _mlp(widths)
        shape = "-".join(map(str, widths))
        for name, group, bar in (
            ("S", groups.Permutation, 3.0),
            ("B", groups.SignedPermutation, None),
            ("S⋉R₊", lambda n: groups.Monomial(n, scales=1), None),
        ):
            sym = _symmetry(widths, axes, group)
            g, act = sym.sample(jax.random.key(1)), jax.jit(sym.act)
            t = interleaved({"act": lambda: act(g, params), "copy": lambda: copy(params)}, 4 * repeats)  # noqa: B023
            title = f"{name} on {_size(params)} parameters ({shape})"
            rows.append(Row(title, t["act"], t["copy"], "one copy of the parameters", bar))
    rows += _general_linear(repeats)
    return rows


def _general_linear(repeats: int) -> list[Row]:
    widths = (512, 512, 512)
    params, axes = _mlp(widths)
    sym = _symmetry(widths, axes, groups.GeneralLinear)
    g, act = sym.sample(jax.random.key(1)), jax.jit(sym.act)
    first, second = params["Dense_0"], params["Dense_1"]

    @jax.jit
    def by_hand(m, first, second):
        dual = jnp.linalg.inv(m).T
        return (
            jnp.matmul(first["kernel"], m.T, precision=HIGHEST),
            jnp.matmul(m, first["bias"], precision=HIGHEST),
            jnp.matmul(dual, second["kernel"], precision=HIGHEST),
        )

    @jax.jit
    def matmuls(m, dual, first, second):
        return (
            jnp.matmul(first["kernel"], m.T, precision=HIGHEST),
            jnp.matmul(m, first["bias"], precision=HIGHEST),
            jnp.matmul(dual, second["kernel"], precision=HIGHEST),
        )

    orthogonal = _symmetry(widths, axes, groups.Orthogonal)
    act_orthogonal, q = jax.jit(orthogonal.act), orthogonal.sample(jax.random.key(2))
    pair, m = sym.with_inverse(g), g["h1"]
    dual = jnp.linalg.inv(m).T
    t = interleaved(
        {
            "act": lambda: act(g, params),
            "with inverse": lambda: act(pair, params),
            "by hand": lambda: by_hand(m, first, second),
            "orthogonal": lambda: act_orthogonal(q, params),
            "matmuls": lambda: matmuls(m, dual, first, second),
        },
        repeats,
    )
    return [
        Row(
            "GL(512), with its inverse, kernels 512×512", t["with inverse"], t["matmuls"], "its matmuls", 1.1
        ),
        Row("GL(512), kernels 512×512", t["act"], t["by hand"], "its inverse and matmuls by hand", 1.1),
        Row("O(512), kernels 512×512", t["orthogonal"], t["matmuls"], "its matmuls", 1.1),
        Row("GL(512), the inverse included", t["act"], t["matmuls"], "its matmuls without the inverse"),
    ]
