"""The experiments on teleportation, as small as they go: what they claim holds, and their figures are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox.experiments import (
    ExperimentError,
    learned_teleport,
    run_experiment,
    teleport_landscapes,
    teleport_regression,
    teleport_training,
)


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
@pytest.mark.claim("DB-F4.5", "DB-EC1", "DB-EC2", "DB-EC3", "DB-EC4")
def test_teleports_on_a_regression(tmp_path, record_claim):
    found = outcome(teleport_regression, tmp_path)
    assert unexpected(found) == []
    jump = found.findings[0]
    assert jump.claims == ("DB-EC1",)
    record_claim("DB-EC1", measured=jump.measured, expected="0 as printed")


@pytest.mark.slow
@pytest.mark.claim("DB-F4.6", "DC-X3.5")
def test_teleports_in_training(tmp_path, record_claim):
    found = outcome(teleport_training, tmp_path)
    assert unexpected(found) == []
    first = found.findings[0]
    record_claim("DB-F4.6", measured=first.measured, expected="<= 1")


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
