"""Components of minima, paths inside them, chords between them (Zhao 2026, chapter 3)."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from scipy.optimize import minimize

from eqtoolbox import Symmetry, groups, orbits


def product(weights):
    total = weights[0]
    for w in weights[1:]:
        total = w @ total
    return total


def data(rng, h):
    return rng.standard_normal((h, h)), rng.standard_normal((h, h))


def minimum(rng, layers, h, x, y, signs):
    """Weights with zero loss in the component with these signs, by hand."""
    first = [rng.standard_normal((h, h)) for _ in range(layers - 1)]
    for i, sign in enumerate(signs):
        if np.sign(np.linalg.det(first[i] @ x if i == 0 else first[i])) != sign:
            first[i][0] *= -1
    return (*first, y @ np.linalg.inv(product(first) @ x))


@pytest.mark.claim("DB-P3.2.1", "DB-T3.1.1")
@given(h=st.integers(1, 4), layers=st.integers(2, 4), seed=st.integers(0, 5))
@settings(max_examples=6)
def test_coordinates_of_the_minima_of_deep_linear_nets(h, layers, seed):
    rng = np.random.default_rng([h, layers, seed])
    x, y = data(rng, h)
    g = [rng.standard_normal((h, h)) for _ in range(layers - 1)]
    with jax.enable_x64(True):
        w = orbits.linear_minimum(g, x, y)
        back = orbits.linear_coordinates(w, x)
    assert np.allclose(product([np.asarray(m) for m in w]) @ x, y, atol=1e-6 * np.abs(y).max())
    assert all(np.allclose(a, b, atol=1e-8) for a, b in zip(back, g, strict=True))


@pytest.mark.claim("DB-C3.2.2")
@pytest.mark.parametrize(("h", "layers"), [(1, 3), (3, 3)])
def test_components_and_paths_of_deep_linear_nets(h, layers, x64):
    rng = np.random.default_rng([h, layers])
    x, y = data(rng, h)
    found = set()
    for signs in itertools.product((-1, 1), repeat=layers - 1):
        start, end = (minimum(rng, layers, h, x, y, signs) for _ in range(2))
        found.add(orbits.linear_component(start, x))
        path = orbits.linear_path(start, end, x, y)
        points = [[np.asarray(w) for w in path(t)] for t in np.linspace(0, 1, 9)]
        assert max(np.sum((product(w) @ x - y) ** 2) for w in points) < 1e-16 * np.sum(y**2) + 1e-18
        assert all(np.allclose(a, b, atol=1e-7) for a, b in zip(points[0], start, strict=True))
        assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(points[-1], end, strict=True))
        # The path is one: neighbouring points are near, and no determinant vanishes on it.
        dets = np.array([[np.linalg.det(w) for w in point[:-1]] for point in points])
        assert np.all(np.sign(dets) == np.sign(dets[0]))
    assert len(found) == 2 ** (layers - 1)
    other = minimum(rng, layers, h, x, y, (-signs[0], *signs[1:]))
    with pytest.raises(ValueError, match="different components"):
        orbits.linear_path(start, other, x, y)


def test_half_turns_have_a_path(x64):
    x = y = np.eye(4)
    start, end = (np.eye(4), np.eye(4)), (-np.eye(4), -np.eye(4))
    path = orbits.linear_path(start, end, x, y)
    for t in np.linspace(0, 1, 9):
        a, b = path(t)
        assert np.allclose(b @ a, np.eye(4))
    assert np.allclose(path(1.0)[0], -np.eye(4))


@pytest.mark.claim("DB-P3.2.3", "DB-F3.1", "DB-EA6")
@pytest.mark.parametrize(("skip", "count"), [(0.0, 4), (0.7, 3), (-0.7, 3)])
def test_components_of_the_residual_net_by_flood_fill(skip, count, x64):
    grid = np.linspace(-3, 3, 402)  # no node at 0
    w1, w2 = np.meshgrid(grid, grid, indexing="ij")
    a = w1 * w2 + skip
    filled = label(a > 0)[0] + np.where(a < 0, label(a < 0)[0] + 100, 0)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 402, (400, 2))
    numbers = {}
    for i, j in chosen:
        c = orbits.residual_component((grid[i], grid[j], None), skip)
        assert numbers.setdefault(c, filled[i, j]) == filled[i, j]
    assert len(numbers) == len(set(numbers.values())) == count
    x, y = 1.3, -0.8
    for c in numbers:
        ends = [(i, j) for i, j in chosen if orbits.residual_component((grid[i], grid[j], 0), skip) == c][:2]
        start, end = ((grid[i], grid[j], y / ((grid[i] * grid[j] + skip) * x)) for i, j in ends)
        path = orbits.residual_path(start, end, x, y, skip)
        assert np.allclose(path(0.0), start)
        assert np.allclose(path(1.0), end)
        for t in np.linspace(0, 1, 33):
            p1, p2, p3 = map(float, path(t))
            assert abs(y - p3 * (p2 * p1 + skip) * x) < 1e-12
            assert np.sign(p1 * p2 + skip) == np.sign(start[0] * start[1] + skip)
    # (B.3): the inverse of f(g) = g W2 W1 X + ε X.
    g, c = 2.5, 0.4
    f = g * c * x + skip * x
    assert np.isclose((f - skip * x) / (c * x), g)
    if skip:
        assert not np.isclose((f - skip * x) / (skip * c * x), g)
    with pytest.raises(ValueError, match="must not be 0"):
        orbits.residual_component((0.0 if skip == 0 else -skip, 1.0, 1.0), skip)


@pytest.mark.claim("DB-P3.3.2", "DB-EA2", "DB-L3.3.1")
def test_permutations_reach_every_component(x64):
    rng = np.random.default_rng(0)
    layers, h = 4, 3
    x, y = data(rng, h)
    kinds = list(itertools.product((-1, 1), repeat=layers - 1))
    for a, b in itertools.product(kinds[:3], kinds):
        w, other = minimum(rng, layers, h, x, y, a), minimum(rng, layers, h, x, y, b)
        moved, permutations = orbits.permute_to_component(tuple(map(jnp.asarray, w)), other, x)
        moved = [np.asarray(m) for m in moved]
        assert orbits.linear_component(moved, x) == orbits.linear_component(other, x)
        assert np.allclose(product(moved) @ x, y, atol=1e-8)
        if a != b:
            p = [np.eye(h)[np.asarray(q)] for q in permutations]
            # As printed, (W1P1, P1⁻¹W2P2, P2W3P3, P3W4): no minimum.
            printed = [w[0] @ p[0], p[0].T @ w[1] @ p[1], p[1] @ w[2] @ p[2], p[2] @ w[3]]
            assert np.abs(product(printed) @ x - y).max() > 1e-3
    # Lemma 3.3.1, on the worked example.
    w = (np.eye(2), np.diag([-1.0, 1.0]))
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    moved = (swap @ w[0], w[1] @ swap)
    want = (np.diag([-1.0, 1.0]), np.eye(2))
    assert orbits.linear_component(w, np.eye(2)) != orbits.linear_component(want, np.eye(2))
    assert orbits.linear_component(moved, np.eye(2)) == orbits.linear_component(want, np.eye(2))
    one = (np.ones((1, 1)),) * 2
    with pytest.raises(ValueError, match="single unit"):
        orbits.permute_to_component(one, (-np.ones((1, 1)),) * 2, np.ones((1, 1)))
    with pytest.raises(ValueError, match="square matrices of one size"):
        orbits.linear_component((np.ones((2, 3)), np.ones((3, 2))), np.eye(2))


def leaky(z, k):
    return np.maximum(z, 0) ** k - 0.1 * np.maximum(-z, 0) ** k


def rescaled(rng, k, m, n=5, hidden=4, outputs=3):
    """A zero-loss pair of layers on its own outputs, its rescaling, and the loss on mixtures of both."""
    f, u, v = (
        rng.standard_normal((2, n)),
        rng.standard_normal((outputs, hidden)),
        rng.standard_normal((hidden, 2)),
    )
    y = u @ leaky(v @ f, k)

    def loss(t, p=None):
        p = np.eye(hidden) if p is None else p
        u2, v2 = m**-k * u @ p, m * p.T @ v
        return np.sum((((1 - t) * u + t * u2) @ leaky(((1 - t) * v + t * v2) @ f, k) - y) ** 2)

    return loss, np.linalg.norm(y), (u, v, f)


@pytest.mark.claim("DB-P3.3.3", "DB-EA3", "DB-F3.2", "DB-G3")
@pytest.mark.parametrize("k", [0.5, 1.0, 2.0, 3.0])
def test_linear_connectivity_fails_by_as_much_as_one_likes(k, x64):
    barrier = 7.0
    size = rescaled(np.random.default_rng(1), k, 1.0)[1]
    m = orbits.scale_for_barrier(barrier, k, size)
    loss, norm, _ = rescaled(np.random.default_rng(1), k, m)
    assert loss(0) < 1e-20
    assert loss(1) < 1e-18
    assert loss(0.5) > barrier
    for t in (0.1, 0.5, 0.8):
        assert np.isclose(loss(t), orbits.chord_barrier(m, k, norm, t), rtol=1e-9)
        assert orbits.chord_factor(m, k, t) >= 1
    # The printed scale C^k works from k = 1 on only, and the printed curve is the chord.
    c = 2 ** (k + 1) * (barrier**0.5 / norm + 1) - 1
    assert (float(orbits.chord_barrier(c**k, k, norm)) > barrier) == (k >= 1)
    for m in (0.3, 1.0, 5.0):
        assert np.isclose(orbits.chord_factor(m, 1.0, 0.5), (m + 2 + 1 / m) / 4, rtol=1e-12)
    with pytest.raises(ValueError, match="`scale` must be positive"):
        orbits.chord_factor(-2.0)
    with pytest.raises(ValueError, match="`curvature` must not be negative"):
        orbits.chord_distance_bound(-1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="`degree` must be positive"):
        orbits.scale_for_barrier(1.0, 0.0, 1.0)


@pytest.mark.claim("DB-P3.3.3")
def test_the_rescaled_networks_are_joined_by_their_orbit(x64):
    rng = np.random.default_rng(0)
    sym = Symmetry({"v": "_ h", "u": "h* _"}, {"h": groups.PositiveScaling(4)})
    params = {"v": jnp.asarray(rng.standard_normal((3, 4))), "u": jnp.asarray(rng.standard_normal((4, 2)))}
    x = jnp.asarray(rng.standard_normal((6, 3)))
    apply = lambda p: jax.nn.leaky_relu(x @ p["v"]) @ p["u"]  # noqa: E731
    g = {"h": jnp.full(4, 5.0)}
    target = apply(params)
    loss = lambda p: jnp.sum((apply(p) - target) ** 2)  # noqa: E731
    along = orbits.barrier_along(loss, orbits.curve_to(sym, params, g), points=7)
    chord = orbits.barrier(loss, params, sym.act(g, params), points=7)
    assert float(along.value) < 1e-20
    assert np.isclose(chord.value, orbits.chord_barrier(5.0, 1.0, jnp.linalg.norm(target)), rtol=1e-9)


@pytest.mark.claim("DB-P3.3.4", "DB-EA4")
@pytest.mark.parametrize("k", [1.0, 2.0])
def test_no_permutation_lowers_the_barrier_of_a_large_rescaling(k):
    least = []
    for m in (1e2, 1e3):
        loss, _, (u, v, f) = rescaled(np.random.default_rng(2), k, m)
        mats = [np.eye(4)[list(p)] for p in itertools.permutations(range(4))]
        least.append(min(loss(0.5, p) for p in mats))
        for p in mats[::7]:
            # (B.10): 2^{-(k+1)} W (I + m^{-k} P) σ((I + m P⁻¹) V f).
            out = 2 ** -(k + 1) * (u + m**-k * u @ p) @ leaky(v @ f + m * p.T @ v @ f, k)
            y = u @ leaky(v @ f, k)
            assert np.isclose(loss(0.5, p), np.sum((out - y) ** 2), rtol=1e-9)
    limit = min(np.sum((u @ p.T @ leaky(v @ f, k)) ** 2) for p in mats)
    assert np.isclose(least[1], 4 ** -(k + 1) * 1e3 ** (2 * k) * limit, rtol=0.1)
    assert least[1] > 50 * least[0]


@pytest.mark.claim("DB-P3.3.5", "DB-EA7")
def test_midpoints_of_orbits_go_far_away(x64):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 2)) + 2 * np.eye(2)

    def distance(beta):
        c = (beta + 1 / beta) / 2

        def square(flat):
            g = flat.reshape(2, 2)
            return np.sum((a @ np.linalg.inv(g) - c * a) ** 2) + np.sum((g @ b - c * b) ** 2)

        return (
            min(minimize(square, (s * np.eye(2)).ravel(), method="Nelder-Mead").fun for s in (0.5, 1, 2))
            ** 0.5
        )

    found = [distance(beta) for beta in (2.0, 5.0, 20.0)]
    bound = [float(orbits.orbit_distance_bound(a, b, beta)) for beta in (2.0, 5.0, 20.0)]
    assert all(x >= y for x, y in zip(found, bound, strict=True))
    assert found[2] > 3 * found[1] > 6 * found[0]
    assert bound[2] > 0
    # (B.13), its second term: the factor acts on W2 from the left.
    t, g1, g2, g = 0.3, *(rng.standard_normal((2, 2)) for _ in range(3))
    chord = (1 - t) * g1 @ b + t * g2 @ b
    assert np.allclose(chord - g @ b, ((1 - t) * g1 + t * g2 - g) @ b)


@pytest.mark.claim("DB-P3.3.6", "DB-EA8")
@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_bounded_weights_have_bounded_barriers(k):
    rng = np.random.default_rng(3)
    _, norm, (u, v, _) = rescaled(rng, k, 1.0)
    last, before = np.linalg.norm(u), np.linalg.norm(v)
    limit = 3 * max(last, before)
    bound = float(orbits.bounded_chord_barrier(last, before, limit, k, norm))
    low, high = (last / limit) ** (1 / k), limit / before
    worst = 0.0
    for m in np.geomspace(low, high, 9):
        loss, _, _ = rescaled(np.random.default_rng(3), k, m)
        assert np.linalg.norm(m**-k * u) <= limit * (1 + 1e-9)
        worst = max(worst, *(loss(t) for t in np.linspace(0, 1, 11)))
    assert 0 < worst <= bound


@pytest.mark.claim("DB-P3.4.1", "DB-EA9")
def test_the_approximate_action_never_changes_the_output_by_more_than_it_is():
    rng = np.random.default_rng(0)
    for k, h in [(3, 5), (5, 5), (9, 4), (30, 6)]:
        u, v, x, g = (rng.standard_normal(s) for s in ((2, h), (h, 4), (4, k), (h, h)))
        s, moved = 1 / (1 + np.exp(-v @ x)), 1 / (1 + np.exp(-g @ v @ x))
        u2 = u @ s @ np.linalg.pinv(moved)
        change = np.linalg.norm(u @ s - u2 @ moved)
        assert change <= np.linalg.norm(u @ s) * (1 + 1e-12)
        # Exactly kept where the batch is no larger than the layer; and the identity is none there.
        assert (change < 1e-6) == (k <= h)
        one = u @ s @ np.linalg.pinv(s)
        assert np.allclose(one, u) == (k >= h)


def helix(height):
    """One turn, as an orbit of screws: curvature, chord length, length, distance of the midpoint."""
    t = np.linspace(0, 2 * np.pi, 20001)
    curve = np.stack([np.cos(t), np.sin(t), height * t], 1)
    middle = (curve[0] + curve[-1]) / 2
    length = 2 * np.pi * np.hypot(1, height)
    return 1 / (1 + height**2), 2 * np.pi * height, length, np.linalg.norm(curve - middle, axis=1).min()


@pytest.mark.claim("DB-T3.4.2", "DB-EA1", "DB-G4")
def test_chords_are_near_short_curves_and_not_near_long_ones(record_claim, x64):
    for height, printed, true in ((0.1, 0.0501, 0.3126), (0.05, 0.0124, 0.1569), (0.2, 0.211, 0.616)):
        kappa, distance, length, found = helix(height)
        as_printed = (1 - np.sqrt(1 - (kappa * distance / 2) ** 2)) / kappa
        assert np.isclose(as_printed, printed, atol=6e-4)
        assert np.isclose(found, true, atol=1e-3)
        assert found > 2 * as_printed  # the theorem as printed is false
        assert np.isinf(orbits.chord_distance_bound(kappa, distance, length))
    golden = float(orbits.chord_distance_bound(0.990099, 0.628319, 0.63))
    assert abs(golden - 0.050102) < 1e-6
    record_claim("DB-G4", measured=golden, expected="0.050102")
    record_claim("DB-T3.4.2", measured=0.3126, expected="at most 0.0501 as printed")
    rng = np.random.default_rng(0)
    tried = 0
    for _ in range(60):
        # Random smooth curves in 2 to 4 dimensions, cut where they are as long as the theorem allows.
        d, t = int(rng.integers(2, 5)), np.linspace(0, 1, 2001)
        c = rng.standard_normal((5, d))
        curve = sum(c[i] * np.polynomial.chebyshev.Chebyshev.basis(i + 1)(t)[:, None] for i in range(5))
        step = np.linalg.norm(np.diff(curve, axis=0), axis=1)
        arc = np.concatenate([[0], np.cumsum(step)])
        first = np.gradient(curve, arc, axis=0)
        kappa = np.maximum.accumulate(np.linalg.norm(np.gradient(first, arc, axis=0), axis=1)[2:-2])
        last = np.searchsorted(kappa * arc[2:-2], np.pi * rng.uniform(0.1, 0.95))
        if last < 30:
            continue
        piece, worst = curve[2 : last + 2], 1.001 * kappa[last - 1]
        chord = np.linalg.norm(piece[-1] - piece[0])
        bound = float(orbits.chord_distance_bound(worst, chord, arc[last + 1] - arc[2]))
        points = piece[0] + np.linspace(0, 1, 25)[:, None] * (piece[-1] - piece[0])
        found = max(np.linalg.norm(piece - p, axis=1).min() for p in points)
        assert found <= bound + 1e-3 * chord
        tried += np.isfinite(bound)
    assert tried > 20
    assert np.isclose(orbits.chord_distance_bound(0.01, 1.0, 1.001), 0.01 / 8, rtol=1e-4)
