"""Conventions, dtypes, transforms, membership, and the errors on bad input."""

import doctest
import importlib
import pkgutil
from fractions import Fraction

import group_strategies as gs
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import groups
from eqtoolbox.groups import (
    Affine,
    Exponent,
    GeneralLinear,
    Monomial,
    Orthogonal,
    Permutation,
    PositiveScaling,
    Product,
    Scaling,
    SignedPermutation,
    SignFlip,
    Slot,
    Stabiliser,
    Term,
    Translation,
    Trivial,
    Wreath,
)
from eqtoolbox.groups._log import log_matrix

SOME = [
    Permutation(3),
    SignFlip(3),
    PositiveScaling(3),
    Monomial(3, 1, 1),
    GeneralLinear(3),
    Orthogonal(3),
    Affine(3),
    Wreath(GeneralLinear(2), Monomial(3, scales=1)),
]


def last_action(group):
    """The slots and the shape of an array with one axis for each space of the last representation."""
    rep = gs.representations(group)[-1]
    return rep.slots(group, offset=0), rep.shape(group)


# Conventions.


def test_permutation_reads_old_at_p():
    x = jnp.arange(12.0).reshape(3, 4)
    p = jnp.array([2, 0, 3, 1])
    np.testing.assert_array_equal(Permutation(4).act(p, x), np.asarray(x)[:, p])
    np.testing.assert_array_equal(Permutation(3).act(jnp.array([1, 2, 0]), x, 0), np.asarray(x)[[1, 2, 0]])


def test_matrix_contracts_its_second_index_and_the_dual_is_the_inverse_transpose(key):
    g = GeneralLinear(3).sample(key)
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_allclose(GeneralLinear(3).act(g, x, 1), np.einsum("ij,bjc->bic", g, x), rtol=1e-5)
    dual = np.linalg.inv(g).T
    np.testing.assert_allclose(
        GeneralLinear(3).act(g, x, 1, -1), np.einsum("ij,bjc->bic", dual, x), rtol=1e-4, atol=1e-4
    )
    pairing = jnp.vdot(GeneralLinear(3).act(g, x, 1), GeneralLinear(3).act(g, x, 1, -1))
    np.testing.assert_allclose(pairing, jnp.vdot(x, x), rtol=1e-5)


def test_scalings_and_signs_read_their_exponents():
    c, x = jnp.array([4.0, 9.0]), jnp.ones((2, 2))
    np.testing.assert_allclose(
        PositiveScaling(2).act(c, x, 0, Fraction(-1, 2)), [[0.5] * 2, [1 / 3] * 2], rtol=1e-6
    )
    np.testing.assert_allclose(PositiveScaling(2).act(c, x, 1, Fraction(2, 3)), [c ** (2 / 3)] * 2, rtol=1e-6)
    np.testing.assert_array_equal(PositiveScaling(2).act(c, x, 0, 2), [[16.0] * 2, [81.0] * 2])
    s = jnp.array([1, -1], jnp.int8)
    np.testing.assert_array_equal(SignFlip(2).act(s, x, 0, 2), x)
    np.testing.assert_array_equal(SignFlip(2).act(s, x, 0, Fraction(-1, 3)), [[1, 1], [-1, -1]])
    group = Monomial(2, ["a"], ["a", "b"])
    g = group.identity()._replace(
        perm=jnp.array([1, 0]), scale=jnp.array([[2.0, 4.0]]), sign=jnp.array([[1, -1], [-1, 1]], jnp.int8)
    )
    x = jnp.array([3.0, 5.0])
    np.testing.assert_allclose(group.act(g, x), [-10.0, -12.0])
    np.testing.assert_allclose(group.act(g, x, exponent=Exponent.of([Term("a", Fraction(-1))])), [2.5, -0.75])
    np.testing.assert_allclose(group.act(g, x, exponent=Exponent.of([Term("b", Fraction(3))])), [-5.0, 3.0])
    np.testing.assert_allclose(group.act(g, x, exponent=0), [5.0, 3.0])


