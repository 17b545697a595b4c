"""The experiment on learned generators, as small as it goes."""

import pytest

from eqtoolbox.experiments import learned_generators, run_experiment


@pytest.mark.claim("DC-X3.7")
def test_learned_generators(tmp_path, record_claim):
    config = learned_generators.Config(
        tasks=("linear 1-1-1", "sigmoid 3-3-1"),
        steps=150,
        corrected_steps=60,
        batch=16,
        hidden=(32,),
        samples=30,
    )
    found = run_experiment(learned_generators.EXPERIMENT, config, out=tmp_path)
    # two generators need more steps than these to become opposite
    wrong = [f for f in found.findings if not f.as_anticipated and f.claims != ("DC-E0.2",)]
    assert wrong == []
    by_claim = {f.claims: f.measured for f in found.findings}
    record_claim("DC-X3.7", measured=by_claim["DC-X3.7",], expected="|cos| < 0.99")
