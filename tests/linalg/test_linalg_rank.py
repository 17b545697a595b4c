"""Numerical rank of matrices with prescribed singular values."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqtoolbox.linalg as la


def matrix_of(values, m, n, seed=0):
    """An m x n float64 matrix with the given singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    k = len(values)
    u, _ = np.linalg.qr(rng.normal(size=(m, max(k, 1))))
    v, _ = np.linalg.qr(rng.normal(size=(n, max(k, 1))))
    return (u[:, :k] * np.asarray(values, float)) @ v[:, :k].T


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    st.lists(st.floats(-1, 1), max_size=6),
    st.integers(6, 12),
    st.integers(6, 12),
    st.sampled_from([1e-280, 1e-9, 1.0, 1e9, 1e280]),
    st.integers(0, 99),
)
def test_rank_in_float64_at_any_scale(logs, m, n, scale, seed):
    """Nonzero singular values within two decades: the rank is their number, by a gap far above rounding."""
    values = 10.0 ** np.array(logs)
    found = la.numerical_rank(matrix_of(values, m, n, seed) * scale)
    assert (found.rank, found.ambiguous) == (len(values), False)
    assert found.gap > 1e8
    assert int(np.sum(found.singular_values > found.threshold)) == found.rank
    np.testing.assert_allclose(
        np.sort(values)[::-1], found.singular_values[: len(values)] / scale, rtol=1e-10
    )


def test_host_precision_without_x64():
    """NumPy float64 input stays in float64: 1e-11 is a rank, though JAX computes in float32."""
    assert not jax.config.jax_enable_x64
    values = [1.0, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11]
    found = la.numerical_rank(matrix_of(values, 9, 8))
    assert found.rank == 6
    assert isinstance(found.rank, int)
    assert isinstance(found.ambiguous, bool)
    assert found.singular_values.dtype == np.float64
    single = la.numerical_rank(matrix_of(values, 9, 8).astype(np.float32))
    assert single.rank == 3
    assert single.threshold > 1e-7


@pytest.mark.parametrize(
    ("values", "rank", "ambiguous"),
    [
        ([3.0, 2.0, 1.0], 3, False),  # full rank, clear
        ([1.0, 1e-17, 1e-18], 1, False),
        ([1.0, 1e-10, 1e-11], 1, False),  # one gap of 1e10 dominates 1.5e4 to the floor
        ([1.0, 1e-8], 2, True),  # gaps of 1e8 and 2e7: the floor decides
        ([1.0, 1e-15], 1, False),  # above the floor by 2, below the next value by 1e15
        (10.0 ** -np.arange(0, 20, 2), 8, True),  # no gap: the floor decides
        ([0.0, 0.0], 0, False),
        ([5.0], 1, False),
        ([0.0], 0, False),
        ([], 0, False),
    ],
)
def test_the_rule(values, rank, ambiguous):
    found = la.rank_from_singular_values(np.array(values)[::-1])
    assert (found.rank, found.ambiguous) == (rank, ambiguous)
    if rank == 0:
        assert found.gap == np.inf
    assert int(np.sum(found.singular_values > found.threshold)) == rank


def test_noise_and_min_gap():
    values = np.array([1.0, 0.9, 0.8, 2e-3, 1e-3, 5e-4])
    assert la.rank_from_singular_values(values).rank == 6
    known = la.rank_from_singular_values(values, noise=3e-3)
    assert (known.rank, known.ambiguous) == (3, False)
    assert known.gap == pytest.approx(0.8 / 3e-3)
    strict = la.rank_from_singular_values(values, noise=3e-3, min_gap=1e3)
    assert (strict.rank, strict.ambiguous) == (3, True)


def test_the_gap_is_the_ratio_of_the_values():
    found = la.rank_from_singular_values(np.array([4.0, 2.0, 1e-9, 1e-10]))
    assert found.rank == 2
    assert found.gap == pytest.approx(2e9)
    assert found.threshold == pytest.approx(np.sqrt(2e-9))


def test_jax_arrays_under_jit_and_vmap():
    stack = np.stack([matrix_of(np.ones(r), 7, 5, r) for r in range(6)]).astype(np.float32)
    found = jax.jit(jax.vmap(la.numerical_rank))(jnp.asarray(stack))
    assert found.rank.tolist() == list(range(6))
    assert not found.ambiguous.any()
    eager = la.numerical_rank(jnp.asarray(stack[4]))
    assert int(eager.rank) == 4
    broken = jax.jit(la.rank_from_singular_values)(jnp.array([1.0, jnp.nan]))
    assert bool(broken.ambiguous)


@pytest.mark.parametrize("xp", [np, jnp])
def test_stacks_of_trees(xp):
    a = matrix_of([1.0, 2.0, 0.5], 6, 11).astype(np.float32)
    stack = {"w": xp.asarray(a[:, :8].reshape(6, 2, 4)), "b": [xp.asarray(a[:, 8:10]), xp.asarray(a[:, 10])]}
    found = la.numerical_rank(stack)
    assert int(found.rank) == 3
    np.testing.assert_allclose(found.singular_values[:3], [2, 1, 0.5], rtol=1e-5)


def test_bfloat16_noise_is_known_from_the_dtype():
    a = jnp.asarray(matrix_of([3.0, 2.0], 20, 30), jnp.bfloat16)
    found = la.numerical_rank(a)
    assert int(found.rank) == 2
    assert float(found.threshold) > 1e-2


def test_operators_and_rectangular_maps(x64):
    a = jnp.asarray(matrix_of([1.0, 3.0], 5, 7))
    like = {"x": jnp.zeros((2, 3)), "y": jnp.zeros(())}
    matvec = lambda v: a[:, :6] @ v["x"].ravel() + a[:, 6] * v["y"]  # noqa: E731
    found = la.operator_rank(matvec, like, batch_size=3)
    assert int(found.rank) == 2
    np.testing.assert_allclose(found.singular_values[:2], [3, 1], rtol=1e-13)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_matrices(shape):
    assert la.numerical_rank(np.zeros(shape)).rank == 0
    assert int(la.numerical_rank(jnp.zeros(shape)).rank) == 0


def test_bad_input_is_named():
    with pytest.raises(
        ValueError, match=r"`x` must be a matrix or a stack of trees, got an array of shape \(3,\)"
    ):
        la.numerical_rank(np.ones(3))
    with pytest.raises(ValueError, match="`x` must be finite"):
        la.numerical_rank(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="`x` must be finite"):
        la.numerical_rank(jnp.array([[1.0, jnp.inf]]))
    with pytest.raises(TypeError, match="leaf `a` of `x` must be real floating point, got dtype int64"):
        la.numerical_rank({"a": np.ones((2, 3), np.int64)})
    with pytest.raises(ValueError, match="leaf `b` of `x` must have a leading axis of size 2"):
        la.numerical_rank({"a": np.ones((2, 3)), "b": np.ones(3)})
    with pytest.raises(ValueError, match="`values` must be finite and not negative"):
        la.rank_from_singular_values(np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"`values` must be one-dimensional, got shape \(2, 2\)"):
        la.rank_from_singular_values(np.ones((2, 2)))
    with pytest.raises(ValueError, match="`noise` must be between 0 and 1, got 2"):
        la.rank_from_singular_values(np.ones(2), noise=2)
    with pytest.raises(ValueError, match="`min_gap` must be above 1, got 1"):
        la.rank_from_singular_values(np.ones(2), min_gap=1)
