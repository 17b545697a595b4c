"""Stochastic traces, diagonals and spectral densities: exact cases, and bias and standard errors over many keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqtoolbox.linalg as la

P, KEYS = 16, 400


def spd():
    """Eigenvalues from 0.5 to 8."""
    return np.linspace(0.5, 8, P)


def assert_honest(estimates, exact):
    """The mean over KEYS independent estimates is within 4 of its deviations, and the errors have the stated size.

    The statistic (value − exact) / standard_error has variance (n − 1)/(n − 3) for n samples; over 400 keys its
    mean square is within 25 % of this (4 deviations of a χ² with 400 degrees are 28 %, of the wider t law more).
    """
    value, error = np.asarray(estimates.value, np.float64), np.asarray(estimates.standard_error, np.float64)
    n = int(np.ravel(estimates.samples)[0])
    assert np.abs(value.mean(0) - exact).max() < 4 * (value.std(0) / np.sqrt(KEYS)).max()
    square = np.mean(((value - exact) / error) ** 2)
    assert square == pytest.approx((n - 1) / (n - 3), rel=0.25)


@pytest.mark.parametrize("distribution", ["rademacher", "normal", "sphere"])
def test_hutchinson_trace_is_unbiased_with_an_honest_error(key, dense, distribution):
    matrix, like = jnp.asarray(dense.symmetric(spd()), jnp.float32), dense.space(P)
    estimate = lambda k: la.hutchinson_trace(  # noqa: E731
        dense.as_matvec(matrix, like), like, key=k, samples=20, distribution=distribution
    )
    assert_honest(jax.jit(jax.vmap(estimate))(jax.random.split(key, KEYS)), spd().sum())


def test_hutchinson_diagonal_is_unbiased_with_an_honest_error(key, dense):
    matrix, like = dense.symmetric(spd()), dense.space(P)

    def estimate(k):
        found = la.hutchinson_diagonal(
            dense.as_matvec(jnp.asarray(matrix, jnp.float32), like), like, key=k, samples=20, batch_size=8
        )
        flat = lambda t: la.ravel_stack(jax.tree.map(lambda x: x[None], t))[0]  # noqa: E731
        return la.Estimate(flat(found.value), flat(found.standard_error), found.samples)

    assert_honest(jax.jit(jax.vmap(estimate))(jax.random.split(key, KEYS)), np.diag(matrix))


def test_hutchpp_is_unbiased_with_an_honest_error(key, dense):
    matrix, like = jnp.asarray(dense.symmetric(spd()), jnp.float32), dense.space(P)
    estimate = lambda k: la.hutchpp_trace(dense.as_matvec(matrix, like), like, key=k, samples=28)  # noqa: E731
    found = jax.jit(jax.vmap(estimate))(jax.random.split(key, KEYS))
    assert int(found.samples[0]) == 10
    assert_honest(found, spd().sum())


def test_slq_is_unbiased_with_an_honest_error(key, dense):
    """log det, with as many steps as dimensions, so that the quadrature is exact."""
    matrix, like = jnp.asarray(dense.symmetric(spd()), jnp.float32), dense.space(P)
    estimate = lambda k: la.slq_trace(  # noqa: E731
        jnp.log, dense.as_matvec(matrix, like), like, key=k, probes=20, steps=P, batch_size=None
    )
    assert_honest(jax.jit(jax.vmap(estimate))(jax.random.split(key, KEYS)), np.log(spd()).sum())


def test_hutchpp_is_exact_up_to_its_rank_and_better_on_decaying_spectra(x64, key, dense):
    like = dense.space(P, jnp.float64)
    keys = jax.random.split(key, 3)
    low = dense.as_matvec(jnp.asarray(dense.symmetric([3.0, 2.0, 1.0] + [0.0] * (P - 3))), like)
    hutchpp = jax.jit(la.hutchpp_trace, static_argnums=0, static_argnames="samples")
    exact = hutchpp(low, like, key=keys[0], samples=9)
    np.testing.assert_allclose(exact.value, 6.0, rtol=1e-13)
    assert float(exact.standard_error) < 1e-13
    decaying = dense.as_matvec(jnp.asarray(dense.symmetric(2.0 ** -np.arange(P))), like)
    better = hutchpp(decaying, like, key=keys[1], samples=24)
    plain = jax.jit(la.hutchinson_trace, static_argnums=0, static_argnames="samples")(
        decaying, like, key=keys[2], samples=24
    )
    assert float(better.standard_error) < float(plain.standard_error) / 20
    everything = hutchpp(decaying, like, key=jax.random.key(9), samples=3 * P + 3)
    np.testing.assert_allclose(everything.value, 2 - 2.0 ** (1 - P), rtol=1e-13)


def test_chunks_do_not_change_the_estimate(key, dense):
    like = dense.space(P)
    matvec = dense.as_matvec(jnp.asarray(dense.symmetric(spd()), jnp.float32), like)
    estimators = (la.hutchinson_trace, la.hutchpp_trace, la.hutchinson_diagonal)
    run = lambda k, b: [f(matvec, like, key=k, samples=7, batch_size=b) for f in estimators]  # noqa: E731
    compiled = jax.jit(run, static_argnums=1)
    some, at_once = (compiled(jax.random.clone(key), b) for b in (3, None))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, some, at_once)


def test_diagonal_of_a_bfloat16_tree_is_kept_in_float32(key):
    like = {"a": jnp.zeros(5, jnp.bfloat16), "b": jnp.zeros((2, 2), jnp.bfloat16)}
    matvec = lambda v: jax.tree.map(lambda x: 3 * x, v)  # noqa: E731
    found = la.hutchinson_diagonal(matvec, like, key=key, samples=2)
    for leaf in jax.tree.leaves(found.value):
        assert leaf.dtype == jnp.float32
        assert np.all(leaf == 3)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(found.standard_error))


def test_quadrature_is_exact_for_polynomials_of_its_degree(x64, key, dense):
    """Per probe, Σ w f(node) = ⟨z, f(A) z⟩/p for degree 2·3 − 1 = 5, and not for degree 6."""
    matrix, like = dense.symmetric(np.linspace(-1, 2, P)), dense.space(P, jnp.float64)
    spectrum = la.spectral_density(
        dense.as_matvec(jnp.asarray(matrix), like),
        like,
        key=key,
        probes=1,
        steps=3,
        distribution="rademacher",
    )
    z = np.asarray(jax.random.rademacher(jax.random.fold_in(jax.random.clone(key), 0), (P,), np.float64))
    for degree in range(6):
        moment = float(jnp.sum(spectrum.weights * spectrum.nodes**degree))
        np.testing.assert_allclose(moment, z @ np.linalg.matrix_power(matrix, degree) @ z / P, rtol=1e-12)
    sixth = float(jnp.sum(spectrum.weights * spectrum.nodes**6))
    assert abs(sixth - z @ np.linalg.matrix_power(matrix, 6) @ z / P) > 1e-3


def test_density_is_that_of_the_eigenvalues(key, dense):
    """Against the exact broadened density, within 5 standard errors at every grid point; total mass 1."""
    values = np.concatenate([np.full(8, 1.0), np.linspace(3, 4, 7), [10.0]])
    like, grid, width = dense.space(P), jnp.linspace(-2, 13, 301), 0.3
    matvec = dense.as_matvec(jnp.asarray(dense.symmetric(values), jnp.float32), like)
    spectrum = jax.jit(lambda k: la.spectral_density(matvec, like, key=k, probes=300, batch_size=100))(key)
    assert spectrum.nodes.shape == (300, P)
    found = la.density_at(spectrum, grid, width)
    z = (np.asarray(grid)[:, None] - values[None]) / width
    exact = np.exp(-0.5 * z**2).sum(1) / (P * width * np.sqrt(2 * np.pi))
    assert np.all(np.abs(found.value - exact) <= 5 * found.standard_error + 1e-5)
    assert np.max(found.standard_error) < 0.03
    np.testing.assert_allclose(np.sum(found.value) * 0.05, 1, rtol=1e-4)
    np.testing.assert_allclose(spectrum.weights.sum(1), 1, rtol=1e-4)


def test_breakdown_leaves_unused_nodes_without_weight(key):
    """A multiple of the identity: one node carries everything, and log of the unused ones is not taken."""
    spectrum = la.spectral_density(lambda v: 2 * v, jnp.zeros(9), key=key, probes=2, steps=5)
    np.testing.assert_allclose(
        jnp.sum(spectrum.weights * (jnp.abs(spectrum.nodes - 2) < 1e-5), 1), 1, rtol=1e-5
    )
    estimate = la.slq_trace(jnp.log, lambda v: 2 * v, jnp.zeros(9), key=jax.random.key(1), probes=2, steps=5)
    np.testing.assert_allclose(estimate.value, 9 * np.log(2), rtol=1e-5)


def test_gradient_of_a_log_determinant(x64, dense):
    """d log det(A + tI)/dt = tr (A + tI)⁻¹, within 4 standard errors over keys."""
    matrix, like = jnp.asarray(dense.symmetric(spd())), dense.space(P, jnp.float64)

    def log_det(t, k):
        matvec = dense.as_matvec(matrix + t * jnp.eye(P), like)
        return la.slq_trace(jnp.log, matvec, like, key=k, probes=4, steps=P, batch_size=None).value

    keys = jax.random.split(jax.random.key(3), 100)
    slopes = np.asarray(jax.jit(jax.vmap(jax.grad(log_det), (None, 0)))(0.5, keys))
    assert abs(slopes.mean() - np.sum(1 / (spd() + 0.5))) < 4 * slopes.std() / 10


def test_bad_input_is_named(key, dense):
    like = dense.space(P)
    same = lambda v: v  # noqa: E731
    with pytest.raises(ValueError, match=r"`samples` must be at least 2 \(for a standard error\), got 1"):
        la.hutchinson_trace(same, like, key=key, samples=1)
    with pytest.raises(ValueError, match="`samples` must be at least 6"):
        la.hutchpp_trace(same, like, key=key, samples=5)
    with pytest.raises(ValueError, match=r"`distribution` must be one of .*got 'gauss'"):
        la.hutchinson_diagonal(same, like, key=key, distribution="gauss")
    with pytest.raises(ValueError, match="`steps` must be between 1 and 16"):
        la.spectral_density(same, like, key=key, steps=17)
    with pytest.raises(ValueError, match="`probes` must be at least 2"):
        la.slq_trace(jnp.log, same, like, key=key, probes=1)
    with pytest.raises(TypeError, match=r"leaf `\.` of `like` must be real floating point, got dtype int32"):
        la.hutchinson_trace(same, jnp.zeros(3, jnp.int32), key=key)
    with pytest.raises(ValueError, match=r"`matvec\(v\)` must have the structure of `like`"):
        la.hutchinson_trace(lambda v: v["w"], like, key=key)
    single = la.Spectrum(jnp.zeros((1, 3)), jnp.ones((1, 3)) / 3, 3)
    with pytest.raises(ValueError, match="the number of probes` must be at least 2"):
        la.density_at(single, jnp.zeros(2), 0.1)
