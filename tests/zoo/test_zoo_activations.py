"""The activations have the symmetry that their table says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtoolbox import zoo

ODD = {"identity", "linear", "tanh", "sin", "softsign", "hard_tanh", "radial"}
DEGREE = {"identity": 1, "linear": 1, "relu": 1, "leaky_relu": 1, "relu2": 2, "square": 2}
ROTATED = {"identity", "linear", "radial"}


@pytest.mark.parametrize("name", list(zoo.activations()))
def test_parity_homogeneity_rotations_and_dtype(name, x64):
    function = zoo.activations()[name]
    z = np.asarray(2 * jax.random.normal(jax.random.key(0), (50, 4), jnp.float64))
    g = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(1), (4, 4), jnp.float64)))[0]
    at_z, at_minus, at_double, at_rotated = np.asarray(jax.jit(function)(np.stack([z, -z, 2 * z, z @ g])))
    assert np.allclose(at_minus, -at_z, atol=1e-12) == (name in ODD)
    degrees = {p for p in (1, 2, 3) if np.allclose(at_double, 2.0**p * at_z, rtol=1e-12, atol=1e-12)}
    assert degrees == ({DEGREE[name]} if name in DEGREE else set())
    assert np.allclose(at_rotated, at_z @ g, atol=1e-12) == (name in ROTATED)
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        out = jax.eval_shape(function, jax.ShapeDtypeStruct((3, 4), dtype))
        assert (out.shape, out.dtype) == ((3, 4), dtype)


def test_radial_is_smooth_at_the_origin_and_not_linear():
    radial = zoo.activations()["radial"]
    np.testing.assert_allclose(jax.jacobian(radial)(jnp.zeros(3)), np.eye(3), atol=1e-7)
    assert jnp.linalg.norm(radial(jnp.full(3, 100.0))) < 1


def test_table_is_read_only():
    with pytest.raises(TypeError):
        zoo.activations()["new"] = jnp.tanh
