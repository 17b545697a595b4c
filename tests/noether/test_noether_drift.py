"""The drift of charges under noise: both forms of Corollary 2, the exact expectation, and an ensemble of runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalog_tools import quick_jit
from jax.flatten_util import ravel_pytree
from noether_tools import EXAMPLES, SYM, apart, batch_loss, problem
from scipy import stats

from eqtoolbox import Symmetry, groups, noether, track_charges
from eqtoolbox.linalg import per_example_grads, ravel_stack

RUNS, STEPS, BATCH, RATE = 256, 30, 4, 0.02


@pytest.mark.claim("EQ-5.2b")
def test_both_forms_of_corollary_2_agree(x64, record_claim):
    params, batch = problem()

    @quick_jit
    def both(params):
        grads = per_example_grads(batch_loss, params, batch)
        first = noether.flow_drift(SYM, grads, 0.3)
        second = noether.flow_drift_by_trace(SYM, batch_loss, params, batch, 0.3)
        return first, second, grads

    first, second, grads = both(params)
    scaled = jax.tree.map(lambda c: c * (EXAMPLES - 1) / EXAMPLES, first.value)
    error = apart(second, scaled)
    assert error < 1e-13
    assert float(jnp.max(jnp.abs(second["h"]))) > 1e-2
    record_claim("EQ-5.2b", measured=error, expected="<= 1e-13, with the minus sign")
    # By the Hessian of the charge and the dense covariance of the noise: σ²Tr(Σ∇²C).
    flat, unravel = ravel_pytree(params)
    matrix = ravel_stack(grads)
    hessian = quick_jit(jax.hessian(lambda w: noether.charge_fn(SYM)(unravel(w))))(flat)
    covariance = np.cov(matrix.T)
    for key in "hk":
        trace = 0.3 * np.einsum("...ij,ij->...", hessian[key], covariance)
        assert np.abs(trace - first.value[key]).max() < 1e-12 * np.abs(trace).max()


@pytest.mark.claim("EQ-5.2b")
def test_the_identity_sample_by_sample(x64):
    """∇²C ∇L_x = -∇²L_x ∇C, with ∇C = 2X."""
    params, batch = problem()
    xi = SYM.sample_algebra(jax.random.key(0))
    xi["h"] = xi["h"] + xi["h"].T

    def charge(p):
        found = noether.charge_fn(SYM)(p)
        return sum(jnp.vdot(found[key], xi[key]) for key in xi)

    one = jax.tree.map(lambda a: a[:1], batch)

    @quick_jit
    def sides(params):
        gradient, slope = jax.grad(lambda p: batch_loss(p, one)), jax.grad(charge)
        left = jax.jvp(slope, (params,), (gradient(params),))[1]
        return left, jax.jvp(gradient, (params,), (slope(params),))[1]

    left, right = sides(params)
    assert apart(left, jax.tree.map(jnp.negative, right)) < 1e-13


def ensemble(rate, steps, replacement=True, runs=RUNS):
    """Charges of many runs of SGD: (their change, the sum of exact expectations, of what the flow predicts)."""
    params, batch = problem()

    def run(indices):
        def step(carry, i):
            p, exact, flow = carry
            grads = per_example_grads(batch_loss, p, batch)
            expected = noether.one_step_expectation(SYM, grads, rate, BATCH, replacement=replacement)
            noise = noether.flow_drift(SYM, grads, rate / (2 * BATCH)).value
            p = jax.tree.map(lambda p, g: p - rate * jnp.mean(g[i], 0), p, grads)
            exact = jax.tree.map(jnp.add, exact, expected)
            return (p, exact, jax.tree.map(lambda f, c: f + rate * c, flow, noise)), None

        start = noether.charge_fn(SYM)(params)
        zero = jax.tree.map(jnp.zeros_like, start)
        p, exact, flow = jax.lax.scan(step, (params, zero, zero), indices)[0]
        return jax.tree.map(jnp.subtract, noether.charge_fn(SYM)(p), start), exact, flow

    rng = np.random.default_rng(3)
    shape = (runs, steps, EXAMPLES)
    indices = (
        np.argsort(rng.random(shape))[..., :BATCH] if not replacement else rng.integers(EXAMPLES, size=shape)
    )
    out = jax.jit(jax.vmap(run))(indices[..., :BATCH])
    rows, columns = np.triu_indices(4)

    def flat(tree):
        return np.concatenate([tree["h"][:, rows, columns], tree["k"].reshape(runs, -1)], axis=1)

    return tuple(flat(tree) for tree in out)


def joint_test(samples):
    """The probability of a mean at least this far from 0 in all entries together (Hotelling)."""
    n, p = samples.shape
    mean, covariance = samples.mean(0), np.cov(samples.T)
    statistic = n * mean @ np.linalg.solve(covariance, mean)
    return stats.f.sf(statistic * (n - p) / (p * (n - 1)), p, n - p)


@pytest.mark.claim("EQ-5.2b", "EQ-7")
@pytest.mark.parametrize("replacement", [True, False])
def test_an_ensemble_agrees_with_the_exact_expectation(replacement, x64, record_claim):
    change, exact, flow = ensemble(RATE, STEPS, replacement)
    p = joint_test(change - exact)
    assert p > 1e-3, p
    assert joint_test(change - flow) < 1e-12, "the flow leaves out the drift by the mean gradient"
    assert joint_test(change - 1.1 * exact) < 1e-3, "and a tenth too much is seen"
    record_claim("EQ-7", measured=f"joint p = {p:.2f} over {RUNS} runs", expected="> 0.001")


@pytest.mark.claim("EQ-5.2b")
def test_the_bias_of_the_flow_is_of_first_order_in_the_step_size(x64, record_claim):
    gaps = []
    for rate, steps in ((0.02, 20), (0.01, 40), (0.005, 80)):
        _, exact, flow = ensemble(rate, steps, runs=8)
        gaps.append(np.linalg.norm((exact - flow).mean(0)))
    slopes = np.log2(np.asarray(gaps[:-1]) / gaps[1:])
    assert np.all(np.abs(slopes - 1) < 0.2), slopes
    record_claim("EQ-5.2b", measured=f"bias ∝ η^{slopes[-1]:.2f} at fixed time", expected="first order")


def test_the_prediction_in_the_state_of_a_run(x64):
    """Per example and by microbatches, with momentum and decay left to the law."""
    params, batch = problem()
    law = noether.Law(RATE)
    tx = track_charges(optax.sgd(RATE), SYM, law=law)

    @jax.jit
    def run(p):
        def step(carry, key):
            p, state = carry
            i = jax.random.choice(key, EXAMPLES, (BATCH,))
            samples = per_example_grads(batch_loss, p, jax.tree.map(lambda a: a[i], batch))
            updates, state = tx.update(
                jax.tree.map(lambda g: jnp.mean(g, 0), samples), state, p, gradient_samples=samples
            )
            truth = noether.flow_drift(SYM, per_example_grads(batch_loss, p, batch), RATE / (2 * BATCH)).value
            return (optax.apply_updates(p, updates), state), truth

        return jax.lax.scan(step, (p, tx.init(p)), jax.random.split(jax.random.key(0), 400))

    (_, state), truth = run(params)
    noise = state.charge_state.charge_noise
    want = jax.tree.map(lambda t: RATE * jnp.sum(t, 0) * (EXAMPLES - 1) / EXAMPLES, truth)
    for key in "hk":
        error = jnp.sqrt(noise.noise_variance[key])
        scores = (noise.noise_drift[key] - want[key]) / error
        assert jnp.max(jnp.abs(scores)) < 6
        assert jnp.all(error > 0)
        assert jnp.median(jnp.abs(scores)) < 2.5
    values = noether.metrics(state)
    assert values["noise/h"] > 0
    assert values["noise_error/h"] > 0


def test_the_prediction_with_momentum_against_an_ensemble(x64):
    """The step size of heavy ball is η/(1 - β): noise moves the charges as predicted, up to first order in η.

    What the mean gradient does is taken from a run without noise.
    """
    beta, runs, (params, batch) = 0.5, 512, problem()
    means, errors = [], []
    for rate, steps in ((0.02, 20), (0.01, 40)):
        tx = track_charges(optax.sgd(rate, beta), SYM, law=noether.Law(rate, beta))

        def run(indices, noisy, tx=tx):
            def step(carry, i):
                p, state = carry
                samples = per_example_grads(batch_loss, p, batch)
                drawn = jax.tree.map(lambda g: g[i], samples)
                gradient = jax.tree.map(
                    lambda few, every: jnp.where(noisy, jnp.mean(few, 0), jnp.mean(every, 0)), drawn, samples
                )
                updates, state = tx.update(gradient, state, p, gradient_samples=drawn)
                return (optax.apply_updates(p, updates), state), None

            (_, state), _ = jax.lax.scan(step, (params, tx.init(params)), indices)
            tracked = state.charge_state
            change = jax.tree.map(jnp.subtract, tracked.charge, tracked.charge_start)
            return change["h"].ravel(), tracked.charge_noise.noise_drift["h"].ravel()

        indices = np.random.default_rng(1).integers(EXAMPLES, size=(runs + 1, steps, BATCH))
        change, predicted = jax.device_get(quick_jit(jax.vmap(run))(indices, np.arange(runs + 1) > 0))
        predicted = predicted[1:].mean(0)
        along = (change[1:] - change[0]) @ predicted / (predicted @ predicted)
        means.append(along.mean())
        errors.append(along.std() / runs**0.5)
    error = np.hypot(2 * errors[1], errors[0])
    assert error < 0.05
    assert abs(2 * means[1] - means[0] - 1) < 4 * error, (means, errors)
    assert abs(means[1] - 1) < 0.1


def test_the_source_term_of_a_preconditioner(x64):
    params, batch = problem()
    tx = optax.adam(1e-3)

    @jax.jit
    def step(params):
        updates, _ = tx.update(jax.grad(batch_loss)(params, batch), tx.init(params), params)
        return noether.drift(SYM, params, updates), optax.apply_updates(params, updates)

    found, end = step(params)
    change = jax.tree.map(jnp.subtract, noether.charge_fn(SYM)(end), noether.charge_fn(SYM)(params))
    assert apart(found.total, change) < 1e-11
    assert apart(jax.tree.map(jnp.add, found.source, found.second), found.total) < 1e-13
    # Of first order in the step, where gradient descent has nothing.
    assert jnp.linalg.norm(found.source["h"]) > 30 * jnp.linalg.norm(found.second["h"])


def test_linear_charges_do_not_drift_with_the_noise(x64):
    rng = np.random.default_rng(0)
    sym = Symmetry({"w": "t _"}, {"t": groups.Translation(3)})
    p, x = {"w": jnp.asarray(rng.normal(size=(3, 4)))}, jnp.asarray(rng.normal(size=(9, 3)))
    loss = lambda p, b: -jnp.mean(jax.nn.log_softmax(b @ p["w"])[:, 0])  # noqa: E731
    grads = per_example_grads(loss, p, x)
    found = noether.flow_drift(sym, grads, 1.0)
    assert not np.any(found.value["t"])
    assert not np.any(noether.one_step_expectation(sym, grads, 0.1, 4)["t"])
    assert apart(noether.drift(sym, p, p).total, noether.charge_fn(sym)(p)) < 1e-15
    with pytest.raises(ValueError, match="at least two gradients"):
        noether.noise_drift(sym, jax.tree.map(lambda g: g[:1], grads))
