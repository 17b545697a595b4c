"""The experiments on the symmetry-based optimizer, as small as they go."""

import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox.experiments import factor_momentum, quadratic_flow, run_experiment, symo_training


def outcome(module, tmp_path, **changes):
    return run_experiment(module.EXPERIMENT, module.Config(**changes), out=tmp_path)


def unexpected(found):
    return [f.statement for f in found.findings if not f.as_anticipated]


@pytest.mark.claim("GC-B")
def test_quadratic_flow(tmp_path, record_claim):
    found = outcome(quadratic_flow, tmp_path, size=6, models=40)
    assert unexpected(found) == []
    steps = found.result[quadratic_flow.STEPS]
    want = quadratic_flow.predicted(found.result, quadratic_flow.STEPS)
    np.testing.assert_allclose(np.sqrt(steps["variance"].mean(1)), want, rtol=1e-9)
    printed = found.result[quadratic_flow.FALLING]["variance"][-1].mean() ** 0.5
    record_claim(
        "GC-B", measured=float(printed / want[-1]), expected="1 as printed; 1 only with α₀ = √s₀(1 - β)"
    )


@pytest.mark.claim("GC-F10")
def test_factors_agree_better_with_momentum(tmp_path, record_claim):
    settings = {"widths": (40, 30, 16), "models": 4, "examples": 200, "steps": 60, "decays": (0.0, 0.9)}
    found = outcome(factor_momentum, tmp_path, **settings)
    plain, smooth = found.result["mean"].mean(0)
    assert smooth[20:40].mean() > plain[20:40].mean() + 0.1
    assert smooth[0] == pytest.approx(plain[0], abs=1e-5)
    record_claim("GC-F10", measured=float(smooth[20:40].mean()), expected="about 0.7")


@pytest.mark.claim("GC-F5", "GC-F6")
def test_the_papers_optimizers(tmp_path, monkeypatch):
    """On a small problem: the linear one is SymO's, and every run goes down."""
    monkeypatch.setattr(symo_training, "KFAC_GRID", ((0.2, 1e-4), (0.5, 1e-4)))
    monkeypatch.setattr(symo_training, "OUR_RATES", (0.04,))
    settings = {"widths": (20, 14, 8), "examples": 100, "steps": 60, "every": 10}
    found = outcome(symo_training, tmp_path, **settings)
    for activation in symo_training.PRINTED:
        for name, curves in found.result[activation].items():
            assert curves[0, -1] < 0.5 * curves[0, 0], (activation, name)
    end = {name: curves[0, -1] for name, curves in found.result["linear"].items()}
    assert min(end, key=end.__getitem__) in (symo_training.SYMO, symo_training.OURS)


def test_kfac_solves_with_the_damped_kronecker_product(x64):
    rng = np.random.default_rng(0)
    a, b = (np.cov(rng.normal(size=(n, 20))) for n in (3, 4))
    g, damping = rng.normal(size=(3, 4)), 0.01
    ratio = np.sqrt(np.trace(a) / 3 / (np.trace(b) / 4))
    damped = np.kron(a + ratio * 0.1 * np.eye(3), b + 0.1 / ratio * np.eye(4))
    got = symo_training._solved(*map(jnp.asarray, (a, b, g)), jnp.asarray(damping))
    np.testing.assert_allclose(np.ravel(got), np.linalg.solve(damped, g.ravel()), rtol=1e-9)
