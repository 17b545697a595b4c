"""Orbits: their dimension against formulas, and the split of vectors against dense projections."""

from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import Symmetry
from eqtoolbox.groups import GeneralLinear, Monomial, Orthogonal, Permutation, PositiveScaling, SignFlip
from eqtoolbox.linalg import Rank
from eqtoolbox.symmetry import generator_matrix, orbit_dimension, split

TWO_LAYERS = {"U": "_ h*", "V": "h _"}


def two_layers(h, n, m, *, columns=None, seed=0):
    """U (m x h) and V (h x n) with normal entries; the columns of V and rows of U beyond (n, m) are zero."""
    wide_n, wide_m = columns or (n, m)
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=(wide_m, h)), rng.normal(size=(h, wide_n))
    u[m:], v[:, n:] = 0, 0
    return {"U": jnp.asarray(u), "V": jnp.asarray(v)}


def dimension_gl(h, n, m):
    return h**2 - max(0, h - n) * max(0, h - m)


def dimension_o(h, n, m):
    return comb(h, 2) - comb(max(0, h - n - m), 2)


def printed_t(h, n, m):
    return min(h, max(n, m))


def printed_o(h, n, m):
    return comb(h, 2) - (comb(h - max(n, m), 2) if h > max(n, m) else 0)


@pytest.mark.claim("DA-T11", "DA-E16")
def test_orbit_dimensions_of_two_layers(x64, record_claim):
    """The corrected formulas hold for all widths; the printed ones for T_+ and O(h) fail for h > max(n, m)."""
    cases = wrong = 0
    for h in (4, 5):
        gl, t, o = (Symmetry(TWO_LAYERS, {"h": g(h)}) for g in (GeneralLinear, PositiveScaling, Orthogonal))
        for n in range(1, 6):
            for m in range(1, 6):
                # Columns of zeros do not move, so one shape, compiled once, stands for all smaller ones.
                params = two_layers(h, n, m, columns=(5, 5), seed=10 * n + m)
                dims = [orbit_dimension(sym, params) for sym in (gl, t, o)]
                assert dims == [dimension_gl(h, n, m), h, dimension_o(h, n, m)], (h, n, m)
                small = h <= max(n, m)
                assert (printed_t(h, n, m) == dims[1]) == small
                assert printed_o(h, n, m) <= dims[2]
                assert not small or printed_o(h, n, m) == dims[2]
                cases += 1
                wrong += printed_t(h, n, m) != dims[1] or printed_o(h, n, m) != dims[2]
    assert wrong == 4**2 + 3**2
    record_claim("DA-T11", measured=f"{3 * cases} orbits as computed from the corrected formulas")
    record_claim("DA-E16", measured=f"{wrong} of {cases} widths (h, n, m) refute a printed formula")


@pytest.mark.claim("DA-T11", "DA-E16")
def test_the_counterexamples_of_the_erratum(x64):
    for group, (h, n, m), true, printed in (
        (PositiveScaling, (2, 1, 1), 2, printed_t),
        (Orthogonal, (4, 1, 1), 5, printed_o),
    ):
        params = two_layers(h, n, m)
        assert orbit_dimension(Symmetry(TWO_LAYERS, {"h": group(h)}), params) == true
        assert printed(h, n, m) == true - (2 if group is Orthogonal else 1)


@pytest.mark.claim("DA-T11")
def test_dead_units_lower_the_dimension_of_scalings(x64):
    """A hidden unit without weights, incoming or outgoing, is fixed by its scaling; with one of both it moves."""
    sym = Symmetry(TWO_LAYERS, {"h": PositiveScaling(4)})
    params = two_layers(4, 3, 2)
    params["V"] = params["V"].at[1].set(0).at[2].set(0)
    assert orbit_dimension(sym, params) == 4
    params["U"] = params["U"].at[:, 2].set(0)
    assert orbit_dimension(sym, params) == 3


@pytest.mark.claim("DA-T11")
def test_discrete_groups_have_orbits_of_dimension_zero():
    params = two_layers(4, 3, 2)
    for group in (Permutation(4), SignFlip(4), Monomial(4, 0, 2)):
        assert orbit_dimension(Symmetry(TWO_LAYERS, {"h": group}), params) == 0
    rank = orbit_dimension(Symmetry(TWO_LAYERS, {"h": Permutation(4)}), params, full=True)
    assert isinstance(rank, Rank)
    assert rank.rank == 0


def test_the_rank_comes_with_its_gap(x64):
    rank = orbit_dimension(Symmetry(TWO_LAYERS, {"h": GeneralLinear(4)}), two_layers(4, 1, 2), full=True)
    assert rank.rank == 16 - 3 * 2
    assert rank.gap > 1e10
    assert not rank.ambiguous


def test_the_matrix_of_generators_has_a_row_for_each_generator(x64):
    sym = Symmetry({"U": "_ h*", "V": "h k"}, {"h": GeneralLinear(2), "k": PositiveScaling(3)})
    params = {"U": jnp.asarray([[2.0, 3.0]]), "V": jnp.arange(6.0).reshape(2, 3)}
    for batch_size in (1, 64):
        matrix = generator_matrix(sym, params, batch_size=batch_size)
        assert matrix.shape == (7, 8)
        # the generator of E_01 in GL(2): V_0 += V_1, U_1 -= U_0; that of the first scaling: column 0 of V
        np.testing.assert_array_equal(matrix[1], [0, -2, 3, 4, 5, 0, 0, 0])
        np.testing.assert_array_equal(matrix[4], [0, 0, 0, 0, 0, 3, 0, 0])


