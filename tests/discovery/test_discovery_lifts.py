"""Lifts of symmetries, each with the case in which it is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqtoolbox as eqt
from eqtoolbox import discovery
from eqtoolbox.symmetry import DataDependentAction, rotation_cocycle

pytestmark = pytest.mark.usefixtures("x64")


def normal(seed, *shape):
    """In NumPy: at import JAX is not in float64 yet."""
    return np.random.default_rng(seed).normal(size=shape)


BLOCK = {"a": normal(0, 3, 4), "b": normal(1, 4, 2)}
ROTATIONS = DataDependentAction.mlp(BLOCK, ["a", "b"], rotation_cocycle(jnp.tanh))
WHOLE = {"first": normal(2, 5, 3), "last": normal(3, 2, 2), **BLOCK}
X = normal(4, 5)


def block(theta, s):
    return jnp.tanh(s @ theta["a"]) @ theta["b"]


def network(params, x):
    return jnp.tanh(block(params, jnp.tanh(x @ params["first"]))) @ params["last"]


PARTS = discovery.SubNetwork(
    paths=("a", "b"),
    features=lambda p, x: jnp.tanh(x @ p["first"]),
    block=block,
    rest=lambda p, t, x: jnp.tanh(t) @ p["last"],
)


def elements():
    k1, k2 = jax.random.split(jax.random.key(0))
    return ROTATIONS.sample(k1), ROTATIONS.sample(k2)


def error(function, action, params, x):
    g, _ = elements()
    return float(jnp.max(jnp.abs(function(action(g, params, x), x) - function(params, x))))


def laws(action, params, x):
    g, h = elements()
    unit = action(ROTATIONS.identity(jnp.float64), params, x)
    twice = action(g, action(h, params, x), x)
    once = action(ROTATIONS.compose(g, h), params, x)
    apart = lambda a, b: max(jax.tree.leaves(jax.tree.map(lambda u, v: float(jnp.max(jnp.abs(u - v))), a, b)))  # noqa: E731
    return apart(unit, params), apart(twice, once)


@pytest.mark.claim("DC-T6.6", "DC-T6.9")
def test_a_sub_network(record_claim):
    PARTS.check(network, WHOLE, X, jax.random.key(0))
    lifted = discovery.lift_subnetwork(ROTATIONS.act, PARTS)
    assert error(network, lifted, WHOLE, X) < 1e-10
    assert max(laws(lifted, WHOLE, X)) < 1e-9

    def tied(params, x):
        return network(params, x) + jnp.sum(params["b"]) * params["last"][0]

    assert error(tied, lifted, WHOLE, X) > 1e-2
    with pytest.raises(ValueError, match="used outside of it, or tied"):
        PARTS.check(tied, WHOLE, X, jax.random.key(0))
    reads = discovery.SubNetwork(
        PARTS.paths, PARTS.features, block, lambda p, t, x: jnp.tanh(t) @ p["last"] + jnp.sum(p["b"])
    )
    with pytest.raises(ValueError, match="reads leaves of the block"):
        reads.check(tied, WHOLE, X, jax.random.key(0))
    record_claim("DC-T6.6", measured=error(network, lifted, WHOLE, X), expected="< 1e-10")


@pytest.mark.claim("DC-T6.7", "DC-E6.4", "DC-E6.5")
def test_a_wider_layer():
    wide = {"a": normal(5, 3, 7), "b": normal(6, 7, 2)}
    x, units = normal(7, 3), (5, 0, 3, 6)
    lifted = discovery.lift_wider(ROTATIONS.act, {"a": 1, "b": 0}, units)
    assert error(block, lifted, wide, x) < 1e-10
    assert max(laws(lifted, wide, x)) < 1e-9
    moved = lifted(elements()[0], wide, x)
    others = [1, 2, 4]
    np.testing.assert_array_equal(moved["a"][:, others], wide["a"][:, others])
    # (D.2): outputs are the sum over the two parts; (D.1) as printed has σ inside of the sum over inputs
    part = lambda u: block({"a": wide["a"][:, u], "b": wide["b"][u]}, x)  # noqa: E731
    np.testing.assert_allclose(part(list(units)) + part(others), block(wide, x), atol=1e-12)
    printed = jnp.sum(jnp.tanh(x[:, None] * wide["a"]), 0) @ wide["b"]
    assert float(jnp.max(jnp.abs(printed - block(wide, x)))) > 0.1
    # an activation that couples the units is no sum over them
    coupled = lambda p, s: jax.nn.softmax(s @ p["a"]) @ p["b"]  # noqa: E731
    assert error(coupled, lifted, wide, x) > 1e-2
    # the printed roles: the action of width 4 on the 3 units beyond
    with pytest.raises((TypeError, ValueError)):
        discovery.lift_wider(ROTATIONS.act, {"a": 1, "b": 0}, others)(elements()[0], wide, x)


@pytest.mark.claim("DC-T6.8", "DC-E6.6")
def test_a_deeper_network():
    first = lambda p, x: jnp.tanh(x @ p)  # noqa: E731
    layers = [first, first, block]
    params = [normal(8, 5, 5), normal(2, 5, 3), BLOCK]
    deep = lambda p, x: block(p[2], first(p[1], first(p[0], x)))  # noqa: E731
    lifted = discovery.lift_deeper(ROTATIONS.act, layers, 2)
    assert error(deep, lifted, params, X) < 1e-10
    assert max(laws(lifted, params, X)) < 1e-9
    # as the proof prints it, h = L_{i−1}(θ_{i−1}, X): features of the layer before, of the data themselves
    printed = lambda g, p, x: [*p[:2], ROTATIONS.act(g, p[2], first(p[1], x))]  # noqa: E731
    assert error(deep, printed, params, X) > 1e-2
    with pytest.raises(ValueError, match="one of the 3 layers"):
        discovery.lift_deeper(ROTATIONS.act, layers, 3)


@pytest.mark.claim("DC-T6.10", "DC-E6.7")
def test_a_smaller_batch():
    """An action for two samples: GL acting on units by the least squares of a linear network with whitened inputs."""
    params = {"u": normal(0, 2, 4), "v": normal(1, 4, 2)}
    sym = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": eqt.groups.GeneralLinear(4)})

    def act(g, p, x):
        # conjugated by a map that depends on the data: an action for each X, another one for each padding
        turn = jnp.eye(4) + 0.2 * jnp.tanh(jnp.sum(x)) * jnp.eye(4, k=1)
        h = {"h": turn @ g["h"] @ jnp.linalg.inv(turn)}
        return sym.act(h, p)

    fixed = normal(2, 1, 2)
    pad = lambda x: jnp.concatenate([x, fixed])  # noqa: E731
    x = normal(3, 1, 2)
    lifted = discovery.lift_smaller_batch(act, pad, x)
    net = lambda p, x: x @ p["u"] @ p["v"]  # noqa: E731
    g, h = (sym.sample(k) for k in jax.random.split(jax.random.key(1)))
    np.testing.assert_allclose(net(lifted(g, params, x), x), net(params, x), atol=1e-9)
    twice, once = lifted(g, lifted(h, params, x), x), lifted(sym.compose(g, h), params, x)
    np.testing.assert_allclose(twice["u"], once["u"], atol=1e-9)
    rng = np.random.default_rng(0)
    anew = lambda x: jnp.concatenate([x, jnp.asarray(rng.normal(size=(1, 2)))])  # noqa: E731
    with pytest.raises(ValueError, match="two different batches"):
        discovery.lift_smaller_batch(act, anew, x)
    random = lambda g, p: act(g, p, anew(x))  # noqa: E731
    assert (
        float(jnp.max(jnp.abs(random(g, random(h, params))["u"] - random(sym.compose(g, h), params)["u"])))
        > 1e-2
    )
