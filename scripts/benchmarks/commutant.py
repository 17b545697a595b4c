"""Blocks of the commutant against the matmuls and eigendecompositions that they cannot do without.

The network is 16 - width - 16 with biases under permutations of its hidden units: 33 copies of an irreducible of
dimension width - 1, and a trivial component. The reference does on arrays of the same sizes what there is to do: a
product of the coordinates with their transpose, an eigendecomposition, a product of the blocks with coordinates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from benchmarks.timing import Row, interleaved

from eqtoolbox import Symmetry, groups
from eqtoolbox.curvature import Commutant

WIDTHS = (64, 512, 2048, 8192)
OUTSIDE = 16
BAR = 3.0
HIGHEST = jax.lax.Precision.HIGHEST


def _network(width: int):
    """The commutant of a network with one hidden layer, and a gradient."""
    shapes = {"w1": (OUTSIDE, width), "b1": (width,), "w2": (width, OUTSIDE), "b2": (OUTSIDE,)}
    axes = {"w1": "_ h", "b1": "h", "w2": "h* _", "b2": "_"}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    tree = {name: jax.random.normal(k, s) for k, (name, s) in zip(keys, shapes.items(), strict=True)}
    return Commutant(Symmetry(axes, {"h": groups.Permutation(width)}), tree), tree


def _inverse_root(w):
    return w**-0.5


def bench(repeats: int = 31) -> list[Row]:
    rows = []
    for width in WIDTHS:
        com, tree = _network(width)
        coordinates = jax.jit(com.coordinates)(tree)
        stack = jax.tree.map(
            lambda x: jnp.stack([x] * 64) * jnp.linspace(0.5, 1.5, 64).reshape(-1, *[1] * x.ndim), tree
        )
        noise = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), stack)
        blocks = jax.jit(lambda s: com.gram(s, axis=0))(noise)  # noqa: B023

        programs = {
            "gram": (jax.jit(com.gram), (tree,)),
            "least gram": (
                jax.jit(lambda c: {k: jnp.matmul(a, a.mT, precision=HIGHEST) for k, a in c.items()}),
                (coordinates,),
            ),
            "matvec": (jax.jit(com.matvec), (blocks, tree)),
            "least matvec": (
                jax.jit(lambda b, c: {k: jnp.matmul(b[k], a, precision=HIGHEST) for k, a in c.items()}),
                (blocks, coordinates),
            ),
            "apply": (jax.jit(lambda b: com.apply(_inverse_root, b)), (blocks,)),  # noqa: B023
            "least apply": (jax.jit(_eigen_root), (blocks,)),
        }
        compiled = {name: f.lower(*args).compile() for name, (f, args) in programs.items()}
        for name in ("gram", "matvec", "apply"):
            used = compiled[name].memory_analysis().temp_size_in_bytes
            assert used < 4 * 16 * com.size + 2**22, f"{name} uses {used} bytes for {com.size} parameters"
        calls = {
            name: (lambda run=compiled[name], args=args: run(*args)) for name, (_, args) in programs.items()
        }
        seconds = interleaved(calls, repeats)
        for name, what in (
            ("gram", "its matmuls"),
            ("apply", "its eigendecompositions"),
            ("matvec", "its matmuls"),
        ):
            rows.append(Row(f"{name}, width {width}", seconds[name], seconds[f"least {name}"], what, BAR))
    return rows


def _eigen_root(blocks):
    """The eigendecomposition and one product for each block."""
    out = {}
    for name, block in blocks.items():
        w, v = jnp.linalg.eigh(block)
        out[name] = jnp.matmul(v * jnp.sqrt(jnp.abs(w) + 1e-3)[..., None, :], v.mT, precision=HIGHEST)
    return out
