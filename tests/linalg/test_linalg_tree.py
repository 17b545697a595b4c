"""Trees as vectors: inner products, random vectors, stacks, bases, QR."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import eqtoolbox.linalg as la

SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (4, 1, 2), (0,), (2, 0)])
TREES = st.recursive(
    SHAPES,
    lambda children: (
        st.lists(children, min_size=1, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), children, min_size=1, max_size=3)
    ),
    max_leaves=4,
)


def fill(shapes, rng, rows=()):
    """A tree of normal numbers (as float32) with the given leaf shapes after ``rows``."""
    draw = lambda s: jnp.asarray(rng.normal(size=(*rows, *s)), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda s: isinstance(s, tuple))


def flat(tree):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


@hypothesis.settings(max_examples=15)
@hypothesis.given(TREES, st.integers(0, 99))
def test_products_agree_with_flat_vectors(shapes, seed):
    rng = np.random.default_rng(seed)
    a, b, stack = fill(shapes, rng), fill(shapes, rng), fill(shapes, rng, (3,))
    fa, fb = flat(a), flat(b)
    p = fa.size
    tolerance = {"rtol": 0, "atol": 4e-6 * (1 + p)}
    np.testing.assert_allclose(la.tree_vdot(a, b), fa @ fb, **tolerance)
    np.testing.assert_allclose(la.tree_norm(a), np.linalg.norm(fa), **tolerance)
    rows = np.stack([flat(jax.tree.map(lambda x: x[i], stack)) for i in range(3)])  # noqa: B023
    np.testing.assert_array_equal(la.ravel_stack(stack), rows.astype(np.float32))
    np.testing.assert_array_equal(la.ravel_stack(la.unravel_stack(la.ravel_stack(stack), a)), rows)
    np.testing.assert_array_equal(la.ravel_stack(jax.tree.map(lambda x: x[None], a))[0], ravel_pytree(a)[0])
    np.testing.assert_allclose(la.stack_vdot(stack, a), rows @ fa, **tolerance)
    c = rng.normal(size=(2, 3))
    np.testing.assert_allclose(
        la.ravel_stack(la.stack_combine(jnp.asarray(c, jnp.float32), stack)), c @ rows, **tolerance
    )
    np.testing.assert_allclose(flat(la.stack_combine(jnp.float32(c[0]), stack)), c[0] @ rows, **tolerance)


def test_vdot_accumulates_in_float32():
    ones = [jnp.ones(10_000, jnp.bfloat16)]
    value = la.tree_vdot(ones, ones)
    assert value.dtype == jnp.float32
    assert value == 10_000
    x = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    exact = np.sum(x.astype(np.float64) ** 2)
    np.testing.assert_allclose(la.tree_vdot(jnp.array(x), jnp.array(x)), exact, rtol=1e-6)


def test_vdot_of_mixed_dtypes_is_as_wide_as_the_widest(x64):
    tree = {"a": jnp.ones(3, jnp.float32), "b": jnp.full(2, 1e-12, jnp.float64)}
    value = la.tree_vdot(tree, jax.tree.map(jnp.ones_like, tree))
    assert value.dtype == jnp.float64
    assert value == 3 + 2e-12


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_norm_neither_overflows_nor_underflows(scale):
    tree = [jnp.array([3.0]) * scale, jnp.array([[4.0]]) * scale]
    np.testing.assert_allclose(la.tree_norm(tree), 5 * scale, rtol=3e-7)


def test_norm_of_special_values_and_gradient():
    assert la.tree_norm([jnp.zeros(3), jnp.zeros(0)]) == 0
    assert la.tree_norm([]) == 0
    assert jnp.isnan(la.tree_norm([jnp.array([1.0, jnp.nan])]))
    assert jnp.isinf(la.tree_norm([jnp.array([1.0, -jnp.inf])]))
    assert jax.grad(la.tree_norm)(jnp.zeros(3)).tolist() == [0, 0, 0]
    np.testing.assert_allclose(jax.grad(la.tree_norm)(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


def test_random_vectors_are_isotropic(key):
    """Every entry of the mean of z zᵀ over N draws is within 5 standard errors, √(E z_i² z_j² / N) at most √(3/N)."""
    like = {"a": jnp.zeros((2, 2)), "b": jnp.zeros((2, 2)), "c": jnp.zeros(())}
    n = 20_000
    for distribution, k in zip(("normal", "rademacher", "sphere"), jax.random.split(key, 3), strict=True):
        z = np.asarray(la.ravel_stack(la.random_stack(k, like, n, distribution)), np.float64)
        assert np.abs(z.T @ z / n - np.eye(9)).max() < 5 * np.sqrt(3 / n)
        assert np.abs(z.mean(0)).max() < 5 / np.sqrt(n)
        if distribution == "rademacher":
            assert set(np.unique(z)) == {-1.0, 1.0}
        if distribution == "sphere":
            np.testing.assert_allclose(np.linalg.norm(z, axis=1), 3.0, rtol=1e-6)


@pytest.mark.parametrize("distribution", ["normal", "rademacher", "sphere"])
def test_random_like_keeps_dtypes_and_takes_abstract_trees(key, distribution):
    like = {"a": jax.ShapeDtypeStruct((3,), jnp.bfloat16), "b": np.zeros((2, 2), np.float32)}
    z = la.random_like(key, like, distribution)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), z) == jax.tree.map(lambda x: (x.shape, x.dtype), like)
    wide = la.random_like(jax.random.clone(key), like, distribution, jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(wide)} == {jnp.dtype(jnp.float32)}


def test_orthonormalize_is_a_qr_of_the_rows(x64, key):
    like = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    stack = la.random_stack(key, like, 5)
    q, r = jax.jit(la.orthonormalize)(stack)
    rows = la.ravel_stack(q)
    np.testing.assert_allclose(rows @ rows.T, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(r.T @ rows, la.ravel_stack(stack), atol=1e-14)
    assert np.all(np.diag(r) > 0)
    np.testing.assert_array_equal(np.tril(r, -1), 0)


def test_orthonormalize_completes_dependent_rows():
    stack = {"a": jnp.ones((4, 3)), "b": jnp.zeros((4, 2), jnp.bfloat16)}
    q, r = la.orthonormalize(stack)
    rows = la.ravel_stack(q)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(r.T @ rows, la.ravel_stack(stack), atol=1e-6)
    assert {x.dtype for x in jax.tree.leaves(q)} == {jnp.dtype(jnp.float32)}


def test_basis_is_the_identity():
    like = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3, jnp.bfloat16)}
    stack = la.basis(like)
    assert stack["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(la.ravel_stack(stack), np.eye(7))


def test_bad_trees_are_named(key):
    good = {"a": {"w": jnp.zeros((2, 3))}}
    with pytest.raises(TypeError, match=r"leaf `a/n` of `like` must be real floating point, got dtype int32"):
        la.random_like(key, {"a": {"n": jnp.zeros(2, jnp.int32)}})
    with pytest.raises(ValueError, match="`like` must have at least one entry"):
        la.random_like(key, {"a": jnp.zeros((0, 2))})
    with pytest.raises(
        ValueError, match="`distribution` must be one of 'rademacher', 'normal', 'sphere', got 'x'"
    ):
        la.random_like(key, good, "x")
    with pytest.raises(ValueError, match=r"leaf `a/w` of `b` must have the shape \(2, 3\).*got \(3, 2\)"):
        la.tree_vdot(good, {"a": {"w": jnp.zeros((3, 2))}})
    with pytest.raises(ValueError, match="`b` must have the structure of `a`"):
        la.tree_vdot(good, {"a": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match="got 4 rows of 3"):
        la.orthonormalize({"a": jnp.ones((4, 3))})
    with pytest.raises(ValueError, match=r"must have size 6, got shape \(2, 5\)"):
        la.unravel_stack(jnp.zeros((2, 5)), good)
    with pytest.raises(
        ValueError, match=r"leaf `b` of `stack` must have a leading axis of size 2 as leaf `a` has"
    ):
        la.ravel_stack({"a": jnp.zeros((2, 3)), "b": jnp.zeros((3, 3))})
    with pytest.raises(ValueError, match="leaf `b` of `stack` must have a leading axis, got a scalar"):
        la.ravel_stack({"a": jnp.zeros((2, 3)), "b": jnp.zeros(())})
    with pytest.raises(TypeError, match=r"`count` must be an integer, got 2\.5"):
        la.random_stack(key, good, 2.5)
