"""Curves in orbits, their curvature, and the expected distance to a shifted minimum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import quick_jit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import expm
from scipy.optimize import minimize_scalar
from scipy.special import ellipe

from eqtoolbox import Symmetry, groups, orbits
from eqtoolbox.symmetry import catalog

# Rotations with scalings, powers and direct sums, translations.
ROWS = ["S2/mixed_layers", "S3/degrees", "S7/softmax"]
sizes = st.integers(1, 4)


def draw(rng, **shapes):
    return {name: jnp.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def close(a, b, tolerance=1e-10):
    a, b = flat(a), flat(b)
    return a.shape == b.shape and np.abs(a - b).max(initial=0) <= tolerance * (1 + np.abs(b).max(initial=0))


@pytest.mark.claim("DC-T5.3", "DC-E5.5")
@given(n=sizes, h=sizes, k=sizes, m=sizes)
@settings(max_examples=4)
def test_deep_linear_nets_have_the_cross_term(n, h, k, m):
    rng = np.random.default_rng([n, h, k, m])
    w = [rng.standard_normal(s) for s in ((h, n), (k, h), (m, k))]
    a, b = rng.standard_normal((h, h)), rng.standard_normal((k, k))
    with jax.enable_x64(True):
        axes = {"w1": "h _", "w2": "k h*", "w3": "_ k*"}
        sym = Symmetry(axes, {"h": groups.GeneralLinear(h), "k": groups.GeneralLinear(k)})
        params, xi = dict(zip(("w1", "w2", "w3"), map(jnp.asarray, w), strict=True)), {"h": a, "k": b}
        first, second = quick_jit(lambda p, v: orbits.orbit_derivatives(sym, p, v))(params, xi)
    assert close(first, {"w1": a @ w[0], "w2": b @ w[1] - w[1] @ a, "w3": -w[2] @ b})
    wanted = {
        "w1": a @ a @ w[0],
        "w2": b @ b @ w[1] - 2 * b @ w[1] @ a + w[1] @ a @ a,
        "w3": w[2] @ b @ b,
    }
    assert close(second, wanted)


@pytest.mark.claim("DC-T5.1", "DC-T5.3", "DC-T5.2", "DC-T5.4", "DB-3.4")
@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_its_closed_form(name, x64):
    """Closed form, nested differentiation, and finite differences of the unit tangent; invariances; the level set."""
    row = catalog.rows(name)[0]
    sym, params = row.symmetry, row.params
    xi = sym.sample_algebra(jax.random.key(1))

    @quick_jit
    def measure(xi):
        gamma = orbits.curve(sym, params, xi)
        end = gamma(0.7)
        states = jax.tree.map(lambda *x: jnp.stack(x), params, jax.tree.map(lambda x: 2 * x, params), end)
        return {
            "derivatives": jax.vmap(lambda t: orbits.curve_derivatives(gamma, t))(
                jnp.array([0, 0.7, -1e-4, 1e-4])
            ),
            "closed": jax.vmap(lambda p: orbits.orbit_derivatives(sym, p, xi))(states),
            "faster": orbits.curvature(sym, params, jax.tree.map(lambda x: -3 * x, xi)),
            "outputs": row.apply(params, row.inputs),
            "moved": row.apply(end, row.inputs),
        }

    def at(name, i):
        return tuple(jax.tree.map(lambda x: x[i], tree) for tree in found[name])

    def kappa(name, i):
        return float(orbits.curvature_of(*(jnp.asarray(flat(tree)) for tree in at(name, i))))

    found = measure(xi)
    assert close(at("closed", 0)[0], at("derivatives", 0)[0]), name
    assert close(at("closed", 0)[1], at("derivatives", 0)[1], 1e-9)
    first, second = map(flat, at("closed", 0))
    printed = np.sqrt(first @ first * (second @ second) - (first @ second) ** 2) / (first @ first) ** 1.5
    assert np.isclose(kappa("closed", 0), printed, rtol=1e-9, atol=1e-9)
    before, after = (flat(at("derivatives", i)[0]) for i in (2, 3))
    turn = (after / np.linalg.norm(after) - before / np.linalg.norm(before)) / 2e-4
    assert abs(np.linalg.norm(turn) / np.linalg.norm(first) - printed) < 1e-6
    # The speed does not matter, nor where along the curve it is measured from; the scale of θ does.
    assert np.isclose(found["faster"], printed, atol=1e-9)
    assert np.isclose(kappa("derivatives", 1), kappa("closed", 2), atol=1e-8)
    if sym.is_linear:
        assert np.isclose(2 * kappa("closed", 1), printed)
    assert close(found["moved"], found["outputs"], 1e-9)


@pytest.mark.claim("DC-T5.3")
def test_the_data_dependent_curve_has_its_closed_form(x64):
    """(4.13) with LeakyReLU: γ_V'' = (M² σ(VX)/σ'(VX)) X†, and for a smooth σ one more term."""
    rng = np.random.default_rng(0)
    u, v, x, m = (rng.standard_normal(s) for s in ((3, 4), (4, 5), (5, 3), (4, 4)))
    leaky, back = (lambda z: np.where(z > 0, z, 0.1 * z)), (lambda y: jnp.where(y > 0, y, 10 * y))
    pinv = np.linalg.pinv(x)

    def gamma(t):
        g = jax.scipy.linalg.expm(t * m)
        return u @ jax.scipy.linalg.expm(-t * m), back(g @ leaky(v @ x)) @ pinv

    def smooth(t):
        return jnp.arctanh(jax.scipy.linalg.expm(t * small) @ np.tanh(z))

    slope = np.where(v @ x > 0, 1, 0.1)
    first, second = orbits.curve_derivatives(gamma)
    assert close(first, (-u @ m, (m @ leaky(v @ x) / slope) @ pinv))
    assert close(second, (u @ m @ m, (m @ m @ leaky(v @ x) / slope) @ pinv))
    z, small = 0.3 * rng.standard_normal((4, 3)), 0.1 * m
    s = np.tanh(z)
    extra = 2 * s / (1 - s**2) ** 2 * (small @ s) ** 2
    _, second = orbits.curve_derivatives(smooth)
    assert close(second, small @ small @ s / (1 - s**2) + extra)


@pytest.mark.claim("DC-T5.5")
@given(u=st.floats(0.2, 3), c=st.floats(0.1, 4), sign=st.sampled_from([-1, 1]))
@settings(max_examples=10)
def test_scalar_minima_bend_more_where_they_are_flatter(u, c, sign):
    c = sign * c
    sym = Symmetry({"u": "h*", "v": "h"}, {"h": groups.PositiveScaling(1)})
    with jax.enable_x64(True):
        params = {"u": jnp.array([u]), "v": jnp.array([c / u])}
        kappa = orbits.curvature(sym, params, {"h": jnp.ones(1)})
    hessian = np.array([[(c / u) ** 2, c], [c, u**2]])
    assert np.isclose(kappa, 2 * abs(c) / np.linalg.eigvalsh(hessian)[-1] ** 1.5, rtol=1e-10)


def test_rotations_bend_by_the_inverse_radius():
    sym = Symmetry({"w": "h"}, {"h": groups.Orthogonal(2)})
    assert np.isclose(orbits.curvature(sym, {"w": jnp.array([3.0, 4.0])}, {"h": jnp.ones(1)}), 0.2)
    # A direction that does not move θ: no curvature, no NaN in the gradient.
    value, slope = jax.value_and_grad(lambda p: orbits.curvature(sym, p, {"h": jnp.ones(1)}))(
        {"w": jnp.zeros(2)}
    )
    assert value == 0
    assert jnp.all(slope["w"] == 0)


@pytest.mark.claim("DC-T5.8", "DC-E5.3")
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("k", [1.5, -0.7])
def test_only_the_parabola_has_curvature_at_its_vertex(n, k):
    found = orbits.curve_curvature(lambda t: jnp.stack([t, k * jnp.abs(t) ** n if n % 2 else k * t**n]))
    assert np.isclose(found, 2 * abs(k) if n == 2 else 0, atol=1e-6)


def test_curvature_is_differentiable_and_follows_its_gradient(x64):
    rng = np.random.default_rng(0)
    sym = Symmetry({"u": "_ h*", "v": "h _"}, {"h": groups.GeneralLinear(3)})
    params = draw(rng, u=(2, 3), v=(3, 4))
    directions = orbits.curve_directions(sym, 4, key=jax.random.key(0), positive=True)
    assert np.allclose(jnp.linalg.norm(directions["h"], axis=(1, 2)), 1)
    assert jnp.all(directions["h"] >= 0)
    psi = quick_jit(lambda p: orbits.mean_curvature(sym, p, directions))
    each = [orbits.curvature(sym, params, {"h": d}) for d in directions["h"]]
    assert np.isclose(psi(params), np.mean(each))
    slope = quick_jit(jax.grad(lambda p: orbits.mean_curvature(sym, p, directions)))(params)
    step = jax.tree.map(lambda p, g: p + 1e-6 * g, params, slope)
    back = jax.tree.map(lambda p, g: p - 1e-6 * g, params, slope)
    assert np.isclose((psi(step) - psi(back)) / 2e-6, np.sum(flat(slope) ** 2), rtol=1e-6)


@pytest.mark.claim("DB-3.4")
def test_curves_between_points_of_an_orbit(x64):
    rng = np.random.default_rng(0)
    sym = Symmetry({"u": "_ h*", "v": "h _"}, {"h": groups.GeneralLinear(3)})
    params = draw(rng, u=(2, 3), v=(3, 4))
    g = {"h": jnp.asarray(expm(0.4 * rng.standard_normal((3, 3))))}
    gamma = quick_jit(orbits.curve_to(sym, params, sym.with_inverse(g)))
    assert close(gamma(0.0), params)
    assert close(gamma(1.0), sym.act(g, params), 1e-9)
    half = gamma(0.5)
    assert close(half["u"] @ half["v"], params["u"] @ params["v"], 1e-9)
    # A reflection has no real logarithm: no curve, and no wrong one.
    assert np.all(np.isnan(gamma(0.5)["u"]) == np.isnan(half["u"]))
    none = orbits.curve_to(sym, params, {"h": jnp.diag(jnp.array([-1.0, 1.0, 1.0]))})(0.5)
    assert np.all(np.isnan(none["u"]))


@pytest.mark.claim("DB-3.4")
def test_the_approximate_action_of_a_linear_net_is_the_exact_one():
    rng = np.random.default_rng(0)
    u, v, x, g = (rng.standard_normal(s) for s in ((2, 3), (3, 4), (4, 6), (3, 3)))
    moved = u @ (v @ x) @ np.linalg.pinv(g @ v @ x)
    assert np.allclose(moved, u @ np.linalg.inv(g))


def test_what_has_no_curve_is_refused():
    params = {"w": jnp.ones(3)}
    discrete = Symmetry({"w": "h"}, {"h": groups.Permutation(3)})
    with pytest.raises(TypeError, match="discrete"):
        orbits.curve(discrete, params, {})
    sym = Symmetry({"w": "h"}, {"h": groups.PositiveScaling(3)})
    with pytest.raises(ValueError, match="'h'"):
        orbits.curvature(sym, params, {"h": jnp.ones(2)})
    with pytest.raises(ValueError, match="on 'h'"):
        orbits.curve(sym, params, {"h": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"eqtoolbox\.Symmetry"):
        orbits.curve("h", params, {})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="'circle'"):
        orbits.expected_distance("ellipse", 1.0)


# Expected distance.


def brute_force(shape, x):
    """By adaptive quadrature of a distance found by search, for r = 1."""

    def parabola(theta):
        k, c, s = x / 2, np.cos(theta), np.sin(theta)
        roots = np.roots([2 * k**2, 0, 1 - 2 * k * s, -c])
        return min(np.hypot(t - c, k * t**2 - s) for t in roots.real[np.abs(roots.imag) < 1e-6])

    def circle(theta):
        return abs(np.hypot(np.cos(theta), np.sin(theta) - 1 / x) - 1 / x)

    distance = {"parabola": parabola, "circle": circle}[shape]
    kinks = [np.arcsin(min(x / 2, 1)), np.arcsin(x / (1 + np.sqrt(1 + x**2)))]
    return quad(distance, -np.pi / 2, np.pi / 2, points=kinks, limit=200)[0] / np.pi


@pytest.mark.claim("DC-T5.7", "DC-X3.2")
def test_expected_distances_are_those_of_the_table(x64):
    x = [0.1, 0.5, 1, 1.5, 2, 3, 5, 10]
    wanted = [0.636354, 0.629554, 0.598743, 0.542080, 0.563544, 0.694643, 0.810025, 0.902502]
    assert np.allclose(orbits.expected_distance("circle", jnp.array(x)), wanted, atol=1e-6)
    x = [0.1, 0.5, 1, 2, 4, 10, 20, 40, 80, 160]
    wanted = [0.63636, 0.63095, 0.62106, 0.61401, 0.62979, 0.67315, 0.70731, 0.73625, 0.75884, 0.77570]
    assert np.allclose(orbits.expected_distance("parabola", jnp.array(x)), wanted, atol=1e-5)


@pytest.mark.claim("DC-T5.7", "DC-E0.10")
@pytest.mark.parametrize("shape", ["circle", "parabola"])
def test_expected_distances_by_brute_force_and_in_the_limits(shape, x64):
    x = jnp.array([0.3, 0.9, 1.7, 2.3, 6.0])
    distance = quick_jit(lambda x, r: orbits.expected_distance(shape, x, r))
    found = distance(x, 1.0)
    assert np.allclose(found, [brute_force(shape, float(v)) for v in x], atol=1e-8)
    assert np.allclose(distance(x / 3, 3.0) / 3, found, rtol=1e-12)  # κr alone matters
    small = 1e-2
    assert abs(float(distance(small, 1.0)) - 2 / np.pi + small**2 / (12 * np.pi)) < 1e-9
    lowest = minimize_scalar(lambda v: float(distance(v, 1.0)), bounds=(1.2, 2.2), method="bounded")
    place, value, back, end = {
        "circle": (1.6308, 0.53941, 2.4705, 1),
        "parabola": (1.8282, 0.61379, 4.7327, 1 / 2 + 1 / np.pi),
    }[shape]
    assert abs(lowest.x - place) < 1e-3
    assert abs(float(distance(place, 1.0)) - value) < 1e-5
    assert abs(float(distance(back, 1.0)) - 2 / np.pi) < 2e-5
    assert abs(float(distance(1e5, 1.0)) - end) < 3e-3
    slope = quick_jit(jax.grad(lambda x: orbits.expected_distance(shape, x)))(1.0)
    assert np.isclose(slope, (distance(1.0 + 1e-5, 1.0) - distance(1.0 - 1e-5, 1.0)) / 2e-5, rtol=1e-5)


@pytest.mark.claim("DC-T5.6", "DC-T5.7")
def test_the_line_and_the_elliptic_integral(x64):
    assert np.isclose(orbits.expected_distance("line", 5.0, 0.3), 0.6 / np.pi, rtol=1e-14)
    assert np.isclose(
        quad(lambda t: abs(np.sin(t)), 0, 2 * np.pi, points=[np.pi])[0] / (2 * np.pi), 2 / np.pi
    )
    x = np.array([2.0, 2.5, 4.0, 9.0])
    rho = 1 / x
    exact = 2 / np.pi * (1 + rho) * ellipe(4 * rho / (1 + rho) ** 2) - rho
    assert np.allclose(orbits.expected_distance("circle", jnp.asarray(x)), exact, atol=1e-10)
