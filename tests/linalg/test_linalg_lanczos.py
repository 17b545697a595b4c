"""Lanczos and the eigensolver against dense matrices with prescribed spectra."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import eqtoolbox.linalg as la

P = 24


@pytest.fixture(scope="module")
def run(dense):
    """``run(matrix, steps, key, start=None)``: Lanczos of a dense matrix on a tree of three leaves, compiled."""

    def go(matrix, key, start, steps):
        like = dense.space(matrix.shape[0], matrix.dtype)
        start = la.unravel_stack(start, like)
        return la.lanczos(dense.as_matvec(matrix, like), like, steps, key=key, start=start)

    compiled = jax.jit(go, static_argnames="steps")

    def call(matrix, steps, key, start=None):
        if start is None:
            start = np.random.default_rng(1).normal(size=len(matrix))
        return compiled(jnp.asarray(matrix), key, jnp.asarray(start, matrix.dtype), steps)

    return call


@pytest.fixture(scope="module")
def top(dense):
    """``top(matrix, k, key, **options)``: eigenpairs of a dense matrix on a tree of three leaves, compiled."""

    def go(matrix, key, k, **options):
        like = dense.space(matrix.shape[0], matrix.dtype)
        return la.top_eigenpairs(dense.as_matvec(matrix, like), like, k, key=key, **options)

    compiled = jax.jit(go, static_argnames=("k", "which", "subspace", "max_cycles", "tol"))
    return lambda matrix, k, key, **options: compiled(jnp.asarray(matrix), key, k, **options)


def residuals(matrix, values, stack):
    rows = np.asarray(la.ravel_stack(stack), np.float64)
    return np.linalg.norm(rows @ np.asarray(matrix, np.float64) - np.asarray(values)[:, None] * rows, axis=1)


def assert_sound(ritz, matrix, eps):
    """Orthonormal vectors, true bounds, weights of one, and an eigenvalue within the bound of every value."""
    exact = np.linalg.eigvalsh(matrix)
    slack = 100 * eps * max(np.abs(exact).max(), np.finfo(np.float32).tiny)
    rows = np.asarray(la.ravel_stack(ritz.vectors), np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=100 * eps)
    np.testing.assert_allclose(residuals(matrix, ritz.values, ritz.vectors), ritz.bounds, atol=slack)
    distance = np.abs(np.asarray(ritz.values)[:, None] - exact[None]).min(1)
    assert np.all(distance <= np.asarray(ritz.bounds) + slack)
    assert np.all(np.diff(ritz.values) <= 0)
    np.testing.assert_allclose(np.sum(ritz.weights), 1, rtol=1000 * eps)


SPECTRA = {
    "simple": np.linspace(-1, 2, P),
    "clustered": np.concatenate([np.full(8, 1.0), 1 + 1e-9 * np.arange(8), np.linspace(2, 3, 8)]),
    "wide": np.logspace(-12, 4, P),
    "low rank": np.concatenate([[5.0, -3.0, 1.0], np.zeros(P - 3)]),
    "identity": np.ones(P),
    "zero": np.zeros(P),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_all_steps_give_the_whole_spectrum(x64, key, dense, run, name):
    matrix = dense.symmetric(SPECTRA[name])
    ritz = run(matrix, P, key)
    assert_sound(ritz, matrix, np.finfo(np.float64).eps)
    scale = max(1e-300, np.abs(SPECTRA[name]).max())
    np.testing.assert_allclose(ritz.values, np.sort(SPECTRA[name])[::-1], atol=1e-13 * scale)


@pytest.mark.parametrize(("name", "krylov"), [("low rank", 4), ("identity", 1), ("zero", 1)])
def test_breakdown_is_seen_and_leaves_no_spurious_value(x64, key, dense, run, name, krylov):
    """The Krylov space has as many dimensions as there are distinct eigenvalues; 10 steps go on beyond it."""
    matrix = dense.symmetric(SPECTRA[name])
    ritz = run(matrix, 10, key)
    assert int(ritz.steps) == krylov
    assert_sound(ritz, matrix, np.finfo(np.float64).eps)
    found = np.asarray(ritz.values)[np.asarray(ritz.bounds) < 1e-10]
    assert len(found) >= krylov
    assert np.abs(found[:, None] - SPECTRA[name][None]).min(1).max() < 1e-12


def test_a_start_in_an_invariant_subspace(x64, key, dense, run):
    matrix = np.diag(np.arange(1.0, P + 1))
    ritz = run(matrix, 10, key, 2.0 * np.eye(P)[3] - np.eye(P)[7])
    assert int(ritz.steps) == 2
    assert_sound(ritz, matrix, np.finfo(np.float64).eps)
    weights = {round(float(v), 9): float(w) for v, w in zip(ritz.values, ritz.weights, strict=True)}
    assert weights[4.0] == pytest.approx(0.8, abs=1e-13)
    assert weights[8.0] == pytest.approx(0.2, abs=1e-13)


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.lists(st.integers(-3, 3), min_size=P, max_size=P), st.integers(0, 99))
def test_any_integer_spectrum_in_float32(dense, run, spectrum, seed):
    matrix = dense.symmetric(np.array(spectrum, float), seed).astype(np.float32)
    ritz = run(matrix, 10, jax.random.key(seed))
    assert_sound(ritz, matrix, np.finfo(np.float32).eps)


def test_no_ghosts_of_a_converged_eigenvalue(key, dense, run):
    """Without reorthogonalisation 60 steps in float32 return the outlier 100 several times."""
    ritz = run(np.diag(np.append(np.linspace(0, 1, 199), 100.0)).astype(np.float32), 60, key)
    assert int(np.sum(np.asarray(ritz.values) > 50)) == 1
    rows = np.asarray(la.ravel_stack(ritz.vectors))
    np.testing.assert_allclose(rows @ rows.T, np.eye(60), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_of_the_operator_does_not_matter(key, dense, run, scale):
    matrix = dense.symmetric(SPECTRA["simple"]).astype(np.float32)
    plain = run(matrix, 10, key)
    scaled = run(matrix * np.float32(scale), 10, jax.random.clone(key))
    np.testing.assert_allclose(scaled.values / scale, plain.values, atol=1e-5)
    np.testing.assert_allclose(scaled.bounds / scale, plain.bounds, atol=1e-5)


def test_under_vmap_with_a_random_start_and_without_vectors(key, dense):
    matrix = jnp.asarray(dense.symmetric(SPECTRA["low rank"]), jnp.float32)
    like = dense.space(P)
    run = lambda m, k: la.lanczos(dense.as_matvec(m, like), like, 6, key=k, vectors=False)  # noqa: E731
    batch = jax.jit(jax.vmap(run))(jnp.stack([matrix, -2 * matrix]), jax.random.split(key))
    assert batch.vectors is None
    assert batch.steps.tolist() == [4, 4]
    np.testing.assert_allclose(batch.values[0, jnp.array([0, 5])], [5, -3], atol=1e-5)
    np.testing.assert_allclose(batch.values[1, jnp.array([0, 5])], [6, -10], atol=1e-5)


def test_bfloat16_operator_to_its_own_precision(key, dense):
    matrix = dense.symmetric(SPECTRA["simple"])
    like = dense.space(P, jnp.bfloat16)
    seen = set()

    def matvec(v):
        seen.update(x.dtype for x in jax.tree.leaves(v))
        return dense.as_matvec(jnp.asarray(matrix, jnp.float32), like)(v)

    ritz = jax.jit(lambda k: la.lanczos(matvec, like, 12, key=k))(key)
    assert seen == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(ritz.vectors)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(ritz.values[jnp.array([0, -1])], [2, -1], atol=3 * 2**-8 * 2)


@pytest.mark.parametrize(
    ("which", "expected"), [("largest", [7, 6, 5]), ("smallest", [-9, -4, -1]), ("magnitude", [-9, 7, 6])]
)
def test_largest_smallest_and_magnitude(x64, key, dense, top, which, expected):
    matrix = dense.symmetric(np.concatenate([[-9.0, -4.0, 7.0, 6.0, 5.0], np.linspace(-1, 1, 55)]))
    pairs, info = top(matrix, 3, key, which=which)
    assert bool(info.confirmed)
    assert bool(info.converged.all())
    np.testing.assert_allclose(pairs.values, expected, atol=1e-12)
    np.testing.assert_allclose(residuals(matrix, pairs.values, pairs.vectors), pairs.residuals, atol=1e-13)
    assert np.all(np.asarray(pairs.residuals) <= float(info.tolerance))
    rows = np.asarray(la.ravel_stack(pairs.vectors))
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-13)


def test_restarts_resolve_what_one_subspace_cannot(x64, key, dense, top):
    """The Laplacian of a path of 200 nodes: relative gaps of 1e-4 at the top, in a subspace of 12."""
    n = 200
    matrix = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    pairs, info = top(matrix, 3, key, subspace=12, max_cycles=400)
    exact = 2 - 2 * np.cos(np.pi * np.arange(n, n - 3, -1) / (n + 1))
    np.testing.assert_allclose(pairs.values, exact, atol=1e-9)
    assert int(info.cycles) > 5
    assert bool(info.confirmed)


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.lists(st.integers(-4, 4), min_size=P, max_size=P), st.integers(0, 99))
def test_repeated_eigenvalues_are_all_found(dense, top, spectrum, seed):
    """Lanczos from one vector sees each distinct eigenvalue once; the probing cycle finds the other copies."""
    matrix = dense.symmetric(np.array(spectrum, float), seed).astype(np.float32)
    pairs, info = top(matrix, 4, jax.random.key(seed), subspace=10)
    assert bool(info.confirmed)
    np.testing.assert_allclose(pairs.values, np.sort(spectrum)[::-1][:4], atol=2e-4)


@pytest.mark.parametrize(("k", "subspace"), [(1, 2), (P, None)])
def test_sizes_of_the_subspace(x64, key, dense, top, k, subspace):
    matrix = dense.symmetric(np.arange(P) ** 2.0)
    pairs, info = top(matrix, k, key, subspace=subspace, max_cycles=300)
    assert bool(info.converged.all())
    np.testing.assert_allclose(pairs.values, np.arange(P)[::-1][:k] ** 2.0, atol=1e-6)


def test_zero_and_one_dimensional_operators(key):
    pairs, info = jax.jit(lambda k: la.top_eigenpairs(jnp.zeros_like, jnp.zeros(5), 2, key=k))(key)
    assert pairs.values.tolist() == [0, 0]
    assert bool(info.converged.all() & info.confirmed)
    pairs, _ = jax.jit(lambda k: la.top_eigenpairs(lambda v: -3 * v, jnp.zeros(()), 1, key=k))(
        jax.random.key(1)
    )
    np.testing.assert_allclose(pairs.values, [-3.0], rtol=1e-6)


def test_an_unfinished_search_says_so(key, dense, top):
    matrix = dense.symmetric(np.linspace(0, 1, P)).astype(np.float32)
    pairs, info = top(matrix, 4, key, subspace=8, max_cycles=2)
    assert int(info.cycles) == 2
    assert not bool(info.confirmed)
    assert not bool(info.converged.all())
    np.testing.assert_allclose(residuals(matrix, pairs.values, pairs.vectors), pairs.residuals, atol=1e-5)
    assert np.all(np.asarray(pairs.residuals)[~np.asarray(info.converged)] > float(info.tolerance))


def test_a_nan_ends_the_search_unconverged(key, top):
    pairs, info = top(np.full((P, P), np.nan, np.float32), 4, key, subspace=10)
    assert int(info.cycles) == 1
    assert not bool(info.converged.any() | info.confirmed)
    assert np.all(np.isnan(pairs.values))


def test_products_are_counted(key, dense):
    matrix = jnp.asarray(dense.symmetric(np.linspace(0, 1, 60)), jnp.float32)
    like, calls = dense.space(60), []
    inner = dense.as_matvec(matrix, like)

    def matvec(v):
        jax.debug.callback(lambda: calls.append(1))
        return inner(v)

    solve = jax.jit(lambda k: la.top_eigenpairs(matvec, like, 2, key=k, subspace=10))
    _, info = jax.block_until_ready(solve(key))
    jax.effects_barrier()
    assert int(info.matvecs) == len(calls) > 12


def test_eigenvalues_are_differentiable(x64, key, dense):
    """dθ = ⟨y, dA y⟩, against the derivative of the dense eigenvalue."""
    a, b = (jnp.asarray(dense.symmetric(np.random.default_rng(i).normal(size=12))) for i in (1, 2))
    like = dense.space(12, jnp.float64)

    def largest(t):
        matvec = dense.as_matvec(a + jnp.sin(t) * b, like)
        return la.top_eigenpairs(matvec, like, 2, key=key, subspace=12)[0].values

    expected = jax.jacobian(lambda t: jnp.linalg.eigvalsh(a + jnp.sin(t) * b)[::-1][:2])(0.3)
    np.testing.assert_allclose(jax.jit(jax.jacrev(largest))(0.3), expected, atol=1e-9)


def test_several_operators_under_vmap(key, dense):
    """Each lane ends at its own cycle; a finished one is not disturbed by the others."""
    like = dense.space(P)
    spectra = [np.arange(P), np.append(np.zeros(P - 2), [1.0, 1.0]), np.linspace(0, 1, P)]
    matrices = jnp.asarray(np.stack([dense.symmetric(s) for s in spectra]), jnp.float32)
    solve = lambda m, k: la.top_eigenpairs(dense.as_matvec(m, like), like, 2, key=k, subspace=8)  # noqa: E731
    pairs, info = jax.jit(jax.vmap(solve))(matrices, jax.random.split(key, 3))
    assert bool(info.converged.all() & info.confirmed.all())
    assert len(set(info.cycles.tolist())) > 1
    np.testing.assert_allclose(pairs.values, [[23, 22], [1, 1], [1, 22 / 23]], rtol=1e-5)


def test_sharpness_of_a_network(key, mlp):
    net = mlp()
    loss = lambda p: net.output_loss(net.model(p))  # noqa: E731
    solve = lambda p: la.top_eigenpairs(la.hvp_fn(loss, p), p, 2, key=key, which="magnitude")  # noqa: E731
    pairs, info = jax.jit(solve)(net.params)
    assert bool(info.converged.all())
    flat, unravel = ravel_pytree(net.params)
    exact = np.linalg.eigvalsh(jax.jit(jax.hessian(lambda f: loss(unravel(f))))(flat))
    np.testing.assert_allclose(np.abs(pairs.values), np.sort(np.abs(exact))[::-1][:2], rtol=1e-4)


def test_bad_input_is_named(key, dense):
    like = dense.space(P)
    identity = lambda v: v  # noqa: E731
    with pytest.raises(ValueError, match=r"`steps` must be between 1 and 24 \(the number of entries.*got 25"):
        la.lanczos(identity, like, 25, key=key)
    with pytest.raises(TypeError, match=r"`steps` must be an integer, got 3\.0"):
        la.lanczos(identity, like, 3.0, key=key)
    with pytest.raises(
        ValueError, match=r"leaf `w` of `matvec\(v\)` must have the shape \(2, 3\).*got \(3, 2\)"
    ):
        la.lanczos(lambda v: {**v, "w": v["w"].T}, like, 3, key=jax.random.key(1))
    with pytest.raises(ValueError, match="`start` must have the structure of `like`"):
        la.lanczos(identity, like, 3, key=key, start={"w": jnp.ones((2, 3))})
    with pytest.raises(TypeError, match="leaf `n` of `like` must be real floating point, got dtype int32"):
        la.top_eigenpairs(identity, {"n": jnp.zeros(3, jnp.int32)}, 1, key=key)
    with pytest.raises(
        ValueError, match="`which` must be one of 'largest', 'smallest', 'magnitude', got 'LM'"
    ):
        la.top_eigenpairs(identity, like, 1, key=key, which="LM")
    with pytest.raises(ValueError, match="`k` must be between 1 and 24"):
        la.top_eigenpairs(identity, like, 0, key=key)
    with pytest.raises(ValueError, match="`subspace` must be between 4 and 24"):
        la.top_eigenpairs(identity, like, 3, key=key, subspace=3)
    with pytest.raises(ValueError, match="`tol` must be between 0 and 1, got 0"):
        la.top_eigenpairs(identity, like, 3, key=key, tol=0)
