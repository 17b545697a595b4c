"""The section on symmetry that the labels do not express."""

import jax
import jax.numpy as jnp
import numpy as np

import eqtoolbox as eqt
from eqtoolbox.report._check import Invariance
from eqtoolbox.report._config import Config
from eqtoolbox.report._context import Context
from eqtoolbox.report.sections import _discovery
from eqtoolbox.testing import Discrepancy


def test_what_a_label_leaves_out_is_shown():
    """ReLU scalings of four units, of which the stated symmetry has two."""
    rng = np.random.default_rng(0)
    shapes = {"u": (3, 4), "v": (4, 2)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    sym = eqt.Symmetry({"u": "_ (h + 2)", "v": "(h* + 2) _"}, {"h": eqt.groups.Monomial(2, scales=1)})
    batch = eqt.Batch(jnp.asarray(rng.normal(size=(8, 3)), jnp.float32), jnp.zeros((8, 2)))
    problem = eqt.Problem(
        "p", lambda key: params, lambda p, x: jax.nn.relu(x @ p["u"]) @ p["v"], lambda y, t: jnp.mean((y - t) ** 2),
        symmetry=sym,
    )  # fmt: skip
    none = Discrepancy(0.0, "", ())
    context = Context(
        problem=problem,
        config=Config(),
        params=params,
        data=batch,
        examples=batch,
        indices=jnp.zeros((1, 1), int),
        invariance=Invariance("float32", {"": none}, {"": none}),
        control=None,
    )
    result = _discovery.SECTION.run(context)
    own = result.data["functional"]
    assert (own["found"], own["new"], own["trivial"]) == (4, 2, 2)
    assert all(check.passed for check in result.checks)
    assert (result.data["orbit"], result.data["unexplained"]) == (2, 2)
    assert "u axis 1 unit" in "".join(own["examples_of_new"])
    assert "2 are unexplained" in "".join(result.html)
