"""The experiments on global curvature, as small as they go: what they claim holds, and their figures are drawn."""

import jax
import numpy as np
import pytest

from eqtoolbox.ensemble import Net
from eqtoolbox.experiments import (
    block_spectrum,
    curvature_commutes,
    equivariant_optimizers,
    global_hessian,
    gradient_covariance,
    invariant_distributions,
    invariant_initialisers,
    run_experiment,
    single_model_factors,
)
from eqtoolbox.experiments._ensembles import halved, slope


def outcome(module, tmp_path, **changes):
    return run_experiment(module.EXPERIMENT, module.Config(**changes), out=tmp_path)


def as_expected(found):
    return [f.statement for f in found.findings if not f.as_anticipated]


@pytest.mark.slow
@pytest.mark.claim("GC-F2", "GC-F3", "GC-F4")
def test_the_gradient_covariance_comes_nearer_to_the_commutant(tmp_path, monkeypatch, record_claim):
    monkeypatch.setattr(gradient_covariance, "NETS", SMALL)
    found = outcome(gradient_covariance, tmp_path, models=(4096,) * 3, chunks=16, steps=3, examples=10)
    for name, claim in gradient_covariance.CLAIMS.items():
        r = found.result[name]
        own, raw = r["end"]["structure"], r["end"]["raw"]
        np.testing.assert_allclose(own, own.T, atol=1e-15)
        # A projection: what is taken away is orthogonal to what is kept.
        assert abs(np.sum(own * (raw - own))) < 1e-12 * np.sum(own**2)
        assert np.linalg.norm(raw - own) / np.linalg.norm(own) == pytest.approx(r["end"]["distance"][-1])
        assert r["end"]["slope"] == pytest.approx(-0.5, abs=0.15)
        record_claim(claim, measured=r["end"]["slope"], expected="-1/2")
    tanh, relu = found.result["three-layer tanh"], found.result["three-layer relu"]
    assert gradient_covariance.across_layers(tanh, "end", "structure", "W") < 1e-20
    assert gradient_covariance.across_layers(relu, "end", "structure", "W") > 1e-3


@pytest.mark.slow
@pytest.mark.claim("GC-F7", "GC-F8", "GC-F9")
def test_the_mean_hessian_comes_nearer_to_the_commutant(tmp_path, monkeypatch, record_claim):
    monkeypatch.setattr(global_hessian, "NETS", SMALL)
    found = outcome(global_hessian, tmp_path, models=(256,) * 3, chunks=16, steps=2, examples=8)
    for name, claim in global_hessian.CLAIMS.items():
        r = found.result[name]
        assert r["end"]["slope"] == pytest.approx(-0.5, abs=0.15)
        assert r["end"]["wrong"][-1] > r["end"]["distance"][-1]
        record_claim(claim, measured=r["end"]["slope"], expected="-1/2")


@pytest.mark.claim("GC-F11", "GC-F12", "GC-F13")
def test_the_spectrum_of_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(block_spectrum, "NETS", SMALL)
    found = outcome(block_spectrum, tmp_path, models=64, steps=2, examples=8)
    assert as_expected(found) == []
    r = found.result["three-layer relu"]
    assert r["multiplicities"].sum() == len(r["full_values"]) == 2 * 3 + 3 * 3 + 3 * 2
    # Trivial: 2 + 1 + 2 copies; standard of h1: 2 + 1, of h2: 1 + 2, of both: 1.
    assert len(r["values"]) == len(r["surrogate_values"]) == 12


@pytest.mark.claim("GC-T1")
def test_factors_of_one_model(tmp_path, record_claim):
    settings = {"widths": (10, 100), "models": (300, 60), "singles": 10, "examples": 300}
    found = outcome(single_model_factors, tmp_path, **settings)
    means = {w: r["correlations"].mean((0, 1)) for w, r in found.result.items()}
    assert (means["100"] > means["10"] + 0.1).all()
    np.testing.assert_allclose(means["10"], single_model_factors.PRINTED[10][0], atol=0.12)
    np.testing.assert_allclose(means["100"], single_model_factors.PRINTED[100][0], atol=0.12)
    record_claim("GC-T1", measured=float(means["100"][0]), expected="0.90")


