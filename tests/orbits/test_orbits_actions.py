"""The actions that teleportation uses: test functions, features of an MLP, and the printed forms that fail."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import orbits
from eqtoolbox.symmetry import DataDependentAction, pseudo_inverse_map

LEAKY, SHARP = (functools.partial(lambda s, z: jnp.where(z > 0, z, s * z), s) for s in (0.1, 10.0))
LANDSCAPES = {
    "rosenbrock": orbits.rosenbrock,
    "booth": orbits.booth,
    "ellipse": orbits.ellipse,
    "quadratic": lambda: orbits.quadratic(jnp.asarray(np.diag([1.0, 2.0, 5.0]) + 0.3 * np.ones((3, 3)))),
}


def np_leaky(z, slope=0.1):
    return np.where(z > 0, z, slope * z)


def uniform(rng, *shapes):
    return [jnp.asarray(rng.uniform(size=shape)) for shape in shapes]


@pytest.mark.claim("DB-P4.4.1", "DB-EB13")
@pytest.mark.parametrize("name", LANDSCAPES)
def test_rotations_of_test_functions(name, x64, record_claim):
    land = LANDSCAPES[name]()
    loss, eq = land.loss, land.symmetry
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(50, *land.start.shape)))
    if name == "quadratic":
        a, b = jnp.asarray(rng.normal(size=(2, 50, 3)))
        b = 1.7 * a  # in one subgroup, where λ adds up
    else:
        a, b = jnp.asarray(rng.uniform(0, 6, size=(2, 50)))
    act = jax.jit(jax.vmap(eq.act))
    moved = act(xs, a)
    values = jax.vmap(loss)
    error = float(jnp.max(jnp.abs(values(moved) / values(xs) - 1)))
    assert error < 1e-12
    np.testing.assert_allclose(act(moved, b), act(xs, a + b), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(jax.vmap(eq.act_inverse)(moved, a), xs, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(act(xs, 0 * a), xs, rtol=1e-10, atol=1e-10)
    assert loss(land.minimum) == pytest.approx(0, abs=1e-25)
    if name == "ellipse":
        with pytest.raises(ValueError, match="positive"):
            orbits.ellipse(0.0)
        # Printed for a ≥ 0: with a = 0 the second coordinate is lost, and h has no inverse.
    record_claim("DB-P4.4.1", measured=error, expected="<= 1e-12")


def test_matrices_that_are_no_quadratic_landscape():
    with pytest.raises(ValueError, match="symmetric"):
        orbits.quadratic(jnp.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="definite"):
        orbits.quadratic(jnp.array([[1.0, 0.0], [0.0, -1.0]]))


def descend(land, rate, steps, moves):
    """Losses of gradient descent with a move before the steps that ``moves`` says."""

    def step(x, t):
        x = jax.lax.cond(moves(t)[0], lambda x: land.symmetry.act(x, moves(t)[1](x)), lambda x: x, x)
        x = x - rate * jax.grad(land.loss)(x)
        return x, (land.loss(x), x)

    return jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(steps))[1])(land.start)


def steepest(land, points=20001):
    """The angle with the largest gradient, on a grid."""
    angles = jnp.linspace(0, 2 * jnp.pi, points)

    def find(x):
        size = jax.vmap(lambda t: jnp.sum(jax.grad(land.loss)(land.symmetry.act(x, t)) ** 2))(angles)
        return angles[jnp.argmax(size)]

    return find


@pytest.mark.claim("DB-G1", "DB-G2")
def test_golden_numbers_of_the_test_functions(x64, record_claim):
    never = lambda t: (t < 0, lambda x: 0.0)  # noqa: E731
    land = orbits.rosenbrock()
    losses, xs = descend(land, 1e-3, 1000, never)
    assert land.loss(land.start) == 404
    expected = {98: 0.76748401, 99: 0.76459734, 300: 0.40618552, 500: 0.25722544, 1000: 0.11134068}
    for t, value in expected.items():
        assert float(losses[t - 1]) == pytest.approx(value, abs=1e-8)
    np.testing.assert_allclose(xs[-1], [0.66670739, 0.4428965], atol=1e-8)
    best = steepest(land)
    moved, _ = descend(land, 1e-3, 1000, lambda t: (t % 100 == 99, best))
    assert float(moved[299]) == pytest.approx(4.5e-5, rel=0.05)
    assert moved[-1] < 1e-20
    land = orbits.booth()
    losses, _ = descend(land, 0.08, 10, never)
    assert losses[3:5].tolist() == pytest.approx([17.94821137, 12.61247057], abs=1e-7)
    assert float(losses[-1]) == pytest.approx(2.20251699, abs=1e-8)
    best = steepest(land)
    moved, _ = descend(land, 0.08, 10, lambda t: (t == 4, best))
    assert float(moved[4]) == pytest.approx(3.47477, abs=1e-5)
    assert float(moved[-1]) == pytest.approx(9.4505e-4, rel=1e-4)
    record_claim("DB-G1", measured=float(losses[-1]), expected="2.20251699")


@pytest.mark.claim("DB-G1", "DB-F4.3a", "DB-F4.3b")
def test_the_printed_search_on_the_test_functions(x64, record_claim):
    """From a random angle, ten steps of a fixed learning rate: better on every seed, and ours is better still."""
    for land, rate, steps, when, inner, bound in (
        (orbits.rosenbrock(), 1e-3, 1000, lambda t: t % 100 == 99, 0.1, 1e-6),
        (orbits.booth(), 0.08, 10, lambda t: t == 4, 1e-3, 1e-3),
    ):

        def one(key, printed, land=land, rate=rate, steps=steps, when=when, inner=inner):
            def step(carry, t):
                x, key = carry
                key, own = jax.random.split(key)
                angle = jax.random.uniform(own, (), minval=0, maxval=np.pi)
                find = orbits.teleport_as_printed if printed else orbits.teleport_params
                run = functools.partial(find, land.symmetry, land.loss, learning_rate=inner, initial=angle)
                x = jax.lax.cond(when(t), lambda x: run(x)[0], lambda x: x, x)
                x = x - rate * jax.grad(land.loss)(x)
                return (x, key), None

            return land.loss(jax.lax.scan(step, (land.start, key), jnp.arange(steps))[0][0])

        keys = jax.random.split(jax.random.key(0), 20)
        plain = descend(land, rate, steps, lambda t: (t < 0, lambda x: 0.0))[0][-1]
        printed = jax.jit(jax.vmap(lambda k, f=one: f(k, True)))(keys)
        ours = jax.jit(jax.vmap(lambda k, f=one: f(k, False)))(jax.random.clone(keys))
        assert jnp.max(printed) < plain
        assert jnp.max(ours) < plain
        assert jnp.median(printed) < bound
        assert jnp.median(ours) < 2 * bound
        if steps == 1000:
            assert 1e-10 < jnp.median(printed) < 1e-6
            record_claim("DB-F4.3a", measured=float(jnp.median(printed)), expected="about 1e-8; 0.11 without")


def test_functions_of_many_variables(x64):
    """The steepest point of a quadratic's level set, with a group of dimension 3."""
    land = LANDSCAPES["quadratic"]()
    x = jnp.array([1.0, -2.0, 0.5])
    _, info = orbits.teleport_params(land.symmetry, land.loss, x, steps=60, max_step=None, learning_rate=0.01)
    top = np.linalg.eigvalsh(np.diag([1.0, 2.0, 5.0]) + 0.3)[-1]
    np.testing.assert_allclose(info.objective**2, 4 * land.loss(x) * top, rtol=1e-6)


