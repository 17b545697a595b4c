"""Streaming moments against NumPy in float64, in every way of cutting the stream."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import eqtoolbox.linalg as la

LIKE = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(())}


def samples(n, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (mean + rng.normal(size=shape)).astype(np.float32)  # noqa: E731
    return {"w": draw(n, 2, 2) @ np.array([[1, 0.5], [0, 2]], np.float32), "b": draw(n)}


def rows_of(xs):
    return np.concatenate([xs["b"][:, None], xs["w"].reshape(-1, 4)], axis=1).astype(np.float64)


def flat(tree):
    return np.asarray(la.ravel_stack(jax.tree.map(lambda x: x[None], tree)))[0]


def assert_moments(state, xs, rtol):
    rows = rows_of(xs)
    assert int(state.count) == len(rows)
    np.testing.assert_allclose(flat(la.moments_mean(state)), rows.mean(0), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(flat(la.moments_variance(state)), rows.var(0, ddof=1), rtol=rtol)
    np.testing.assert_allclose(flat(la.moments_variance(state, ddof=0)), rows.var(0), rtol=rtol)
    error = rows.std(0, ddof=1) / np.sqrt(len(rows))
    np.testing.assert_allclose(flat(la.moments_standard_error(state)), error, rtol=rtol)
    if state.products is not None:
        np.testing.assert_allclose(
            la.moments_covariance(state), np.cov(rows.T), atol=rtol * rows.var(0).max()
        )


update = jax.jit(la.moments_update)
update_batch = jax.jit(la.moments_update_batch)
merge = jax.jit(la.moments_merge)


@jax.jit
def stream(state, xs):
    return jax.lax.scan(lambda s, x: (la.moments_update(s, x), None), state, xs)[0]


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.lists(st.sampled_from([1, 2, 7]), min_size=2, max_size=6), st.integers(0, 99))
def test_any_cut_of_the_stream_gives_the_same_moments(sizes, seed):
    xs = samples(sum(sizes), seed)
    ends = np.cumsum(sizes)[:-1]
    parts = [jax.tree.map(lambda x: x[i:j], xs) for i, j in zip([0, *ends], [*ends, None], strict=True)]  # noqa: B023
    empty = la.moments_init(LIKE, covariance=True)
    states = [update_batch(empty, part) for part in parts]
    left = empty
    for state in states:
        left = merge(left, state)
    right = empty
    for state in reversed(states):
        right = merge(state, right)
    for state in (left, right, update_batch(empty, xs)):
        assert_moments(state, xs, 2e-5)


def test_one_by_one_with_a_mean_of_a_million_in_float32():
    """The data are the float32 numbers (spaced by 1/16): the reference is their float64 variance, to 1e-4."""
    xs = {"w": np.zeros((20_000, 2, 2), np.float32), "b": np.zeros(20_000, np.float32)}
    rng = np.random.default_rng(0)
    xs = jax.tree.map(lambda x: (1e6 + rng.normal(size=x.shape)).astype(np.float32), xs)
    empty = la.moments_init(LIKE, covariance=True)
    halves = [jax.tree.map(lambda x: x[i::2], xs) for i in (0, 1)]  # noqa: B023
    for state in (stream(empty, xs), update_batch(empty, xs), merge(*(stream(empty, h) for h in halves))):
        np.testing.assert_allclose(flat(la.moments_mean(state)), rows_of(xs).mean(0), rtol=2**-24)
        np.testing.assert_allclose(flat(la.moments_variance(state)), rows_of(xs).var(0, ddof=1), rtol=1e-4)
        np.testing.assert_allclose(la.moments_covariance(state), np.cov(rows_of(xs).T), atol=1e-4)


def test_float64_to_rounding(x64):
    xs = jax.tree.map(lambda x: x.astype(np.float64), samples(500, mean=100.0))
    like = jax.tree.map(lambda x: x[0], xs)
    state = stream(la.moments_init(like, covariance=True), xs)
    assert state.squares["w"].dtype == jnp.float64
    assert_moments(state, xs, 1e-12)


def test_bfloat16_and_integers_accumulate_in_float32():
    ones = {"a": jnp.ones(1000, jnp.bfloat16) * 3, "n": jnp.arange(1000)}
    state = la.moments_update_batch(la.moments_init(jax.tree.map(lambda x: x[0], ones)), ones)
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    mean = la.moments_mean(state)
    assert mean["a"] == 3
    np.testing.assert_allclose(mean["n"], 499.5, rtol=2**-22)
    np.testing.assert_allclose(la.moments_variance(state)["n"], 1000 * 1001 / 12, rtol=1e-5)


def test_axis_and_estimate():
    x = jnp.asarray(samples(6)["w"])
    state = la.moments_update_batch(la.moments_init(jnp.zeros((6, 2))), x, axis=1)
    estimate = la.moments_estimate(state)
    np.testing.assert_allclose(estimate.value, x.mean(1), rtol=1e-6)
    np.testing.assert_allclose(estimate.standard_error, np.std(x, axis=1, ddof=1) / np.sqrt(2), rtol=1e-5)
    assert int(estimate.samples) == 2


def test_too_few_samples_are_undefined_not_zero():
    state = la.moments_init(jnp.zeros(2), covariance=True)
    assert np.all(np.isnan(la.moments_variance(state)))
    state = la.moments_update(state, jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(la.moments_mean(state), [1, 2])
    assert np.all(np.isnan(la.moments_variance(state)))
    assert np.all(np.isnan(la.moments_standard_error(state)))
    assert np.all(np.isnan(la.moments_covariance(state)))
    np.testing.assert_array_equal(la.moments_variance(state, ddof=0), [0, 0])


def test_merging_nothing_changes_nothing():
    empty, state = la.moments_init(LIKE), update_batch(la.moments_init(LIKE), samples(5, mean=1e6))
    for merged in (merge(empty, state), merge(state, empty)):
        jax.tree.map(np.testing.assert_array_equal, merged, state)
    jax.tree.map(np.testing.assert_array_equal, merge(empty, empty), empty)


def test_sum_over_devices_and_over_vmap():
    """Eight devices (one of them with no samples) give the moments of all samples, far from the origin too."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    xs = samples(7 * 4, mean=1e4)
    empty = la.moments_init(LIKE, covariance=True)
    states = [update_batch(empty, jax.tree.map(lambda x: x[4 * i : 4 * i + 4], xs)) for i in range(7)]  # noqa: B023
    stacked = jax.tree.map(lambda *s: jnp.stack(s), *states, empty)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=P("d"), out_specs=P())
    def over_devices(state):
        return la.moments_psum(jax.tree.map(lambda x: x[0], state), "d")

    assert_moments(over_devices(stacked), xs, 1e-4)
    lanes = jax.vmap(lambda s: la.moments_psum(s, "d"), axis_name="d")(stacked)
    assert_moments(jax.tree.map(lambda x: x[3], lanes), xs, 1e-4)


