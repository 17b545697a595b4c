"""Averages over a symmetry, derivatives along it, and random points of its orbits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import Symmetry
from eqtoolbox.groups import (
    GeneralLinear,
    Orthogonal,
    Permutation,
    PositiveScaling,
    SignedPermutation,
    SignFlip,
    Trivial,
)
from eqtoolbox.symmetry import elements, lie_derivative, sample_orbit, symmetrize

FINITE = Symmetry({"w": "h k"}, {"h": Permutation(3), "k": SignFlip(2)})
W = {"w": np.arange(6.0).reshape(3, 2) - 1.3}  # float64 where that is on


def brute_force():
    """Every element of FINITE as a dense matrix on the raveled leaf, independently of the library."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=2):
            yield np.kron(np.eye(3)[list(order)], np.diag(np.array(signs, float)))


def test_elements_are_all_different_members():
    group = elements(FINITE)
    assert jax.tree.leaves(group)[0].shape[0] == FINITE.order == 24
    rows = np.concatenate([np.asarray(group["h"]), np.asarray(group["k"])], axis=1)
    assert len({tuple(row) for row in rows}) == 24
    assert bool(jnp.all(jax.vmap(FINITE.contains)(group)))
    assert elements(Symmetry({"w": "_"}, {})) == {}


def test_the_exact_average_of_a_function_is_the_sum_over_all_elements(x64):
    def f(params):
        return {
            "sum": jnp.sum(jnp.exp(params["w"]) * jnp.arange(6.0).reshape(3, 2)),
            "leaf": jnp.exp(params["w"]),
        }

    average = jax.jit(symmetrize(FINITE, f))
    estimate = average(W)
    flat = np.asarray(W["w"]).ravel()
    moved = [m @ flat for m in brute_force()]
    np.testing.assert_allclose(
        estimate.value["sum"], np.mean([np.exp(x) @ np.arange(6) for x in moved]), rtol=1e-12
    )
    np.testing.assert_allclose(estimate.value["leaf"].ravel(), np.mean(np.exp(moved), axis=0), rtol=1e-12)
    assert int(estimate.samples) == 24
    for error in jax.tree.leaves(estimate.standard_error):
        np.testing.assert_array_equal(error, 0)
    again = average(FINITE.act(FINITE.sample(jax.random.key(0)), W))
    np.testing.assert_allclose(again.value["sum"], estimate.value["sum"], rtol=1e-12)


def test_the_exact_twirl_is_the_projection_on_the_commutant(x64):
    matrix = np.random.default_rng(0).normal(size=(6, 6))

    def operator(v):
        return {"w": (jnp.asarray(matrix) @ v["w"].ravel()).reshape(3, 2)}

    twirl = jax.jit(lambda v: symmetrize(FINITE, operator, operator=True)(v).value)
    dense = np.stack([np.asarray(twirl({"w": e.reshape(3, 2)})["w"]).ravel() for e in np.eye(6)], axis=1)
    np.testing.assert_allclose(dense, np.mean([m.T @ matrix @ m for m in brute_force()], axis=0), atol=1e-12)
    for m in brute_force():
        np.testing.assert_allclose(m @ dense, dense @ m, atol=1e-12)
    assert np.abs(dense - matrix).max() > 0.1


def test_a_random_average_agrees_with_the_exact_one(x64):
    def f(params):
        return params["w"][0] ** 2 + params["w"][1]

    exact = symmetrize(FINITE, f)(W)
    random = jax.jit(symmetrize(FINITE, f, samples=400, key=jax.random.key(3)))(W)
    assert int(random.samples) == 400
    assert bool(jnp.all(random.standard_error > 0))
    assert bool(jnp.all(jnp.abs(random.value - exact.value) < 5 * random.standard_error))


def test_a_random_average_over_a_continuous_group_has_the_known_moments(x64):
    """E (g x)(g x)^T = |x|^2/n I over O(n), and the twirl of a matrix is its trace over n."""
    sym = Symmetry({"x": "h"}, {"h": Orthogonal(3)})
    x, matrix = {"x": jnp.asarray([1.0, -2.0, 0.5])}, np.random.default_rng(0).normal(size=(3, 3))
    second = symmetrize(sym, lambda p: jnp.outer(p["x"], p["x"]), samples=2000, key=jax.random.key(0))(x)
    error = second.value - np.eye(3) * (1 + 4 + 0.25) / 3
    assert float(jnp.max(jnp.abs(error) / second.standard_error)) < 5
    twirl = symmetrize(
        sym, lambda p: {"x": jnp.asarray(matrix) @ p["x"]}, operator=True, samples=2000, key=jax.random.key(1)
    )(x)
    error = twirl.value["x"] - np.trace(matrix) / 3 * x["x"]
    assert float(jnp.max(jnp.abs(error) / twirl.standard_error["x"])) < 5


