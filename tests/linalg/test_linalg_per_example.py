"""Per-example gradients and the products built on them, against a loop over the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import eqtoolbox.linalg as la


def explicit(net):
    """The n x p matrix of gradients, one example at a time."""
    gradient = jax.jit(jax.grad(net.batch_loss))
    rows = [
        ravel_pytree(gradient(net.params, jax.tree.map(lambda x: x[i : i + 1], net.batch)))[0]  # noqa: B023
        for i in range(6)
    ]
    return np.stack(rows)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_gradients_losses_and_products(x64, mlp, batch_size):
    net = mlp(jnp.float64)
    rows = explicit(net)
    flat, unravel = ravel_pytree(net.params)
    v = np.random.default_rng(0).normal(size=flat.size)
    weights = np.linspace(-1, 2, 6)

    @jax.jit
    def everything(params, batch, v, weights):
        args = (net.batch_loss, params, batch)
        return (
            la.per_example_grads(*args, batch_size=batch_size),
            la.per_example_losses(*args, batch_size=batch_size),
            la.per_example_vdot(*args, v, batch_size=batch_size),
            la.weighted_grad(*args, weights, batch_size=batch_size),
            la.gradient_covariance_vp(*args, v, batch_size=batch_size),
            la.fisher_vp(*args, v, batch_size=batch_size),
        )

    grads, losses, products, weighted, covariance, fisher = everything(
        net.params, net.batch, unravel(v), jnp.asarray(weights)
    )
    np.testing.assert_allclose(la.ravel_stack(grads), rows, atol=1e-14)
    np.testing.assert_allclose(losses.mean(), net.batch_loss(net.params, net.batch), rtol=1e-14)
    np.testing.assert_allclose(products, rows @ v, atol=1e-13)
    np.testing.assert_allclose(ravel_pytree(weighted)[0], weights @ rows, atol=1e-13)
    np.testing.assert_allclose(ravel_pytree(covariance)[0], np.cov(rows.T, bias=True) @ v, atol=1e-13)
    np.testing.assert_allclose(ravel_pytree(fisher)[0], rows.T @ rows @ v / 6, atol=1e-13)


def test_the_mean_of_the_gradients_is_the_gradient(x64, mlp):
    net = mlp(jnp.float64)
    grads = jax.jit(lambda p, b: la.per_example_grads(net.batch_loss, p, b, batch_size=6))
    mean = jax.tree.map(lambda g: g.mean(0), grads(net.params, net.batch))
    full = jax.jit(jax.grad(net.batch_loss))(net.params, net.batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), mean, full)


def test_dense_covariance_is_semidefinite_of_the_right_rank(x64, mlp):
    """n centred gradients span at most n − 1 dimensions."""
    net = mlp(jnp.float64)
    matvec = lambda v: la.gradient_covariance_vp(net.batch_loss, net.params, net.batch, v)  # noqa: E731
    matrix = np.asarray(jax.jit(lambda: la.to_dense(matvec, net.params))())
    assert np.linalg.eigvalsh(matrix).min() > -1e-14
    assert la.numerical_rank(matrix).rank == 5


def test_a_large_mean_gradient_does_not_spoil_the_covariance():
    """Gradients 1e4 + (±1): in float32 the uncentred product minus the mean's would keep no digit."""
    x = jnp.array([[1e4 + 1], [1e4 - 1], [1e4 + 1], [1e4 - 1]])
    batch_loss = lambda w, x: jnp.mean(x @ w)  # noqa: E731
    found = la.gradient_covariance_vp(batch_loss, jnp.zeros(1), x, jnp.ones(1))
    np.testing.assert_allclose(found, [1.0], rtol=1e-3)


def test_bfloat16_parameters_keep_their_dtype(mlp):
    net = mlp(jnp.bfloat16)
    grads = jax.jit(lambda p, b: la.per_example_grads(net.batch_loss, p, b, batch_size=4))
    fisher = jax.jit(lambda p, b: la.fisher_vp(net.batch_loss, p, b, p, batch_size=50))
    for tree in (grads(net.params, net.batch), fisher(net.params, net.batch)):
        assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype(jnp.bfloat16)}


def test_a_batch_may_hold_keys():
    """Leaves of any dtype with a leading axis: here one key per example."""
    keys = jax.random.split(jax.random.key(0), 5)
    loss = lambda w, b: jnp.mean(b["x"] * w * jax.vmap(jax.random.normal)(b["key"]))  # noqa: E731
    batch = {"x": jnp.arange(5.0), "key": keys}
    noise = jax.vmap(jax.random.normal)(jax.random.clone(keys))
    got = la.per_example_grads(loss, jnp.float32(1), batch, batch_size=2)
    np.testing.assert_allclose(got, jnp.arange(5.0) * noise, rtol=1e-6)


def test_bad_batches_are_named(mlp):
    net = mlp()
    run = lambda batch: la.per_example_grads(net.batch_loss, net.params, batch)  # noqa: E731
    with pytest.raises(
        ValueError,
        match=r"leaf `y` of `batch` must have a leading axis of size 6 as leaf `x` has, got shape \(5,\)",
    ):
        run({"x": net.batch["x"], "y": net.batch["y"][:5]})
    with pytest.raises(ValueError, match="leaf `y` of `batch` must have a leading axis, got a scalar"):
        run({"x": net.batch["x"], "y": jnp.int32(1)})
    with pytest.raises(ValueError, match="the leading axis of `batch` must not be empty"):
        run(jax.tree.map(lambda x: x[:0], net.batch))
    with pytest.raises(ValueError, match="`batch` must have at least one leaf"):
        run({})
    with pytest.raises(ValueError, match=r"`weights` must have shape \(6,\), one per example, got \(5,\)"):
        la.weighted_grad(net.batch_loss, net.params, net.batch, jnp.ones(5))
    with pytest.raises(ValueError, match="`v` must have the structure of `params`"):
        la.fisher_vp(net.batch_loss, net.params, net.batch, jnp.ones(3))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        la.per_example_losses(net.batch_loss, net.params, net.batch, batch_size=0)
