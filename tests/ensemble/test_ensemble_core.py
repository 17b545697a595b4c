"""Batches with the models last against vmap, statistics against one model at a time, devices against each other."""

import functools

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from eqtoolbox import Symmetry, noether
from eqtoolbox import ensemble as en
from eqtoolbox.curvature import Commutant
from eqtoolbox.groups import GeneralLinear
from eqtoolbox.linalg import moments_covariance, moments_estimate, moments_mean, moments_psum

NET = en.Net((2, 3, 2), "tanh", examples=40)


def seed():
    return jax.random.key(5)


def close(a, b, rtol=2e-5, atol=2e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def as_vmap(function, shared, *arguments):
    """Both ways of doing a batch of 3, the results with models last."""
    last = en.models_last(function, (None, *[-1] * len(arguments)))
    first = jax.vmap(function, (None, *[-1] * len(arguments)), -1)
    close(jax.jit(last)(shared, *arguments), jax.jit(first)(shared, *arguments))


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("rows", [5, 70, 97])
def test_products_of_matrices_with_the_models_last(rows):
    """Shared factors, short contractions, long ones in parts, and what is too large for either."""

    def function(x, a, b, c):
        h = jnp.tanh(x @ a)
        return h, h.T @ h, jnp.einsum("sk,ksj->sj", h, b), h @ h.T, x.T @ h, c @ c.T, a.T @ x.T

    x = draw(rows, 4)
    as_vmap(function, x, draw(4, 6, 3, seed=1), draw(6, rows, 2, 3, seed=2), draw(40, 40, 3, seed=3))


def test_programs_of_models_with_the_models_last():
    """Derivatives, loops, branches, convolutions, sorts, gathers, custom derivatives, results that models share."""

    def function(x, a, k):
        def body(h, row):
            h = jax.nn.relu(h @ a + row[None])
            return h, jnp.sum(h)

        def energy(a):
            return jnp.sum(jax.nn.log_softmax(jax.checkpoint(jnp.sin)(x @ a))[:, 1] ** 2) + jnp.max(a)

        scanned = jax.lax.scan(body, x[:, :4], jnp.stack([a[0], a[1]]))
        image = jax.lax.conv_general_dilated(
            x[None, :, :, None], k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        chosen = jax.lax.cond(a[0, 0] > 0, lambda: a, lambda: -a)
        looped = jax.lax.fori_loop(0, 3, lambda i, h: h * 2 + i, a)
        picked = a[jnp.argsort(a[:, 0])], jnp.where(a > 0, a, 0), jnp.concatenate([a, a[:1]]), jax.nn.gelu(a)
        return (
            jax.grad(energy)(a),
            jax.hessian(energy)(a),
            scanned,
            image,
            chosen,
            looped,
            picked,
            x,
            jnp.zeros(2),
        )

    as_vmap(function, draw(4, 4), draw(4, 4, 3, seed=1), draw(2, 2, 1, 2, 3, seed=2))


def make(times=(0, 3), optimizer=None, **statistics):
    given = statistics or {"loss": en.losses(), "flat": en.flat_gradients()}
    return en.Ensemble.of(NET.problem(), optimizer or optax.adam(0.1), times=times, statistics=given)


def by_hand(count, steps=3):
    """Models one after the other."""
    problem, found, tx = NET.problem(), [], optax.adam(0.1)

    @jax.jit
    def step(p, s):
        g = jax.grad(problem.loss)(p)
        u, s = tx.update(g, s, p)
        return optax.apply_updates(p, u), s

    for i in range(count):
        p = problem.init(jax.random.fold_in(seed(), i))
        s = tx.init(p)
        for _ in range(steps):
            p, s = step(p, s)
        found.append(p)
    return found


@pytest.mark.parametrize("layout", en.LAYOUTS)
def test_a_model_is_the_same_in_every_layout(layout):
    models, problem = by_hand(5), NET.problem()
    ensemble = make()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(seed(), jnp.arange(5))
    found = jax.jit(functools.partial(ensemble.batch, layout=layout))(keys)
    np.testing.assert_allclose(found["3"]["loss"], [problem.loss(p) for p in models], rtol=1e-5)
    grads = [ravel_pytree(jax.grad(problem.loss)(p))[0] for p in models]
    np.testing.assert_allclose(found["3"]["flat"], grads, rtol=1e-4, atol=1e-6)
    close(jax.jit(ensemble.trained)(seed(), 4), models[4], 1e-4)


def run(ensemble, models, **options):
    stream = en.Stream(ensemble, seed(), models, **options)
    state = stream.start()
    for done in range(stream.chunks):
        state = stream.advance(state, done)
    return stream, state


def one_device():
    return jax.make_mesh(
        (1,), ("models",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
    )


def test_statistics_are_those_of_all_models_at_once(x64):
    """A last chunk that is not full, batches that do not divide a chunk, every statistic there is."""
    problem = NET.problem()
    com = Commutant(problem.symmetry, NET.shapes)
    axes = {"Dense_0/kernel": "_ h", "Dense_0/bias": "h", "Dense_1/kernel": "h* _"}
    linear = Symmetry(axes, {"h": GeneralLinear(3)})
    ensemble = make(
        (0,),
        loss=en.losses(),
        gradient=en.gradients(),
        flat=en.flat_gradients(),
        squares=en.flat_gradients(2),
        factors=en.factors(com),
        hessian=en.hessians(),
        blocks=en.hessians(com),
        charges=en.charges(linear),
        own=en.Statistic(lambda model: {"norm": optax.tree.norm(model.params)}),
    )
    stream, state = run(ensemble, 37, chunk=8, batch_size=3, mesh=one_device())
    total = stream.total(state)["0"]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(seed(), jnp.arange(37))
    params = jax.vmap(NET.init)(keys)
    grads = jax.vmap(jax.grad(problem.loss))(params)
    g = np.asarray(jax.vmap(lambda t: ravel_pytree(t)[0])(grads))
    assert int(total["loss"].count) == 37
    assert int(state.left_out) == 0
    estimate = moments_estimate(total["loss"])
    losses = np.asarray(jax.vmap(problem.loss)(params))
    np.testing.assert_allclose(estimate.value, losses.mean(), rtol=1e-12)
    np.testing.assert_allclose(estimate.standard_error, losses.std(ddof=1) / np.sqrt(37), rtol=1e-10)
    close(moments_mean(total["gradient"]), jax.tree.map(lambda x: x.mean(0), grads), 1e-10, 1e-14)
    np.testing.assert_allclose(moments_covariance(total["flat"]), np.cov(g.T), atol=1e-12)
    outer = g[:, :, None] * g[:, None, :]
    np.testing.assert_allclose(en.second_moment(total["flat"]), outer.mean(0), atol=1e-12)
    full = en.full_covariance(total["flat"], total["squares"])
    np.testing.assert_allclose(full.standard_error, outer.std(0, ddof=1) / np.sqrt(37), rtol=1e-6, atol=1e-9)
    ours, truth = en.covariance_blocks(com, total["factors"]), com.covariance(grads)
    close(ours.value, truth.value, 1e-9, 1e-13)
    flat, unravel = jax.vmap(lambda p: ravel_pytree(p)[0])(params), ravel_pytree(problem.init(seed()))[1]
    h = np.asarray(jax.vmap(jax.hessian(lambda v: problem.loss(unravel(v))))(flat))
    np.testing.assert_allclose(moments_mean(total["hessian"]), h.mean(0), atol=1e-12)
    close(moments_mean(total["blocks"]), com.project(jnp.asarray(h.mean(0))), 1e-9, 1e-12)
    charges = jax.vmap(noether.charge_fn(linear))(params)
    close(moments_mean(total["charges"]), jax.tree.map(lambda x: x.mean(0), charges), 1e-10, 1e-13)
    norm = np.sqrt(sum((np.asarray(x).reshape(37, -1) ** 2).sum(1) for x in jax.tree.leaves(params)))
    np.testing.assert_allclose(moments_mean(total["own"])["norm"], norm.mean(), rtol=1e-12)


def test_functionals_see_disjoint_sub_ensembles():
    ensemble = make((0,), loss=en.losses())
    means = {"mean": lambda sums: moments_mean(sums["0"]["loss"])}
    stream, state = run(ensemble, 23, chunk=4, mesh=one_device(), functionals=means)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(seed(), jnp.arange(23))
    losses = np.asarray(jax.vmap(lambda k: NET.problem().loss(NET.init(k)))(keys))
    found = stream.scaling(state)["mean"]
    assert [(n, int(e.samples)) for n, e in found] == [(4, 5), (8, 2), (16, 1)]
    for n, estimate in found:
        parts = losses[: 23 // n * n].reshape(-1, n).mean(1)[: int(estimate.samples)]
        np.testing.assert_allclose(estimate.value, parts.mean(), rtol=1e-5)


def test_devices_agree():
    """One, eight, and four times two that share the examples; a chunk that devices do not divide."""
    totals = {}
    for name, mesh in {"1": one_device(), "8": en.device_mesh(), "4 x 2": en.device_mesh(2)}.items():
        layout = "first" if name == "4 x 2" else "last"
        stream, state = run(make((2,), optax.sgd(0.1)), 60, chunk=20, batch_size=2, mesh=mesh, layout=layout)
        total = stream.total(state)["2"]
        assert int(total["loss"].count) == 60
        totals[name] = jax.device_get(
            [*map(moments_estimate, total.values()), moments_covariance(total["flat"])]
        )
    for name in ("8", "4 x 2"):
        for a, b in zip(jax.tree.leaves(totals["1"]), jax.tree.leaves(totals[name]), strict=True):
            assert np.abs(a - b).max() <= 1e-6 * np.abs(a).max(), name


def test_models_that_diverge_are_left_out_and_counted():
    def init(key):
        return {"x": jnp.where(jax.random.uniform(key) < 0.3, 1e30, 1.0)}

    ensemble = en.Ensemble(init, lambda p: jnp.sum(p["x"] ** 2), optax.sgd(0.1), times=(0, 2))
    stream, state = run(ensemble, 50, chunk=16, mesh=one_device())
    bad = sum(float(init(jax.random.fold_in(seed(), i))["x"]) > 1 for i in range(50))
    assert 0 < bad == int(state.left_out)
    total = stream.total(state)
    assert int(total["0"]["loss"].count) == 50 - bad
    np.testing.assert_allclose(moments_mean(total["0"]["loss"]), 1.0)


def test_a_plan_keeps_to_the_memory():
    ensemble = make((0, 1), loss=en.losses())
    free = en.choose_plan(ensemble, seed(), most=64, layouts=("last",))
    assert (free.layout, free.batch_size) == ("last", 64)
    small = en.choose_plan(ensemble, seed(), most=64, limit=free.bytes // 3, layouts=("last",))
    assert small.batch_size < 32
    assert small.bytes <= free.bytes // 3
    both = en.choose_plan(ensemble, seed(), most=8, batch_size=4)
    assert both.batch_size == 4
    assert both.layout in en.LAYOUTS
    with pytest.raises(ValueError, match=r"one model takes .* bytes, more than the limit of 10"):
        en.choose_plan(ensemble, seed(), most=2, limit=10, layouts=("first",))


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (2, 2))(x))
        return nn.Dense(2)(nn.LayerNorm()(x.mean((1, 2))))


def test_a_flax_model_of_a_user():
    x, y = draw(6, 4, 4, 1), draw(6, 2, seed=1)
    module = Cnn()

    def loss(params, batch):
        return jnp.mean((module.apply({"params": params}, batch[0]) - batch[1]) ** 2)

    ensemble = en.Ensemble(lambda k: module.init(k, x)["params"], loss, optax.sgd(0.1), (0, 2), data=(x, y))
    keys = jax.random.split(seed(), 3)
    last, first = (
        jax.jit(functools.partial(ensemble.batch, layout=name))(keys) for name in ("last", "first")
    )
    close(last, first)


def test_what_an_ensemble_is_refused():
    problem = NET.problem()
    with pytest.raises(ValueError, match=r"times must be ascending numbers of steps, got \(3, 0\)"):
        make((3, 0))
    with pytest.raises(TypeError, match=r"statistic 'x' must be a Statistic, got <function"):
        make(x=lambda model: model.loss)
    with pytest.raises(TypeError, match=r"optimizer must be a GradientTransformation, got 0.1"):
        en.Ensemble(problem.init, problem.loss, 0.1)
    with pytest.raises(ValueError, match="`layout` must be one of last, first, loop, got 'middle'"):
        make().batch(jax.random.split(seed(), 2), layout="middle")
    with pytest.raises(ValueError, match="`mesh` must have an axis 'models', got"):
        en.Stream(
            make(),
            seed(),
            10,
            mesh=jax.make_mesh(
                (1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
            ),
        )
    with pytest.raises(
        ValueError, match=r"the mesh has 8 parts for the examples: .* got the shape \(41, 2\)"
    ):
        en.Stream(make().replace(data=(draw(41, 2), draw(41, 2))), seed(), 10, mesh=en.device_mesh(8))


def test_a_step_is_exported_for_every_platform():
    """For CUDA and TPU as well, which are not here; no call to the host is in it."""
    ensemble = make((0, 2), optax.adam(0.1))
    stream = en.Stream(ensemble, seed(), 64, chunk=16, batch_size=8, mesh=one_device())
    arguments = (jax.random.key_data(seed()), jnp.array([0, 16], jnp.int32), stream.data)

    def program(key, bounds, data):
        return stream._chunk_program(jax.random.wrap_key_data(key), bounds, data)

    exported = jax.export.export(jax.jit(program), platforms=("cpu", "cuda", "tpu"))(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    text = exported.mlir_module()
    assert "stablehlo.while" in text
    assert "callback" not in text
    ours = stream._run_chunk(seed(), *arguments[1:])[0]["2"]["loss"]
    np.testing.assert_allclose(
        moments_mean(exported.call(*arguments)[0]["2"]["loss"]), moments_mean(ours), rtol=1e-5
    )


def test_old_style_pmap_of_a_user():
    """A batch of the ensemble on every device by ``jax.pmap``, merged by name."""
    ensemble = make((2,), optax.sgd(0.1))

    def work(number):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(seed(), number * 2 + jnp.arange(2))
        sums = ensemble.add(ensemble.empty(), ensemble.batch(keys), jnp.ones(2, bool))
        return moments_psum(sums["2"]["loss"], "devices")

    merged = jax.pmap(work, axis_name="devices")(jnp.arange(8))
    stream, state = run(ensemble, 16, chunk=16, batch_size=4, mesh=one_device())
    mean = moments_mean(stream.total(state)["2"]["loss"])
    np.testing.assert_allclose(moments_mean(merged), np.full(8, mean), rtol=1e-5)
