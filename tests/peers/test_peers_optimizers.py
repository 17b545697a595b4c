"""The optimizers of ``scripts/peers`` against dense linear algebra: a contest with a lame peer proves nothing."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from peers import kfac, matrices, muon, shampoo, soap
from peers.momentum import nesterov_average
from scipy.linalg import fractional_matrix_power

from eqtoolbox import zoo


def _gradients(shapes: dict[str, tuple[int, ...]], steps: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(steps)]


def _run(tx: optax.GradientTransformation, gradients) -> list:
    """The updates, one by one; every transformation gets an argument it does not know."""
    tx = optax.with_extra_args_support(tx)
    params = jax.tree.map(jnp.zeros_like, gradients[0])
    state, out = tx.init(params), []
    step = jax.jit(tx.update)
    for g in gradients:
        u, state = step(jax.tree.map(jnp.asarray, g), state, params, unknown=1.0)
        out.append(jax.device_get(u))
    return out


@pytest.mark.parametrize("decay", [0.8, 1.0])
def test_shampoo_is_the_root_of_the_dense_kronecker_product(x64, decay):
    """(L ⊗ R)^(-1/4) on flattened matrices, (Σ g gᵀ)^(-1/2) on vectors, convolutions as matrices."""
    shapes = {"w": (4, 3), "b": (5,), "conv": (2, 2, 3, 4), "gain": ()}
    gradients = _gradients(shapes, 30)
    got = _run(shampoo.scale_by_shampoo(decay, eps=1e-12), gradients)[-1]
    weights = np.array([decay ** (len(gradients) - 1 - t) for t in range(len(gradients))])
    weights = weights if decay == 1 else weights / weights.sum()
    for name, rows in {"w": 4, "conv": 12}.items():
        gs = [g[name].reshape(rows, -1) for g in gradients]
        left = sum(w * g @ g.T for w, g in zip(weights, gs, strict=True))
        right = sum(w * g.T @ g for w, g in zip(weights, gs, strict=True))
        want = fractional_matrix_power(np.kron(left, right), -0.25) @ gs[-1].ravel()
        np.testing.assert_allclose(got[name].ravel(), want, rtol=1e-6)
    full = sum(w * np.outer(g["b"], g["b"]) for w, g in zip(weights, gradients, strict=True))
    np.testing.assert_allclose(got["b"], fractional_matrix_power(full, -0.5) @ gradients[-1]["b"], rtol=1e-6)
    square = sum(w * g["gain"] ** 2 for w, g in zip(weights, gradients, strict=True))
    np.testing.assert_allclose(got["gain"], gradients[-1]["gain"] / np.sqrt(square), rtol=1e-6)


def test_shampoo_places_its_momentum_and_keeps_its_roots(x64):
    gradients = _gradients({"w": (3, 4)}, 5)
    roots = [u["w"] for u in _run(shampoo.scale_by_shampoo(0.9), gradients)]
    after = _run(shampoo.shampoo(0.5, decay=0.9, momentum=0.7, after=True), gradients)[-1]["w"]
    z = sum(0.3 * 0.7 ** (4 - t) * u for t, u in enumerate(roots)) / (1 - 0.7**5)
    np.testing.assert_allclose(after, -0.5 * (0.7 * z + 0.3 * roots[-1]), rtol=1e-10)

    # The roots of the last step, applied to the average of the gradients: linear in it.
    before = _run(shampoo.shampoo(0.5, decay=0.9, momentum=0.7), gradients)[-1]["w"]
    tx = shampoo.scale_by_shampoo(0.9)
    state = tx.init(gradients[0])
    for g in gradients:
        _, state = tx.update(jax.tree.map(jnp.asarray, g), state)
    mean = sum(0.3 * 0.7 ** (4 - t) * g["w"] for t, g in enumerate(gradients)) / (1 - 0.7**5)
    left, right = state.roots["w"]
    np.testing.assert_allclose(before, -0.5 * (left @ mean @ right), rtol=1e-10)

    lazy = [u["w"] for u in _run(shampoo.scale_by_shampoo(0.9, every=3), gradients)]
    np.testing.assert_allclose(lazy[3], roots[3], rtol=1e-10)
    assert np.abs(lazy[4] - roots[4]).max() > 1e-2
    zero = _run(shampoo.scale_by_shampoo(), [{"w": np.zeros((3, 4))}])[0]["w"]
    assert not zero.any()


def test_soap_is_adam_where_the_eigenbasis_is_the_standard_one(x64):
    """Diagonal gradients have diagonal factors; orthogonal iteration only permutes the axes."""
    rng = np.random.default_rng(0)
    gradients = [
        {"w": np.diag(rng.normal(size=4) * [1, 3, 9, 27]), "b": rng.normal(size=3)} for _ in range(7)
    ]
    got = _run(soap.soap(0.1, b1=0.9, b2=0.8, every=2), gradients)
    want = _run(optax.adam(0.1, b1=0.9, b2=0.8), gradients)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a["w"], b["w"], atol=1e-7)  # Adam lifts rounding errors
        np.testing.assert_allclose(a["b"], b["b"], rtol=1e-9)


def test_soap_commutes_with_rotations_and_finds_the_eigenvectors(x64):
    """SOAP(Q G P) = Q SOAP(G) P, which Adam is far from."""
    gradients = _gradients({"w": (4, 4)}, 6)  # square: no null space, in which any basis would do
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
    p, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))
    turned = [{"w": q @ g["w"] @ p} for g in gradients]

    def error(tx):
        a, b = _run(tx, gradients)[-1]["w"], _run(tx, turned)[-1]["w"]
        return np.abs(q @ a @ p - b).max() / np.abs(b).max()

    assert error(soap.soap(0.1, every=2)) < 1e-6
    assert error(optax.adam(0.1)) > 0.1

    tx = soap.scale_by_soap(b2=0.9, every=1)
    scales = {"w": np.array([1.0, 2, 4, 8])[:, None] * np.array([1.0, 3, 9, 27])}
    gradients = [{"w": q @ (g["w"] * scales["w"]) @ p} for g in _gradients({"w": (4, 4)}, 60)]
    step, state = jax.jit(tx.update), tx.init(gradients[0])
    for g in gradients:
        _, state = step(jax.tree.map(jnp.asarray, g), state)
    factor, basis = np.asarray(state.factors["w"][0]), np.asarray(state.bases["w"][0])
    rotated = basis.T @ factor @ basis
    assert np.all(np.diff(np.diag(rotated)) < 0)
    size = np.sqrt(np.outer(np.diag(rotated), np.diag(rotated)))
    assert (
        np.abs((rotated - np.diag(np.diag(rotated))) / size).max() < 0.2
    )  # one iteration a step lags behind


def _network(activation: str, widths=(4, 5, 3)):
    module = zoo.MLP(widths[1:], activation)
    params = module.init(jax.random.key(0), jnp.zeros((1, widths[0])))["params"]
    params = jax.tree.map(lambda p: p.astype(float), zoo.perturb(jax.random.key(1), params))
    return (lambda p, x: module.apply({"params": p}, x)), params


def test_kfac_is_the_natural_gradient_of_linear_regression(x64):
    """One layer and a squared loss: the Hessian is A ⊗ I, and one step from anywhere solves the problem."""
    apply, params = _network("linear", (4, 3))
    x, y = jax.random.normal(jax.random.key(2), (20, 4)), jax.random.normal(jax.random.key(3), (20, 3))
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def loss(flat):
        return jnp.sum((apply(unravel(flat), x) - y) ** 2) / (2 * len(x))

    gradient, hessian = jax.grad(loss)(flat), jax.hessian(loss)(flat)
    seen = kfac.statistics(apply, params, x, kfac.squared_columns)
    for damping in (1e-12, 0.3):
        tx = kfac.scale_by_kfac(damping, factored=False)
        update, _ = tx.update(unravel(gradient), tx.init(params), statistics=seen)
        want = jnp.linalg.solve(hessian + damping * jnp.eye(len(flat)), gradient)
        np.testing.assert_allclose(jax.flatten_util.ravel_pytree(update)[0], want, rtol=1e-6)
    # The factored damping is the inverse of a Kronecker product again, damped on both sides.
    tx = kfac.scale_by_kfac(0.3)
    update, _ = tx.update(unravel(gradient), tx.init(params), statistics=seen)
    a, g = seen[("Dense_0",)]
    pi = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
    left, right = a + pi * np.sqrt(0.3) * np.eye(len(a)), g + np.sqrt(0.3) / pi * np.eye(len(g))
    full = unravel(gradient)["Dense_0"]
    matrix = np.concatenate([full["kernel"], full["bias"][None]])
    want = np.linalg.solve(left, matrix) @ np.linalg.inv(right)
    np.testing.assert_allclose(update["Dense_0"]["kernel"], want[:-1], rtol=1e-8)
    np.testing.assert_allclose(update["Dense_0"]["bias"], want[-1], rtol=1e-8)


@pytest.mark.parametrize("name", ["squared", "categorical"])
def test_kfac_factors_make_up_the_gauss_newton_blocks_of_one_example(x64, name):
    """With one example every block is Kronecker-factored, and over its layers so is the derivative."""
    apply, params = _network("tanh")
    x = jax.random.normal(jax.random.key(2), (1, 4))
    columns = getattr(kfac, f"{name}_columns")
    seen = kfac.statistics(apply, params, x, columns)
    f = apply(params, x)[0]
    inner = (
        np.eye(3) if name == "squared" else np.diag(jax.nn.softmax(f)) - np.outer(*[jax.nn.softmax(f)] * 2)
    )
    jacobian = jax.jacobian(lambda p: apply(p, x)[0])(params)
    for layer, (a, g) in seen.items():
        part = jacobian[layer[0]]
        j = np.concatenate([part["kernel"], part["bias"][:, None]], axis=1).reshape(3, -1)
        np.testing.assert_allclose(np.kron(a, g), j.T @ inner @ j, atol=1e-10)
    # The random vectors have the same second moment: 5 standard errors of 4000 draws.
    draw = jax.vmap(lambda k: getattr(kfac, f"{name}_probe")(k, f[None])[0, 0])
    samples = np.asarray(draw(jax.random.split(jax.random.key(3), 4000)))
    products = samples[:, :, None] * samples[:, None, :]
    error = products.std(0) / np.sqrt(len(samples))
    assert np.all(np.abs(products.mean(0) - inner) <= 5 * error + 1e-12)


def test_kfac_says_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"Conv_0/kernel of \(3, 3, 1, 2\)"):
        kfac.scale_by_kfac().init({"Conv_0": {"kernel": jnp.zeros((3, 3, 1, 2)), "bias": jnp.zeros(2)}})

    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(4, name="same")
            return layer(layer(x))

    module, x = Twice(), jnp.ones((2, 4))
    params = module.init(jax.random.key(0), x)["params"]
    with pytest.raises(ValueError, match="same is used twice"):
        kfac.statistics(lambda p, x: module.apply({"params": p}, x), params, x, kfac.squared_columns)


def test_muon_after_averages_orthogonalised_gradients():
    gradients = jax.tree.map(np.float32, _gradients({"w": (4, 3), "b": (3,), "qkv": (4, 2, 3)}, 4))
    matrices_only = [{k: matrices.as_matrix(g[k]) for k in ("w", "qkv")} for g in gradients]
    raw = _run(optax.contrib.muon(1.0, beta=0.0, nesterov=False), matrices_only)
    got = _run(muon.muon_after(0.5, momentum=0.8), gradients)[-1]
    want = _run(nesterov_average(0.8), raw)[-1]
    for name in ("w", "qkv"):
        np.testing.assert_allclose(matrices.as_matrix(got[name]), 0.5 * want[name], rtol=1e-4, atol=1e-6)
        assert np.linalg.svd(raw[0][name])[1].min() > 0.5  # they are orthogonalised
    adam = _run(optax.nadamw(0.5, weight_decay=0.0), gradients)[-1]
    np.testing.assert_allclose(got["b"], adam["b"], rtol=1e-5)
