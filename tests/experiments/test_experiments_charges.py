"""The experiments on charges, as small as they go: what they claim holds, and their figures are drawn."""

import numpy as np
import pytest

from eqtoolbox.experiments import (
    ExperimentError,
    charge_convergence,
    charge_distribution,
    charge_drift,
    charge_sharpness,
    charge_trajectories,
    group_ensembles,
    noether_flow,
    run_experiment,
)


def outcome(module, tmp_path, **changes):
    return run_experiment(module.EXPERIMENT, module.Config(**changes), out=tmp_path)


def unexpected(found):
    return [f.statement for f in found.findings if not f.as_anticipated]


@pytest.mark.claim("DA-X6", "DA-T29", "DA-E15")
def test_the_charge_and_sharpness(tmp_path, record_claim):
    settings = {"outputs": 3, "hidden": 8, "inputs": 2, "deviations": (0.3, 0.6), "rate": 1e-2}
    found = outcome(charge_sharpness, tmp_path, **settings, steps=6000)
    m, h, n = 3, 8, 2
    for net in found.result["nets"].values():
        assert (np.sum(np.abs(net["values"]) <= 1e-3, -1) == h * (n + m) - n * m).all()
    linear = found.result["nets"]["linear"]
    np.testing.assert_allclose(np.sort(linear["values"], -1)[..., -m * n :], linear["predicted"], rtol=1e-6)
    np.testing.assert_allclose(linear["start"], linear["end"], atol=0.05)
    assert [f for f in unexpected(found) if not f.startswith("tanh")] == []
    record_claim("DA-T29", measured=found.findings[0].measured, expected="<= 1e-12")


@pytest.mark.claim("DA-X3", "DA-X4", "DA-T28")
def test_the_charge_and_convergence(tmp_path, record_claim):
    settings = {
        "outputs": 3,
        "hidden": 40,
        "inputs": 4,
        "deviations": (0.1, 1.0),
        "balances": (0.25, 1.0, 4.0),
    }
    found = outcome(
        charge_convergence, tmp_path, **settings, rate=2e-3, steps=4000, units=3, charges=(0.3, 3.0)
    )
    assert unexpected(found) == []
    radial = {f.statement: f.measured for f in found.findings if f.claims == ("DA-T28",)}
    record_claim("DA-T28", measured=max(radial.values()), expected="<= 1e-6")


@pytest.mark.claim("DA-X5", "DA-T27")
def test_trajectories(tmp_path, record_claim):
    found = outcome(charge_trajectories, tmp_path, charges=(-3.0, 0.0, 2.0), ratios=(0.5, 1.0, 3.0), points=4)
    assert unexpected(found) == []
    ends = found.result["hyperbolas"]["path"][-1]
    np.testing.assert_allclose(ends[:, 0] * ends[:, 1], 2.0, atol=1e-8)
    np.testing.assert_allclose(ends[:, 0] ** 2 - ends[:, 1] ** 2, [-3.0, 0.0, 2.0], atol=1e-8)
    record_claim(
        "DA-T27", measured=max(e["error"] for e in found.result["ellipses"].values()), expected="<= 1e-8"
    )


@pytest.mark.claim("DA-X9", "DA-T30")
def test_the_drift_of_the_charge(tmp_path, record_claim):
    settings = {"outputs": 3, "hidden": 20, "inputs": 4, "deviation": 0.3, "rates": (0.01, 0.1)}
    found = outcome(charge_drift, tmp_path, **settings, steps=4000, records=40)
    # The sum over twelve entries is not steep enough to leave the flow.
    assert all("sum of squares" in statement for statement in unexpected(found))
    record_claim("DA-T30", measured=found.result["step"]["error"], expected="<= 1e-9")


@pytest.mark.claim("DA-X1", "DA-X2", "DA-T26")
def test_the_distribution_of_the_charge(tmp_path):
    shapes = ((20, 20, 30), (10, 40, 20))
    found = outcome(charge_distribution, tmp_path, shapes=shapes, shape=(30, 20, 20), draws=400)
    assert [case["name"] for case in found.result["cases"]] == ["linear"] * 3 + ["ReLU", "tanh", "sigmoid"]
    assert all("concentrated" in statement for statement in unexpected(found))  # these are small


@pytest.mark.slow
@pytest.mark.claim("EQ-5.2b")
def test_charges_under_stochastic_gradient_flow(tmp_path, record_claim):
    settings = {"sizes": (2, 2, 1), "examples": 8, "paths": 128, "records": 5, "refine": 2}
    found = outcome(noether_flow, tmp_path, **settings, time=4.0)
    exact = ("for one example", "∂Tr Σ", "minus sign", "integral")
    assert [s for s in unexpected(found) if any(word in s for word in exact)] == []
    record_claim("EQ-5.2b", measured=found.result["forms"], expected="<= 1e-9")


@pytest.mark.slow
@pytest.mark.claim("DA-T32", "DA-X7", "DA-X8")
def test_group_ensembles(tmp_path, monkeypatch, record_claim):
    monkeypatch.setattr(group_ensembles, "KINDS", ("group", "permutation", "inverse", "shuffle"))
    monkeypatch.setattr(group_ensembles, "ATTACKED", ("group", "inverse"))
    settings = {
        "channels": 2,
        "hidden": 8,
        "epochs": 15,
        "images": 60,
        "members": (1, 12),
        "iterations": (0, 2),
    }
    found = outcome(group_ensembles, tmp_path, **settings, scales=(1e-4, 0.03, 3.0), strengths=(0.0, 0.1))
    assert [f.verdict for f in found.findings][:2] == ["verified"] * 2
    r = found.result
    accuracy = dict(zip(group_ensembles.KINDS, r["accuracy"], strict=True))
    assert r["single"] > 0.7
    assert accuracy["group"][0, -1] == pytest.approx(r["single"])
    assert (accuracy["group"][-1, -1] > accuracy["inverse"][-1, -1]).all()
    assert accuracy["shuffle"].max() < r["single"] - 0.2
    # Interpolated permutations lose less at large ε, so that the group does not lose least.
    lost = {kind: r["single"] - accuracy[kind][-1, -1] for kind in ("group", "permutation")}
    assert lost["permutation"] < lost["group"]
    # Under attacks on the single network the group is not below the other ensemble; attacks that know it end the gain.
    assert r["fgsm"]["group"].mean() >= r["fgsm"]["inverse"].mean()
    error = np.sqrt(r["single"] * (1 - r["single"]) / 60)
    for which in ("fgsm", "pgd"):
        assert r[f"strongest_{which}"]["group"][1] <= r[which]["single"][1] + 2 * error
    record_claim("DA-X7", measured=lost["group"], expected=f"> {lost['permutation']:.3g} of permutations")
    record_claim(
        "DA-X8", measured=r["fgsm"]["group"].mean(), expected=f">= {r['fgsm']['inverse'].mean():.3g}"
    )
    for which in ("fgsm", "pgd"):
        for name, kept in r[which].items():
            # More attacks can only succeed more often.
            assert (r[f"strongest_{which}"][name] <= kept + 1e-12).all()
        assert r[which]["single"][1] < r[which]["single"][0]
    record_claim("DA-T32", measured=found.findings[0].measured, expected="<= 1e-4")


def test_what_the_ensembles_need_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("EQTOOLBOX_DATA", raising=False)
    with pytest.raises(ExperimentError, match="EQTOOLBOX_DATA"):
        outcome(group_ensembles, tmp_path, data="cifar10")
    with pytest.raises(ExperimentError, match="'digits' or 'cifar10'"):
        outcome(group_ensembles, tmp_path, data="mnist")
