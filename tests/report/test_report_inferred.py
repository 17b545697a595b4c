"""The report infers the symmetry of a problem that does not state one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import Batch, Problem
from eqtoolbox.report._check import find_symmetry
from eqtoolbox.report._errors import ReportError


def problem(activation):
    """A small problem without a symmetry."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3)).astype(np.float32)
    return Problem(
        "small",
        lambda key: {"u": jax.random.normal(key, (3, 4)), "v": jnp.ones((4, 2))},
        lambda p, x: activation(x @ p["u"]) @ p["v"],
        lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
        Batch(x, x[:, :2]),
    )


def test_a_model_without_a_stated_symmetry_gets_the_inferred_one():
    small = problem(jax.nn.relu)
    sym = find_symmetry(small, small.init(jax.random.key(0)))
    assert [str(g) for g in sym.groups.values()] == ["S(4)⋉R₊^4"]


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (
            lambda h: jnp.cumsum(h, -1),
            r"no symmetry was found in the problem 'small'; if it has one, give it",
        ),
        (lambda h: jnp.abs(jnp.fft.fft(h)), r"unknown operation fft"),
    ],
)
def test_a_model_in_which_none_is_found_is_refused(activation, message):
    small = problem(activation)
    with pytest.raises(ReportError, match=message):
        find_symmetry(small, small.init(jax.random.key(0)))
