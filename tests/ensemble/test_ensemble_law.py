"""The error of averaged curvature against the number of models: constant, and as moments of single models predict."""

import jax
import numpy as np
import pytest

from eqtoolbox import ensemble as en
from eqtoolbox.ensemble._law import ENOUGH, constant
from eqtoolbox.ensemble._study import Study

ONE = jax.sharding.AxisType.Auto


def laws(preset, models, chunk, **changes):
    """The laws of a figure's network, small enough for a test."""
    (config,) = en.EnsembleConfig(preset=(preset,), models=models, **changes).runs()
    net = en.Net(config.widths, config.activation, config.bias, config.examples, config.decades)
    study = Study(config, net.problem(), net)
    mesh = jax.make_mesh((1,), ("models",), axis_types=(ONE,), devices=jax.devices()[:1])
    stream = en.Stream(
        study.ensemble,
        jax.random.key(0),
        models,
        chunk=chunk,
        batch_size=chunk,
        mesh=mesh,
        functionals=study.functionals,
    )
    state = stream.start()
    for done in range(stream.chunks):
        state = stream.advance(state, done)
    return study.laws(stream, state, stream.total(state))


@pytest.mark.slow
@pytest.mark.claim("GC-F2")
def test_the_distance_from_the_commutant_and_the_models_saved(record_claim):
    for name, law in laws("figure-2", 4096, 32, examples=25, steps=5).items():
        assert np.sum(law.samples >= ENOUGH) == 5
        assert constant(law) < 3
        assert abs(law.saving / law.saving_predicted - 1) < 0.1
        record_claim(
            "GC-F2", measured=law.saving, expected=f"{law.saving_predicted:.3g}, {name}: models saved"
        )


@pytest.mark.slow
@pytest.mark.claim("GC-F7")
def test_the_same_of_the_hessian():
    found = laws("figure-7", 1024, 16, examples=10, steps=0)
    assert set(found) == {"covariance 0", "hessian 0"}
    law = found["hessian 0"]
    assert constant(law) < 3
    assert abs(law.saving / law.saving_predicted - 1) < 0.1
