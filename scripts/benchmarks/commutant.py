"""Blocks of the commutant against the matmuls and eigendecompositions that they cannot do without.

The network is 16 - width - width - 16 with biases under permutations of its hidden units: a kernel of width²
entries, 18 copies of the irreducible of each layer, one of their product, and a trivial component of 51. The
reference does on arrays of the same sizes what there is to do: for a gram the sums over units of each kernel (the
trivial parts, a product with a vector of ones) and A Aᵀ of the coordinates A of each component; for a function an
eigendecomposition and a product; for a matvec the same sums and B A.
"""

from __future__ import annotations

import itertools

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
    """The commutant of a network with two hidden layers of one width, and a gradient."""
    widths = (OUTSIDE, width, width, OUTSIDE)
    axes = {"w1": "_ h", "b1": "h", "w2": "h* k", "b2": "k", "w3": "k* _", "b3": "_"}
    shapes = {f"w{i + 1}": pair for i, pair in enumerate(itertools.pairwise(widths))}
    shapes |= {f"b{i + 1}": (n,) for i, n in enumerate(widths[1:])}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    tree = {name: jax.random.normal(k, s) for k, (name, s) in zip(keys, shapes.items(), strict=True)}
    acting = {"h": groups.Permutation(width), "k": groups.Permutation(width)}
    return Commutant(Symmetry(axes, acting), tree), tree


def _sums(tree, ones):
    """The sums over hidden units that give the trivial parts of the kernels."""
    w1, w2, w3 = (tree[f"w{i}"] for i in (1, 2, 3))
    pairs = ((w1, ones), (w2, ones), (ones.mT, w2), (ones.mT, w3))
    return [jnp.matmul(a, b, precision=HIGHEST) for a, b in pairs]


def _least_gram(tree, ones, coordinates):
    grams = {k: jnp.matmul(a, a.mT, precision=HIGHEST) for k, a in coordinates.items()}
    return _sums(tree, ones), grams


def _least_matvec(tree, ones, blocks, coordinates):
    products = {k: jnp.matmul(blocks[k], a, precision=HIGHEST) for k, a in coordinates.items()}
    return _sums(tree, ones), products


def _inverse_root(w):
    return w**-0.5


def bench(repeats: int = 31) -> list[Row]:
    return [row for width in WIDTHS for row in _rows(width, repeats if width < 4096 else 7)]


def _rows(width: int, repeats: int) -> list[Row]:
    com, tree = _network(width)
    coordinates, ones = jax.jit(com.coordinates)(tree), jnp.ones((width, 1))
    blocks = jax.tree.map(jnp.add, jax.jit(com.gram)(tree), com.identity(jnp.float32))
    programs = {
        "gram": (com.gram, (tree,)),
        "least gram": (_least_gram, (tree, ones, coordinates)),
        "apply": (lambda b: com.apply(_inverse_root, b), (blocks,)),
        "least apply": (_eigen_root, (blocks,)),
        "matvec": (com.matvec, (blocks, tree)),
        "least matvec": (_least_matvec, (tree, ones, blocks, coordinates)),
    }
    compiled = {name: jax.jit(f).lower(*args).compile() for name, (f, args) in programs.items()}
    what = {"gram": "its matmuls", "apply": "its eigendecompositions", "matvec": "its matmuls"}
    for name in what:
        used = compiled[name].memory_analysis().temp_size_in_bytes
        assert used < 4 * com.size + 2**20, f"{name} uses {used} bytes for {com.size} parameters"
    calls = {name: (lambda run=compiled[name], args=args: run(*args)) for name, (_, args) in programs.items()}
    seconds = interleaved(calls, repeats)
    return [
        Row(f"{name}, width {width}", seconds[name], seconds[f"least {name}"], against, BAR)
        for name, against in what.items()
    ]


def _eigen_root(blocks):
    """The eigendecomposition and one product for each block."""
    out = {}
    for name, block in blocks.items():
        w, v = jnp.linalg.eigh(block)
        out[name] = jnp.matmul(v * jnp.sqrt(jnp.abs(w) + 1e-3)[..., None, :], v.mT, precision=HIGHEST)
    return out
