"""The commutant of random architectures against null spaces, group averages and dense linear algebra in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commutant_brute import Architecture, Space, architectures, generators, invariant_basis, mlp
from hypothesis import example, given, settings

from eqtoolbox import Symmetry, groups
from eqtoolbox.curvature import Commutant

H = Space("h", "S", 4)
SIGNED = Space("h", "B", 3)
HEADS = Space("h", "S", 2, ("O", 2))
TWICE = Architecture((H,), ((((H, "units"),), ((H, "units"),)), (((H, "units"),),)))


def everything(com, dense, x):
    """All that is compared with dense linear algebra, compiled once for an architecture."""
    blocks = com.project(dense)
    root = com.apply(lambda w: w**-0.5, blocks, damping=0.0)
    spectrum = com.spectrum(blocks)
    tree = _unravel(com, x)
    return {
        "dense": com.to_dense(blocks),
        "again": com.to_dense(com.project(com.to_dense(blocks))),
        "root": com.to_dense(root),
        "inverse": com.to_dense(com.inverse(blocks)),
        "gram": com.to_dense(com.gram(tree)),
        "identity": com.to_dense(com.identity(x.dtype)),
        "matvec": _ravel(com.matvec(blocks, tree)),
        "solve": _ravel(com.solve(blocks, tree)),
        "values": spectrum.values,
        "multiplicities": spectrum.multiplicities,
        "logdet": com.logdet(blocks),
        "trace": com.trace(blocks),
        "norm": com.norm(blocks),
    }


def _unravel(com, x):
    sizes = [int(np.prod(shape)) for _, shape in com.leaves]
    parts = jnp.split(x, np.cumsum(sizes)[:-1])
    return {path: part.reshape(shape) for (path, shape), part in zip(com.leaves, parts, strict=True)}


def _ravel(tree):
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def check(com, basis, seed=0):
    """Compares a commutant with the dense matrices spanned by an orthonormal basis of invariant matrices."""
    p, rng = com.size, np.random.default_rng(seed)
    assert com.num_factors == len(basis)
    assert sum(c.size for c in com.components) == p

    def projected(matrix):
        return np.tensordot(np.tensordot(basis, matrix, 2), basis, 1)

    raw = rng.normal(size=(p, 2 * p))
    dense, x = raw @ raw.T / p + np.eye(p), rng.normal(size=p)
    got = jax.device_get(jax.jit(everything, static_argnums=0)(com, dense, x))
    truth = projected(dense)
    w, v = np.linalg.eigh(truth)
    expected = {
        "dense": truth,
        "again": truth,
        "root": (v * w**-0.5) @ v.T,
        "inverse": np.linalg.inv(truth),
        "gram": projected(np.outer(x, x)),
        "identity": np.eye(p),
        "matvec": truth @ x,
        "solve": np.linalg.solve(truth, x),
        "logdet": np.linalg.slogdet(truth)[1],
        "trace": np.trace(truth),
        "norm": np.linalg.norm(truth),
    }
    values = np.repeat(got.pop("values"), got.pop("multiplicities"))
    np.testing.assert_allclose(values, w[::-1], rtol=1e-10)
    for name, value in expected.items():
        np.testing.assert_allclose(
            got[name], value, rtol=1e-10, atol=1e-10 * np.abs(value).max(), err_msg=name
        )


def check_architecture(architecture):
    matrices = architecture.generators()
    com = Commutant(architecture.symmetry(), architecture.params())
    check(com, invariant_basis(matrices, architecture.p))


@pytest.mark.usefixtures("x64")
@settings(max_examples=8)
@given(architectures())
@example(TWICE)
@example(Architecture((SIGNED,), ((((SIGNED, "units"),), ((SIGNED, "squared"),)), (((SIGNED, "squared"),),))))
@example(Architecture((HEADS,), ((((HEADS, "whole"),), ((HEADS, "units"),)), (((HEADS, "units"),),))))
def test_random_architectures(architecture):
    check_architecture(architecture)


@settings(max_examples=40)
@given(architectures(largest=18))
def test_number_of_factors_of_random_architectures(architecture):
    com = Commutant(architecture.symmetry(), architecture.params())
    assert com.num_factors == len(invariant_basis(architecture.generators(), architecture.p))


COUNTS = {(3, 4, 2): (57, 24), (3, 4, 5, 2): (81, 20), (2, 3, 3, 4, 2): (94, 18)}


@pytest.mark.claim("GC-T3.1", "GC-T3.2")
@pytest.mark.parametrize("widths", COUNTS)
def test_number_of_factors_of_mlps(widths):
    found = [Commutant(*mlp(widths, g)).num_factors for g in (groups.Permutation, groups.Orthogonal)]
    assert tuple(found) == COUNTS[widths]
    assert Commutant(*mlp(widths, groups.SignedPermutation)).num_factors == COUNTS[widths][1]


def permutation_orbits(shapes, moves):
    """The number of orbits of unordered pairs of entries, under moves of the entries (arrays of positions)."""
    p = sum(int(np.prod(s)) for s in shapes)
    parent = {(i, j): (i, j) for i in range(p) for j in range(i, p)}

    def root(pair):
        while parent[pair] != pair:
            pair = parent[pair]
        return pair

    for move in moves:
        for i, j in list(parent):
            parent[root((i, j))] = root(tuple(sorted((move[i], move[j]))))
    return len({root(pair) for pair in parent})


@pytest.mark.parametrize("widths", COUNTS)
def test_number_of_factors_by_orbit_counting(widths):
    _, params = mlp(widths, groups.Permutation)
    names = sorted(params)
    starts = dict(zip(names, np.cumsum([0] + [params[n].size for n in names])[:-1], strict=True))
    moves = []
    for layer in range(1, len(widths) - 1):
        n = widths[layer]
        for order in ([1, 0, *range(2, n)], [*range(1, n), 0]):
            move = np.arange(sum(x.size for x in params.values()))
            for name, axis in ((f"w{layer}", 1), (f"b{layer}", 0), (f"w{layer + 1}", 0)):
                shape = params[name].shape
                own = np.arange(params[name].size).reshape(shape)
                move[starts[name] : starts[name] + own.size] = (
                    starts[name] + np.take(own, order, axis).ravel()
                )
            moves.append(move)
    assert permutation_orbits([params[n].shape for n in names], moves) == COUNTS[widths][0]


@pytest.mark.parametrize(
    ("group", "counts"),
    [
        (groups.Permutation, (1, 8, 14, 15, 15)),
        (groups.Orthogonal, (1, 3, 3, 3, 3)),
        (groups.SignedPermutation, (1, 4, 4, 4, 4)),
    ],
)
def test_whole_commutant_of_a_space_that_occurs_twice(group, counts):
    """Σ m², all operators that commute, not only the symmetric ones: S(d) 15, 14, 8, 1; O(d) 3; B(d) 4."""
    for d, expected in zip(range(1, 6), counts, strict=True):
        com = Commutant(Symmetry({"w": "h h*"}, {"h": group(d)}), {"w": jnp.ones((d, d))})
        assert sum(c.multiplicity**2 for c in com.components) == expected


def enumerated(kind, n):
    """All matrices of S(n), or of B(n)."""
    signs = itertools.product([1, -1], repeat=n) if kind == "B" else [(1,) * n]
    return [np.eye(n)[list(p)] * np.array(s) for s in signs for p in itertools.permutations(range(n))]


@pytest.mark.parametrize("kind", ["S", "B"])
def test_projection_is_the_average_over_the_group(x64, kind):
    space = Space("h", kind, 3)
    architecture = Architecture(
        (space,), ((((space, "units"),), ((space, "units"),)), ((2,), ((space, "units"),)))
    )
    p, rng = architecture.p, np.random.default_rng(3)
    com = Commutant(architecture.symmetry(), architecture.params())
    raw = rng.normal(size=(p, p))
    matrices = [architecture.matrix(space, {"units": g}) for g in enumerated(kind, 3)]
    average = np.mean([g @ (raw + raw.T) @ g.T for g in matrices], 0)
    found = jax.jit(lambda m: com.to_dense(com.project(m)))(raw + raw.T)
    np.testing.assert_allclose(found, average, atol=1e-12)
    assert np.abs(average - raw - raw.T).max() > 1  # what does not commute is changed


def test_two_leaves_with_spaces_in_either_order(x64):
    h, k = Space("h", "S", 3), Space("k", "B", 2)
    leaves = ((((h, "units"),), ((k, "units"),)), (((k, "units"),), ((h, "units"),)))
    check_architecture(Architecture((h, k), leaves))


def test_product_inside_heads(x64):
    """Queries and values of two heads: O(2) × O(1) inside each, the heads permuted."""
    group = groups.Wreath(
        groups.Product(groups.Orthogonal(2), groups.GeneralLinear(1)), groups.Permutation(2)
    )
    sym = Symmetry({"q": "h d", "v": "h e", "x": "h"}, {("h", "d", "e"): group})
    com = Commutant(sym, {"q": jnp.ones((2, 2)), "v": jnp.ones((2, 1)), "x": jnp.ones(2)})
    swap = np.eye(2)[::-1]
    matrices = [_blocks(np.kron(swap, np.eye(2)), swap, swap)]
    for g in generators("O", 2):
        matrices.append(_blocks(_blocks(g, np.eye(2)), np.eye(2), np.eye(2)))
    matrices.append(_blocks(np.eye(4), np.diag([-1.0, 1]), np.eye(2)))
    check(com, invariant_basis(matrices, 8))


def _blocks(*parts):
    whole = np.zeros((sum(map(len, parts)),) * 2)
    start = 0
    for part in parts:
        whole[start : start + len(part), start : start + len(part)] = part
        start += len(part)
    return whole


def test_blocks_of_signs(x64):
    """A monomial group with two signs per unit, of which leaves read one, the other, or both."""
    group = groups.Monomial(3, 0, ("s", "t"))
    sym = Symmetry({"a": "h{s:1} h{t:1}", "b": "h{s:1,t:1}", "c": "h{t:1} h{s:1}"}, {"h": group})
    com = Commutant(sym, {"a": jnp.ones((3, 3)), "b": jnp.ones(3), "c": jnp.ones((3, 3))})
    matrices = []
    for g in generators("S", 3):
        matrices.append(_blocks(np.kron(g, g), g, np.kron(g, g)))
    one = np.diag([-1.0, 1, 1])
    matrices.append(_blocks(np.kron(one, np.eye(3)), one, np.kron(np.eye(3), one)))
    matrices.append(_blocks(np.kron(np.eye(3), one), one, np.kron(one, np.eye(3))))
    check(com, invariant_basis(matrices, 21))


def test_counts_of_emlp():
    """The basis vectors that emlp 1.0.3 finds for hidden permutations, before symmetry of the matrix."""
    assert _all_operators((5, 5, 5)) == (60, 377)
    assert _all_operators((16, 32, 16)) == (1072, 3490)


def _all_operators(widths):
    com = Commutant(*mlp(widths, groups.Permutation))
    return com.size, sum(c.multiplicity**2 for c in com.components)


@pytest.mark.slow
def test_counts_of_emlp_itself(monkeypatch):
    """The same numbers from emlp, where it is installed."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    pytest.importorskip("emlp")
    from emlp.groups import S
    from emlp.reps import Scalar, V

    d = 5
    rep = 2 * d * V(S(d)) + V(S(d)) + d * Scalar(S(d))
    assert (rep >> rep).equivariant_basis().shape[1] == 377


