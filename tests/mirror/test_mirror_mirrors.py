"""Mirrors: O of every kind of reflection against dense matrices, which ones a symmetry contains, explicit ones."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import flat, quick_jit
from group_strategies import linear_groups
from hypothesis import strategies as st
from symmetry_strategies import any_symmetry, dense_act, trees

import eqtoolbox as eqt
from eqtoolbox import groups, mirror
from eqtoolbox.symmetry import catalog

TOLERANCE = 1e-10


def params_of(sym):
    """Parameters that fit a symmetry of ``any_symmetry``: a free axis of two, and one for each representation."""
    rng = np.random.default_rng(0)
    table, params = {s: f for f in sym.factors for s in f.spaces}, {}
    for path, label in sym.labels:
        size = 1
        for atom in label.atoms:
            if atom.space is not None:
                group, space = table[atom.space].group, table[atom.space].spaces.index(atom.space)
                size *= group.axis_size(space, group.weight(space, atom.exponent))
        params[path] = rng.normal(size=(2, size))
    return params


@quick_jit
def parts_of(m, params):
    """Everything a mirror computes, and O as a matrix with a column for each number of the order parameter."""
    flat_params, unravel = jax.flatten_util.ravel_pytree(params)
    z = jax.tree.map(jnp.ones_like, m.order(params))
    columns = jax.vmap(lambda e: jax.flatten_util.ravel_pytree(m.order(unravel(e)))[0])(
        jnp.eye(flat_params.size)
    )
    return columns, m.reflect(params), m.project(params), m.lift(z, params)


@pytest.mark.claim("MS-D1")
@hypothesis.settings(max_examples=8)
@hypothesis.given(st.data())
def test_o_is_the_eigenspace_of_the_action(data):
    """I - 2OOᵀ is the action of the element written out with dense matrices in NumPy, and OᵀO = I."""
    tree, sym = data.draw(trees())
    mirrors = mirror.of(sym)
    hypothesis.assume(len(mirrors))
    m = mirrors[data.draw(st.integers(0, len(mirrors) - 1))]
    rng = np.random.default_rng(1)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        params = {path: rng.normal(size=leaf.shape) for path, leaf in tree.items()}
        element = m.subspace.element
        expected = {path: dense_act(leaf, element, params[path]) for path, leaf in tree.items()}
        o, reflected, projected, lifted = jax.device_get(parts_of(m, params))
        np.testing.assert_allclose(flat(reflected), flat(expected), atol=TOLERANCE)
        np.testing.assert_allclose(o.T @ o, np.eye(o.shape[1]), atol=TOLERANCE)
        np.testing.assert_allclose(o @ (o.T @ flat(params)), flat(projected), atol=TOLERANCE)
        np.testing.assert_allclose(flat(lifted), o.sum(1), atol=TOLERANCE)
        assert m.dimension(params) == o.shape[1]


@hypothesis.settings(max_examples=2)
@hypothesis.given(st.data())
def test_every_group_of_groups(data):
    """Nested products and wreath products: each mirror is an involution, the action of its element, and a member."""
    sym = data.draw(any_symmetry(linear_groups(3, 8)))
    mirrors = mirror.of(sym)
    hypothesis.assume(len(mirrors))
    m = mirrors[data.draw(st.integers(0, len(mirrors) - 1))]
    with jax.enable_x64(True):
        params = params_of(sym)
        element = m.subspace.element
        assert bool(sym.contains(element))
        o, reflected, projected, _ = jax.device_get(parts_of(m, params))
        np.testing.assert_allclose(flat(reflected), flat(sym.act(element, params)), atol=TOLERANCE)
        np.testing.assert_allclose(o.T @ o, np.eye(o.shape[1]), atol=TOLERANCE)
        np.testing.assert_allclose(o @ (o.T @ flat(params)), flat(projected), atol=TOLERANCE)


def test_which_mirrors_a_symmetry_contains():
    """Counts by hand for every kind of group, names, slices, and the reason where there are none."""
    axes = {"p": "h", "s": "f", "b": "b", "o": "o", "t": "t", "c": "c", "q": "heads k"}
    sym = eqt.Symmetry(
        axes,
        {
            "h": groups.Permutation(5),
            "f": groups.SignFlip(3),
            "b": groups.SignedPermutation(4),
            "o": groups.GeneralLinear(6),
            "t": groups.Translation(2),
            "c": groups.PositiveScaling(2),
            ("heads", "k"): groups.Wreath(groups.Orthogonal(2), groups.Permutation(3)),
        },
    )
    mirrors = mirror.of(sym)
    counts = {(f.kind, f.space): f.count for f in mirrors.families}
    assert counts == {
        ("exchange", "h"): 10,
        ("sign flip", "f"): 3,
        ("exchange", "b"): 6,
        ("sign flip", "b"): 4,
        ("signed exchange", "b"): 6,
        ("reflection", "o"): 6,
        ("exchange", "heads"): 3,
        ("reflection", "k"): 6,
    }
    assert len(mirrors) == len(list(mirrors)) == 44
    assert len(mirrors[2:5]) == 3
    assert mirrors[-1] == mirrors[43]
    assert hash(mirrors[-1]) == hash(mirrors[43])
    assert len({str(m) for m in mirrors}) == 44
    assert [space for space, _ in mirrors.without] == ["c", "t"]
    assert "of infinitely many" in str(mirrors)
    assert mirrors.select(kind="exchange", space="h")[9].name == "exchange of units 3 and 4 of h"
    with pytest.raises(ValueError, match=r"no mirror of kind None and space 'c'.*c = -1 is missing"):
        mirrors.select(space="c")
    with pytest.raises(IndexError):
        mirrors[44]
    with pytest.raises(TypeError, match="needs an eqtoolbox"):
        mirror.of("h")


def test_exchange_is_the_difference_of_two_neurons():
    params = {"v": jnp.array([[1.0, 2.0, 4.0]]), "u": jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 9.0]])}
    sym = catalog.mlp({"a": {"kernel": params["v"]}, "b": {"kernel": params["u"]}}, ["a", "b"], "gelu")
    (m,) = [m for m in mirror.of(sym) if "1 and 2" in m.name]
    z = m.order({"a": {"kernel": params["v"]}, "b": {"kernel": params["u"]}})
    np.testing.assert_allclose(np.abs(z["a/kernel"]), np.array([2.0]) / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(np.abs(z["b/kernel"]), np.array([2.0, 6.0]) / 2**0.5, rtol=1e-6)


def test_scalar_rescaling_pairs_are_exchanges():
    """u·w: with every c ≠ 0 the mirrors are u = ±w and the flip of both; with c > 0 there is none."""
    params = {"u": jnp.array([1.0, 2.0]), "w": jnp.array([3.0, -5.0]), "v": jnp.ones((2, 2))}
    axes = {"u": "h", "w": "h*"}
    both = eqt.Symmetry(axes, {"h": groups.Monomial(2, scales=["a"], signs=["a"])})
    mirrors = mirror.of(both, params)
    pairs = mirrors.select(kind="rescaling pair")
    assert [m.name for m in pairs][:2] == ["u = w at unit 0 of h", "u = -w at unit 0 of h"]
    loss = lambda p: jnp.sum(jnp.sin(p["u"] * p["w"]))  # noqa: E731
    for m in mirrors:
        m.check(params)
        np.testing.assert_allclose(loss(m.reflect(params)), loss(params), rtol=1e-5)
    np.testing.assert_allclose(
        pairs.families[0].distances(params), np.array([2, 4, 7, 3]) / 2**0.5, rtol=1e-6
    )
    positive = eqt.Symmetry(axes, {"h": groups.PositiveScaling(2)})
    assert len(mirror.of(positive, params)) == 0
    one_sided = lambda p: jnp.sum(jnp.maximum(p["u"], 0) * p["w"])  # noqa: E731
    swapped = pairs[2].reflect(params)
    assert abs(one_sided(swapped) - one_sided(params)) > 1
    # a vector pair has no exchange: the unit scales three numbers
    wide = eqt.Symmetry({"v": "_ h", "w": "h*"}, {"h": groups.Monomial(2, scales=["a"], signs=["a"])})
    assert "rescaling pair" not in {f.kind for f in mirror.of(wide, params).families}
    linear = eqt.Symmetry({"u": "h", "w": "h*"}, {"h": groups.GeneralLinear(1)})
    small = {"u": jnp.array([1.0]), "w": jnp.array([3.0])}
    assert [f.kind for f in mirror.of(linear, small).families] == ["reflection", "rescaling pair"]


def test_distances_of_a_family_are_those_of_its_mirrors(monkeypatch):
    sym = eqt.Symmetry({"v": "_ h", "u": "h _"}, {"h": groups.Permutation(4)})
    params = {
        "v": jax.random.normal(jax.random.key(0), (2, 4)),
        "u": jax.random.normal(jax.random.key(1), (4, 3)),
    }
    (family,) = mirror.of(sym, params).families
    expected = [float(m.distance(params)) for m in family]
    np.testing.assert_allclose(family.distances(params), expected, rtol=1e-5)
    monkeypatch.setattr(mirror._of, "STACK_BYTES", 40)  # two permutations of four
    np.testing.assert_allclose(family.distances(params), expected, rtol=1e-5)


def test_reflection_in_a_given_direction():
    sym = eqt.Symmetry(
        {"q": "_ (heads k)", "k": "_ (heads k*)", "m": "s _"},
        {
            ("heads", "k"): groups.Wreath(groups.GeneralLinear(3), groups.Permutation(2)),
            "s": groups.Stabiliser(groups.Orthogonal(4)),
        },
    )
    rng = np.random.default_rng(0)
    params = {
        "q": jnp.asarray(rng.normal(size=(5, 6))),
        "k": jnp.asarray(rng.normal(size=(5, 6))),
        "m": jnp.ones((4, 2)),
    }
    n = rng.normal(size=3)
    m = mirror.reflection(sym, "k", n, copy=1)
    z = m.order(params)
    unit = n / np.linalg.norm(n)
    for name in "qk":
        expected = params[name].reshape(5, 2, 3)[:, 1] @ unit
        np.testing.assert_allclose(np.abs(z[name]), np.abs(expected), rtol=1e-5)
    plane = mirror.reflection(sym, "k", rng.normal(size=(2, 3)), copy=0)
    assert plane.dimension(params) == 2 * m.dimension(params) == 20
    for bad, error, text in (
        (("x", n), ValueError, "no space 'x'"),
        (("k", n), ValueError, "has 2 copies"),
        (("k", n[:2], 1), ValueError, "vectors of 3 numbers"),
        (("k", np.zeros(3), 1), ValueError, "linearly independent"),
        (("k", n, 2), ValueError, "between 0 and 1"),
        (("heads", n), TypeError, "needs O"),
        (("s", np.ones(4)), ValueError, "orthogonal to the vector"),
    ):
        space, vector, copy = (*bad, None)[:3]
        with pytest.raises(error, match=text):
            mirror.reflection(sym, space, vector, copy=copy)


def test_explicit_mirrors_and_their_sum():
    rng = np.random.default_rng(0)
    params = {
        "a": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=4), jnp.bfloat16),
    }
    stack = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=(3, *x.shape)), jnp.float32), params)
    m = mirror.from_directions(stack, stacked=True)
    m.check(params)
    assert m.dimension(params) == 3
    parts = jax.jit(lambda m, p: (m.project(p), m.complement(p)))(m, params)
    assert parts[0]["b"].dtype == parts[1]["b"].dtype == jnp.bfloat16
    np.testing.assert_allclose(flat(parts[0]) + flat(parts[1]), flat(params), atol=0.02)
    dense = np.concatenate([np.reshape(stack[k], (3, -1)) for k in "ab"], axis=1)
    inside = np.linalg.lstsq(dense.T, flat(params), rcond=None)[0] @ dense
    np.testing.assert_allclose(flat(parts[0]), inside, atol=0.02)
    first = mirror.from_map(lambda p: p["a"][0], name="first row")
    second = mirror.from_map(
        lambda p: p["a"][1], lambda z: {"a": jnp.zeros((2, 3)).at[1].set(z), "b": jnp.zeros(4)}
    )
    both = mirror.direct_sum(first, second)
    both.check(params)
    np.testing.assert_allclose(both.complement(params)["a"], np.zeros((2, 3)))
    with pytest.raises(ValueError, match="OᵀO must be the identity"):
        mirror.direct_sum(first, first).check(params)
    with pytest.raises(ValueError, match="OᵀO must be the identity"):
        mirror.from_map(lambda p: 2 * p["a"][0], check=params)
    with pytest.raises(ValueError, match="transpose"):
        mirror.from_map(
            lambda p: p["a"][0], lambda z: {"a": jnp.stack([z, z]), "b": jnp.zeros(4)}, check=params
        )
    with pytest.raises(ValueError, match="linearly independent"):
        mirror.from_directions(jax.tree.map(jnp.zeros_like, params))
    with pytest.raises(ValueError, match="`z` must have"):
        m.lift(jnp.zeros(4), params)
    with pytest.raises(ValueError, match="the directions of the mirror"):
        m.order({"a": params["a"]})
    with pytest.raises(TypeError, match="must be a Mirror"):
        mirror.direct_sum(first, None)
