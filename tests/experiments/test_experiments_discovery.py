"""The experiments on discovery: learned generators as small as they go; the others at their quick size. All slow."""

import pytest

from eqtoolbox.experiments import (
    learned_generators,
    null_space_dimensions,
    run_experiment,
    symmetries_in_training,
    symmetry_definitions,
    symmetry_lifts,
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.claim("DC-X3.7", "DC-X3.8", "DC-T6.15")
def test_learned_generators(tmp_path, record_claim):
    config = learned_generators.Config(
        tasks=("linear 1-1-1", "tanh 2-2-2-1"),
        steps=300,
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
    ratio = by_claim["DC-T6.15", "DC-X3.8"]
    record_claim("DC-T6.15", measured=ratio, expected="> 1 at equal displacement")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "module",
    [null_space_dimensions, symmetries_in_training, symmetry_definitions, symmetry_lifts],
    ids=lambda m: m.EXPERIMENT.name,
)
def test_quick_sizes(module, tmp_path):
    found = run_experiment(module.EXPERIMENT, out=tmp_path)
    assert [f for f in found.findings if not f.as_anticipated] == []