def test_affine_acts_on_points_vectors_covectors_and_homogeneous_coordinates(key):
    """W x + b with the units as rows and the bias as last column: all transform as one."""
    group = Affine(2)
    g = group.sample(key)
    point, vector = jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0])
    np.testing.assert_allclose(group.act(g, point), g.linear @ point + g.shift, rtol=1e-5)
    linear = Exponent.of([Term("linear", Fraction(1))])
    np.testing.assert_allclose(group.act(g, vector, exponent=linear), g.linear @ vector, rtol=1e-5)
    kernel = jnp.array([[1.0, -2.0, 0.5]])  # reads (point, 1)
    moved = group.act(g, kernel, exponent=Exponent.of([Term("homogeneous", Fraction(-1))]))
    before = kernel @ jnp.append(point, 1.0)
    np.testing.assert_allclose(moved @ jnp.append(group.act(g, point), 1.0), before, rtol=1e-4, atol=1e-5)


def test_a_block_of_scalings_is_indexed_by_another_axis():
    """``"layers h{gain[layers]:-2}"`` in both orders of the axes, also inside a wreath product."""
    group = Monomial(2, scales=["gain[3]"])
    exponent = Exponent.of([Term("gain", Fraction(-2), "layers")])
    g = group.sample(jax.random.key(1))
    x = jnp.arange(6.0).reshape(3, 2) + 1
    weight = group.weight(0, exponent)
    expected = np.asarray(g.scale) ** -2.0 * np.asarray(x)[:, g.perm]
    after = group.act_slots(g, x, (Slot(0, 1, weight, index=(("layers", 0),)),))
    before = group.act_slots(g, x.T, (Slot(0, 0, weight, index=(("layers", 1),)),))
    np.testing.assert_allclose(after, expected, rtol=1e-6)
    np.testing.assert_allclose(before, expected.T, rtol=1e-6)
    wreath = Wreath(group, Permutation(2))
    h = wreath.sample(jax.random.key(2))
    y = jnp.arange(12.0).reshape(3, 2, 2) + 1  # layers, copies, units
    slots = (Slot(0, 1), Slot(1, 2, weight, 1, (("layers", 0),)))
    moved = wreath.act_slots(h, y, slots)
    for i in range(2):
        old = np.asarray(y)[:, h.outer[i]][:, h.inner.perm[i]]
        np.testing.assert_allclose(moved[:, i], np.asarray(h.inner.scale[i]) ** -2.0 * old, rtol=1e-6)
    with pytest.raises(ValueError, match="the axis of the copies cannot index a block of scalings"):
        wreath.act_slots(h, y, (Slot(0, 1), Slot(1, 2, weight, 1, (("layers", 1),))))
    with pytest.raises(ValueError, match="axis 'layers' has size 2, but it indexes a block of 3"):
        group.act_slots(g, x[:2], (Slot(0, 1, weight, index=(("layers", 0),)),))
    with pytest.raises(ValueError, match="indexed by the axis 'layers', which is not among the axes"):
        group.act(g, x, exponent=exponent)


def test_compact_subgroups_keep_the_exponents_of_their_signs():
    group = Wreath(Monomial(3, ["a", "b"], ["a"]), PositiveScaling(2))
    assert str(group.compact()) == "B(3)^2"
    mixed = Exponent.of([Term("a", Fraction(1)), Term("b", Fraction(-2))])
    assert group.compact_exponent(1, mixed) == Exponent.of([Term("a", Fraction(1))])
    assert group.compact_exponent(1, Exponent.of([Term("b", Fraction(1))])) == Exponent.of(0)
    assert group.compact_exponent(0, Exponent.of(-1)) == Exponent.of(-1)
    assert Product(group, GeneralLinear(2)).compact_exponent(1, mixed) == Exponent.of(
        [Term("a", Fraction(1))]
    )


# Dtypes and transforms.


@pytest.mark.parametrize("group", SOME, ids=str)
def test_leaves_keep_their_dtype_and_bfloat16_is_rounded_once(group, key):
    g, xi = group.sample(key), group.algebra_sample(jax.random.key(1))
    slots, shape = last_action(group)
    x = jax.random.normal(jax.random.key(2), shape)
    low = x.astype(jnp.bfloat16)
    for f, v in ((group.act_slots, g), (group.tangent_slots, xi)):
        moved = f(v, low, slots)
        assert moved.dtype == jnp.bfloat16
        np.testing.assert_array_equal(moved, f(v, low.astype(jnp.float32), slots).astype(jnp.bfloat16))
    assert group.act_slots(g, x, slots).dtype == jnp.float32
    if group.is_linear:
        z = group.act_slots(g, x + 2j * x, slots)
        assert z.dtype == jnp.complex64
        np.testing.assert_allclose(z, (1 + 2j) * group.act_slots(g, x, slots), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", SOME, ids=str)
def test_dtypes_of_elements(group, key):
    def floats(tree):
        return {x.dtype.name for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)}

    slots, shape = last_action(group)
    keys = jax.random.split(key, 4)
    with jax.enable_x64(True):
        single = [group.sample(keys[0], jnp.float32), group.identity(jnp.bfloat16)]
        xi = group.algebra_sample(keys[1], jnp.complex64)
        single += [group.compose(*single), group.inverse(single[0]), xi, group.exp(xi)]
        assert floats(single) <= {"float32"}
        double = [group.sample(keys[2]), group.algebra_sample(keys[3])]
        assert floats(double) <= {"float64"}
        x = jnp.ones(shape, jnp.float32)
        assert group.act_slots(double[0], x, slots).dtype == jnp.float32
        assert group.act_slots(single[0], x.astype(jnp.float64), slots).dtype == jnp.float64


