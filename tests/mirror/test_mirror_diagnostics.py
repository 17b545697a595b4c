"""Diagnostics of collapse against NumPy and cases known by hand; the monitor over trainings that collapse or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqtoolbox as eqt
from eqtoolbox import groups, mirror
from eqtoolbox.symmetry import catalog


@pytest.mark.claim("MS-3.4")
def test_effective_ranks():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 4)) @ np.diag([3.0, 1.0, 0.5, 1e-6]) @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    s = np.linalg.svd(a, compute_uv=False)
    share = s / s.sum()
    found = mirror.effective_rank(jnp.asarray(a))
    assert found.numerical == 3
    np.testing.assert_allclose(found.stable, (s**2).sum() / s[0] ** 2, rtol=1e-5)
    np.testing.assert_allclose(found.entropy, np.exp(-(share * np.log(share)).sum()), rtol=1e-4)
    np.testing.assert_allclose(found.participation, (s**2).sum() ** 2 / (s**4).sum(), rtol=1e-5)
    none = mirror.effective_rank(jnp.zeros((3, 3)))
    assert [float(x) for x in none[:4]] == [0, 0, 0, 0]
    assert mirror.effective_rank(jnp.stack([jnp.eye(3), jnp.zeros((3, 3))])).entropy.shape == (2,)


@pytest.mark.claim("MS-3.4")
def test_dead_units_and_parameters():
    params = {"a": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)}, "b": {"kernel": jnp.ones((4, 3))}}
    sym = catalog.mlp(params, ["a", "b"], "tanh")
    for leaf, path in (("a", (slice(None), 1)), ("b", (1,))):
        params[leaf]["kernel"] = params[leaf]["kernel"].at[path].set(0)
    assert mirror.dead_units(sym, params, "h1") == 0  # its bias is alive
    params["a"]["bias"] = params["a"]["bias"].at[1].set(0)
    assert mirror.dead_units(sym, params, "h1") == 1
    np.testing.assert_allclose(
        mirror.unit_norms(sym, params, "h1"), 6**0.5 * np.array([1, 0, 1, 1]), rtol=1e-6
    )
    counts = mirror.satisfied(mirror.of(sym), params)
    assert {k.split("/")[1]: int(v) for k, v in counts.items()} == {
        "exchange": 3, "sign flip": 1, "signed exchange": 0,
    }  # fmt: skip
    assert mirror.silent_units(jnp.array([[0.0, 1, 2], [0, 3, 2]])) == 2
    assert mirror.dead_parameters({"w": jnp.array([[0.0, 1.0], [0.0, 0.0]]), "v": jnp.zeros((2, 3))}) == 4
    with pytest.raises(ValueError, match="no space 'x'"):
        mirror.dead_units(sym, params, "x")


@pytest.mark.claim("MS-3.4")
def test_blocks_of_equal_neurons():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(500, 3))
    which = np.array([0, 1, 2, 0, 1, 0])
    x = base[:, which] * np.array([1, 2, 1, -1, 1, 3]) + 0.01 * rng.normal(size=(500, 6))
    x = np.column_stack([x, np.ones(500)])
    found = mirror.correlation_blocks(jnp.asarray(x))
    np.testing.assert_array_equal(found.labels, [0, 1, 2, 0, 1, 0, 6])
    assert found.count == 4
    np.testing.assert_allclose(found.homogeneous, 5 / 7, rtol=1e-6)
    dense = np.corrcoef(x[:, :6].T)
    order = np.asarray(found.order)
    expected = np.zeros((7, 7))
    expected[:6, :6] = dense
    np.testing.assert_allclose(found.correlation, expected[np.ix_(order, order)], atol=1e-5)
    np.testing.assert_allclose(found.mean, (np.abs(dense).sum() - 6) / 42, rtol=1e-4)


@pytest.mark.claim("MS-3.4")
def test_neural_collapse():
    """A simplex: all measures 0; then each is broken on its own."""
    classes, d, per = 4, 8, 50
    rng = np.random.default_rng(0)
    simplex = (np.eye(classes) - 1 / classes) @ np.linalg.qr(rng.normal(size=(d, classes)))[0].T
    labels = np.repeat(np.arange(classes), per)
    features = simplex[labels] + 2.0
    weights = 3 * simplex.T
    bias = jnp.asarray(-2.0 * weights.sum(0))  # the features are not centred
    perfect = mirror.neural_collapse(
        jnp.asarray(features), jnp.asarray(labels), classes, jnp.asarray(weights), bias
    )
    np.testing.assert_allclose(np.array(perfect), 0, atol=1e-5)
    noisy = features + 0.1 * rng.normal(size=features.shape)
    found = mirror.neural_collapse(
        jnp.asarray(noisy), jnp.asarray(labels), classes, jnp.asarray(weights), bias
    )
    means = np.stack([noisy[labels == c].mean(0) for c in range(classes)])
    centred = means - means.mean(0)
    rest = noisy - means[labels]
    expected = (
        np.trace(rest.T @ rest / len(rest) @ np.linalg.pinv(centred.T @ centred / classes, rcond=1e-5))
        / classes
    )
    np.testing.assert_allclose(found.within, expected, rtol=1e-4)
    stretched = features * np.where(labels == 0, 2.0, 1.0)[:, None]
    assert mirror.neural_collapse(jnp.asarray(stretched), jnp.asarray(labels), classes).norms > 0.1
    other = mirror.neural_collapse(
        jnp.asarray(features), jnp.asarray(labels), classes, jnp.asarray(-weights), -bias
    )
    assert other.duality > 1
    assert other.nearest == 1
    assert np.isnan(mirror.neural_collapse(jnp.asarray(features), jnp.asarray(labels), classes).duality)
    with pytest.raises(ValueError, match="`weights` must have shape"):
        mirror.neural_collapse(jnp.asarray(features), jnp.asarray(labels), classes, jnp.ones((3, 3)))


@pytest.mark.claim("MS-3.4")
def test_the_monitor_sees_collapse_and_its_rate(record_claim):
    """u ⊙ w with a strong decay: unit 1 has no signal and collapses at rate -η·2γ; unit 0 stays."""
    params = {"u": jnp.array([1.0, 0.5]), "w": jnp.array([1.0, 0.4])}
    sym = eqt.Symmetry({"u": "h", "w": "h*"}, {"h": groups.SignFlip(2)})
    decay, eta = 0.3, 0.05
    tx = optax.chain(
        optax.add_decayed_weights(decay),
        mirror.track_mirrors(optax.sgd(eta), mirror.of(sym), every=5),
    )
    loss = lambda p: (p["u"][0] * p["w"][0] - 1) ** 2  # noqa: E731

    @jax.jit
    def train(params):
        def step(carry, _):
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=400)[0]

    _, state = train(params)
    found = mirror.approached(state)["sign flip/h"]
    assert found.approaching.tolist() == [False, True]
    np.testing.assert_allclose(found.rate[1], np.log(1 - eta * decay), rtol=1e-3)
    np.testing.assert_allclose(found.distance[1], np.hypot(0.5, 0.4) * (1 - eta * decay) ** 400, rtol=1e-3)
    metrics = mirror.mirror_metrics(state)
    assert metrics["mirror/sign flip/h/approaching"] == 1
    assert metrics["mirror/sign flip/h/reached"] == 0
    plain = optax.chain(optax.add_decayed_weights(decay), optax.sgd(eta))
    p, s = params, plain.init(params)
    for _ in range(3):
        updates, s = plain.update(jax.grad(loss)(p), s, p)
        p = optax.apply_updates(p, updates)
    q, s = params, tx.init(params)
    for _ in range(3):
        updates, s = tx.update(jax.grad(loss)(q), s, q)
        q = optax.apply_updates(q, updates)
    jax.tree.map(np.testing.assert_array_equal, p, q)
    assert not np.any(mirror.approached(s)["sign flip/h"].approaching)
    record_claim(
        "MS-3.4", measured=float(found.rate[1]), expected=f"log(1 - 0.015) = {np.log(1 - eta * decay):.5f}"
    )
    for call, error, text in (
        (lambda: mirror.track_mirrors(None, mirror.of(sym)), TypeError, "`inner`"),
        (lambda: mirror.track_mirrors(optax.sgd(1.0), [1]), TypeError, "mirror.of"),
        (lambda: mirror.track_mirrors(optax.sgd(1.0), mirror.of(sym), decay=1.0), ValueError, "`decay`"),
        (lambda: mirror.satisfied([1], params), TypeError, "mirror.of"),
        (lambda: mirror.silent_units(jnp.ones(3)), ValueError, "axis of examples"),
        (lambda: mirror.correlation_blocks(jnp.ones(3)), ValueError, "axis of examples"),
        (lambda: mirror.split_gradient(params, 3), TypeError, "must be a Mirror"),
        (lambda: mirror.hessian_blocks(loss, params, 3), TypeError, "must be a Mirror"),
        (lambda: mirror.from_map(3), TypeError, "needs one or two functions"),
        (lambda: mirror.optax_weight_decay("a"), TypeError, "`weight_decay`"),
        (lambda: mirror.random_bias(params, -1.0, key=None), ValueError, "must not be negative"),
        (lambda: mirror.approached(optax.EmptyState()), ValueError, "track_mirrors"),
        (lambda: tx.update(params, tx.init(params)), ValueError, "params"),
    ):
        with pytest.raises(error, match=text):
            call()