# Features of an MLP.

SHAPES = (6, 5, 2)


def mlp(rng, samples):
    x, a, b = uniform(rng, (samples, 6), (6, 5), (5, 2))
    params = {"a": a - 0.5, "c": jnp.asarray(rng.normal(size=5)), "b": b - 0.5}
    forward = lambda p, x: LEAKY(x @ p["a"] + p["c"][None]) @ p["b"]  # noqa: E731
    return params, x - 0.5, forward


@pytest.mark.claim("DB-P4.4.2", "DC-E0.6", "DB-EB11", "DC-T5.15", "DC-E0.5")
def test_the_action_on_features(x64, record_claim):
    """Corrected: exact on the batch, an identity, a composition, an inverse. As printed: none without conditions."""
    rng = np.random.default_rng(0)
    t1, t2 = (jnp.asarray(rng.normal(size=(5, 5))) / 5 for _ in range(2))
    both = (jnp.eye(5) + t1) @ (jnp.eye(5) + t2) - jnp.eye(5)
    found = {}
    for samples in (4, 6, 9):
        params, x, forward = mlp(rng, samples)
        held = jnp.asarray(rng.normal(size=(30, 6)))

        def errors(form, params=params, x=x, forward=forward, held=held):
            make = functools.partial(orbits.feature_action, params, [("a", "c"), "b"], x, LEAKY, SHARP)
            eq = make(element="first_order" if form == "first" else "inverse", residual=form == "corrected")
            act = lambda p, t: eq.act(p, {"h1": t})  # noqa: E731
            away = lambda a, b: max(float(jnp.max(jnp.abs(a[k] - b[k]))) for k in a)  # noqa: E731
            moved = act(params, t1)
            return {
                "outputs": float(jnp.max(jnp.abs(forward(moved, x) - forward(params, x)))),
                "held": float(jnp.max(jnp.abs(forward(act(params, 0 * t1), held) - forward(params, held)))),
                "identity": away(act(params, 0 * t1), params),
                "composition": away(act(act(params, t2), t1), act(params, both)),
                "inverse": away(eq.act_inverse(moved, {"h1": t1}), params),
                "features": float(
                    jnp.max(
                        jnp.abs(
                            LEAKY(x @ moved["a"] + moved["c"][None])
                            - LEAKY(x @ params["a"] + params["c"][None]) @ (jnp.eye(5) + t1).T
                        )
                    )
                ),
            }

        found[samples] = {form: errors(form) for form in ("printed", "first")}
        if samples <= 6:
            found[samples]["corrected"] = errors("corrected")
        else:
            with pytest.raises(ValueError, match="Take fewer samples"):
                orbits.feature_action(params, [("a", "c"), "b"], x, LEAKY, SHARP)
        # The printed first-order pair errs by (1 - T)(1 + T) = 1 - T² on the features: exactly by T².
        eq = orbits.feature_action(
            params, [("a", "c"), "b"], x, LEAKY, SHARP, element="first_order", residual=False
        )
        if samples <= 6:
            change = forward(eq.act(params, {"h1": t1}), x) - forward(params, x)
            features = LEAKY(x @ params["a"] + params["c"][None])
            np.testing.assert_allclose(change, -features @ (t1 @ t1).T @ params["b"], atol=1e-10)
    for samples in (4, 6):
        assert max(found[samples]["corrected"].values()) < 1e-8, samples
        assert found[samples]["printed"]["outputs"] < 1e-8
        assert found[samples]["printed"]["features"] < 1e-8
        assert found[samples]["first"]["outputs"] > 1e-2
    assert found[4]["printed"]["composition"] < 1e-8
    assert found[4]["printed"]["identity"] > 0.1
    assert found[4]["printed"]["held"] > 0.1
    assert found[6]["printed"]["identity"] < 1e-8
    assert found[9]["printed"]["outputs"] > 1e-2
    record_claim("DC-E0.6", measured=found[4]["corrected"]["identity"], expected="<= 1e-8")
    record_claim("DC-E0.5", measured=found[4]["first"]["outputs"], expected="> 1e-2")


