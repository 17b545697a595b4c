"""The experiments on teleportation, as small as they go: what they claim holds, and their figures are drawn."""

import numpy as np
import pytest

from eqtoolbox.experiments import run_experiment, teleport_landscapes


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