def test_integers_can_be_permuted_only():
    x = jnp.arange(3)
    moved = Wreath(Permutation(1), Permutation(3)).act_slots(
        groups.WreathElement(jnp.array([2, 0, 1]), jnp.zeros((3, 1), int)),
        x[:, None],
        (Slot(0, 0), Slot(1, 1, None, 0)),
    )
    np.testing.assert_array_equal(moved[:, 0], [2, 0, 1])
    assert moved.dtype == x.dtype
    for group in (SignFlip(3), PositiveScaling(3), GeneralLinear(3), Translation(3)):
        with pytest.raises(TypeError, match="int32 can be permuted, but not multiplied or shifted"):
            group.act(group.identity(), x)
    with pytest.raises(TypeError, match="dtype of a group element must be a floating one, got int32"):
        GeneralLinear(2).identity(jnp.int32)


def test_a_wrong_index_reads_as_nan_and_is_never_clipped():
    p = jnp.array([0, 3, 1])
    assert np.isnan(Permutation(3).act(p, jnp.ones(3))[1])
    assert np.isnan(Permutation(3).act(Permutation(3).compose(jnp.arange(3), p), jnp.ones(3))[1])
    twice = jnp.array([0, 0, 1])
    assert np.isnan(Permutation(3).act(Permutation(3).inverse(twice), jnp.ones(3))).any()
    assert np.isnan(Permutation(3).act(p, jnp.ones((2, 3)))[:, 1]).all()
    assert np.isnan(Permutation(3).act(jnp.array([0, -4, 1]), jnp.ones(3))[1])
    assert Permutation(3).act(jnp.array([0, -1, 1]), jnp.arange(3.0))[1] == 2  # as in NumPy
    for dtype, value in ((jnp.int32, np.iinfo(np.int32).min), (jnp.uint8, 255), (jnp.bool_, True)):
        assert Permutation(3).act(p, jnp.zeros(3, dtype))[1] == value


@pytest.mark.parametrize(
    "group",
    [
        GeneralLinear(3),
        Stabiliser(GeneralLinear(3)),
        Wreath(Product(GeneralLinear(2), Orthogonal(2)), Permutation(2)),
        Permutation(3),
    ],
    ids=str,
)
def test_an_element_with_its_inverse_is_the_same_element(group, key, x64):
    g, h = (group.with_inverse(group.sample(k)) for k in jax.random.split(key))
    plain, other = groups.without_inverse(g), groups.without_inverse(h)
    slots, shape = last_action(group)
    x = jax.random.normal(jax.random.key(7), shape)

    def close(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)

    for dual in (False, True):
        slots = gs.representations(group)[-1].slots(group, dual=dual, offset=0)
        close(group.act_slots(g, x, slots), group.act_slots(plain, x, slots))
        close(group.act_slots(group.inverse(g), group.act_slots(g, x, slots), slots), x)
        both = group.act_slots(group.compose(plain, other), x, slots)
        for a, b in ((g, h), (plain, h), (g, other)):
            close(group.act_slots(group.compose(a, b), x, slots), both)
    assert group.contains(g, 1e-9)
    again = group.with_inverse(g)
    assert jax.tree.structure(again) == jax.tree.structure(g)
    if isinstance(group, GeneralLinear):
        assert "lu" not in str(jax.make_jaxpr(lambda y: group.act(g, y, exponent=-1))(x))
        close(
            group.exp(group.log(group.with_inverse(group.exp(0.1 * x[None] * x[:, None])))),
            group.exp(0.1 * x[None] * x[:, None]),
        )
        assert not group.contains(groups.WithInverse(g.matrix, g.matrix))
        with pytest.raises(ValueError, match=r"GL\(3\): an element has shapes \(3, 3\), got WithInverse"):
            group.act(groups.WithInverse(g.matrix, g.dual[:2]), x)


