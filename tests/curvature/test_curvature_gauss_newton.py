"""``symmetry_gauss_newton`` against dense linear algebra on tiny networks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commutant_brute import mlp

from eqtoolbox import groups
from eqtoolbox.curvature import Commutant, SymmetryGaussNewtonState, symmetry_gauss_newton
from eqtoolbox.curvature._kronecker import pieces
from eqtoolbox.curvature._quadratic import minimize, root_product
from eqtoolbox.curvature._whitening import Units
from eqtoolbox.linalg import ggn_fn, to_dense


def model(params, x):
    hidden = jnp.tanh(x @ params["w1"] + params["b1"][None])
    return hidden @ params["w2"] + params["b2"][None]


def squared(targets):
    return lambda f: jnp.mean(jnp.sum((f - targets) ** 2, -1)) / 2


def categorical(labels):
    return lambda f: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(f, labels))


def problem(group=groups.SignedPermutation, widths=(3, 4, 2), seed=0, dtype=jnp.float32, n=40):
    """A symmetry, parameters, inputs, and the targets of another network."""
    sym, structs = mlp(widths, group)
    rng = np.random.default_rng(seed)
    draw = lambda: {k: jnp.asarray(rng.normal(size=s.shape), dtype) for k, s in structs.items()}  # noqa: E731
    params, teacher, x = draw(), draw(), jnp.asarray(rng.normal(size=(n, widths[0])), dtype)
    return sym, params, x, model(teacher, x)


def stepper(tx, output_fn=model, loss=squared):
    """(parameters, state, inputs, targets) -> the next two, compiled once."""

    @jax.jit
    def step(params, state, x, y):
        f, output_loss = lambda p: output_fn(p, x), loss(y)
        grads = jax.grad(lambda p: output_loss(f(p)))(params)
        updates, state = tx.update(grads, state, params, output_fn=f, output_loss=output_loss, unknown=0)
        return optax.apply_updates(params, updates), state

    return step


def spd(rng, p, power=3.0):
    q, _ = np.linalg.qr(rng.normal(size=(p, p)))
    return (q * np.logspace(0, -power, p)) @ q.T


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


# The quadratic model.


def test_minimum_over_the_known_direction_and_a_growing_space(x64):
    """One iteration is the exact two-dimensional model; as many as there are dimensions solve it."""
    rng = np.random.default_rng(0)
    a, p, g, d = spd(rng, 8), spd(rng, 8), rng.normal(size=8), rng.normal(size=8)
    run = jax.jit(minimize, static_argnums=(0, 2, 4))
    product, precondition = lambda x: a @ x, lambda x: p @ x
    one = run(product, g, precondition, d, 1)
    first = d * -(d @ g) / (d @ a @ d)  # the minimum along d, then P times the residual there
    span = np.stack([d, p @ (-g - a @ first)], 1)
    want = -span @ np.linalg.solve(span.T @ a @ span, span.T @ g)
    np.testing.assert_allclose(one.step, want, rtol=1e-9)
    three, plain = run(product, g, precondition, d, 3), run(product, g, precondition, jnp.zeros(8), 3)
    value = lambda x: g @ x + x @ a @ x / 2  # noqa: E731
    assert value(three.step) < min(value(one.step), value(plain.step))
    for found in (one, three):
        np.testing.assert_allclose(found.slope, g @ found.step, rtol=1e-9)
        np.testing.assert_allclose(found.curvature, found.step @ a @ found.step, rtol=1e-9)
        assert abs(d @ (g + a @ found.step)) < 1e-9
    np.testing.assert_allclose(run(product, g, precondition, d, 9).step, -np.linalg.solve(a, g), rtol=1e-6)
    best = run(product, g, lambda x: jnp.linalg.solve(a, x), None, 1)
    np.testing.assert_allclose(best.step, -np.linalg.solve(a, g), rtol=1e-9)


def test_root_of_few_distinct_eigenvalues_is_exact(x64):
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(9, 9)))
    w = np.repeat([0.0, 1e-3, 2.0], 3)
    a, x = (q * w) @ q.T, rng.normal(size=9)
    want = (q * np.sqrt(w)) @ q.T @ x
    for steps in (3, 6):
        got = root_product(lambda v: a @ v, jnp.asarray(x), steps)
        np.testing.assert_allclose(got, want, atol=1e-7)
    np.testing.assert_array_equal(root_product(lambda v: 0 * v, jnp.asarray(x), 2), 0)


# The blocks.


@pytest.mark.parametrize("loss", ["squared", "categorical"])
def test_samples_make_the_projection_of_the_gauss_newton_matrix(x64, loss):
    """The blocks of whole components: those of the dense matrix, within the noise of 4000 samples."""
    sym, params, x, y = problem(dtype=jnp.float64, n=3)
    output_loss = squared(y) if loss == "squared" else categorical(jnp.argmax(y, -1))
    tx = symmetry_gauss_newton(1.0, sym, couple=True, largest_units=0, samples=4000)
    f = lambda p: model(p, x)  # noqa: E731
    grads = jax.grad(lambda p: output_loss(f(p)))(params)
    _, state = jax.jit(lambda g, s, p: tx.update(g, s, p, output_fn=f, output_loss=output_loss))(
        grads, tx.init(params), params
    )
    com = Commutant(sym, params)
    want = com.project(to_dense(ggn_fn(f, output_loss, params), params))
    assert float(state.newton_weight) == 1.0
    for name, block in state.newton_factors.copies.items():
        scale = np.abs(want[name]).max()
        np.testing.assert_allclose(block, want[name], atol=0.08 * scale)


def test_symmetric_preconditioner_is_the_dense_inverse(x64):
    """(P(G) + λ)^{-1} v with p × p matrices, where only the symmetry's blocks are used."""
    sym, params, x, y = problem(groups.Permutation, dtype=jnp.float64)
    com = Commutant(sym, params)
    blocks = com.project(to_dense(ggn_fn(lambda p: model(p, x), squared(y), params), params))
    parts = pieces(sym, params, Units(0, None), True, None)
    samples = {}  # whose Gram matrices are the blocks
    for c in com.components:
        w, v = np.linalg.eigh(blocks[c.name])
        root = (v * np.sqrt(np.maximum(w, 0) * c.dimension)) @ v.T
        directions = np.linalg.svd(com.coordinates(params)[c.name])[2][:1]
        samples[c.name] = (root[:, :, None, None] * directions[0]).transpose(1, 2, 0, 3).reshape(
            len(w), len(w), -1
        ) * np.sqrt(len(w))
    longest = max(len(s) for s in samples.values())
    samples = {
        name: np.concatenate([s, np.zeros((longest - len(s), *s.shape[1:]))]) * np.sqrt(longest / len(s))
        for name, s in samples.items()
    }
    start, _ = parts.start()
    _, eigen = parts.learn(start, jax.tree.map(jnp.asarray, samples), lambda a, b: b, jnp.ones(()), 0.0)
    for name, block in blocks.items():
        w, v = (np.asarray(part.copies[name]) for part in eigen)
        np.testing.assert_allclose((v * w) @ v.T, block, atol=1e-10)
    solved = parts.solve(eigen, com.coordinates(params), jnp.asarray(1e-2), 0.0)
    want = np.linalg.solve(com.to_dense(blocks) + 1e-2 * np.eye(com.size), flat(params))
    np.testing.assert_allclose(flat(com.from_coordinates(solved, params)), want, rtol=1e-7)