def test_a_million_parameters():
    """Where emlp cannot go: its basis would have p² rows."""
    sym, params = mlp((8, 1000, 1000, 4), groups.Permutation)
    com = Commutant(sym, params)
    assert com.size == 1_014_004
    assert [(c.name, c.multiplicity, c.dimension) for c in com.components] == [
        ("trivial", 8 + 1 + 1 + 1 + 4 + 4, 1),
        ("h1: standard", 8 + 1 + 1, 999),
        ("h1: standard · h2: standard", 1, 999**2),
        ("h2: standard", 1 + 1 + 4, 999),
    ]

    def run(tree):
        blocks = com.gram(tree)
        return blocks, com.matvec(com.apply(jnp.sqrt, blocks), tree)

    keys = jax.random.split(jax.random.key(0), len(params))
    tree = {k: jax.random.normal(r, x.shape) for r, (k, x) in zip(keys, params.items(), strict=True)}
    program = jax.jit(run).lower(tree).compile()
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes < 20 * 4 * com.size
    blocks, moved = program(tree)
    total = sum(float(jnp.sum(x**2)) for x in tree.values())
    np.testing.assert_allclose(com.trace(blocks), total, rtol=1e-5)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in moved.values())


def test_settings_that_make_no_sense_are_refused_by_name():
    params = {"w": jnp.ones((3, 4))}
    sym = Symmetry({"w": "_ h"}, {"h": groups.Permutation(4)})
    with pytest.raises(TypeError, match=r"`diagonal_above` must be an integer, got 2\.5"):
        Commutant(sym, params, diagonal_above=2.5)
    with pytest.raises(ValueError, match="`diagonal_above` must be at least 1, got 0"):
        Commutant(sym, params, diagonal_above=0)
    com = Commutant(sym, params)
    with pytest.raises(ValueError, match=r"`damping` must not be negative, got -1\.0"):
        com.apply(jnp.sqrt, com.identity(), damping=-1.0)
    with pytest.raises(TypeError, match="`damping` must be a real number, got 'large'"):
        com.apply(jnp.sqrt, com.identity(), damping="large")