def test_a_matrix_too_large_is_refused_before_it_is_made():
    sym = Symmetry({"w": "h _"}, {"h": GeneralLinear(1000)})
    with pytest.raises(ValueError, match=r"1000000 generators on 1000000 parameters .*restrict the symmetry"):
        generator_matrix(sym, {"w": jnp.zeros((1000, 1000))})


# The split.


def dense_split(sym, params, vector):
    """The projection on the row space of the matrix of generators, and the coordinates of least norm."""
    matrix = np.asarray(generator_matrix(sym, params))
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(vector)])
    inverse = np.linalg.pinv(matrix.T, rcond=1e-10)
    return matrix.T @ (inverse @ flat), inverse @ flat


def ravel(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


SPLIT = jax.jit(split, static_argnames=("max_iterations",))


@pytest.mark.parametrize(("h", "n", "m"), [(3, 4, 2), (4, 1, 2)], ids=["free action", "with stabiliser"])
def test_a_vector_splits_into_its_projections(h, n, m, x64):
    sym = Symmetry(TWO_LAYERS, {"h": GeneralLinear(h)})
    params, vector = two_layers(h, n, m), two_layers(h, n, m, seed=1)
    parts, info = SPLIT(sym, params, vector)
    orbit, coordinates = dense_split(sym, params, vector)
    np.testing.assert_allclose(ravel(parts.orbit), orbit, atol=1e-9)
    np.testing.assert_allclose(ravel(parts.normal), ravel(vector) - orbit, atol=1e-9)
    np.testing.assert_allclose(ravel(parts.coordinates), coordinates, atol=1e-8)
    np.testing.assert_allclose(ravel(parts.orbit) + ravel(parts.normal), ravel(vector), atol=1e-14)
    assert abs(ravel(parts.orbit) @ ravel(parts.normal)) < 1e-10
    np.testing.assert_allclose(ravel(sym.generator(parts.coordinates, params)), orbit, atol=1e-9)
    np.testing.assert_allclose(ravel(sym.pullback(params, parts.normal)), 0, atol=1e-10)
    assert bool(info.converged)
    assert 0 < int(info.iterations) <= 2 * h * h
    assert float(info.residual) <= 1e-12


def test_the_gradient_of_an_invariant_function_has_no_orbit_part(x64):
    """No iteration, an orbit part and coordinates of exactly 0, and the normal part is the gradient itself."""
    sym = Symmetry(TWO_LAYERS, {"h": GeneralLinear(3)})
    params = two_layers(3, 4, 2)
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(p["U"] @ p["V"])))(params)
    parts, info = SPLIT(sym, params, gradient)
    assert int(info.iterations) == 0
    assert bool(info.converged)
    assert float(info.residual) < 1e-15
    for leaf in jax.tree.leaves((parts.orbit, parts.coordinates)):
        np.testing.assert_array_equal(leaf, 0)
    np.testing.assert_array_equal(ravel(parts.normal), ravel(gradient))


def test_a_vector_along_the_orbit_has_no_normal_part(x64):
    sym = Symmetry(TWO_LAYERS, {"h": GeneralLinear(3)})
    params = two_layers(3, 4, 2)
    xi = sym.sample_algebra(jax.random.key(0))
    parts, info = SPLIT(sym, params, sym.generator(xi, params))
    np.testing.assert_allclose(ravel(parts.normal), 0, atol=1e-10)
    np.testing.assert_allclose(parts.coordinates["h"], xi["h"], atol=1e-9)
    assert bool(info.converged)


def test_zero_splits_into_zeros_and_a_split_cut_short_says_so(x64):
    sym = Symmetry(TWO_LAYERS, {"h": GeneralLinear(3)})
    params = two_layers(3, 4, 2)
    parts, info = SPLIT(sym, params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_array_equal(ravel(parts), 0)
    assert bool(info.converged)
    _, info = SPLIT(sym, params, two_layers(3, 4, 2, seed=1), max_iterations=2)
    assert int(info.iterations) == 2
    assert not bool(info.converged)
    assert float(info.residual) > 1e-12


def test_splits_in_float32_with_other_leaves_under_vmap():
    """The dtype of the leaves is kept; integers have both parts 0; many gradients split at once."""
    sym = Symmetry(TWO_LAYERS, {"h": GeneralLinear(3)})
    params = {**two_layers(3, 4, 2), "step": jnp.int32(4)}
    vectors = [{**two_layers(3, 4, 2, seed=s), "step": jnp.int32(0)} for s in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *vectors)
    parts, info = jax.jit(jax.vmap(lambda v: split(sym, params, v)))(stacked)
    assert bool(jnp.all(info.converged))
    assert parts.orbit["U"].dtype == jnp.float32
    np.testing.assert_array_equal(parts.orbit["step"], 0)
    for i, vector in enumerate(vectors):
        floats = {k: vector[k] for k in "UV"}
        orbit, _ = dense_split(sym, {k: params[k] for k in "UV"}, floats)
        got = ravel({k: parts.orbit[k][i] for k in "UV"})
        np.testing.assert_allclose(got, orbit, atol=1e-3)


def test_a_discrete_symmetry_or_a_vector_of_other_shapes_is_refused():
    params = two_layers(3, 4, 2)
    with pytest.raises(TypeError, match=r"discrete \(S\(3\)\)"):
        split(Symmetry(TWO_LAYERS, {"h": Permutation(3)}), params, params)
    with pytest.raises(ValueError, match="leaf 'V' of the vector must have shape"):
        split(Symmetry(TWO_LAYERS, {"h": GeneralLinear(3)}), params, {"U": params["U"], "V": params["V"].T})