def test_factors_of_two_spaces_are_the_dense_kronecker_inverse(x64):
    """A weight between two hidden layers: (M N₁ ⊗ N₂ + λ + floor)^{-1}, N of what is white before."""
    sym, structs = mlp((2, 3, 4, 2), groups.SignedPermutation)
    params = {k: jnp.zeros(s.shape) for k, s in structs.items()}
    parts = pieces(sym, params, Units(None, None), False, None)
    rng = np.random.default_rng(1)
    name, c = next((c.name, c) for c in parts.parts if len(c.shape) == 2)
    trees = [{k: jnp.asarray(rng.normal(size=s.shape)) for k, s in structs.items()} for _ in range(9)]
    samples = jax.vmap(parts.com.coordinates)(jax.tree.map(lambda *x: jnp.stack(x), *trees))
    start, _ = parts.start()
    _, eigen = parts.learn(start, samples, lambda a, b: b, jnp.ones(()), 0.0)
    x = np.asarray(parts.rows(samples)[name]).reshape(9, *c.shape)
    m = np.mean(x**2)
    n1 = np.einsum("nab,ncb->ac", x, x)
    n1 *= len(n1) / np.trace(n1)
    root = np.linalg.cholesky(np.linalg.inv(n1))
    white = np.einsum("ab,nac->nbc", root, x)
    n2 = np.einsum("nab,nac->bc", white, white)
    n2 *= len(n2) / np.trace(n2)
    dense = m * np.kron(n1, n2)
    v = parts.com.coordinates(trees[0])
    got = parts.rows(parts.solve(eigen, v, jnp.asarray(0.1), 1e-2))[name]
    damped = dense + (0.1 + 1e-2 * np.linalg.eigvalsh(dense)[-1]) * np.eye(12)
    np.testing.assert_allclose(
        np.ravel(got), np.linalg.solve(damped, np.ravel(parts.rows(v)[name])), rtol=1e-8
    )


