"""Irreducible pieces, enumeration and sampling: against commutants and moments computed from matrices alone."""

import functools
import math

import group_strategies as gs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import groups
from eqtoolbox.groups import Group

FINITE = [g for g in gs.LINEAR if g.order is not None and g.order <= 400]
COMPACT = [g for g in gs.LINEAR if g.is_compact]
REDUCIBLE = [
    g for g in gs.LINEAR if not (isinstance(g, groups.Stabiliser) and g.dimension and not g.is_orthogonal)
]


@functools.cache
def samples(group: Group, count: int) -> list[np.ndarray]:
    """Dense linear matrices of random elements, one stack for each representation."""
    reps = gs.representations(group)

    def matrices(g):
        return [gs.dense(group, g, r.slots(group), r.shape(group))[:-1, :-1] for r in reps]

    g = gs.mapped(group.sample, jax.random.split(jax.random.key(5), count), count=count)
    return [np.asarray(m, np.float64) for m in gs.quick_jit(lambda h: gs.mapped(matrices, h, count=count))(g)]


def commutant_dimension(matrices: np.ndarray) -> int:
    """Dimension of the space of matrices that commute with all of the given ones."""
    n = matrices.shape[1]
    eye = np.eye(n)
    gram = np.zeros((n * n, n * n))
    for m in matrices:
        equation = np.kron(m, eye) - np.kron(eye, m.T)  # acts on X with rows first: m X - X m
        gram += equation.T @ equation
    return int(np.sum(np.linalg.eigvalsh(gram) < 1e-5 * len(matrices)))


@pytest.mark.parametrize("group", REDUCIBLE, ids=str)
def test_pieces_are_orthonormal_complete_invariant_and_irreducible(group):
    """All are of real type, so the commutant has dimension Σ multiplicity² just if nothing splits further."""
    for rep, matrices in zip(gs.representations(group), samples(group, 24), strict=True):
        pieces = group.isotypic(rep.weight(group), rep.spaces[-1])
        size = matrices.shape[1]
        rows = [p.rows().reshape(-1, size) for p in pieces]
        assert [r.shape for r in rows] == [(p.dimension * p.multiplicity, p.size) for p in pieces]
        basis = np.concatenate(rows)
        np.testing.assert_allclose(basis @ basis.T, np.eye(size), atol=1e-12)
        for piece, r in zip(pieces, rows, strict=True):
            inside = r @ matrices @ r.T  # what the group does to the coordinates
            np.testing.assert_allclose(matrices @ r.T, r.T @ inside, atol=2e-5)
            blocks = inside.reshape(
                -1, piece.multiplicity, piece.dimension, piece.multiplicity, piece.dimension
            )
            first = blocks[:, 0, :, 0, :]
            expected = np.einsum("mn,kij->kminj", np.eye(piece.multiplicity), first)
            np.testing.assert_allclose(blocks, expected, atol=2e-5)
            trivial = np.allclose(first, np.eye(piece.dimension), atol=1e-5)
            assert trivial == (piece.name == "trivial")
        assert commutant_dimension(matrices) == sum(p.multiplicity**2 for p in pieces)


@pytest.mark.parametrize("group", REDUCIBLE[::4], ids=str)
def test_project_and_coordinates_agree_with_the_rows(group):
    rep = gs.representations(group)[-1]
    size = math.prod(rep.shape(group))
    x = jax.random.normal(jax.random.key(0), (2, size, 3))
    total = 0
    for piece in group.isotypic(rep.weight(group), rep.spaces[-1]):
        rows = piece.rows()
        coordinates = np.einsum("mdn,bnc->bmdc", rows, x)
        np.testing.assert_allclose(piece.coordinates(x, 1), coordinates, atol=1e-5)
        projected = np.einsum("mdn,bmdc->bnc", rows, coordinates)
        np.testing.assert_allclose(piece.project(x, -2), projected, atol=1e-5)
        low = piece.project(x.astype(jnp.bfloat16), 1)
        assert low.dtype == jnp.bfloat16
        assert piece.coordinates(x.astype(jnp.bfloat16), 1).dtype == jnp.bfloat16
        total = total + piece.project(x, 1)
    np.testing.assert_allclose(total, x, atol=1e-5)
    with pytest.raises(ValueError, match=rf"needs an axis of size {size}, got shape \(2, {size + 1}\)"):
        piece.project(jnp.ones((2, size + 1)), 1)


def test_standard_piece_of_copies_is_not_the_complement_of_the_mean():
    """The standard piece of the outer group keeps differences of copies, not of units inside a copy."""
    group = groups.Wreath(groups.Permutation(2), groups.Permutation(3))
    mean, standard, inner = group.isotypic(space=1)
    assert [(p.name, p.dimension, p.multiplicity) for p in (mean, standard, inner)] == [
        ("trivial", 1, 1),
        ("standard", 2, 1),
        ("standard", 3, 1),
    ]
    x = jnp.arange(6.0)
    np.testing.assert_allclose(standard.project(x), [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0], atol=1e-6)
    np.testing.assert_allclose(inner.project(x), [-0.5, 0.5] * 3, atol=1e-6)