@pytest.mark.parametrize("group", SOME, ids=str)
def test_jit_vmap_and_grad(group, key):
    slots, shape = last_action(group)
    keys = jax.random.split(key, 3)
    g = jax.vmap(group.sample)(keys)
    x = jax.random.normal(jax.random.key(7), (3, *shape))
    one = jax.tree.map(lambda leaf: leaf[1], g)
    many = jax.jit(jax.vmap(lambda h, y: group.act_slots(h, y, slots)))(g, x)
    np.testing.assert_allclose(many[1], group.act_slots(one, x[1], slots), rtol=1e-5, atol=1e-6)
    assert jax.jit(jax.vmap(group.contains))(g).all()

    # The pullback of the action is the transpose: that of the dual of the inverse.
    value = group.act_slots(one, x[1], slots)
    _, pullback = jax.vjp(lambda y: group.act_slots(one, y, slots), x[1])
    (back,) = pullback(value)
    rep = gs.representations(group)[-1]
    expected = group.act_slots(group.inverse(one), value, rep.slots(group, dual=True, offset=0))
    np.testing.assert_allclose(back, expected, rtol=1e-3, atol=1e-4)
    if group.dimension:
        xi = group.algebra_sample(jax.random.key(8))
        _, tangent = jax.jvp(
            lambda t: group.act_slots(group.exp(jax.tree.map(lambda v: t * v, xi)), x[0], slots),
            (0.0,),
            (1.0,),
        )
        np.testing.assert_allclose(tangent, group.tangent_slots(xi, x[0], slots), rtol=1e-4, atol=1e-5)


def test_log_is_differentiable_and_nan_where_there_is_none(x64, key):
    a = jax.scipy.linalg.expm(0.5 * jax.random.normal(key, (3, 3)))
    c = jax.random.normal(jax.random.key(1), (3, 3))
    f = jax.jit(lambda m: jnp.sum(c * log_matrix(m)))
    h = 1e-6
    np.testing.assert_allclose(
        jnp.sum(jax.grad(f)(a) * c), (f(a + h * c) - f(a - h * c)) / (2 * h), rtol=1e-7
    )
    no_log = [
        -jnp.eye(3),
        jnp.diag(jnp.array([1.0, 2.0, -1.0])),
        jnp.diag(jnp.array([1.0, -1.0, -2.0])),
        jnp.zeros((3, 3)),
    ]
    assert jnp.isnan(jax.vmap(log_matrix)(jnp.stack(no_log))).all(axis=(1, 2)).all()
    group = Product(SignFlip(2), Stabiliser(Orthogonal(2)), PositiveScaling(2))
    g = group.identity()
    assert np.isfinite(group.log(g)[2]).all()
    flipped = (jnp.array([1, -1], jnp.int8), *g[1:])
    assert np.isnan(group.log(flipped)[2]).all()
    assert np.isnan(group.log((g[0], Stabiliser(Orthogonal(2)).elements()[1], g[2]))[2]).all()
    wreath = Wreath(PositiveScaling(1), Permutation(2))
    swapped = wreath.identity()._replace(outer=jnp.array([1, 0]))
    assert np.isnan(wreath.log(swapped).inner).all()


# Membership.