def test_factors_are_those_of_the_paper(x64, key):
    net = Net((3, 4, 2), bias=False)
    grads = net.init(key)
    w1, w2 = grads["Dense_0"]["kernel"].T, grads["Dense_1"]["kernel"].T  # the paper's, (out, in)
    found = single_model_factors.factors(single_model_factors.Commutant(net.symmetry(), net.shapes), grads)
    np.testing.assert_allclose(found["Φ1"], w1.T @ w1 / 4, atol=1e-14)  # (189)
    np.testing.assert_allclose(found["Φ2"], w2 @ w2.T / 4, atol=1e-14)  # (38)
    np.testing.assert_allclose(found["Ψ1"], w1.T @ w2.T / 4, atol=1e-14)  # (191)


@pytest.mark.claim("GC-D")
def test_invariant_initialisers(tmp_path, monkeypatch):
    chosen = ("normal", "lecun normal (Flax default)", "sparse", "uniform(0, 1)", "near the identity")
    table = {name: entry for name, entry in invariant_initialisers.initialisers().items() if name in chosen}
    monkeypatch.setattr(invariant_initialisers, "initialisers", lambda: table)
    found = outcome(invariant_initialisers, tmp_path, samples=6000, units=4)
    assert found.result["names"] == list(chosen)
    assert as_expected(found) == []


@pytest.mark.claim("GC-T2.2")
def test_equivariant_optimizers(tmp_path):
    names = ("sgd", "commutant root", "adam", "sgd, positive parameters", "sgd, units frozen")
    found = outcome(equivariant_optimizers, tmp_path, optimizers=names, elements=2, models=2000)
    assert as_expected(found) == []
    assert found.result["errors"].shape == (5, 3)


@pytest.mark.claim("GC-C")
def test_transformations_with_an_invariant_distribution(tmp_path):
    found = outcome(invariant_distributions, tmp_path, powers=30)
    assert as_expected(found) == []
    assert [f.verdict for f in found.findings].count(
        "refuted"
    ) == 1  # D of a repeated complex pair is Hermitian


@pytest.mark.claim("GC-L2.4")
def test_averaged_curvature_commutes(tmp_path, record_claim):
    found = outcome(curvature_commutes, tmp_path, models=1024, orbits=2, chunks=32, examples=5)
    assert as_expected(found) == []
    assert found.result["elements"] == 2**3 * 6
    record_claim("GC-L2.4", measured=max(found.result["exact"].values()), expected="<= 1e-12")


def test_pieces_in_the_order_of_the_paper():
    net = Net((2, 3, 2))
    assert net.parts() == [("W1", 6), ("b1", 3), ("W2", 6), ("b2", 2)]
    # ravel_pytree puts biases before kernels.
    assert net.order().tolist() == [*range(3, 9), *range(3), *range(11, 17), 9, 10]
    assert jax.tree.map(lambda s: s.shape, net.shapes)["Dense_0"] == {"bias": (3,), "kernel": (2, 3)}


def test_halving_and_slope():
    means = np.arange(8.0)
    assert [level.tolist() for level in halved(means)][1:] == [[0.5, 2.5, 4.5, 6.5], [1.5, 5.5], [3.5]]
    n = np.array([1, 2, 4])
    assert slope(n, 3 * n**-0.5, np.array([4, 2, 1])) == pytest.approx(-0.5)


SMALL = {
    "two-layer tanh": ((2, 3, 2), "tanh", True),
    "three-layer tanh": ((2, 3, 3, 2), "tanh", True),
    "three-layer relu": ((2, 3, 3, 2), "relu", False),
}