def test_pieces_that_do_not_exist_are_refused():
    with pytest.raises(
        TypeError, match=r"GL\(3\) fixing 1 is not a sum of irreducible pieces; .*compact\(\)"
    ):
        groups.Stabiliser(groups.GeneralLinear(3)).isotypic()
    with pytest.raises(TypeError, match=r"Aff\(2\): the homogeneous representation is not a sum"):
        groups.Affine(2).isotypic(("homogeneous", 1))
    with pytest.raises(ValueError, match=r"the weight of an inner space is a pair \(outer, inner\), got 1"):
        groups.Wreath(groups.GeneralLinear(2), groups.Permutation(2)).isotypic(1, 1)


@pytest.mark.parametrize("group", FINITE, ids=str)
def test_elements_are_all_of_the_group_once(group):
    elements, order = group.elements(), group.order
    leaves = [np.asarray(leaf).reshape(order, -1) for leaf in jax.tree.leaves(elements)]
    table = np.concatenate([np.zeros((order, 0)), *leaves], axis=1)

    def names(rows):
        return {tuple(row) for row in np.round(rows, 4) + 0.0}

    assert len(names(table)) == order
    assert np.all(gs.mapped(group.contains, elements, count=order))
    rng = np.random.default_rng(0)
    i, j = rng.integers(order, size=(2, 100))
    left, right = (jax.tree.map(lambda leaf, k=k: leaf[k], elements) for k in (i, j))
    products = gs.mapped(group.compose, left, right, count=100)
    rows = [np.asarray(leaf).reshape(100, -1) for leaf in jax.tree.leaves(products)]
    assert names(np.concatenate([np.zeros((100, 0)), *rows], axis=1)) <= names(table)


def test_elements_of_infinite_and_of_large_groups_are_refused():
    with pytest.raises(ValueError, match=r"GL\(2\) is infinite: it cannot be enumerated, sample it instead"):
        groups.GeneralLinear(2).elements()
    with pytest.raises(ValueError, match=r"S\(2000\) has about 10\^5736 elements, more than 100000"):
        groups.Permutation(2000).elements()
    assert groups.Permutation(10**6).is_compact  # without its order


@pytest.mark.parametrize("group", COMPACT, ids=str)
def test_samples_are_haar_distributed(group):
    """Means project on invariants, of V and of V ⊗ V; a fourth moment does not change under a translation."""
    count = 4000
    rep = gs.representations(group)[-1]
    slots, shape = rep.slots(group), rep.shape(group)
    keys = jax.random.split(jax.random.key(9), count + 1)
    fixed = group.sample(keys[0])

    def matrix(g):
        return gs.dense(group, g, slots, shape)[:-1, :-1]

    def draw(key):
        g = group.sample(key)
        return matrix(g), jnp.trace(matrix(group.compose(fixed, g))) ** 4

    matrices, moved = (np.asarray(a, np.float64) for a in gs.quick_jit(jax.vmap(draw))(keys[1:]))
    pieces = group.isotypic(rep.weight(group), rep.spaces[-1])
    size = matrices.shape[1]
    trivial = sum(
        (r.T @ r for p in pieces if p.name == "trivial" for r in [p.rows().reshape(-1, size)]), np.zeros(())
    )
    bound = 5 / math.sqrt(count)
    assert np.abs(matrices.mean(0) - trivial).max() <= bound

    # E[g X gᵀ] is the projection of X on the commutant: read off the pieces, copy by copy.
    x = np.random.default_rng(1).normal(size=(size, size))
    projected = np.zeros((size, size))
    for piece in pieces:
        r = piece.rows()
        pairing = np.einsum("mdi,ij,ndj->mn", r, x, r) / piece.dimension
        projected += np.einsum("mn,mdi,ndj->ij", pairing, r, r)
    terms = matrices @ x @ matrices.swapaxes(1, 2)
    error = terms.std(0) / math.sqrt(count)
    assert np.all(np.abs(terms.mean(0) - projected) <= 5 * error + 1e-4)

    traces = np.trace(matrices, axis1=1, axis2=2) ** 4
    spread = math.sqrt((traces.var() + moved.var()) / count)
    assert abs(traces.mean() - moved.mean()) <= 5 * spread + 1e-4


def test_samples_of_groups_that_are_not_compact_are_as_stated():
    first, second, third = jax.random.split(jax.random.key(2), (3, 500))
    matrices = np.asarray(jax.vmap(groups.GeneralLinear(4).sample)(first))
    singular = np.linalg.svd(matrices, compute_uv=False)
    assert singular.min() >= 0.5 - 1e-4
    assert singular.max() <= 2 + 1e-4
    u = np.log(singular) / math.log(2)  # uniform in [-1, 1]
    assert abs(u.mean()) < 5 / math.sqrt(3 * u.size)
    assert abs((u**2).mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / u.size)
    assert abs(np.sign(np.linalg.det(matrices)).mean()) < 5 / math.sqrt(500)
    scales = np.asarray(jax.vmap(groups.PositiveScaling(4).sample)(second))
    assert 0.5 <= scales.min() < 0.52
    assert 1.95 < scales.max() <= 2
    stabiliser = groups.Stabiliser(groups.GeneralLinear(4))
    assert np.linalg.cond(jax.vmap(stabiliser.sample)(third)).max() < 100