def test_contains_refuses_what_is_near_but_not_an_element(key):
    q = Orthogonal(3).sample(key)
    assert Orthogonal(3).contains(q)
    assert Orthogonal(3).contains(q + 1e-6)
    assert not Orthogonal(3).contains(q + 1e-3)
    assert Orthogonal(3).contains(q + 1e-3, tolerance=1e-2)
    s = Stabiliser(Orthogonal(3))
    assert not s.contains(q)
    assert s.contains(s.sample(jax.random.key(1)))
    assert not GeneralLinear(2).contains(jnp.ones((2, 2)))
    assert GeneralLinear(2).contains(jnp.array([[0, 1], [1, 0]]))
    assert GeneralLinear(2).contains(1e-20 * jnp.eye(2))
    assert not GeneralLinear(2).contains(jnp.full((2, 2), jnp.nan))
    assert not Permutation(3).contains(jnp.array([0, 0, 2]))
    assert not Permutation(3).contains(jnp.array([0.0, 1.0, 2.0]))
    assert not Permutation(3).contains(jnp.arange(4))
    assert not SignFlip(2).contains(jnp.array([1, 0], jnp.int8))
    assert not PositiveScaling(2).contains(jnp.array([1.0, 0.0]))
    assert not PositiveScaling(2).contains(jnp.array([1.0, jnp.inf]))
    assert not Translation(2).contains(jnp.array([1.0, jnp.nan]))
    assert not Product(Permutation(2), SignFlip(2)).contains((jnp.arange(2),))
    assert not Trivial(2).contains(jnp.ones(2))
    wreath = Wreath(Orthogonal(2), Permutation(2))
    g = wreath.sample(jax.random.key(2))
    assert wreath.contains(g)
    assert not wreath.contains(g._replace(inner=g.inner.at[1].mul(2.0)))
    assert not wreath.contains(g._replace(inner=g.inner[:1]))


# Bad input.

BAD_GROUPS = [
    (lambda: Permutation(0), ValueError, "Permutation: the size must be a positive integer, got 0"),
    (lambda: GeneralLinear(2.0), ValueError, "GeneralLinear: the size must be a positive integer, got 2.0"),
    (lambda: Monomial(True), ValueError, "Monomial: the size must be a positive integer, got True"),
    (lambda: Monomial(2, -1), ValueError, "Monomial: scales must not be negative, got -1"),
    (lambda: Monomial(2, ["a", "a[2]"]), ValueError, "names of the scales must differ"),
    (lambda: Monomial(2, signs=["a b"]), ValueError, "signs are names such as .* got 'a b'"),
    (lambda: Monomial(2, ["g[0]"]), ValueError, "got 'g\\[0\\]'"),
    (lambda: Stabiliser(Permutation(2)), TypeError, "must be GeneralLinear or Orthogonal, got Permutation"),
    (lambda: Stabiliser(Orthogonal(2), (0, 0)), ValueError, "need 2 finite numbers, not all 0"),
    (lambda: Stabiliser(Orthogonal(2), (1.0,)), ValueError, "need 2 finite numbers"),
    (lambda: Product(), TypeError, "every factor must be a group"),
    (lambda: Product(3), TypeError, "every factor must be a group, got \\(3,\\)"),
    (
        lambda: Wreath(Translation(2), Permutation(2)),
        TypeError,
        "inner group must act linearly, got Translation",
    ),
    (lambda: Wreath(Permutation(2), GeneralLinear(2)), TypeError, "act unit by unit .* got GeneralLinear"),
]


@pytest.mark.parametrize(("make", "kind", "message"), BAD_GROUPS)
def test_bad_groups_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


BAD_ACTIONS = [
    (GeneralLinear(3), (2, 4), {}, r"GL\(3\) needs an axis of size 3, got shape \(2, 4\) at axis 1"),
    (GeneralLinear(3), (2, 3), {"axis": 2}, r"GL\(3\): there is no axis 2 in an array of shape \(2, 3\)"),
    (GeneralLinear(3), (3,), {"exponent": 2}, r"GL\(3\) acts with exponent 1 or -1 .* got \^2"),
    (Affine(2), (2,), {"exponent": 2}, r"Aff\(2\) acts with exponent 1, -1, .* got \^2"),
    (
        Affine(2),
        (2,),
        {"exponent": [Term("homogeneous", Fraction(1))]},
        r"needs an axis of size 3, got shape \(2,\)",
    ),
    (SignFlip(2), (2,), {"exponent": "1/2"}, r"Z₂\^2: a sign has no real power 1/2"),
    (Monomial(2, 1, 1), (2,), {"exponent": "1/2"}, r"S\(2\)⋉R\*\^2: a sign has no real power 1/2"),
    (
        Monomial(2, 1),
        (2,),
        {"exponent": [Term("z", Fraction(1))]},
        "has no scaling or sign named 'z'; it has: a",
    ),
    (Monomial(2, ["g[3]"]), (2,), {}, "'g' has 3 copies; name the axis that indexes them"),
    (Monomial(2, ["g[3]"]), (2,), {"exponent": [Term("g", Fraction(1), 3)]}, "'g' has 3 copies, got index 3"),
    (PositiveScaling(2), (2,), {"exponent": [Term("a", Fraction(1))]}, r"R₊\^2 has no named scalings"),
    (PositiveScaling(2), (2,), {"exponent": float("nan")}, "must be a finite rational number, got nan"),
    (
        Product(Permutation(2), Permutation(2)),
        (2, 2),
        {},
        r"acts on 2 spaces: give one axis for each, got axis=-1",
    ),
    (
        Product(Permutation(2), Permutation(2)),
        (2, 2),
        {"axis": (0, -2)},
        "every space needs an axis of its own",
    ),
    (Wreath(SignFlip(2), Permutation(2)), (2, 2), {"axis": (None, 1)}, "space 1 depends on space 0"),
]


