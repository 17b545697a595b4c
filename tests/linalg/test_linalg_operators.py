"""Hessian and Gauss-Newton products against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import eqtoolbox.linalg as la


def dense_hessian(loss, params):
    flat, unravel = ravel_pytree(params)
    return jax.jit(jax.hessian(lambda f: loss(unravel(f))))(flat)


def test_hvp_is_the_hessian_in_float64(x64, key, mlp):
    net = mlp(jnp.float64)
    loss = lambda p: net.output_loss(net.model(p))  # noqa: E731
    hessian = dense_hessian(loss, net.params)
    v = la.random_like(key, net.params)
    expected = hessian @ ravel_pytree(v)[0]
    got = jax.jit(lambda p, v: la.hvp(loss, p, v))(net.params, v)
    assert jax.tree.structure(got) == jax.tree.structure(net.params)
    np.testing.assert_allclose(ravel_pytree(got)[0], expected, atol=1e-14)
    dense = jax.jit(lambda p: la.to_dense(la.hvp_fn(loss, p), p))(net.params)
    np.testing.assert_allclose(dense, hessian, atol=1e-14)


def test_hvp_fn_is_a_pytree_for_compiled_functions(key, mlp):
    net = mlp()
    loss = lambda p: net.output_loss(net.model(p))  # noqa: E731
    matvec = jax.jit(lambda p: la.hvp_fn(loss, p))(net.params)
    stack = la.random_stack(key, net.params, 3)
    traced = []

    @jax.jit
    def apply(matvec, v):
        traced.append(v)
        return matvec(v)

    plain = jax.jit(lambda p, v: la.hvp(loss, p, v))
    mapped = jax.jit(lambda matvec, stack: jax.vmap(matvec)(stack))(matvec, stack)
    for i in range(3):
        v, row = (jax.tree.map(lambda x: x[i], t) for t in (stack, mapped))  # noqa: B023
        close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
        jax.tree.map(close, apply(matvec, v), plain(net.params, v))
        jax.tree.map(close, row, plain(net.params, v))
    assert len(traced) == 1


def test_hvp_is_differentiable(x64):
    """d/dw ⟨v, ∇²L v⟩ for L = Σ w⁴/12 is 2 w v²."""
    w, v = jnp.array([1.0, -2.0]), jnp.array([3.0, 0.5])
    curvature = lambda w: la.tree_vdot(v, la.hvp(lambda w: jnp.sum(w**4) / 12, w, v))  # noqa: E731
    np.testing.assert_allclose(jax.grad(curvature)(w), 2 * w * v**2, rtol=1e-15)


def test_bfloat16_parameters_keep_their_dtype(key, mlp):
    net = mlp(jnp.bfloat16)
    loss = lambda p: net.output_loss(net.model(p))  # noqa: E731
    v = la.random_like(key, net.params, dtype=jnp.float32)  # cast to the parameters' dtype
    hessian = jax.jit(lambda p, v: la.hvp(loss, p, v))
    gauss_newton = jax.jit(lambda p, v: la.ggn_vp(net.model, net.output_loss, p, v))
    for product in (hessian(net.params, v), gauss_newton(net.params, v)):
        assert {x.dtype for x in jax.tree.leaves(product)} == {jnp.dtype(jnp.bfloat16)}
        assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(product))


def test_ggn_is_j_h_j_and_semidefinite_for_a_convex_loss(x64, mlp):
    net = mlp(jnp.float64)
    flat, unravel = ravel_pytree(net.params)
    jacobian = jax.jit(jax.jacobian(lambda f: net.model(unravel(f)).ravel()))(flat)
    outputs = net.model(net.params)
    h_out = jax.jit(jax.hessian(lambda z: net.output_loss(z.reshape(outputs.shape))))(outputs.ravel())
    got = jax.jit(lambda p: la.to_dense(la.ggn_fn(net.model, net.output_loss, p), p))(net.params)
    np.testing.assert_allclose(got, jacobian.T @ h_out @ jacobian, atol=1e-14)
    assert np.linalg.eigvalsh(got).min() > -1e-14
    v = unravel(jnp.linspace(-1, 1, flat.size))
    product = jax.jit(lambda p, v: la.ggn_vp(net.model, net.output_loss, p, v))(net.params, v)
    np.testing.assert_allclose(ravel_pytree(product)[0], got @ ravel_pytree(v)[0], atol=1e-14)


def test_ggn_takes_any_output_tree_and_any_loss(x64, key):
    """For a model linear in θ the Gauss-Newton matrix is the Hessian, whatever the (here nonconvex) loss."""
    a = jax.random.normal(key, (4, 3))
    model = lambda p: {"u": a @ p, "s": jnp.sum(p)}  # noqa: E731
    output_loss = lambda out: jnp.sum(jnp.sin(out["u"])) * out["s"]  # noqa: E731
    p = jnp.array([0.3, -1.0, 2.0])
    hessian = jax.jit(jax.hessian(lambda p: output_loss(model(p))))(p)
    got = jax.jit(lambda p: la.to_dense(la.ggn_fn(model, output_loss, p), p))(p)
    np.testing.assert_allclose(got, hessian, atol=1e-14)
    assert np.linalg.eigvalsh(hessian).min() < -0.1


@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_to_dense_of_a_rectangular_map_in_chunks(batch_size):
    matrix = jnp.arange(12.0).reshape(2, 6)
    like = [jnp.zeros((2, 2)), jnp.zeros(2)]
    matvec = lambda v: {"y": matrix[:, :4] @ v[0].ravel() + matrix[:, 4:] @ v[1]}  # noqa: E731
    np.testing.assert_array_equal(la.to_dense(matvec, like, batch_size=batch_size), matrix)


def test_bad_input_is_named(mlp):
    net = mlp()
    loss = lambda p: net.output_loss(net.model(p))  # noqa: E731
    v = {"in": {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(5)}, "out": jnp.zeros((5, 4))}
    message = r"leaf `in/kernel` of `v` must have the shape \(3, 5\) it has in `params`, got \(5, 3\)"
    with pytest.raises(ValueError, match=message):
        la.hvp(loss, net.params, v)
    with pytest.raises(ValueError, match=message):
        la.hvp_fn(loss, net.params)(v)
    with pytest.raises(ValueError, match=message):
        la.ggn_vp(net.model, net.output_loss, net.params, v)
    with pytest.raises(
        TypeError, match="leaf `step` of `params` must be real floating point, got dtype int32"
    ):
        la.hvp(loss, {**net.params, "step": jnp.int32(0)}, v)
    with pytest.raises(TypeError, match="leaf `out` of `v` must be real floating point, got dtype complex64"):
        la.hvp(loss, net.params, {**net.params, "out": jnp.zeros((5, 4), jnp.complex64)})
    with pytest.raises(TypeError, match=r"leaf `1` of `model\(params\)` must be real floating point"):
        la.ggn_fn(lambda p: (p, jnp.arange(2)), lambda out: jnp.sum(out[0]), jnp.ones(3))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        la.to_dense(lambda v: v, jnp.zeros(3), batch_size=0)