# Steps.


def test_a_linear_problem_is_solved_in_one_step(x64):
    """Ridge regression by its normal equations, whatever the preconditioner."""
    sym, params, x, y = problem(groups.Permutation, dtype=jnp.float64)
    only = lambda p, x: model({**params, "w2": p["w2"], "b2": p["b2"]}, x)  # noqa: E731
    loss = lambda p: squared(y)(only(p, x)) + 0.05 * sum(jnp.sum(a**2) for a in jax.tree.leaves(p))  # noqa: E731
    options = {"weight_decay": 0.1, "products": 60, "damping": 0.0, "adapt": 1}
    tx = symmetry_gauss_newton(1.0, sym, **options)
    end, state = stepper(tx, only)(params, tx.init(params), x, y)
    gradient = jax.grad(loss)(end)
    assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradient)) < 1e-8
    np.testing.assert_allclose(state.newton_ratio, 1.0, rtol=1e-9)  # quadratic
    assert float(jnp.max(jnp.abs(end["w1"]))) < 1e-8  # it only decays


def test_a_teacher_is_found_to_rounding():
    sym, teacher, x, _ = problem()
    y, params = model(teacher, x), jax.tree.map(lambda p: 0.8 * p + 0.1, teacher)
    tx = symmetry_gauss_newton(1.0, sym)
    step, state = stepper(tx), tx.init(params)
    before = squared(y)(model(params, x))
    for _ in range(60):
        params, state = step(params, state, x, y)
        after = squared(y)(model(params, x))
        assert float(after) <= float(before) * (1 + 1e-5)
        before = after
    assert float(before) < 1e-11


@pytest.mark.parametrize(
    ("group", "options"),
    [
        (groups.SignedPermutation, {"products": 3}),
        (groups.Permutation, {"couple": True, "largest_units": 0, "products": 1}),
    ],
)
def test_training_commutes_with_the_group(group, options, key, x64):
    """Few products: more amplify rounding where there are hardly more directions, as conjugate gradients do."""
    sym, params, x, y = problem(group, dtype=jnp.float64)
    g = sym.sample(key)
    step = stepper(tx := symmetry_gauss_newton(0.5, sym, **options))
    one, other = params, sym.act(g, params)
    first, second = tx.init(one), tx.init(other)
    for _ in range(3):
        one, first = step(one, first, x, y)
        other, second = step(other, second, x, y)
    moved = sym.act(g, one)
    for k in params:
        np.testing.assert_allclose(moved[k], other[k], atol=1e-7)
    assert float(jnp.max(jnp.abs(one["w1"] - params["w1"]))) > 1e-2


