"""The experiments on mirrors, as small as they go: what they claim holds, and their figures are drawn."""

import numpy as np
import pytest

from eqtoolbox.experiments import (
    attention_rank,
    decay_rank,
    noise_rank,
    noise_sparsity,
    run_experiment,
    stationary_conditions,
)


def outcome(module, tmp_path, **changes):
    return run_experiment(module.EXPERIMENT, module.Config(**changes), out=tmp_path)


def verdicts(found):
    return [f.verdict for f in found.findings]


@pytest.mark.claim("MS-F5")
def test_trajectories_stay_on_their_manifolds(tmp_path, record_claim):
    found = outcome(stationary_conditions, tmp_path, steps=300, starts=2)
    assert set(verdicts(found)) == {"verified"}
    paths = found.result["product"]["noisy"]
    np.testing.assert_allclose(np.abs(paths[..., 0]), np.abs(paths[..., 1]), atol=1e-12)
    record_claim(
        "MS-F5", measured=float(np.abs(np.abs(paths[..., 0]) - np.abs(paths[..., 1])).max()), expected="0"
    )


@pytest.mark.claim("MS-F3a")
def test_noise_makes_a_product_sparse(tmp_path):
    settings = {"inputs": 20, "rates": (0.002, 0.1), "steps": 3000, "samples": 2000, "scale": 0.3}
    found = outcome(noise_sparsity, tmp_path, **settings)
    r = found.result
    assert r["product"].shape == r["vanilla"].shape == (2, 20)
    share = noise_sparsity.sparsity(r["product"], r["tolerance"])
    assert share[0] == 0
    assert share[1] > 0.5
    assert np.nanmax(noise_sparsity.sparsity(r["vanilla"], r["tolerance"])) == 0
    # Λ at small rates by its second moments: η·2/d - η²·2E[x²y²]
    eta = r["rates"][0]
    moments = 2 * eta / 20 - 2 * eta**2 * (1 + 22 / 400)
    np.testing.assert_allclose(r["exponent"][0], moments, rtol=0.2)


@pytest.mark.claim("MS-F3b")
def test_the_residual_network_loses_rank_like_the_plain_one(tmp_path, record_claim):
    """Refuted in its second half: (I + W)(I + U) is WU from another start, step for step."""
    found = outcome(noise_rank, tmp_path, width=6, rates=(0.005, 0.03), signals=(0.0, 0.3), steps=4000)
    r = found.result
    np.testing.assert_allclose(r["shifted"]["product"], r["plain"]["product"], rtol=1e-2, atol=1e-4)
    residual = noise_rank.ranks(r["residual"]["product"], r["tolerance"])
    assert residual[0, -1] < 6
    assert np.all(noise_rank.ranks(r["residual"]["factor"], r["tolerance"]) == 6)
    assert noise_rank.ranks(r["plain"]["product"], r["tolerance"])[-1].tolist() == [6, 6]
    assert verdicts(found)[5:] == ["refuted", "verified", "verified"]
    record_claim(
        "MS-F3b", measured=int(residual.min()), expected="printed: full rank 6 with residual connections"
    )


@pytest.mark.claim("MS-F8")
def test_the_rank_falls_with_the_decay(tmp_path, record_claim):
    settings = {"width": 6, "examples": 40, "decays": (0.0, 0.2, 0.5, 2.5), "steps": 4000, "least": 0.1}
    found = outcome(decay_rank, tmp_path, **settings)
    r = found.result
    ranks = decay_rank.ranks(r)
    assert ranks[0] == 6
    assert ranks[-1] == 0
    assert np.all(np.diff(ranks) < 0)
    np.testing.assert_array_equal(ranks, np.sum(r["design"][None] > r["decays"][:, None], axis=1))
    record_claim("MS-F8", measured=ranks.tolist(), expected="number of singular values of E[xyᵀ] above γ")


@pytest.mark.claim("MS-F9")
def test_queries_and_keys_lose_rank_together(tmp_path):
    settings = {"inputs": 3, "demonstrations": 7, "tasks": 20, "layers": (2,), "decays": (0.0, 0.5)}
    found = outcome(attention_rank, tmp_path, **settings, steps=800, records=4)
    values = found.result["layers2"]["values"]
    assert values.shape == (2, 4, 2, 2, 4)
    rank = attention_rank.ranks(found.result, 2)
    assert rank[1, -1].sum() < rank[0, -1].sum()
    np.testing.assert_allclose(
        values[1, -1, :, 0], values[1, -1, :, 1], atol=0.2 * values[1, -1].max() + 1e-3
    )
