"""Homogeneity, alignment and sharpness, the last layer, degeneracy, approximate equivariances."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from eqtoolbox import Symmetry, groups, identities

TOLERANCE = 1e-9


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def relu_net(outputs=1, samples=1):
    """A ReLU network of three layers without biases, its parameters and its inputs."""
    widths = (4, 5, 4, outputs)
    params = [normal(i, m, n) / m**0.5 for i, (m, n) in enumerate(itertools.pairwise(widths))]
    x = normal(9, samples, 4)

    def model(params):
        z = x
        for w in params[:-1]:
            z = jax.nn.relu(z @ w)
        y = z @ params[-1]
        return y[0, 0] if outputs == samples == 1 else y

    return model, params


def logistic(y):
    return jnp.sum(jax.nn.softplus(-y))


@pytest.mark.claim("EQ-4.2", "EQ-5.1a", "EQ-5.1c")
def test_homogeneous_network_with_many_outputs(x64, record_claim):
    model, params = relu_net(outputs=3, samples=5)
    target = normal(10, 5, 3)

    def output_loss(y):
        return jnp.mean((y - target) ** 2) + jnp.mean(jnp.cos(y))

    @jax.jit
    def run(params, degree):
        found = identities.homogeneity(model, output_loss, params, degree)
        fast = identities.radial_hvp(model, output_loss, params, degree)
        return found, fast, identities.sharpness_bound(model, output_loss, params, degree)

    found, fast, bound = jax.device_get(run(params, 3.0))
    for result in found:
        assert result.residual.max() < TOLERANCE
        assert np.all(result.solve_residual == 0)
    for term in "CE":
        assert not any(
            np.any(x) for x in jax.tree.leaves((found.hvp.terms[term], found.quadratic.terms[term]))
        )
    for a, b in zip(fast, found.hvp.lhs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    size = sum(np.sum(np.square(p)) for p in params)
    np.testing.assert_allclose(bound, found.quadratic.lhs / size, rtol=1e-12)
    record_claim("EQ-5.1a", measured=max(r.residual.max() for r in found), expected="<= 1e-9")
    wrong, *_ = run(params, 2.5)
    assert all(result.residual.min() > 1e-3 for result in wrong)


@pytest.mark.claim("EQ-5.1a", "EQ-5.1b")
def test_homogeneous_network_with_one_output(x64, record_claim):
    """Equations (3) and (4) and Corollary 1 as printed; with two samples only their form for many outputs."""
    model, params = relu_net()
    many, _ = relu_net(samples=2)
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def run(params):
        y, gradient = jax.value_and_grad(model)(params)
        slope = jax.grad(logistic)(y)
        curvature = jax.grad(jax.grad(logistic))(y)
        found = identities.homogeneity(model, logistic, params, 3)
        return y, slope, curvature, gradient, found

    y, slope, curvature, gradient, found = jax.device_get(run(params))
    inverse = 3 * y * curvature / slope + 2
    for a, g in zip(found.hvp.lhs, gradient, strict=True):
        np.testing.assert_allclose(a, inverse * slope * g, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found.quadratic.lhs, 9 * curvature * y**2 + 6 * slope * y, rtol=1e-9)

    @jax.jit
    def align(flat):
        def one(f, output_loss):
            hessian = jax.hessian(lambda p: output_loss(f(unravel(p))))(flat)
            values, vectors = jnp.linalg.eigh(hessian)
            return identities.alignment(
                f, output_loss, unravel(flat), 3, values, jax.vmap(unravel)(vectors.T)
            )

        return one(model, logistic), one(many, lambda y: jnp.sum(jnp.cosh(y - jnp.asarray([[1.0], [-2.0]]))))

    single, several = jax.device_get(align(flat))
    np.testing.assert_allclose(single.alpha, 1 / inverse, rtol=1e-9)
    np.testing.assert_allclose(abs(single.cosine), 1, rtol=1e-12)
    assert single.residual.max() < TOLERANCE
    assert single.curvature_residual.max() < TOLERANCE
    assert several.curvature_residual.max() < TOLERANCE
    assert several.residual.max() > 1e-2
    assert abs(several.cosine) < 0.999
    record_claim("EQ-5.1b", measured=single.residual.max(), expected="<= 1e-9 where α exists")


@pytest.mark.claim("EQ-5.1b")
def test_corollary_1_fails_where_its_denominator_vanishes():
    """f = θ², ℓ = (y - 3)²/2 at θ = 1: m y ℓ'' + (m - 1) ℓ' = 0, the Hessian is 0, the gradient is not."""
    arguments = (lambda p: p**2, lambda y: (y - 3) ** 2 / 2, jnp.float32(1))
    hessian = jax.grad(jax.grad(lambda p: arguments[1](arguments[0](p))))(arguments[2])
    assert hessian == 0
    found = identities.alignment(*arguments, 2, hessian[None], jnp.ones(1))
    assert found.gradient == -4
    assert found.predicted == found.alpha == found.cosine == 0
    assert found.residual == 1