@pytest.mark.parametrize(("group", "shape", "arguments", "message"), BAD_ACTIONS)
def test_bad_actions_are_refused(group, shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        group.act(group.identity(), jnp.ones(shape), **arguments)


def test_elements_and_vectors_of_the_wrong_shape_are_refused(key):
    with pytest.raises(ValueError, match=r"R₊\^3: an element has shapes \(3,\), got \(1,\)"):
        PositiveScaling(3).act(jnp.ones(1), jnp.ones(3))
    with pytest.raises(ValueError, match=r"S\(4\): an element has shapes \(4,\), got \(3,\)"):
        Permutation(4).act(jnp.arange(3), jnp.ones(4))
    stack = jax.vmap(GeneralLinear(2).sample)(jax.random.split(key, 5))
    with pytest.raises(ValueError, match=r"got \(5, 2, 2\); use jax.vmap for many"):
        GeneralLinear(2).act(stack, jnp.ones(2))
    with pytest.raises(ValueError, match=r"O\(3\): an algebra vector has shapes \(3,\), got \(3, 3\)"):
        Orthogonal(3).tangent(jnp.ones((3, 3)), jnp.ones(3))
    group, orphan = Wreath(SignFlip(2), Permutation(2)), (Slot(0, 0), Slot(1, 1, True, None))
    with pytest.raises(ValueError, match="every axis of an inner space depends on one axis of the outer"):
        group.act_slots(group.identity(), jnp.ones((2, 2)), orphan)


def test_exponents_are_read_exactly():
    assert Exponent.of(0.1).uniform == Fraction(1, 10)
    assert (
        str(Exponent.of([Term("a", Fraction(1)), Term("g", Fraction(-1, 2), "layers")]))
        == "{a:1,g[layers]:-1/2}"
    )
    with pytest.raises(ValueError, match="gives two powers to one name"):
        Exponent.of([Term("a", Fraction(1)), Term("a", Fraction(2))])
    with pytest.raises(ValueError, match="mixes a power for all generators with named ones"):
        Exponent.of([Term("", Fraction(1)), Term("a", Fraction(2))])
    with pytest.raises(TypeError, match="an exponent is a number or a sequence of Term, got None"):
        Exponent.of(None)


# The groups themselves.


def test_groups_are_hashable_comparable_and_printable():
    assert Wreath(SignFlip(2), Permutation(3)) == Wreath(SignFlip(np.int64(2)), Permutation(3))
    assert type(Permutation(np.int64(2)).n) is int
    assert len({*gs.GROUPS, *gs.GROUPS}) == len(gs.GROUPS)
    assert str(SignedPermutation(3)) == "B(3)"
    assert str(Monomial(3, 1, 1)) == "S(3)⋉R*^3"
    assert str(Monomial(3, 2, 1)) == "S(3)⋉(R₊^2×Z₂)^3"
    assert str(Wreath(Scaling(2), Monomial(3, 1))) == "R₊≀(S(3)⋉R₊^3)"
    assert Monomial(2, 28).scales[25:] == ("z", "aa", "ab")


def test_a_space_left_out_of_an_array_does_not_act(key):
    group = Product(GeneralLinear(2), Permutation(3))
    g = group.sample(key)
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(group.act(g, x, (None, 1)), x[:, g[1]])
    np.testing.assert_allclose(group.act(g, x, (0, None)), g[0] @ x, rtol=1e-5)


def test_examples_in_the_docstrings_run():
    names = [m.name for m in pkgutil.iter_modules(groups.__path__, "eqtoolbox.groups.")]
    results = [doctest.testmod(importlib.import_module(n)) for n in ["eqtoolbox.groups", *names]]
    assert sum(r.attempted for r in results) >= 12
    assert not any(r.failed for r in results)