def test_states_under_vmap():
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 10)), jnp.float32)
    states = jax.vmap(lambda x: la.moments_update_batch(la.moments_init(x[0]), x))(xs)
    np.testing.assert_allclose(jax.vmap(la.moments_variance)(states), np.var(xs, axis=1, ddof=1), rtol=1e-5)


def test_bad_input_is_named():
    state = la.moments_init(LIKE)
    with pytest.raises(TypeError, match="leaf `z` must be real, got dtype complex64"):
        la.moments_init({"z": jnp.zeros(2, jnp.complex64)})
    with pytest.raises(
        ValueError, match=r"leaf `w` of `x` must have the shape \(2, 2\).*`state`, got \(3, 2\)"
    ):
        la.moments_update(state, {"w": jnp.zeros((3, 2)), "b": jnp.zeros(())})
    with pytest.raises(
        ValueError, match="leaf `w` of `xs` must have a leading axis of size 4 as leaf `b` has"
    ):
        la.moments_update_batch(state, {"w": jnp.zeros((3, 2, 2)), "b": jnp.zeros(4)})
    with pytest.raises(ValueError, match="`b` must have the structure of `a`"):
        la.moments_merge(state, la.moments_init(LIKE, covariance=True))
    with pytest.raises(ValueError, match="covariance=True"):
        la.moments_covariance(state)
    with pytest.raises(ValueError, match="`ddof` must be at least 0"):
        la.moments_variance(state, ddof=-1)


def test_samples_that_do_not_count():
    xs, where = samples(9, mean=1e4), np.array([0, 1, 1, 0, 1, 0, 1, 1, 0], bool)
    bad = jax.tree.map(lambda x: np.where(where.reshape(9, *(1,) * (x.ndim - 1)), x, np.nan), xs)
    masked = jax.jit(lambda s, x, w: la.moments_update_batch(s, x, where=w))
    start = update_batch(la.moments_init(LIKE, covariance=True), samples(4, 1))
    kept = jax.tree.map(lambda x: x[where], xs)
    state = masked(la.moments_init(LIKE, covariance=True), bad, where)
    assert_moments(state, kept, 1e-4)
    both = masked(start, bad, where)
    assert_moments(both, jax.tree.map(lambda *x: np.concatenate(x), samples(4, 1), kept), 1e-4)
    none = masked(start, bad, np.zeros(9, bool))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        la.moments_mean(none),
        la.moments_mean(start),
    )
    assert int(none.count) == 4
    with pytest.raises(
        ValueError, match=r"`where` must have the shape \(9,\), one for each sample, got \(8,\)"
    ):
        la.moments_update_batch(start, xs, where=np.ones(8, bool))