def test_a_relu_network_is_homogeneous_for_positive_factors_only(x64):
    model, params = relu_net(outputs=2, samples=3)
    y = model(params)
    np.testing.assert_allclose(model(jax.tree.map(lambda p: 2 * p, params)), 8 * y, rtol=1e-12)
    minus = model(jax.tree.map(lambda p: -p, params))
    assert jnp.abs(minus + y).max() > 0.1  # it would be (-1)³ y


def test_weights_of_biases(x64):
    """With biases a layer l scales by e^{lλ} where its bias does: e^λ W₁, e^λ b₁, e^λ W₂, e^{2λ} b₂."""
    params = {"w": [normal(0, 3, 4), normal(1, 4, 2)], "b": [normal(2, 4), normal(3, 2)]}
    x = normal(4, 5, 3)

    def model(p):
        return jax.nn.relu(x @ p["w"][0] + p["b"][0][None]) @ p["w"][1] + p["b"][1][None]

    def output_loss(y):
        return jnp.sum(jnp.sin(y))

    @jax.jit
    def run(params, weights):
        return identities.homogeneity(model, output_loss, params, 2, weights)

    assert max(r.residual for r in run(params, {"w": 1.0, "b": [1.0, 2.0]})) < TOLERANCE
    assert min(r.residual for r in run(params, {"w": 1.0, "b": [1.0, 1.0]})) > 1e-4


@pytest.mark.claim("EQ-5.1c")
def test_the_sharpness_bound_is_never_violated_in_training(x64, record_claim):
    model, params = relu_net(samples=6)
    signs = jnp.sign(normal(3, 6, 1))
    flat, unravel = ravel_pytree(params)

    def output_loss(y):
        return jnp.mean(jnp.exp(-signs * y))

    def loss(p):
        return output_loss(model(unravel(p)))

    @jax.jit
    def train(flat):
        def step(p, _):
            top = jnp.linalg.eigvalsh(jax.hessian(loss)(p))[-1]
            bound = identities.sharpness_bound(model, output_loss, unravel(p), 3)
            return p - 0.05 * jax.grad(loss)(p), (loss(p), top, bound)

        return jax.lax.scan(step, flat, length=150)[1]

    losses, top, bound = jax.device_get(train(flat))
    assert losses[-1] < losses[0] / 2
    assert np.all(bound <= top)
    assert bound.max() > 0.05 * top[bound.argmax()]  # not an empty statement
    record_claim("EQ-5.1c", measured=(bound / top).max(), expected="<= 1 throughout training")


