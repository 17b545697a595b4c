"""How a model scales is found from the model alone, and a model that does not scale is told apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox.report._homogeneity import find_degree

X = jnp.asarray(np.random.default_rng(0).normal(size=(9, 3)), jnp.float32)


def params_of(*names):
    shapes = {"u": (3, 4), "b": (4,), "v": (4, 4), "c": (4,), "w": (4, 2), "d": (2,)}
    rng = np.random.default_rng(1)
    return {name: jnp.asarray(rng.normal(size=shapes[name]), jnp.float32) for name in names}


def deep(sigma):
    def model(p):
        h = sigma(X @ p["u"] + jnp.broadcast_to(p["b"], (9, 4)))
        h = sigma(h @ p["v"] + jnp.broadcast_to(p["c"], (9, 4)))
        return {"logits": h @ p["w"] + jnp.broadcast_to(p["d"], (9, 2))}

    return model


def relu2(z):
    return jax.nn.relu(z) ** 2


@pytest.mark.parametrize(
    ("model", "names", "degree", "weights"),
    [
        # A bias scales as the kernels before it taken together; a squared ReLU doubles what came before.
        (deep(jax.nn.relu), "ubvcwd", 3, {"b": 1, "c": 2, "d": 3}),
        (deep(relu2), "ubvcwd", 7, {"b": 1, "c": 3, "d": 7}),
        (deep(jnp.tanh), "ubvcwd", 1, {"u": 0, "b": 0, "v": 0, "c": 0, "d": 1}),
        (lambda p: X @ p["u"] / jnp.linalg.norm(p["v"]) @ p["w"], "uvw", 1, {}),
    ],
)
def test_degrees(model, names, degree, weights):
    found = find_degree(model, params_of(*names), "float32")
    assert found is not None
    assert found.degree == pytest.approx(degree)
    assert found.weights == {name: pytest.approx(weights.get(name, 1)) for name in names}
    assert found.error < 1e-4


@pytest.mark.parametrize(
    "model",
    [
        lambda p: jnp.tanh(X @ p["u"]) @ jnp.ones((4, 2)),
        lambda p: X @ p["u"] + 1.0,
        lambda p: X @ (p["u"] / jnp.linalg.norm(p["u"])),
        lambda p: 0 * X @ p["u"],
        lambda p: X @ jnp.log(p["u"]),
    ],
)
def test_models_that_are_not_homogeneous(model):
    assert find_degree(model, params_of("u"), "float32") is None
