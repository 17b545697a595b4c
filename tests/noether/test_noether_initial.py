"""Moments of charges at initialisation against sampling and against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import quick_jit
from jax.flatten_util import ravel_pytree

from eqtoolbox import Symmetry, groups
from eqtoolbox.noether import (
    activation_charge,
    activation_charge_moments,
    activation_integral,
    charge_fn,
    charge_moments,
)
from eqtoolbox.symmetry import catalog

SHAPES = {
    "a": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)},
    "b": {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(2)},
    "c": {"kernel": jnp.zeros((2, 5)), "bias": jnp.zeros(5)},
}
VARIANCES = {"a": 0.5, "b": {"kernel": 0.3, "bias": 0.0}, "c": {"kernel": 1.5, "bias": 0.2}}
LAYERS = ("a", "b", "c")
HEADS = Symmetry(
    {"a/kernel": "_ h k", "b/kernel": "(h k*) _", "c/kernel": "_ s"},
    {("h", "k"): groups.Wreath(groups.GeneralLinear(2), groups.Permutation(3)), "s": groups.Translation(4)},
)
HEAD_SHAPES = {
    "a": {"kernel": jnp.zeros((2, 3, 2))},
    "b": {"kernel": jnp.zeros((6, 3))},
    "c": {"kernel": jnp.zeros((2, 4))},
}
CASES = {
    "linear": (catalog.mlp(SHAPES, LAYERS, "linear"), SHAPES, VARIANCES),
    "relu": (catalog.mlp(SHAPES, LAYERS, "relu"), SHAPES, VARIANCES),
    "relu2": (catalog.mlp(SHAPES, LAYERS, "relu2"), SHAPES, VARIANCES),
    "heads": (HEADS, HEAD_SHAPES, {"a": 0.5, "b": 2.0, "c": 0.7}),
}


def spread(prefix, params):
    return jax.tree.map(lambda v, part: jax.tree.map(lambda x: jnp.full(x.shape, v), part), prefix, params)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "kurtosis"), [("linear", 1.8), ("relu", 3.0), ("relu2", 1.8), ("heads", 3.0)]
)
def test_moments_against_dense_matrices(name, kurtosis):
    """Mean and variance from the Hessian of every charge, an independent formula in all pairs of entries."""
    sym, shapes, variances = CASES[name]
    fourth = None if kurtosis == 3.0 else jax.tree.map(lambda v: kurtosis * v**2, variances)
    found = charge_moments(sym, shapes, variances, fourth)
    flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape), shapes))
    charges = lambda x: ravel_pytree(charge_fn(sym)(unravel(x)))[0]  # noqa: E731
    hessian, linear = jax.device_get(
        quick_jit(lambda x: (jax.hessian(charges)(x), jax.jacrev(charges)(x)))(flat)
    )
    b = hessian / 2
    v = np.asarray(ravel_pytree(spread(variances, shapes))[0])
    own = np.einsum("cii->ci", b)
    pairs = np.einsum("cij,cij,i,j->c", b, b, v, v) - own**2 @ v**2
    variance = 2 * pairs + own**2 @ ((kurtosis - 1) * v**2) + linear**2 @ v
    np.testing.assert_allclose(ravel_pytree(found.mean)[0], own @ v, atol=1e-12)
    np.testing.assert_allclose(ravel_pytree(found.variance)[0], variance, atol=1e-12)


@pytest.mark.claim("DA-T26")
def test_moments_against_draws(key):
    """Xavier draws of U (m x h) and V (h x n), Q = ½Tr(UᵀU - VVᵀ): within five standard errors."""
    m, h, n, draws = 12, 6, 9, 4000
    shapes = {"V": {"kernel": jnp.zeros((n, h))}, "U": {"kernel": jnp.zeros((h, m))}}
    variances = {"V": 1 / n, "U": 1 / h}
    sym = catalog.mlp(shapes, ("V", "U"), "linear")

    def charge(k):
        v, u = jax.random.split(k)
        weights = {
            "V": {"kernel": jax.random.normal(v, (n, h)) / n**0.5},
            "U": {"kernel": jax.random.normal(u, (h, m)) / h**0.5},
        }
        return charge_fn(sym)(weights)["h1"]

    sample = np.asarray(jax.jit(jax.vmap(charge))(jax.random.split(key, draws)), np.float64)
    found = charge_moments(sym, shapes, variances)
    _within(sample, np.asarray(found.mean["h1"]), np.asarray(found.variance["h1"]))
    total = -np.trace(sample, axis1=1, axis2=2) / 2
    mean, variance = -np.trace(found.mean["h1"]) / 2, np.trace(found.variance["h1"]) / 4
    assert mean == pytest.approx((m - h) / 2)
    assert variance == pytest.approx((m / h + h / n) / 2)
    _within(total, mean, variance)
    assert abs(total.mean() - (m - h)) > 20 * total.std() / draws**0.5  # as printed


ACTIVATIONS = {
    "identity": (lambda x: x, lambda v: v**2 / 2),
    "relu": (jax.nn.relu, lambda v: np.maximum(v, 0) ** 2 / 2),
    "leaky": (lambda x: jax.nn.leaky_relu(x, 0.1), lambda v: v**2 / 2),
    "cube": (lambda x: x**3, lambda v: v**2 / 6),
    "tanh": (jnp.tanh, lambda v: np.sinh(v) ** 2 / 2),
    "sigmoid": (jax.nn.sigmoid, lambda v: v + np.exp(v) - 1),
    "exp": (jnp.exp, lambda v: v),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.claim("DA-T31")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_integrals_and_conservation(name, key):
    """Antiderivatives, and ⟨∇Q_a, ∇L⟩ = 0 for X = I in every unit; not for other inputs."""
    activation, integral = ACTIVATIONS[name]
    v = jnp.linspace(-2.5, 2.5, 20)
    np.testing.assert_allclose(activation_integral(activation, v), integral(np.asarray(v)), atol=1e-12)
    keys = jax.random.split(key, 4)
    incoming, outgoing = jax.random.normal(keys[0], (4, 3)), jax.random.normal(keys[1], (2, 4))
    target = jax.random.normal(keys[2], (2, 3))

    def rate(x):
        loss = lambda p: jnp.sum((target - p[1] @ activation(p[0] @ x)) ** 2)  # noqa: E731
        slope = jax.grad(loss)((incoming, outgoing))
        charge = lambda p: activation_charge(activation, *p)  # noqa: E731
        size = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(slope)))
        return jax.jvp(charge, ((incoming, outgoing),), (slope,))[1] / size

    assert jnp.max(jnp.abs(rate(jnp.eye(3)))) < 1e-11
    if name in ("tanh", "sigmoid", "exp"):
        assert jnp.max(jnp.abs(rate(jax.random.normal(keys[3], (3, 3))))) > 1e-2


@pytest.mark.claim("DA-T26", "DA-E14")
@pytest.mark.parametrize("name", ["identity", "relu", "tanh", "sigmoid", "leaky"])
def test_moments_of_integrals(name, key):
    m, h, n, draws = 7, 5, 6, 20000
    activation, integral = ACTIVATIONS[name]
    unit = activation_charge_moments(activation, n, m, 1 / n, 1 / h)
    closed = {
        "identity": ((m - h) / 2, (m / h + h / n) / 2),
        "relu": (m / 2 - h / 4, m / h / 2 + 5 * h / n / 16),
        "tanh": (
            m / 2 - h * n * np.expm1(2 / n) / 4,
            m / h / 2 + h * n * ((np.exp(8 / n) + 1) / 2 - np.exp(4 / n)) / 16,
        ),
        "sigmoid": (
            m / 2 - h * n * np.expm1(1 / n / 2),
            m / h / 2 + h * n * (1 / n + 2 / n * np.exp(1 / n / 2) + np.exp(1 / n) * np.expm1(1 / n)),
        ),
        "leaky": ((m - h) / 2, (m / h + h / n) / 2),
    }[name]
    np.testing.assert_allclose((h * unit.mean, h * unit.variance), closed, rtol=1e-10)
    rng = np.random.default_rng(3)
    u, v = rng.normal(size=(draws, m)) / h**0.5, rng.normal(size=(draws, n)) / n**0.5
    _within(np.sum(u**2, 1) / 2 - np.sum(integral(v), 1), unit.mean, unit.variance)


def _within(sample, mean, variance):
    """Five standard errors of the mean and of the variance."""
    draws = len(sample)
    centred = sample - sample.mean(0)
    error = np.sqrt(np.var(centred**2, axis=0) / draws)
    assert np.all(np.abs(sample.mean(0) - mean) < 5 * sample.std(0) / draws**0.5)
    assert np.all(np.abs(sample.var(0) - variance) < 5 * error)


def test_bad_arguments():
    sym, shapes, _ = CASES["relu"]
    with pytest.raises(ValueError, match="leaf 'a/bias'"):
        charge_moments(sym, shapes, {"a": -1.0, "b": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="fourth moment"):
        charge_moments(sym, shapes, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.5, "b": 1.0, "c": 1.0})
    with pytest.raises(TypeError, match="discrete"):
        charge_moments(catalog.mlp(shapes, LAYERS, "tanh"), shapes, VARIANCES)
    with pytest.raises(ValueError, match="`outgoing`"):
        activation_charge(jnp.tanh, jnp.ones((3, 2)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="`inputs`"):
        activation_charge_moments(jnp.tanh, 0, 1, 1.0, 1.0)
    with pytest.raises(ValueError, match="overflows"):
        activation_charge_moments(jnp.tanh, 1, 1, 1e6, 1.0)