@pytest.mark.claim("EQ-4.2")
def test_norms_grow_without_bound_once_correctly_classified(x64):
    """Gradient flow of one sample with a decreasing loss, in the time s with ds = -ℓ'(y) dt: the same path for all.

    There ½ d‖θ‖²/ds = m y, and y grows; so ‖θ‖² ≥ ‖θ(0)‖² + 2 m y(0) s, and s ends only where ‖θ‖ is infinite:
    as long as ‖θ‖ is bounded -ℓ' is bounded below, and s grows with t.
    """
    model, params = relu_net()
    sign = jnp.sign(model(params))
    flat, unravel = ravel_pytree(params)

    def output(p):
        return sign * model(unravel(p))

    def slope(p):  # ∇L / ℓ'
        return jax.grad(output)(p)

    step = 2e-3

    @jax.jit
    def flow(p):
        def advance(p, _):
            k1 = slope(p)
            k2 = slope(p + step / 2 * k1)
            k3 = slope(p + step / 2 * k2)
            k4 = slope(p + step * k3)
            y = output(p)
            losses = (lambda y: jnp.exp(-y)), logistic
            rates = jnp.stack([-jax.grad(lambda p, f=f: f(output(p)))(p) @ p for f in losses])  # ½ d‖θ‖²/dt
            predicted = jnp.stack([3 * jnp.exp(-y) * y, 3 * jax.nn.sigmoid(-y) * y])
            return p + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4), (p @ p, y, rates, predicted)

        return jax.lax.scan(advance, p, length=200)[1]

    norms, y, rates, predicted = jax.device_get(flow(flat))
    np.testing.assert_allclose(rates, predicted, rtol=1e-10)
    middle = (norms[2:] - norms[:-2]) / (4 * step)
    np.testing.assert_allclose(middle, 3 * y[1:-1], rtol=1e-3)
    assert y[0] > 0
    assert np.all(np.diff(y) > 0)
    assert np.all(norms >= norms[0] + 6 * y[0] * step * np.arange(200) * (1 - 1e-12))
    assert norms[-1] > 1.2 * norms[0]


@pytest.mark.claim("EQ-5.3")
def test_last_layer_curvature_is_a_variance(x64, record_claim):
    """For V in and out of the row space of W, with a bias, over a batch."""
    h, kernel, bias, labels = normal(0, 7, 5), normal(1, 5, 3), normal(2, 3), np.arange(7) % 3

    def output_loss(y):
        return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

    @jax.jit
    def run(v):
        found = identities.last_layer(output_loss, h, kernel, v, bias)
        p = jax.nn.softmax(h @ kernel + bias[None])
        return found, identities.softmax_variance(p, h @ v)

    inside, outside = kernel @ normal(3, 3, 3), normal(4, 5, 3)
    span = np.linalg.qr(kernel)[0]
    assert np.abs(inside - span @ (span.T @ inside)).max() < 1e-12
    assert np.abs(outside - span @ (span.T @ outside)).max() > 0.1
    for v in (inside, outside):
        found, variances = run(v)
        assert found.residual < TOLERANCE
        assert found.lhs > 1e-2
        np.testing.assert_allclose(found.lhs, variances.mean(), rtol=1e-10)
        record_claim("EQ-5.3", measured=found.residual, expected="<= 1e-9 for any V")
    with pytest.raises(ValueError, match="last axis of `features`"):
        identities.last_layer(output_loss, h, kernel.T, kernel.T)
    with pytest.raises(ValueError, match="`direction` must have the shape"):
        identities.last_layer(output_loss, h, kernel, kernel.T)