def test_the_average_over_the_trivial_group_is_the_function():
    for sym in (Symmetry({"w": "_ _"}, {}), Symmetry({"w": "h _"}, {"h": Trivial(3)})):
        estimate = symmetrize(sym, lambda p: jnp.sum(p["w"] ** 2))(W)
        np.testing.assert_allclose(estimate.value, jnp.sum(W["w"] ** 2), rtol=1e-6)
        assert int(estimate.samples) == 1


def test_averages_that_do_not_exist_or_cost_too_much_are_refused():
    def f(params):
        return params["w"]

    scalings = Symmetry({"w": "h _"}, {"h": PositiveScaling(3)})
    with pytest.raises(
        TypeError, match=r"only a compact symmetry .*sym.compact\(\), instead of Symmetry\(1 leaves"
    ):
        symmetrize(scalings, f)
    large = Symmetry({"w": "h _"}, {"h": SignedPermutation(9)})
    with pytest.raises(ValueError, match="185794560 elements: give samples= and key="):
        symmetrize(large, f)
    with pytest.raises(ValueError, match="infinitely many elements: give samples= and key="):
        symmetrize(Symmetry({"w": "h _"}, {"h": Orthogonal(3)}), f)
    for samples, key in ((1, jax.random.key(0)), (10, None)):
        with pytest.raises(ValueError, match=r"needs samples >= 2 and a key, got samples="):
            symmetrize(FINITE, f, samples=samples, key=key)
    with pytest.raises(ValueError, match="has 185794560 elements, more than 50000: sample it instead"):
        elements(large)
    with pytest.raises(ValueError, match="has infinitely many elements"):
        elements(Symmetry({"w": "h _"}, {"h": Orthogonal(3)}))
    with pytest.raises(ValueError, match=r"has 4.1e\+9130 elements"):
        elements(Symmetry({"w": "h _"}, {"h": Permutation(3000)}))


# Derivatives and orbits.

LINEAR = Symmetry({"a": "_ h", "b": "h* _"}, {"h": GeneralLinear(3)})


def linear_params():
    rng = np.random.default_rng(0)
    return {"a": jnp.asarray(rng.normal(size=(2, 3))), "b": jnp.asarray(rng.normal(size=(3, 2)))}


def test_the_lie_derivative_is_the_slope_along_the_flow(x64):
    params, xi = linear_params(), LINEAR.sample_algebra(jax.random.key(0))

    def f(p):
        return {"norm": jnp.sum(p["a"] ** 2), "out": p["a"] @ p["b"]}

    def at(t):
        return f(LINEAR.act(LINEAR.exp({"h": t * xi["h"]}), params))

    slope = lie_derivative(LINEAR, f, params, xi)
    finite = jax.tree.map(lambda a, b: (a - b) / 2e-5, at(1e-5), at(-1e-5))
    np.testing.assert_allclose(slope["norm"], finite["norm"], rtol=1e-7)
    np.testing.assert_allclose(slope["out"], 0, atol=1e-13)
    with_step = lie_derivative(LINEAR, lambda p: jnp.sum(p["a"] ** 2), {**params, "step": jnp.int32(2)}, xi)
    np.testing.assert_allclose(with_step, slope["norm"])
    with pytest.raises(TypeError, match="discrete"):
        lie_derivative(FINITE, lambda p: p["w"], W, {})


def test_a_random_orbit_has_the_same_outputs(x64):
    params = linear_params()
    orbit = sample_orbit(LINEAR, params, 4, key=jax.random.key(0))
    assert orbit["a"].shape == (4, 2, 3)
    outputs = np.asarray(orbit["a"]) @ np.asarray(orbit["b"])
    np.testing.assert_allclose(outputs, np.broadcast_to(params["a"] @ params["b"], (4, 2, 2)), rtol=1e-10)
    assert np.abs(np.asarray(orbit["a"][0] - orbit["a"][1])).max() > 0.1
