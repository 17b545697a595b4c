"""The first experiments, as small as they go: what they claim holds, and their figures are drawn."""

import jax
import numpy as np
import pytest

from eqtoolbox.experiments import (
    gradient_alignment,
    hessian_degeneracy,
    last_layer_curvature,
    progressive_sharpening,
    run_experiment,
)


def outcome(module, tmp_path, **changes):
    return run_experiment(module.EXPERIMENT, module.Config(**changes), out=tmp_path)


def verdicts(found):
    return [f.verdict for f in found.findings]


@pytest.mark.claim("EQ-5.1c")
def test_sharpness_is_above_its_bound_along_training(tmp_path, record_claim):
    settings = {"widths": (6, 6), "examples": 40, "losses": ("squared",), "rates": (0.3,), "scale": 0.8}
    found = outcome(progressive_sharpening, tmp_path, **settings, steps=60, every=20)
    squared = found.result["squared"]
    assert squared["steps"].tolist() == [0, 20, 40, 60]
    assert (squared["sharpness"] > squared["bound"]).all()
    np.testing.assert_allclose(squared["bound"], squared["radial"], rtol=1e-10)
    assert (squared["error"] < 1e-3 * squared["sharpness"]).all()
    assert squared["loss"][-1] < squared["loss"][0]
    assert verdicts(found)[:2] == ["verified", "verified"]
    record_claim("EQ-5.1c", measured=float(np.min(squared["sharpness"] / squared["bound"])), expected=">= 1")


@pytest.mark.claim("EQ-5.1b")
def test_the_gradient_among_eigenvectors(tmp_path):
    settings = {"one_widths": (2,), "one_steps": 10, "widths": (5,), "examples": 30, "batch_size": 6}
    found = outcome(gradient_alignment, tmp_path, **settings, steps=20, parts=2, pairs=3)
    one = found.result["one"]
    assert one["values"].shape == (3, 64 * 2 + 2)
    np.testing.assert_allclose(one["gradient"], one["predicted"], atol=1e-12)
    np.testing.assert_allclose(np.abs(one["cosine"]), 1, atol=1e-12)
    for name in ("many", "noisy"):
        many = found.result[name]
        np.testing.assert_allclose(many["turned"], many["radial"], atol=1e-6)
        assert ((many["gradient_share"] >= 0) & (many["gradient_share"] <= 1 + 1e-12)).all()
    assert verdicts(found)[:4] == ["verified", "verified", "verified", "refuted"]


@pytest.mark.claim("EQ-5.3")
def test_the_curvature_of_the_last_layer_is_a_variance(tmp_path):
    found = outcome(last_layer_curvature, tmp_path, widths=(5,), examples=30, steps=20, every=10)
    np.testing.assert_allclose(found.result["hessian"], found.result["variance"], rtol=1e-9)
    assert found.result["hessian"].shape == (3, 3)
    assert verdicts(found)[:2] == ["verified", "verified"]


@pytest.mark.claim("EQ-5.4")
def test_zero_eigenvalues_that_symmetry_promises(tmp_path, record_claim):
    settings = {"activations": ("relu2", "tanh"), "width": 2, "outputs": 2, "components": 6, "code": 2}
    found = outcome(hessian_degeneracy, tmp_path, **settings, probes=4, lanczos=24)
    nets, large = found.result["nets"], found.result["large"]
    assert nets["relu2"]["promised"] == hessian_degeneracy.zeros(nets["relu2"]["values"]) == 2
    assert nets["tanh"]["promised"] == hessian_degeneracy.zeros(nets["tanh"]["values"]) == 0
    assert max(net["slope"] for net in nets.values()) < 1e-12
    assert large["slope"] < 1e-12
    # GL(2) at the optimum of an autoencoder: four directions, and all others curved.
    assert large["promised"] == hessian_degeneracy.zeros(large["values"]) == 4
    assert set(verdicts(found)) == {"verified"}
    record_claim("EQ-5.4", measured=nets["relu2"]["flat"], expected="<= 1e-9")


def test_newton_finds_a_minimum_along_flat_directions():
    with jax.enable_x64(True):
        start = jax.numpy.array([1.3, 0.6, 2.0])
        loss = lambda v: (v[0] * v[1] - 1) ** 2 + (v[2] - 1) ** 4 + v[2] ** 2  # noqa: E731
        minimum, values, slope = hessian_degeneracy.newton(loss, start, 40)
    assert slope < 1e-12
    assert float(minimum[0] * minimum[1]) == pytest.approx(1, abs=1e-12)
    assert abs(values).min() < 1e-12