@pytest.mark.claim("EQ-5.4")
def test_flat_directions_at_a_stationary_point(x64, record_claim):
    """A linear network that fits its target exactly; and a point that a subgroup fixes."""
    sym = Symmetry({"u": "_ h", "w": "h* _"}, {"h": groups.GeneralLinear(3)})
    params = {"u": normal(0, 4, 3), "w": normal(1, 3, 5)}
    target = params["u"] @ params["w"]

    def model(p):
        return p["u"] @ p["w"]

    def output_loss(y):
        return jnp.sum((y - target) ** 2)

    found = identities.degeneracy(sym, model, output_loss, params)
    assert found.dimension == sym.dimension == 9
    assert found.gradient == 0
    assert found.curvature.shape == (9,)
    assert found.curvature.max() < 1e-12
    flat, unravel = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda p: output_loss(model(unravel(p)))))
    values = np.abs(np.linalg.eigvalsh(hessian(flat)))
    assert np.sum(values < 1e-10 * values.max()) >= found.dimension
    record_claim("EQ-5.4", measured=found.curvature.max(), expected="<= 1e-12")

    # Away from a stationary point they are curved; and a point of rank one has a smaller orbit.
    moved = {**params, "u": params["u"] + 0.3 * normal(2, 4, 3)}
    off = identities.degeneracy(sym, model, output_loss, moved)
    assert off.dimension == 9
    assert off.curvature.max() > 1e-3
    low = {"u": params["u"].at[:, 1:].set(0), "w": params["w"].at[1:].set(0)}
    assert identities.degeneracy(sym, model, output_loss, low).dimension == 5
    signs = Symmetry({"u": "_ h", "w": "h _"}, {"h": groups.SignFlip(3)})
    assert identities.degeneracy(signs, model, output_loss, params).curvature.shape == (0,)


@pytest.mark.claim("EQ-7")
def test_an_approximate_symmetry_along_training(x64):
    """Scalings of softplus_β units: exact for β = ∞, of ever smaller defects as β grows, at every step."""
    params = {"u": normal(0, 3, 4), "w": normal(1, 4, 2)}
    x, target = normal(2, 6, 3), normal(3, 6, 2)
    sym = Symmetry({"u": "_ h", "w": "h* _"}, {"h": groups.PositiveScaling(4)})
    xi = {"h": jnp.asarray([1.0, -0.5, 0.3, 0.8])}

    def output_loss(y):
        return jnp.mean((y - target) ** 2)

    @jax.jit
    def run(beta):
        def model(p):
            z = x @ p["u"]
            return (jnp.logaddexp(z * beta, 0) / beta) @ p["w"]

        def step(p, _):
            found = identities.defects(sym, model, output_loss, p, directions=xi)
            gradient = jax.grad(lambda p: output_loss(model(p)))(p)
            return jax.tree.map(lambda a, g: a - 0.1 * g, p, gradient), found

        return jax.lax.scan(step, params, length=20)[1]

    rough, smooth, exact = (np.stack(run(beta)) for beta in (3.0, 30.0, 1e13))
    assert exact.shape == (4, 20)
    assert exact.max() < 1e-11
    assert np.all(rough > 1e-5)
    assert np.all(np.median(smooth, axis=1) < np.median(rough, axis=1) / 5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, p: identities.homogeneous("x"), TypeError, "`degree` must be a real number, got 'x'"),
        (
            lambda m, p: identities.homogeneous(2, {"a": {"b": "2"}}),
            TypeError,
            "leaf `a/b` of `weights` must be a real number, got '2'",
        ),
        (
            lambda m, p: identities.homogeneous(2, [1.0, 2.0]).act(p, 0.1),
            ValueError,
            "`weights` must be a prefix of the parameters",
        ),
        (lambda m, p: identities.degeneracy(3, m, logistic, p), TypeError, "degeneracy needs"),
        (
            lambda m, p: identities.softmax_variance(jnp.ones(3) / 3, jnp.ones(2)),
            ValueError,
            r"`direction_outputs` must have the shape \(3,\)",
        ),
        (
            lambda m, p: identities.alignment(m, logistic, p, 3.0, jnp.ones(2), p),
            ValueError,
            r"leaf `0` of `eigenvectors` must have the shape \(2, 4, 5\)",
        ),
        (
            lambda m, p: identities.alignment(m, logistic, p, 3.0, jnp.ones((2, 2)), p),
            ValueError,
            r"`eigenvalues` must have shape \(k,\), got \(2, 2\)",
        ),
        (
            lambda m, p: identities.alignment(m, logistic, p, "3", jnp.ones(2), p),
            TypeError,
            "`degree` must be a real number",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    model, params = relu_net()
    with pytest.raises(error, match=message):
        call(model, params)