@pytest.mark.claim("DC-T5.14", "DB-P4.4.2")
@pytest.mark.parametrize(("d", "h", "k"), [(6, 5, 3), (6, 5, 5), (6, 5, 8), (3, 5, 3), (3, 5, 4)])
def test_which_actions_keep_what(d, h, k, x64):
    """The table of the actions, for fewer, as many, and more samples than units; its bound holds always."""
    rng = np.random.default_rng(1)
    act = np_leaky
    v, u, x = rng.normal(size=(h, d)), rng.normal(size=(2, h)), rng.normal(size=(d, k))
    g1, g2 = (np.eye(h) + 0.3 * rng.normal(size=(h, h)) for _ in range(2))
    pinv = np.linalg.pinv

    def out(w):
        return w[0] @ act(w[1] @ x)

    def first(g, w, fixed):  # (4.13)
        u, v = w
        new = np_leaky(g @ act(v @ x), 10.0)
        return u @ np.linalg.inv(g), (v + (new - v @ x) @ pinv(x) if fixed else new @ pinv(x))

    def second(g, w, fixed):  # (4.16)
        u, v = w
        a, b = act(v @ x), act(g @ v @ x)
        return (u + u @ (a - b) @ pinv(b) if fixed else u @ a @ pinv(b)), g @ v

    def same(a, b):
        return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True)) < 1e-8

    w = (u, v)
    for fixed in (False, True):
        assert (np.abs(out(first(g1, w, fixed)) - out(w)).max() < 1e-8) == (k <= d)
        assert (np.abs(out(second(g1, w, fixed)) - out(w)).max() < 1e-8) == (k <= h)
        size = np.linalg.norm(out(w) - out(second(g1, w, fixed)))
        assert size <= np.linalg.norm(out(w)) * (1 + 1e-12)
        assert same(second(np.eye(h), w, fixed), w) == (fixed or k >= h)
    assert same(first(np.eye(h), w, False), w) == (k >= d)
    if k <= d:
        assert same(first(np.eye(h), w, True), w)
        assert same(first(g1, first(g2, w, True), True), first(g1 @ g2, w, True))
        assert same(first(g1, first(g2, w, False), False), first(g1 @ g2, w, False))
    assert same(second(g1, second(g2, w, False), False), second(g1 @ g2, w, False)) == (k <= h)
    assert same(second(g1, second(g2, w, True), True), second(g1 @ g2, w, True)) == (k == h)
    # The library's (4.13) and (4.16) are these.
    params = {"v": jnp.asarray(v.T), "u": jnp.asarray(u.T)}
    for fixed in (False, True) if k <= d else (False,):
        eq = orbits.feature_action(params, ["v", "u"], jnp.asarray(x.T), LEAKY, SHARP, residual=fixed)
        moved = eq.act(params, {"h1": jnp.asarray(g1 - np.eye(h))})
        assert same((moved["u"].T, moved["v"].T), first(g1, w, fixed))
    action = DataDependentAction.mlp(params, ["v", "u"], pseudo_inverse_map(LEAKY))
    moved = action.act({"h1": jnp.asarray(g1)}, params, jnp.asarray(x.T))
    assert same((moved["u"].T, moved["v"].T), second(g1, w, False))