@functools.cache
def trained() -> Any:
    """A problem in float32, a transformation, its step, and where two steps lead."""
    sym, params, x, y = problem()
    tx = symmetry_gauss_newton(optax.cosine_decay_schedule(1.0, 100), sym, products=3, every=2)
    step, state = stepper(tx), tx.init(params)
    for _ in range(2):
        params, state = step(params, state, x, y)
    return sym, params, x, y, tx, step, state


def test_what_is_not_finite_is_skipped_and_counted():
    _, params, x, y, _, step, state = trained()
    same, after = step(params, state, x.at[0, 0].set(jnp.nan), y)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert int(after.newton_refused) == int(state.newton_refused) + 1
    for name in ("newton_damping", "newton_factors", "newton_eigen", "newton_last", "newton_weight"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    better, _ = step(params, after, x, y)
    assert squared(y)(model(better, x)) < squared(y)(model(params, x))


def test_a_step_that_does_not_lower_the_loss_is_refused_and_damped():
    """A learning rate that is far too large."""
    sym, params, x, y = problem()
    tx = symmetry_gauss_newton(50.0, sym, products=3, damping=0.01)
    start: Any = tx.init(params)
    same, state = stepper(tx)(params, start, x, y)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert int(state.newton_refused) == 1
    assert float(state.newton_damping) == pytest.approx(0.09)


def test_ensemble_gives_each_model_its_own_step():
    """Everything under vmap: one program, and conditionals on what is not batched."""
    _, params, x, y, tx, step, _ = trained()
    stacked = jax.tree.map(lambda p: jnp.stack([p, 0.5 * p, -2 * p]), params)
    every = jax.jit(jax.vmap(step, (0, 0, None, None)))
    models, states = stacked, jax.vmap(tx.init)(stacked)
    for _ in range(2):
        models, states = every(models, states, x, y)
    for i in range(3):
        one = jax.tree.map(lambda p, i=i: p[i], stacked)
        state = tx.init(one)
        for _ in range(2):
            one, state = step(one, state, x, y)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-2, atol=2e-3), models, one)


def test_dtypes_are_kept():
    sym, params, x, y = problem(dtype=jnp.bfloat16)
    tx = symmetry_gauss_newton(1.0, sym, products=2)
    state = tx.init(params)
    end, after = stepper(tx)(params, state, x, y)
    assert jax.tree.map(lambda p: p.dtype, end) == jax.tree.map(lambda p: p.dtype, params)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    assert squared(y)(model(end, x)) < squared(y)(model(params, x))


def test_saved_and_restored_bit_for_bit(tmp_path):
    import orbax.checkpoint as ocp

    _, params, x, y, _, step, state = trained()
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", state)
        saver.wait_until_finished()
        again = saver.restore(tmp_path / "state", jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
    assert isinstance(again, SymmetryGaussNewtonState)
    jax.tree.map(np.testing.assert_array_equal, step(params, state, x, y), step(params, again, x, y))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"products": 0}, ValueError, "`products` must be at least 1, got 0"),
        ({"samples": 1.5}, TypeError, "`samples` must be an integer"),
        ({"damping": -1.0}, ValueError, r"`damping` must lie in \[0, inf\], got -1.0"),
        ({"adapt": 0.5}, ValueError, "`adapt`"),
        ({"floor": "0"}, TypeError, "`floor` must be a real number"),
        ({"largest_units": -1}, ValueError, "largest_units"),
    ],
)
def test_bad_options(options, error, match):
    sym, _, _, _ = problem()
    with pytest.raises(error, match=match):
        symmetry_gauss_newton(1.0, sym, **options)


def test_bad_calls():
    sym, params, x, _ = problem()
    wrong: Any = "h"
    with pytest.raises(TypeError, match="Symmetry"):
        symmetry_gauss_newton(1.0, wrong)
    tx = symmetry_gauss_newton(1.0, sym)
    with pytest.raises(ValueError, match="w1"):
        tx.init({**params, "w1": jnp.zeros((3, 5))})
    state = tx.init(params)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, state)
    with pytest.raises(TypeError, match="`output_loss`, a function, got None"):
        tx.update(params, state, params, output_fn=lambda p: model(p, x))
