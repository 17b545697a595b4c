"""Lyapunov exponents, critical learning rates and the phase diagram: dense products, exact formulas, simulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog_tools import quick_jit

import eqtoolbox as eqt
from eqtoolbox import groups, mirror

MU, SIGMA = 0.1, 1.0


def square_loss(p, batch):
    """f(x) = w²x with the mirror w -> -w; the curvature of a batch at w = 0 is -2 mean(xy)."""
    return jnp.mean((p["w"] ** 2 * batch["x"] - batch["y"]) ** 2) / 2


def product_loss(p, batch):
    """f(x) = V U x, a matrix factorisation."""
    residual = batch["x"] @ p["u"] @ p["v"] - batch["y"]
    return jnp.mean(jnp.sum(residual**2, axis=-1)) / 2


def scalars(key, steps, size=1):
    a, b = jax.random.split(key)
    x = jax.random.normal(a, (steps, size))
    return {"x": x, "y": MU * x + SIGMA * jax.random.normal(b, x.shape)}


def vectors(key, steps, size=1, scale=(1.0, 0.3)):
    a, b = jax.random.split(key)
    scale = jnp.asarray(scale)[None, None]
    x = scale * jax.random.normal(a, (steps, size, scale.shape[-1]))
    return {"x": x, "y": MU * x + scale * jax.random.normal(b, x.shape)}


def rank_one():
    params = {"w": jnp.asarray(0.0)}
    return square_loss, params, mirror.from_directions({"w": jnp.asarray(1.0)}), scalars


def pair_loss(p, batch):
    """f(x) = uwx."""
    return jnp.mean((p["u"] * p["w"] * batch["x"] - batch["y"]) ** 2) / 2


def rank_two():
    """The simultaneous flip of u and w, O = I; the Hessians [[0, -xy], [-xy, 0]] commute."""
    params = {"u": jnp.asarray([0.0]), "w": jnp.asarray([0.0])}
    sym = eqt.Symmetry({"u": "h", "w": "h*"}, {"h": groups.SignFlip(1)})
    return (lambda p, b: pair_loss(jax.tree.map(jnp.sum, p), b)), params, mirror.of(sym)[0], scalars


def rank_four():
    """At a factorisation that has lost its rank: z = (U n, nᵀV) has four numbers, and its Hessians do not commute."""
    params = {"u": jnp.zeros((2, 2)), "v": jnp.zeros((2, 2))}
    sym = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.GeneralLinear(2)})
    return product_loss, params, mirror.reflection(sym, "h", [0.6, 0.8]), vectors


def simulate(loss, params, m, draw, rates, decays, key, *, steps, start, seeds):
    """log‖Oᵀθ‖ at the end minus at the start of SGD on the model itself, shape (rates, seeds)."""

    def run(rate, decay, key):
        move, batches = jax.random.split(key)
        like = jax.eval_shape(m.order, params)
        z = eqt.linalg.random_like(move, like)
        z = jax.tree.map(lambda x: start * x / eqt.linalg.tree_norm(z), z)
        theta = jax.tree.map(jnp.add, m.complement(params), m.lift(z, params))

        def step(p, batch):
            grads = jax.grad(loss)(p, batch)
            return jax.tree.map(lambda a, g: a - rate * (g + 2 * decay * a), p, grads), None

        end = jax.lax.scan(step, theta, draw(batches, steps))[0]
        return jnp.log(m.distance(end)) - jnp.log(start)

    keys = jax.random.split(key, seeds)
    over_seeds = jax.vmap(run, (None, None, 0))
    return np.asarray(jax.jit(jax.vmap(over_seeds, (0, 0, None)))(rates, decays, keys))


@pytest.mark.claim("MS-2.4b")
@pytest.mark.parametrize("make", [rank_one, rank_four])
def test_exponents_are_those_of_the_dense_matrices(make, x64, record_claim):
    """The product of dense Hessians by NumPy; the sum of all exponents is the mean log|det|."""
    loss, params, m, draw = make()
    batches = draw(jax.random.key(1), 400, 2)
    eta, gamma = 0.4, 0.1
    r = m.dimension(params)
    found = mirror.lyapunov(
        loss, params, m, batches, learning_rate=eta, weight_decay=gamma, exponents=r, burn_in=0
    )
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    row = lambda e: jax.flatten_util.ravel_pytree(m.order(unravel(e)))[0]  # noqa: E731
    o = np.asarray(quick_jit(jax.vmap(row))(jnp.eye(flat.size)))
    dense = jax.jit(jax.vmap(lambda b: jax.hessian(lambda t: loss(unravel(t), b))(flat)))(batches)
    factors = np.eye(r) - eta * (np.einsum("pi,tpq,qj->tij", o, dense, o) + 2 * gamma * np.eye(r))
    total = np.mean(np.linalg.slogdet(factors)[1])
    np.testing.assert_allclose(np.sum(found.value), total, rtol=1e-9)
    q, sums = np.eye(r), np.zeros(r)
    for factor in factors:
        q, upper = np.linalg.qr(factor @ q)
        sums += np.log(np.abs(np.diagonal(upper)))
    np.testing.assert_allclose(found.value, sums / len(factors) if r > 1 else total, atol=0.02, rtol=1e-9)
    assert np.all(np.diff(found.value) < 0) if r > 1 else found.value.shape == ()
    top = mirror.lyapunov(loss, params, m, batches, learning_rate=eta, weight_decay=gamma, burn_in=0)
    np.testing.assert_allclose(top.value, np.ravel(found.value)[0], atol=0.02)
    if r == 1:
        samples = np.log(np.abs(factors.ravel()))
        np.testing.assert_allclose(found.standard_error, samples.std(ddof=1) / 20, rtol=0.4)
        record_claim(
            "MS-2.4b", measured=abs(float(found.value) - samples.mean()), expected="<= 1e-12, rank one"
        )


@pytest.mark.timeout(1800)
@pytest.mark.claim("MS-2.4b", "MS-2.4c")
@pytest.mark.parametrize(
    "make", [rank_one, *(pytest.param(make, marks=pytest.mark.slow) for make in (rank_two, rank_four))]
)
def test_predicted_boundaries_are_those_of_training(make, x64, record_claim):
    """A grid of learning rates and decays around both boundaries, against SGD on the model with other batches.

    From ‖Oᵀθ‖ = 1e-100 the growth over 600 steps is that of the linear regime, on either side of the boundary: rates
    must agree within the stated errors. From 1e-2 the model itself collapses or not.

    Where Hessians commute, noise makes SGD collapse at learning rates above a critical one, as (5) says. Where they do
    not, noise also feeds directions that the signal does not: here no learning rate collapses without decay though (5),
    a diagonal approximation, predicts one; with decay, small learning rates collapse and large ones do not.
    """
    loss, params, m, draw = make()
    commuting = make is not rank_four
    batches = draw(jax.random.key(2), 20000 if make is rank_one else 5000)
    everything = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
    gd = mirror.gd_weight_decay(lambda p: loss(p, everything), params, m).weight_decay
    gamma = 0.0 if commuting else 1.5 * float(gd)
    critical = mirror.critical_learning_rate(loss, params, m, batches, weight_decay=gamma)
    boundary = critical.lower if commuting else critical.upper
    eta = float(boundary.value)
    if not commuting:
        without = mirror.critical_learning_rate(loss, params, m, batches)
        assert np.isnan(without.lower.value)
        assert without.second_order.value > 4 * without.second_order.standard_error
        assert critical.lower.value == 0
    fixed = 0.5 * eta
    decay = mirror.sgd_weight_decay(loss, params, m, batches, learning_rate=fixed)
    assert decay.value < gd
    ratios = np.array([0.3, 0.5, 0.7, 1.5, 2.0, 3.0] if commuting else [0.5, 0.7, 0.85, 1.15, 1.3, 1.5])
    shifts = np.array([-1.0, -0.6, -0.3, 0.3, 0.6, 1.0])
    rates = np.concatenate([eta * ratios, np.full(6, fixed)])
    decays = np.concatenate([np.full(6, gamma), float(decay.value) + float(gd) * shifts])
    predicted = mirror.lyapunov(loss, params, m, batches, learning_rate=rates, weight_decay=decays)
    value, certain = np.asarray(predicted.value), np.abs(predicted.value) > 2 * predicted.standard_error
    inside = np.concatenate([(ratios > 1) == commuting, shifts > 0])
    np.testing.assert_array_equal((value < 0)[certain], inside[certain])
    assert certain.sum() >= 6

    steps = 600
    linear = simulate(
        loss, params, m, draw, rates, decays, jax.random.key(3), steps=steps, start=1e-100, seeds=64
    )
    measured, spread = linear.mean(1) / steps, linear.std(1, ddof=1) / 8 / steps
    turning = 0 if make is rank_one else 1 / steps  # the first vector has still to turn into place
    deviation = np.maximum(np.abs(measured - value) - turning, 0) / np.hypot(predicted.standard_error, spread)
    assert deviation.max() < 4
    for part, x, estimate in ((slice(6), rates, boundary), (slice(6, 12), decays, decay)):
        slope, intercept = np.polyfit(x[part], measured[part], 1)
        error = np.hypot(spread[part].mean() / 6**0.5 / abs(slope), estimate.standard_error)
        assert abs(-intercept / slope - estimate.value) < 4 * error + 0.05 * abs(estimate.value)

    # judged where the median of 16 runs is five of its errors away from log 10⁻³
    longer = 4000
    reach = np.abs(value) * longer - 7 - 5 * 1.25 / 4 * linear.std(1, ddof=1) * (longer / steps) ** 0.5
    far = reach > 0
    trained = simulate(
        loss, params, m, draw, rates, decays, jax.random.key(4), steps=longer, start=1e-2, seeds=16
    )
    collapsed = np.median(np.nan_to_num(trained, nan=np.inf), axis=1) < -7
    assert {True, False} <= set((value < 0)[far].tolist())
    np.testing.assert_array_equal(collapsed[far], value[far] < 0)
    record_claim("MS-2.4b", measured=float(deviation.max()), expected="<= 4 standard errors on a grid")


@pytest.mark.claim("MS-2.4c")
def test_the_second_order_rate(x64, record_claim):
    """Equation (5) against its moments, and against the root of Λ for Gaussian h, where (5) is nearly right."""
    mean, spread = -0.05, 0.5
    h = mean + spread * jax.random.normal(jax.random.key(0), (50000,))
    loss = lambda p, b: b * p["w"] ** 2 / 2  # noqa: E731
    params, m = {"w": jnp.asarray(0.0)}, mirror.from_directions({"w": jnp.asarray(1.0)})
    found = mirror.critical_learning_rate(loss, params, m, h)
    np.testing.assert_allclose(found.second_order.value, -2 * h.mean() / jnp.mean(h**2), rtol=1e-12)
    exact = -2 * mean / (mean**2 + spread**2)
    assert abs(found.second_order.value - exact) < 4 * found.second_order.standard_error
    assert abs(found.lower.value - found.second_order.value) < 0.05 * exact + 4 * found.lower.standard_error
    # Λ = 0 at the upper end: log η + E log|h| -> there it diverges again
    assert found.upper.value > 1
    assert np.mean(np.log(np.abs(1 - 1.1 * found.upper.value * np.asarray(h)))) > 0
    # one example in two points: h = ±1 has Λ = log|1 - η²|/2 < 0 for 0 < η < √2
    exact = mirror.critical_learning_rate(loss, params, m, jnp.array([1.0, -1.0] * 50))
    assert exact.lower.value == 0
    np.testing.assert_allclose(exact.upper.value, 2**0.5, rtol=2e-3)
    # weak noise: no collapse at small rates, and the decay moves both
    shifted = mirror.critical_learning_rate(loss, params, m, h, weight_decay=0.1)
    assert shifted.lower.value == 0
    assert shifted.second_order.value < 0
    record_claim(
        "MS-2.4c", measured=float(found.lower.value / found.second_order.value), expected="1 for weak noise"
    )


@pytest.mark.claim("MS-2.4c")
def test_phase_diagram_of_a_model_with_data(record_claim):
    """Small batches, noise, decay and rate all push towards collapse, in the printed direction."""
    data = jax.tree.map(lambda x: x[:, 0], scalars(jax.random.key(0), 256))
    params, m = {"w": jnp.asarray(0.0)}, mirror.from_directions({"w": jnp.asarray(1.0)})

    def noisy(key, batch, level):
        return {"x": batch["x"], "y": batch["y"] + level * jax.random.normal(key, batch["y"].shape)}

    found = mirror.phase_diagram(
        square_loss,
        params,
        m,
        data,
        learning_rates=[0.05, 0.3],
        batch_sizes=[1, 16, 256],
        weight_decays=[0.0, 0.5],
        noise=[0.0, 2.0],
        corrupt=noisy,
        steps=1500,
    )
    assert found.value.shape == (2, 3, 2, 2)
    h = -2 * float(jnp.mean(data["x"] * data["y"]))
    exact = jnp.log(jnp.abs(1 - jnp.array([[0.05], [0.3]]) * (h + 2 * jnp.array([[0.0, 0.5]]))))
    np.testing.assert_allclose(found.value[0, 2], exact, atol=1e-5)
    np.testing.assert_allclose(found.standard_error[0, 2], 0, atol=1e-6)
    assert np.all(found.phase()[:, :, :, 1] == -1)
    assert found.phase()[0, :, 1, 0].tolist() == [-1, 1, 1]
    assert found.value[1, 0, 1, 0] < found.value[1, 1, 1, 0] < found.value[1, 2, 1, 0]
    assert found.value[1, 1, 1, 0] < found.value[0, 1, 1, 0] - 2 * found.standard_error[1, 1, 1, 0]
    with pytest.raises(ValueError, match="`noise` needs `corrupt`"):
        mirror.phase_diagram(square_loss, params, m, data, learning_rates=[0.1], batch_sizes=[1], noise=[1.0])
    with pytest.raises(ValueError, match="each batch size"):
        mirror.phase_diagram(square_loss, params, m, data, learning_rates=[0.1], batch_sizes=[257])


def test_bad_input_and_a_model_as_users_run_it():
    """float32 under jit with bfloat16 leaves next to the mirror's; errors that say what is wrong."""
    params = {"w": jnp.asarray(0.5), "v": jnp.ones(3, jnp.bfloat16)}
    m = mirror.from_map(lambda p: p["w"], name="flip of w")
    batches = scalars(jax.random.key(0), 64, 4)
    loss = lambda p, b: square_loss(p, b) + jnp.sum(p["v"].astype(float)) * 0  # noqa: E731
    found = jax.jit(lambda p, m: mirror.lyapunov(loss, p, m, batches, learning_rate=0.1, weight_decay=0.0))(
        params, m
    )
    h = -2 * np.mean(np.asarray(batches["x"] * batches["y"]), axis=1)
    np.testing.assert_allclose(found.value, np.mean(np.log(np.abs(1 - 0.1 * h))), rtol=1e-4)
    with pytest.raises(ValueError, match="`exponents` must be between 1 and 1"):
        mirror.lyapunov(loss, params, m, batches, exponents=2)
    with pytest.raises(ValueError, match="number of batches"):
        mirror.lyapunov(loss, params, m, jax.tree.map(lambda x: x[:1], batches))
    with pytest.raises(TypeError, match="`learning_rate` must be a real number"):
        mirror.lyapunov(loss, params, m, batches, learning_rate="0.1")
    with pytest.raises(TypeError, match="`mirror` must be a Mirror"):
        mirror.lyapunov(loss, params, None, batches)
    with pytest.raises(ValueError, match="moves none"):
        mirror.lyapunov(loss, params, mirror.from_map(lambda p: p["v"][:0]), batches)
    with pytest.raises(ValueError, match="give a `direction`"):
        mirror.curvatures(loss, params, mirror.from_map(lambda p: p["v"][:2]), batches)