@pytest.mark.claim("DB-EC5")
def test_the_printed_action_wrecks_other_data(record_claim):
    """With 20 samples at width 64, g = 1: the rank of the weights falls to 20, and other outputs change."""
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "a": jax.random.normal(keys[0], (80, 64)) / 9,
        "b": jax.random.normal(keys[1], (64, 64)) / 8,
        "c": jax.random.normal(keys[2], (64, 10)) / 8,
    }
    x, other = jax.random.normal(keys[3], (20, 80)), jax.random.normal(keys[4], (100, 80))
    forward = lambda p, x: LEAKY(LEAKY(x @ p["a"]) @ p["b"]) @ p["c"]  # noqa: E731
    found = {}
    for fixed in (False, True):
        eq = orbits.feature_action(params, ["a", "b", "c"], x, LEAKY, SHARP, residual=fixed)
        moved = jax.jit(eq.act)(params, eq.identity)
        np.testing.assert_allclose(forward(moved, x), forward(params, x), rtol=1e-3, atol=1e-4)
        change = jnp.linalg.norm(forward(moved, other) - forward(params, other))
        found[fixed] = float(change / jnp.linalg.norm(forward(params, other)))
        rank = np.linalg.matrix_rank(moved["b"], tol=1e-3)
        assert rank == (64 if fixed else 20)
    assert found[True] < 1e-4
    assert found[False] > 0.5
    record_claim(
        "DB-EC5", measured=found[False], expected="relative change of other outputs, 0 if it were one"
    )


def test_several_hidden_layers_and_their_inverse():
    """Layer after layer, each on what those below have left; and what the teleport shows for other data."""
    keys = jax.random.split(jax.random.key(1), 6)
    params = {
        "a": jax.random.normal(keys[0], (8, 7)) / 3,
        "b": jax.random.normal(keys[1], (7, 6)) / 3,
        "c": jax.random.normal(keys[2], (6, 2)) / 3,
    }
    x, y, held = (jax.random.normal(k, s) for k, s in zip(keys[3:], ((5, 8), (5, 2), (50, 8)), strict=True))
    forward = lambda p, x: LEAKY(LEAKY(x @ p["a"]) @ p["b"]) @ p["c"]  # noqa: E731
    loss = lambda p: jnp.mean((forward(p, x) - y) ** 2)  # noqa: E731
    eq = orbits.feature_action(params, ["a", "b", "c"], x, LEAKY, SHARP, element="exp")
    moved, info = orbits.teleport_params(eq, loss, params, steps=6, learning_rate=1.0)
    assert info.objective > 1.3 * info.objective_before
    assert info.loss_error <= 1e-6
    back = eq.act_inverse(moved, info.element)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), back, params)
    change = jnp.linalg.norm(forward(moved, held) - forward(params, held)) / jnp.linalg.norm(
        forward(params, held)
    )
    assert change > 1e-3, "it is a symmetry on the batch only"


def test_networks_that_are_none_are_named():
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    make = functools.partial(orbits.feature_action, params, activation=LEAKY, inverse=SHARP)
    with pytest.raises(ValueError, match="at least two layers"):
        make(["a"], x=jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"leaf 'a': need a kernel of shape \(5, out\)"):
        make(["a", "b"], x=jnp.ones((2, 5)))
    with pytest.raises(ValueError, match="x must have shape"):
        make(["a", "b"], x=jnp.ones(3))
    with pytest.raises(ValueError, match="element"):
        make(["a", "b"], x=jnp.ones((2, 3)), element="second_order")


@pytest.mark.claim("DB-EB12")
def test_a_bijective_tanh(record_claim):
    """tanh x + e^{x-N} - e^{-x-N} is odd and increases everywhere; with e^{-x+N} it is about -e^N at 0."""
    n = 8.0
    x = np.linspace(-30, 30, 6001)
    right = np.tanh(x) + np.exp(x - n) - np.exp(-x - n)
    np.testing.assert_allclose(right, -right[::-1], atol=1e-9)
    assert (np.diff(right) > 0).all()
    assert np.abs(right - np.tanh(x))[np.abs(x) < 2].max() < 1e-2
    printed = np.tanh(0) + np.exp(0 - n) - np.exp(-0 + n)
    assert printed == pytest.approx(-2981, abs=1)
    record_claim("DB-EB12", measured=float(printed), expected="0 at x = 0")
