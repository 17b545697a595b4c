"""The experiments on teleportation, as small as they go: what they claim holds, and their figures are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eqtoolbox.experiments import (
    ExperimentError,
    learned_teleport,
    run_experiment,
    teleport_landscapes,
    teleport_regression,
    teleport_sharpness,
    teleport_training,
)
from eqtoolbox.orbits import feature_action, teleport_as_printed


def outcome(module, tmp_path, **changes):
    return run_experiment(module.EXPERIMENT, module.Config(**changes), out=tmp_path)


def unexpected(found):
    return [f.statement for f in found.findings if not f.as_anticipated]


@pytest.mark.claim("DB-F4.1", "DB-F4.3a", "DB-F4.3b", "DB-EC6")
def test_teleports_on_test_functions(tmp_path, record_claim):
    found = outcome(teleport_landscapes, tmp_path, seeds=4)
    assert unexpected(found) == []
    rosenbrock = found.result["Rosenbrock"]
    assert np.median(rosenbrock["printed"]["loss"][:, -1]) < 1e-6 < rosenbrock["none"]["loss"][-1]
    record_claim(
        "DB-F4.3b", measured=float(found.result["Booth"]["ours"]["loss"][0, -1]), expected="<= 1.2e-3"
    )
    wrong = next(f for f in found.findings if f.claims == ("DB-EC6",))
    record_claim("DB-EC6", measured=wrong.measured, expected="1 as printed")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.claim("DB-F4.5", "DB-F4.7", "DC-X3.4", "DB-EC1", "DB-EC2", "DB-EC3", "DB-EC4")
def test_teleports_on_a_regression(tmp_path, record_claim):
    found = outcome(teleport_regression, tmp_path)
    assert unexpected(found) == []
    jump = found.findings[0]
    assert jump.claims == ("DB-EC1",)
    record_claim("DB-EC1", measured=jump.measured, expected="0 as printed")
    by_claim = {f.claims: f.measured for f in found.findings}
    record_claim("DB-F4.7", measured=by_claim["DB-F4.7",], expected="> 0.5: the share with fewer steps")
    apart = next(f for f in found.findings if f.statement.startswith("Momentum, step 50: the three"))
    record_claim("DC-X3.4", measured=apart.measured, expected="<= 0.1: nearly coincide")


@pytest.mark.slow
@pytest.mark.claim("DB-EC7")
def test_small_steps_are_not_convergence(x64, record_claim):
    """A run that a printed teleport has thrown far off stops at |L_t - L_{t-1}| < 1e-3 well above where it goes."""
    config = teleport_regression.Config()
    key = jax.random.split(jax.random.key(0), config.seeds)[2]
    task, params = teleport_regression._draw(key, config)

    def move(task, params):
        action = task.action(params, **teleport_regression.PRINTED)
        return teleport_as_printed(action, task.loss, params, steps=8, learning_rate=2e-7, retract=True)[0]

    tx = optax.sgd(config.rate)
    run = jax.jit(lambda p: teleport_regression._follow(tx, task, p, 800, move, config.at)["loss"])
    losses = np.asarray(run(params))
    stop = 1 + int(np.argmax(np.abs(np.diff(losses)) < 1e-3))
    assert losses[config.at + 1 :].max() > 2 * losses[config.at]
    assert stop < 100
    assert losses[stop] > 1.2 * losses[-1]
    record_claim(
        "DB-EC7", measured=float(losses[stop] / losses[-1]), expected="1: the loss at the stop, of that later"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.claim("DC-X3.3")
def test_teleports_to_flat_and_curved_places(tmp_path, record_claim):
    found = outcome(teleport_sharpness, tmp_path)
    assert unexpected(found) == []
    less = next(f for f in found.findings if f.statement.startswith("AdaGrad: less curved"))
    record_claim("DC-X3.3", measured=-less.measured, expected=">= 0: log ratio of held-out losses")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.claim("DC-X3.6")
def test_learning_to_teleport(tmp_path, record_claim):
    found = outcome(learned_teleport, tmp_path)
    assert unexpected(found) == []
    both = next(f for f in found.findings if "of the learnt update alone" in f.statement)
    record_claim("DC-X3.6", measured=both.measured, expected="< 1: with a learnt teleport, of without")


@pytest.mark.claim("DB-F4.9")
def test_the_cost_of_a_teleport_by_width_and_depth(record_claim):
    """Operations of a step as the compiler counts them, on square data; it does not see into the pseudo-inverses."""

    def operations(width, depth):
        layers = [f"layer{i}" for i in range(depth)]
        params = {name: jax.ShapeDtypeStruct((width, width), jnp.float32) for name in layers}
        leaky = teleport_regression.leaky

        def loss(p, x):
            for name in layers[:-1]:
                x = leaky(0.1)(x @ p[name])
            return jnp.sum((x @ p[layers[-1]]) ** 2)

        def move(p, x):
            action = feature_action(
                p, layers, x, leaky(0.1), leaky(10.0), element="first_order", residual=False
            )
            return teleport_as_printed(
                action, lambda q: loss(q, x), p, steps=2, learning_rate=1e-7, retract=True
            )[0]

        x = jax.ShapeDtypeStruct((width, width), jnp.float32)
        return jax.jit(move).lower(params, x).compile().cost_analysis()["flops"]

    two, three, four = (operations(16, depth) for depth in (2, 3, 4))
    assert four - three == pytest.approx(three - two, rel=0.05)
    power = np.log2(operations(64, 3) / operations(32, 3))
    assert 2 < power < 3.1
    record_claim("DB-F4.9", measured=float(power), expected="a power of the width, at most 3")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.claim("DB-F4.6", "DB-F4.8", "DC-X3.5")
def test_teleports_in_training(tmp_path, record_claim):
    found = outcome(teleport_training, tmp_path)
    assert unexpected(found) == []
    first = found.findings[0]
    record_claim("DB-F4.6", measured=first.measured, expected="<= 1")
    earlier = next(f for f in found.findings if "earlier is stronger" in f.statement)
    record_claim("DB-F4.8", measured=earlier.measured, expected="<= 1: earlier, of latest")


def test_what_the_training_needs_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("EQTOOLBOX_DATA", raising=False)
    with pytest.raises(ExperimentError, match="EQTOOLBOX_DATA"):
        outcome(teleport_training, tmp_path, data="mnist")
    with pytest.raises(ExperimentError, match="'digits' or 'mnist'"):
        outcome(teleport_training, tmp_path, data="cifar10")


@pytest.mark.claim("DC-T5.16")
def test_learnt_elements(x64, record_claim):
    """With heads of zeros the trajectory is that of the learnt update; an element keeps the loss."""
    config = learned_teleport.Config(width=4, hidden=6)
    task, params = learned_teleport.draw(jax.random.key(0), config.width)
    nets = {
        "update": learned_teleport.make_lstm(jax.random.key(1), 32, config.hidden, 32),
        "teleport": learned_teleport.make_lstm(jax.random.key(2), 32, config.hidden, 16),
    }
    nets["update"]["head"] += 0.01 * jax.random.normal(jax.random.key(3), (6, 32))
    follow = jax.jit(learned_teleport.follow, static_argnums=(0, 4, 5))
    plain = follow("update", nets, task, params, config.hidden, 5)
    both = follow("update, teleport", nets, task, params, config.hidden, 5)
    np.testing.assert_allclose(both, plain, rtol=1e-10)
    nets["teleport"]["head"] += jax.random.normal(jax.random.key(4), (6, 16))
    other = follow("update, teleport", nets, task, params, config.hidden, 5)
    assert np.abs(other - plain).max() > 1e-6
    moved = learned_teleport.move(task, params, jax.random.normal(jax.random.key(5), (16,)))
    before, after = (learned_teleport.loss(task, p) for p in (params, moved))
    assert float(jnp.max(jnp.abs(moved["first"] - params["first"]))) > 1e-3
    assert after == pytest.approx(float(before), rel=1e-12)
    record_claim("DC-T5.16", measured=float(abs(after / before - 1)), expected="<= 1e-12")
