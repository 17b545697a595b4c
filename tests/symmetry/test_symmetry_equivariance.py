"""`Equivariance`, and how gradients and Hessians of invariant functions move (DA-T6, DA-T7, DA-T8)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from eqtoolbox import Equivariance, Symmetry
from eqtoolbox.groups import GeneralLinear, Orthogonal, Permutation, PositiveScaling, SignedPermutation

SHAPES = {"w1": (2, 3), "b1": (3,), "w2": (3, 4), "b2": (4,), "w3": (4, 2), "b3": (2,)}
X = np.random.default_rng(9).normal(size=(5, 2))
Y = np.random.default_rng(8).normal(size=(5, 2))


def radial(z):
    return z * jnp.exp(-jnp.sum(z**2, -1, keepdims=True) / 4)


#: Activation -> (function, the group of a width, the exponent with which the next kernel reads the units).
CLASSES = {
    "identity": (lambda z: z, GeneralLinear, "*"),
    "leaky relu": (lambda z: jnp.where(z > 0, z, 0.1 * z), PositiveScaling, "*"),
    "relu squared": (lambda z: jnp.maximum(z, 0) ** 2, PositiveScaling, "^-2"),
    "cube": (lambda z: z**3, PositiveScaling, "^-3"),
    "radial": (radial, Orthogonal, ""),
    "tanh": (jnp.tanh, SignedPermutation, ""),
    "gelu": (jax.nn.gelu, Permutation, ""),
}


def network(name):
    """Three layers with biases: the symmetry and the squared loss."""
    activation, group, star = CLASSES[name]
    labels = {"w1": "_ h", "b1": "h", "w2": f"h{star} k", "b2": "k", "w3": f"k{star} _", "b3": "_"}

    def loss(p):
        z = activation(jnp.asarray(X) @ p["w1"] + p["b1"][None])
        z = activation(z @ p["w2"] + p["b2"][None])
        return jnp.mean((z @ p["w3"] + p["b3"][None] - jnp.asarray(Y)) ** 2)

    return Symmetry(labels, {"h": group(3), "k": group(4)}), loss


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=shape)) for path, shape in SHAPES.items()}


def close(actual, expected, tolerance=1e-10):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), actual, expected
    )


@pytest.mark.claim("DA-T6")
@pytest.mark.parametrize("name", CLASSES)
def test_gradients_move_by_the_dual_action(name, x64, record_claim):
    """rho(g)^T grad L(g theta) = grad L(theta), with rho(g)^T from automatic differentiation of the action."""
    sym, loss = network(name)
    params, g = weights(), sym.sample(jax.random.key(1))

    @jax.jit
    def measure(g, params):
        moved, transpose = jax.vjp(lambda p: sym.act(g, p), params)
        there, here = jax.grad(loss)(moved), jax.grad(loss)(params)
        return loss(moved) - loss(params), transpose(there)[0], here, there, sym.act_dual(g, here)

    change, pulled, here, there, dual = measure(g, params)
    np.testing.assert_allclose(change, 0, atol=1e-10 * (1 + loss(params)))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves((here, there)))
    errors = [
        jnp.abs(a - b).max() for a, b in zip(jax.tree.leaves(pulled), jax.tree.leaves(here), strict=True)
    ]
    errors += [
        jnp.abs(a - b).max() for a, b in zip(jax.tree.leaves(dual), jax.tree.leaves(there), strict=True)
    ]
    error = float(max(errors)) / scale
    assert error < 1e-11
    record_claim("DA-T6", measured=error, expected="<= 1e-11")


@pytest.mark.claim("DA-T6")
def test_the_formulas_of_two_layers_and_critical_points(x64):
    """dL/dU = (dL/dU') g^-T and dL/dV = g^T dL/dV'; a point where the loss is least stays one."""
    sym = Symmetry({"U": "_ h*", "V": "h _"}, {"h": GeneralLinear(3)})
    rng = np.random.default_rng(0)
    params = {"U": jnp.asarray(rng.normal(size=(2, 3))), "V": jnp.asarray(rng.normal(size=(3, 4)))}
    target = params["U"] @ params["V"]
    g = sym.sample(jax.random.key(0))
    moved = sym.act(g, params)
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(p["U"] @ p["V"])))
    here, there = gradient(params), gradient(moved)
    close(here["U"], there["U"] @ jnp.linalg.inv(g["h"]).T)
    close(here["V"], g["h"].T @ there["V"])
    close(
        jax.grad(lambda p: jnp.sum((p["U"] @ p["V"] - target) ** 2))(moved),
        jax.tree.map(jnp.zeros_like, params),
    )


@pytest.mark.claim("DA-T7")
@pytest.mark.parametrize("name", ["identity", "cube", "radial"])
def test_hessians_along_an_orbit_are_congruent(name, x64, record_claim):
    """H(theta) = rho(g)^T H(g theta) rho(g): the same inertia; the same eigenvalues only if rho(g) is orthogonal."""
    sym, loss = network(name)
    flat, unravel = ravel_pytree(weights())
    g = sym.sample(jax.random.key(1))

    @jax.jit
    def dense(flat, g):
        def act(v):
            return ravel_pytree(sym.act(g, unravel(v)))[0]

        hessian = jax.hessian(lambda v: loss(unravel(v)))
        return hessian(flat), hessian(act(flat)), jax.jacobian(act)(flat)

    here, there, rho = (np.asarray(m) for m in dense(flat, g))
    error = np.abs(rho.T @ there @ rho - here).max() / np.abs(here).max()
    assert error < 1e-10
    record_claim("DA-T7", measured=error, expected="<= 1e-10")
    e_here, e_there = np.linalg.eigvalsh(here), np.linalg.eigvalsh(there)
    inertia = [[(e > 1e-9 * abs(e).max()).sum(), (e < -1e-9 * abs(e).max()).sum()] for e in (e_here, e_there)]
    assert inertia[0] == inertia[1]
    moved = np.abs(e_here - e_there).max() / np.abs(e_here).max()
    assert moved < 1e-10 if name == "radial" else moved > 1e-2


@pytest.mark.claim("DA-T8")
@pytest.mark.parametrize("name", ["identity", "leaky relu", "relu squared", "cube", "radial"])
def test_gradients_are_orthogonal_to_every_generator(name, x64, record_claim):
    """<grad L, M theta> = 0 in three layers with biases, and not for generators outside the Lie algebra."""
    sym, loss = network(name)
    params = weights()
    gradient = jax.grad(loss)(params)
    pulled = sym.pullback(params, gradient)
    size = sum(float(jnp.vdot(a, a)) for a in jax.tree.leaves(gradient)) ** 0.5
    error = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(pulled)) / size
    xi = sym.sample_algebra(jax.random.key(0))
    v = sym.generator(xi, params)
    pairing = sum(
        float(jnp.vdot(a, b)) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(v), strict=True)
    )
    assert max(error, abs(pairing) / size) < 1e-11
    record_claim("DA-T8", measured=max(error, abs(pairing) / size), expected="<= 1e-11")
    if name != "identity":
        wrong = Symmetry({p: label.replace("^-2", "*").replace("^-3", "*") for p, label in sym.axes.items()},
                         {"h": GeneralLinear(3), "k": GeneralLinear(4)})  # fmt: skip
        broken = wrong.pullback(params, gradient)
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(broken)) > 1e-2 * size


# The class.


def test_a_symmetry_is_an_equivariance_with_lambda_an_algebra_vector(x64):
    sym, _ = network("identity")
    params = weights()
    eq = Equivariance.of(sym)
    lam = sym.sample_algebra(jax.random.key(0))
    assert eq.is_symmetry
    moved = eq.act(params, lam)
    close(moved, sym.act(sym.exp(lam), params))
    close(eq.act_inverse(moved, lam), params)
    close(eq.act(params, eq.identity), params)
    assert eq.output_inverse(3.0, lam) == eq.act_output(3.0, lam) == 3.0
    with pytest.raises(TypeError, match="discrete"):
        Equivariance.of(network("gelu")[0])


def test_an_equivariance_that_moves_outputs():
    eq = Equivariance(lambda p, lam: p * lam, lambda y, lam: y * lam**2)
    assert not eq.is_symmetry
    assert eq.output_inverse is None
    assert eq.act_inverse is None


@pytest.mark.parametrize("field", ["act", "act_output", "act_inverse", "output_inverse"])
def test_a_map_that_is_no_function_is_refused(field):
    with pytest.raises(TypeError, match=rf"Equivariance: {field} must be a function .*got 3"):
        Equivariance(**{"act": lambda p, lam: p, field: 3})
