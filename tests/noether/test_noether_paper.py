"""Statements of the dissertation's second chapter on charges, and what is misprinted there."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import elements, quick_jit
from noether_tools import apart
from scipy.integrate import solve_ivp

from eqtoolbox import Symmetry, groups, noether, zoo
from eqtoolbox.symmetry import catalog

RNG = np.random.default_rng


def two_layers(group, h=4, n=3, m=2, seed=0):
    """(sym, U of shape (m, h), V of shape (h, n)) as in the text: exponent 1 on V, inverse transpose on U."""
    rng = RNG(seed)
    p = {"U": jnp.asarray(rng.normal(size=(m, h))), "V": jnp.asarray(rng.normal(size=(h, n)))}
    return Symmetry({"U": "_ h*", "V": "h _"}, {"h": group}), p


@pytest.mark.claim("DA-P5", "DA-T23", "DA-E12")
def test_charges_of_moved_parameters_need_both_grams(x64, record_claim):
    sym, p = two_layers(groups.GeneralLinear(4))
    charge = noether.charge_fn(sym)
    rng = RNG(1)
    g, half = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    m = half + half.T
    vv, uu = p["V"] @ p["V"].T, p["U"].T @ p["U"]
    moved = charge(sym.act({"h": jnp.asarray(g)}, p))["h"]
    found = np.trace(moved @ m)
    inverse = np.linalg.inv(g)
    split = np.trace(vv @ g.T @ m @ g) - np.trace(uu @ inverse @ m @ inverse.T)
    printed = np.trace((vv - uu) @ g.T @ m @ g)
    assert abs(found - split) < 1e-11 * abs(split)
    assert abs(found - printed) > 0.05 * abs(found), "footnote 8: as if gᵀMg were in the Lie algebra's action"
    record_claim("DA-E12", measured=f"{found:.1f} against {printed:.1f} by footnote 8", expected="different")
    # With g orthogonal the charge moves by itself.
    turn = np.linalg.qr(g)[0]
    moved = charge(sym.act({"h": jnp.asarray(turn)}, p))
    assert apart(moved, noether.act_on_charges(sym, {"h": jnp.asarray(turn)}, charge(p))) < 1e-13
    assert abs(np.trace(moved["h"] @ m) - np.trace((vv - uu) @ turn.T @ m @ turn)) < 1e-11


@pytest.mark.claim("DA-P5", "DA-T23", "DA-E20")
def test_the_rate_of_charges_along_a_generator(x64, record_claim):
    sym, p = two_layers(groups.GeneralLinear(4))
    rng = RNG(2)
    half, other = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    m = half + half.T
    vv, uu = np.asarray(p["V"] @ p["V"].T), np.asarray(p["U"].T @ p["U"])
    rate = np.trace(noether.charge_rate(sym, p, {"h": jnp.asarray(other)})["h"] @ m)
    formula = np.trace(vv @ (other.T @ m + m @ other)) + np.trace(uu @ (other @ m + m @ other.T))
    assert abs(rate - formula) < 1e-12 * abs(formula)

    def along(t):
        return noether.charge_fn(sym)(sym.act(sym.exp({"h": t * jnp.asarray(other)}), p))["h"]

    slope = np.trace(jax.jvp(along, (0.0,), (1.0,))[1] @ m)
    assert abs(rate - slope) < 1e-11 * abs(slope)
    # A.2.8 prints θᵀ(MᵀM + MMᵀ)θ, where M' is missing: for a linear action, as matrices on all of θ.
    theta, big, prime = rng.normal(size=5), rng.normal(size=(5, 5)), rng.normal(size=(5, 5))
    step = 1e-6
    quadratic = lambda x: x @ big @ x  # noqa: E731
    ahead, back = ((np.eye(5) + s * step * prime) @ theta for s in (1, -1))
    numeric = (quadratic(ahead) - quadratic(back)) / (2 * step)
    right = theta @ (prime.T @ big + big @ prime) @ theta
    printed = theta @ (big.T @ big + big @ big.T) @ theta
    assert abs(numeric - right) < 1e-7
    assert abs(numeric - printed) > 0.1
    # And r_ij² = θ_i² + θ_j²: for M antisymmetric Σ m_ij r_ij² φ_ij' = -⟨θ', Mθ⟩ with φ the polar angle.
    velocity, skew = rng.normal(size=5), big - big.T
    total = dict.fromkeys((1, -1), 0.0)
    for i in range(5):
        for j in range(i + 1, 5):
            angle = (theta[i] * velocity[j] - theta[j] * velocity[i]) / (theta[i] ** 2 + theta[j] ** 2)
            for sign in total:
                total[sign] += skew[i, j] * (theta[i] ** 2 + sign * theta[j] ** 2) * angle
    assert abs(total[1] + velocity @ skew @ theta) < 1e-12
    assert abs(total[-1] + velocity @ skew @ theta) > 0.1


@pytest.mark.parametrize("name", ["S1", "S2/mixed_layers", "S3/relu2", "S11", "S14", "S6/batch_norm"])
def test_charges_move_with_the_compact_subgroup(name, x64):
    (row,) = catalog.rows(name)
    sym, small = row.symmetry, row.symmetry.compact()
    charge = noether.charge_fn(sym)
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), elements(small, 3))
    moved = charge(small.act(one, row.params))
    assert apart(noether.act_on_charges(sym, one, charge(row.params)), moved) < 1e-13


@pytest.mark.claim("DA-P6", "DA-T24")
def test_the_gradients_of_the_charges_of_a_linear_net(x64):
    for h, n, m in ((1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 2, 1), (3, 2, 2), (5, 1, 2)):
        sym, p = two_layers(groups.GeneralLinear(h), h, n, m)
        rows, columns = np.triu_indices(h)
        flat, unravel = jax.flatten_util.ravel_pytree(p)
        charges = lambda w, sym=sym, unravel=unravel: noether.charge_fn(sym)(unravel(w))["h"]  # noqa: E731
        slopes = np.asarray(quick_jit(jax.jacrev(charges))(flat))[rows, columns]
        rank = np.linalg.matrix_rank(slopes)
        rest = max(0, h - n - m)
        assert rank == math.comb(h + 1, 2) - math.comb(rest + 1, 2), (h, n, m)
        assert noether.charged(sym)[0].charges == math.comb(h + 1, 2) == len(slopes)


@pytest.mark.claim("DA-T21", "DA-E13")
def test_the_angular_identity_of_radial_layers(x64, record_claim):
    """Theorem 2.5.6, and ν_i = 0 in each of three layers with biases."""
    radial = zoo.activations()["radial"]
    rng = RNG(3)
    shapes = {"W1": (4, 3), "b1": (4,), "W2": (5, 4), "b2": (5,), "W3": (2, 5)}
    p = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    x, y = jnp.asarray(rng.normal(size=(7, 3))), jnp.asarray(rng.normal(size=(7, 2)))

    def loss(p):
        z = radial(x @ p["W1"].T + p["b1"][None])
        z = radial(z @ p["W2"].T + p["b2"][None])
        return jnp.mean((z @ p["W3"].T - y) ** 2)

    v = jax.tree.map(jnp.negative, jax.jit(jax.grad(loss))(p))
    axes = {"W1": "h _", "b1": "h", "W2": "k h", "b2": "k", "W3": "_ k"}
    sym = Symmetry(axes, {"h": groups.Orthogonal(4), "k": groups.Orthogonal(5)})
    found = noether.currents(sym, p, v)
    found, p, v = jax.device_get((found, p, v))
    worst = 0.0
    for first, bias, second, space in (("W1", "b1", "W2", "h"), ("W2", "b2", "W3", "k")):
        terms = (
            p[first] @ v[first].T,
            np.outer(p[bias], v[bias]),
            p[second].T @ v[second],
        )
        nu = sum(t - t.T for t in terms)
        size = max(np.max(np.abs(t)) for t in terms)
        worst = float(max(worst, np.max(np.abs(nu)) / size, np.max(np.abs(found[space])) / size))
        assert np.max(np.abs(terms[0] - terms[0].T)) > 1e-3 * size, "the terms do not vanish by themselves"
    assert worst < 1e-13
    record_claim("DA-T21", measured=worst, expected="<= 1e-13")
    # Entry by entry: the sum over U runs over its m rows, that over V over its n columns; not the other way round.
    u, w, i, j = p["W3"], p["W2"], 0, 1

    def turning(rows, rows_v, columns, columns_v):
        first = sum(rows[s, i] * rows_v[s, j] - rows[s, j] * rows_v[s, i] for s in range(len(rows)))
        second = sum(
            columns[i, s] * columns_v[j, s] - columns[j, s] * columns_v[i, s] for s in range(columns.shape[1])
        )
        return first + second

    bias = p["b2"][i] * v["b2"][j] - p["b2"][j] * v["b2"][i]
    assert abs(turning(u, v["W3"], w, v["W2"]) + bias) < 1e-13
    m, n = u.shape[0], w.shape[1]
    assert m < n
    short = turning(u, v["W3"], w[:, :m], v["W2"][:, :m]) + bias  # V up to m, as printed
    assert abs(short) > 1e-4


@pytest.mark.claim("DA-T25", "DA-E19")
def test_currents_of_second_order_flow(x64, record_claim):
    """(τ/2)θ'' + θ' = -∇L decays as e^{-2t/τ}; the printed Lagrangian has τθ'' + θ' = -∇L, which does as e^{-t/τ}."""
    tau, until = 0.8, 1.3
    sym = Symmetry({"x": "h"}, {"h": groups.Orthogonal(2)})
    slope = jax.jit(jax.grad(lambda x: jnp.sum(x**2) ** 2 + jnp.exp(-jnp.sum(x**2))))
    start = np.array([1.0, 0.3, -0.4, 0.9])
    for mass, power in ((tau / 2, 2), (tau, 1)):

        def field(t, z, mass=mass):
            return np.concatenate([z[2:], (-z[2:] - np.asarray(slope(z[:2]))) / mass])

        z = solve_ivp(field, (0, until), start, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        before, after = (
            float(noether.currents(sym, {"x": jnp.asarray(w[:2])}, {"x": jnp.asarray(w[2:])})["h"][0])
            for w in (start, z)
        )
        assert abs(after / before - math.exp(-power * until / tau)) < 1e-10
    record_claim("DA-T25", measured=after / before, expected=f"e^(-t/τ) = {math.exp(-until / tau):.6f}")
    # J_0M = ⟨Mθ, θ'⟩ is half of dQ_M/dt, not all of it.
    m = np.array([[0.3, 1.0], [1.0, -0.7]])
    x, v = start[:2], start[2:]
    rate = (2 * 1e-6) ** -1 * ((x + 1e-6 * v) @ m @ (x + 1e-6 * v) - (x - 1e-6 * v) @ m @ (x - 1e-6 * v))
    assert abs((m @ x) @ v - rate / 2) < 1e-9
    assert abs((m @ x) @ v - rate) > 0.1


@pytest.mark.claim("DA-E21")
def test_the_off_diagonal_charge_has_a_factor_two(x64):
    """U is 1 x 2, V is 2 x 1: with E = [[0, 1], [1, 0]] the charge is 2(v1 v2 - u1 u2)."""
    sym, p = two_layers(groups.GeneralLinear(2), 2, 1, 1)
    (u1, u2), ((v1,), (v2,)) = p["U"][0], p["V"]
    charge = noether.charge_fn(sym)(p)["h"]
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert abs(np.trace(charge @ swap) - 2 * (v1 * v2 - u1 * u2)) < 1e-14
    assert abs(np.trace(charge @ swap / 2) - (v1 * v2 - u1 * u2)) < 1e-14


@pytest.mark.claim("DA-E17")
def test_spectral_initialisation_moves_the_reduced_factors(x64):
    rng = RNG(4)
    n = 4
    phi, psi = (jnp.asarray(np.linalg.qr(rng.normal(size=(n, n)))[0]) for _ in range(2))
    sigma = np.abs(rng.normal(size=n)) + 0.5
    y = phi @ jnp.diag(jnp.asarray(sigma)) @ psi.T
    small = {name: jnp.diag(jnp.asarray(rng.normal(size=n) + 2)) for name in ("U", "V")}

    def loss(u, v):  # g(Vᵀ) by rows, h(r) = r⁻²
        w = v.T
        return jnp.sum((y - u @ (w / jnp.sum(w**2, 1, keepdims=True))) ** 2) / 2

    u, v = phi @ small["U"], psi @ small["V"]
    du, dv = jax.grad(loss, (0, 1))(u, v)
    reduced = jax.grad(lambda a, b: loss(phi @ a, psi @ b), (0, 1))(small["U"], small["V"])
    assert apart((du, dv), (phi @ reduced[0], psi @ reduced[1])) < 1e-13
    assert apart(du, reduced[0]) > 0.1, "(2.31) as printed, without the factor on the left"
    # (2.46): ṡ ≥ (s^Y - s)/λ holds below s^Y only; |s - s^Y| ≤ e^{-t/λ} |s(0) - s^Y| on both sides.
    target, lam = 1.3, 0.7
    rate = lambda s: (target - s) * (s**2 + 1) ** 2 / lam  # noqa: E731
    assert rate(0.4) >= (target - 0.4) / lam
    assert rate(2.0) < (target - 2.0) / lam
    for start in (0.4, 2.0, -1.0):
        run = solve_ivp(lambda t, s: rate(s), (0, 2), [start], "DOP853", rtol=1e-10, atol=1e-12)
        assert np.all(np.abs(run.y[0] - target) <= abs(start - target) * np.exp(-run.t / lam) + 1e-9)


def test_row_radial_units_have_a_charge_from_any_start(x64):
    rng = RNG(5)
    u, v = jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(rng.normal(size=(4, 5)) + 0.5)
    for profile in (lambda r: r**-2, lambda r: jnp.ones_like(r), lambda r: 1 + r**2, jnp.cosh):

        def loss(u, v, profile=profile):
            lengths = jnp.sqrt(jnp.sum(v**2, 1, keepdims=True))
            return jnp.sum(jnp.sin(u @ (profile(lengths) * v)) ** 2)

        du, dv = jax.grad(loss, (0, 1))(u, v)
        charge = lambda u, v, profile=profile: noether.row_radial_charge(profile, v, u)  # noqa: E731
        rate = jax.jvp(charge, (u, v), (-du, -dv))[1]
        alone = jax.jvp(charge, (u, v), (-du, 0 * dv))[1]
        assert float(jnp.max(jnp.abs(rate))) < 1e-11 * float(jnp.max(jnp.abs(alone)))
        assert float(jnp.max(jnp.abs(alone))) > 1e-3
    with pytest.raises(ValueError, match=r"must be \(h, n\)"):
        noether.row_radial_charge(jnp.cosh, u, u)


@pytest.mark.claim("DA-E18")
def test_the_gradient_norm_of_an_ellipse_at_fixed_loss():
    """L = w1² + a w2² = L0: |∇L|² = 4 L0 + 4a(a - 1) w2², at w2 = 0 a maximum for 0 < a < 1 only; Q is 1/0 there."""

    def norms(a, w2):
        w1 = np.sqrt(1 - a * w2**2)
        return 4 * w1**2 + 4 * a**2 * w2**2, w1 ** (2 * a) / w2**2

    for a, maximum in ((0.5, True), (2.0, False), (3.0, False)):
        w2 = np.array([1e-2, 1e-4])
        square, q = norms(a, w2)
        assert np.all((square < 4) == maximum)
        assert q[1] > 9e3 * q[0]


@pytest.mark.claim("DA-E23")
def test_conjugation_does_not_commute_with_intersection():
    """Stabilisers of U and of V may be conjugated to normal forms, but not their intersection by two elements."""

    def dimension(*conditions):
        """Of {M : M A = 0 for all A}, by the rank of the linear map."""
        n = conditions[0].shape[0]
        return n * n - np.linalg.matrix_rank(np.concatenate([np.kron(np.eye(n), a.T) for a in conditions]))

    rng = RNG(6)
    v = rng.normal(size=(4, 2))
    g = rng.normal(size=(4, 4))
    assert dimension(v) == dimension(g @ v) == 8
    assert dimension(v, v) == 8
    assert dimension(v, g @ v) == 0, "the same two stabilisers, one of them conjugated"
    # The normal form V_0 of rank n < h has zero rows, h - n of them, not columns.
    left, _, _ = np.linalg.svd(v)
    normal = left.T @ v
    assert np.allclose(normal[2:], 0)
    assert np.linalg.matrix_rank(normal[:2]) == 2


@pytest.mark.claim("DA-E24")
def test_rates_of_flow_and_of_descent_differ_and_the_size_of_a_charge_has_a_kink(x64):
    sym, p = two_layers(groups.GeneralLinear(4))
    loss = lambda p: jnp.sum(jnp.sin(p["U"] @ p["V"]) ** 2)  # noqa: E731
    g = jax.grad(loss)(p)
    square = sum(float(jnp.sum(x**2)) for x in g.values())

    def descent(rate):
        return float(loss(jax.tree.map(lambda x, d: x - rate * d, p, g)) - loss(p)) / rate

    gaps = [abs(descent(rate) + square) for rate in (2e-3, 1e-3)]
    assert gaps[0] > 1e-3 * square, "dL/dt = -|∇L|² is the rate of the flow, not of a step"
    assert abs(gaps[0] / gaps[1] - 2) < 0.2
    # (A.29) divides by |Q|: where Q changes sign its one-sided slopes differ, and opposite charges look alike.
    charge = lambda t: float(jnp.trace(noether.charge_fn(sym)({"U": p["U"], "V": t * p["V"]})["h"]))  # noqa: E731
    zero = math.sqrt(float(jnp.sum(p["U"] ** 2) / jnp.sum(p["V"] ** 2)))
    assert abs(charge(zero)) < 1e-12
    before, after = ((abs(charge(zero + s * 1e-6)) - abs(charge(zero))) / (s * 1e-6) for s in (-1, 1))
    assert before < -0.1 < 0.1 < after


@pytest.mark.claim("DA-E1", "DA-E4", "DA-E5", "DC-E1.1")
def test_the_shapes_that_fit():
    """As numbers of rows and columns: n inputs, h hidden, m outputs, k samples."""
    n, h, m, k = 3, 4, 2, 5
    w1, w2, x = np.ones((h, n)), np.ones((m, h)), np.ones((n, k))
    assert (w2 @ (w1 @ x + np.ones((h, 1)))).shape == (m, k)
    with pytest.raises(ValueError, match="could not be broadcast"):
        w1 @ x + np.ones((n, 1))  # b1 in R^n
    with pytest.raises(ValueError, match="mismatch"):
        np.ones((n, h)) @ np.ones((h, m)) @ x  # Param = R^{n x h} x R^{h x m}
    # Attention: the weights have a column for each key, so that values have as many rows as keys.
    q, key, value = np.ones((6, 4)), np.ones((5, 4)), np.ones((5, 3))
    assert (q @ key.T @ value).shape == (6, 3)
    with pytest.raises(ValueError, match="mismatch"):
        q @ key.T @ np.ones((6, 3))
    # W^O of 3 heads of d_v = 2: rows (i-1)d_v + 1 … i d_v for i = 1 … h; rows d_v i + 1 … d_v (i + 1) leave the last.
    heads, d_v = 3, 2
    right = [set(range((i - 1) * d_v + 1, i * d_v + 1)) for i in range(1, heads + 1)]
    printed = [set(range(d_v * i + 1, d_v * (i + 1) + 1)) for i in range(1, heads + 1)]
    assert set.union(*right) == set(range(1, heads * d_v + 1))
    assert set.union(*printed) != set(range(1, heads * d_v + 1))
    with pytest.raises(ValueError, match="could not be broadcast"):
        np.ones((m, n)) @ np.ones(n) - np.ones(n)  # Wx - y with y in R^n
