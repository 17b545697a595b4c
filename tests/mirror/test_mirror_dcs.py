"""The optimizer wrapper: the functional form step for step, in every surrounding that optax and orbax offer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from constraint_tools import apply, constraints, halves, network, symmetry
from jax.experimental import checkify

import eqtoolbox as eqt
from eqtoolbox import mirror

NAMES = [name for name in constraints() if name not in ("sparse kernels", "linear functions")]
X = np.random.default_rng(7).normal(size=(6, 3))
Y = np.random.default_rng(8).normal(size=(6, 2))


def model_loss(outputs):
    return jnp.mean((outputs - jnp.asarray(Y, outputs.dtype)) ** 2)


def loss(params):
    return model_loss(apply(params, jnp.asarray(X, params["l0"]["bias"].dtype)))


def same(a, b, **kwargs):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **kwargs), a, b)


RATE = optax.linear_schedule(0.1, 0.02, 12)
STRENGTH = optax.linear_schedule(0.01, 0.05, 12)


def functional_run(constraint, params, steps=12):
    """SGD with momentum on L(T(f)) + α(t) penalty(f), by automatic differentiation of the whole."""
    form = mirror.reparametrize(apply, constraint)
    tx = optax.sgd(RATE, momentum=0.9)

    def step(carry, t):
        factors, state = carry

        def penalised(f):
            data = model_loss(form.apply(f, jnp.asarray(X, params["l0"]["bias"].dtype)))
            return 0.5 * data + STRENGTH(t) * form.penalty(f)

        updates, state = tx.update(jax.grad(penalised)(factors), state)
        factors = optax.apply_updates(factors, updates)
        return (factors, state), form.params(factors)

    factors = form.init(params)
    return jax.lax.scan(step, (factors, tx.init(factors)), jnp.arange(steps, dtype=jnp.int32))[1]


def one_step(tx, carry, _=None):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), params


def wrapped(constraint):
    """In a chain, with schedules of both the learning rate and the strength."""
    return optax.chain(optax.scale(0.5), mirror.dcs(optax.sgd(RATE, momentum=0.9), constraint, STRENGTH))


@pytest.mark.claim("MS-2.6")
@pytest.mark.parametrize("name", NAMES)
def test_the_wrapper_follows_the_functional_form(name, x64, tmp_path):
    """Step for step, under jit, in a chain, with schedules, and across a checkpoint in the middle."""
    constraint, params = constraints()[name], network()
    tx = wrapped(constraint)

    @jax.jit
    def some(params, state):
        return jax.lax.scan(lambda c, _: one_step(tx, c), (params, state), length=6)

    want = jax.jit(lambda p: functional_run(constraint, p))(params)
    carry, first = some(params, jax.jit(tx.init)(params))
    saved = {"params": carry[0], "opt_state": carry[1]}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", saved)
        checkpointer.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        restored = checkpointer.restore(tmp_path / "state", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    (_, state), second = some(restored["params"], restored["opt_state"])
    got = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    same(got, want, rtol=1e-9, atol=1e-12)
    assert float(optax.tree.get(state, "dcs_gap")) == 0
    assert int(optax.tree.get(state, "dcs_count")) == 12


def test_float32_follows_to_rounding():
    params, constraint = network(dtype=jnp.float32), mirror.sparse()
    tx = wrapped(constraint)
    run = jax.jit(lambda p: jax.lax.scan(lambda c, _: one_step(tx, c), (p, tx.init(p)), length=12)[1])
    same(run(params), jax.jit(lambda p: functional_run(constraint, p))(params), rtol=1e-4, atol=1e-6)


def test_the_snippet():
    params = network(dtype=jnp.float32)
    tx = eqt.dcs(optax.sgd(0.1, momentum=0.9), eqt.mirror.sparse(), strength=5e-4)
    state = tx.init(params)
    for _ in range(3):
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    small, info = eqt.mirror.prune(params, eqt.mirror.sparse(), tol=1e-6)
    assert jax.tree.structure(small) == jax.tree.structure(params)
    assert info.total == sum(x.size for x in jax.tree.leaves(params))


def test_bfloat16_parameters_are_rounded_masters():
    """θ + update is T(w, u, v) rounded: at once with float32 gradients, with bfloat16 ones where Sterbenz holds."""
    constraint = mirror.sparse()
    params = network(dtype=jnp.bfloat16)
    tx = mirror.dcs(optax.sgd(3e-3), constraint, 0.01)
    update, slope, join = jax.jit(tx.update), jax.jit(jax.grad(loss)), jax.jit(constraint.join)
    for wide in (True, False):
        p, state, first = params, tx.init(params), None
        for _ in range(40):
            grads = slope(p)
            if wide:
                grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
            updates, state = update(grads, state, p)
            assert {u.dtype for u in jax.tree.leaves(updates)} == {jax.tree.leaves(grads)[0].dtype}
            new, factors = optax.apply_updates(p, updates), state.dcs_factors
            master = jax.device_get(jax.tree.leaves(join(factors)))
            olds, news = jax.device_get((jax.tree.leaves(p), jax.tree.leaves(new)))
            for a, b, m in zip(news, olds, master, strict=True):
                assert a.dtype == jnp.bfloat16
                assert m.dtype == np.float32
                near = (m / b.astype(m.dtype) > 0.55) & (m / b.astype(m.dtype) < 1.9)
                np.testing.assert_array_equal(a[near | wide], m.astype(a.dtype)[near | wide])
            assert float(state.dcs_gap) == 0
            first = first or join(factors)
            p = new
        # The masters gather what bfloat16 parameters alone would lose.
        assert abs(float(constraint.join(factors)["l0"]["bias"][0] - first["l0"]["bias"][0])) > 0


def test_a_far_step_in_bfloat16_is_put_right():
    """From 1 to 0.00099 the difference has no bfloat16: one step is off by its rounding, and the next is exact."""
    params = jnp.ones((1,), jnp.bfloat16)
    constraint = mirror.sparse(imbalance=0.0)
    tx = mirror.dcs(optax.sgd(1.0), constraint, 0.0)
    state = tx.init(params)
    rate = (1 - 0.00099**0.5) * jnp.ones((1,), jnp.bfloat16)
    updates, state = tx.update(rate, state, params)
    params = optax.apply_updates(params, updates)
    master = constraint.join(state.dcs_factors)
    missed = abs(float(params[0]) - float(master[0]))
    assert 0 < missed <= 2**-9
    np.testing.assert_allclose(float(state.dcs_slack[0]), missed, rtol=1e-6)
    updates, state = tx.update(jnp.zeros_like(params), state, params)
    assert float(state.dcs_gap) == 0
    assert optax.apply_updates(params, updates)[0] == master.astype(jnp.bfloat16)[0]


def test_parameters_that_were_changed():
    """Raised with the size, taken over, or put back; never for what rounding does."""
    params = network(dtype=jnp.float32)
    moved = jax.tree.map(lambda x: x, params)
    moved["l0"] = {**moved["l0"], "bias": moved["l0"]["bias"] + 0.5}
    make = lambda changed: mirror.dcs(optax.sgd(0.01), mirror.sparse(), 0.0, changed=changed)  # noqa: E731
    zero = jax.tree.map(jnp.zeros_like, params)

    tx = make("raise")
    with pytest.raises(ValueError, match="dcs must stand outermost"):
        tx.update(zero, tx.init(params), moved)
    checked = jax.jit(checkify.checkify(tx.update))
    error, _ = checked(zero, tx.init(params), moved)
    with pytest.raises(checkify.JaxRuntimeError, match="dcs must stand outermost"):
        error.throw()
    assert checked(zero, tx.init(params), params)[0].get() is None
    assert float(jax.jit(tx.update)(zero, tx.init(params), moved)[1].dcs_gap) > 0.1

    tx = make("resync")
    updates, state = jax.jit(tx.update)(zero, tx.init(params), moved)
    same(optax.apply_updates(moved, updates), moved, atol=1e-6)
    same(mirror.sparse().join(state.dcs_factors), moved, atol=1e-6)

    tx = make("ignore")
    updates, _ = jax.jit(tx.update)(zero, tx.init(params), moved)
    same(optax.apply_updates(moved, updates), params, atol=1e-6)


def test_something_after_it_is_noticed():
    params = network(dtype=jnp.float32)
    tx = optax.chain(mirror.dcs(optax.sgd(0.1), mirror.sparse(), 0.01), optax.scale(0.5))
    carry = one_step(tx, (params, tx.init(params)))[0]
    with pytest.raises(ValueError, match="must stand outermost"):
        one_step(tx, carry)


def test_hyperparameters_partition_and_multisteps():
    """What optax wraps around or puts inside."""
    params = network(dtype=jnp.float32)
    inside = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    tx = optax.inject_hyperparams(mirror.dcs)(inner=inside, constraint=mirror.sparse(), strength=0.01)
    state = tx.init(params)
    state.hyperparams["strength"] = jnp.asarray(0.02)
    by_hand = mirror.dcs(optax.sgd(0.1), mirror.sparse(), 0.02)
    one, _ = jax.jit(lambda c: one_step(tx, c))((params, state))
    two, _ = jax.jit(lambda c: one_step(by_hand, c))((params, by_hand.init(params)))
    same(one[0], two[0], rtol=1e-6)

    parts = {
        "hidden": mirror.dcs(optax.sgd(0.1), mirror.group_sparse(symmetry()), 0.01),
        "twin": mirror.dcs(optax.adam(0.1), mirror.low_rank(), 0.01),
    }
    labels = {
        "l0": {"kernel": "hidden", "bias": "hidden"},
        "l1": {"kernel": "hidden"},
        "twin": {"kernel": "twin"},
    }
    tx = optax.MultiSteps(optax.partition(parts, labels), 2)
    run = jax.jit(lambda p: jax.lax.scan(lambda c, _: one_step(tx, c), (p, tx.init(p)), length=6))
    (end, state), _ = run(params)
    gaps = [x for path, x in jax.tree.leaves_with_path(state) if "dcs_gap" in jax.tree_util.keystr(path)]
    assert len(gaps) == 2
    assert max(map(float, gaps)) == 0
    assert loss(end) < loss(params)

    apart = {**labels, "l1": {"kernel": "twin"}}
    with pytest.raises(ValueError, match="mask or partition whole orbits together"):
        optax.partition(parts, apart).init(params)


def test_leaves_that_hold_no_floats_are_left_alone():
    params = {"w": jnp.ones(3), "count": jnp.arange(2)}
    tx = mirror.dcs(optax.sgd(0.1), mirror.sparse(), 0.01)
    grads = {"w": jnp.ones(3), "count": jnp.zeros(2, int)}
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["count"].dtype == grads["count"].dtype
    assert not updates["count"].any()


def test_shapes_maps_vmap_and_donation():
    params = network(dtype=jnp.float32)
    tx = mirror.dcs(optax.adam(0.1), mirror.linear(halves()), 0.01)
    shapes = jax.eval_shape(tx.init, params)
    state = tx.init(params)
    assert jax.tree.map(lambda x: x.dtype, shapes) == jax.tree.map(lambda x: x.dtype, state)
    doubled = optax.tree.map_params(tx, lambda x: 2 * x, state)
    same(doubled.dcs_factors.v["twin"], jax.tree.map(lambda x: 2 * x, params["twin"]))
    assert int(doubled.dcs_count) == 0

    stack = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    ends = jax.jit(jax.vmap(lambda p: one_step(tx, (p, tx.init(p)))[1]))(stack)
    same(jax.tree.map(lambda x: x[0], ends), one_step(tx, (params, state))[1], rtol=1e-5, atol=1e-6)

    donating = jax.jit(lambda p, s: one_step(tx, (p, s))[0], donate_argnums=(0, 1))
    again = donating(*donating(jax.tree.map(jnp.copy, params), tx.init(params)))
    assert np.isfinite(loss(again[0]))


def test_input_that_is_refused():
    good = optax.sgd(0.1)
    cases = [
        (
            TypeError,
            "`inner` must be an optax transformation",
            lambda: mirror.dcs(None, mirror.sparse(), 0.1),
        ),
        (TypeError, "needs a constraint", lambda: mirror.dcs(good, "sparse", 0.1)),
        (TypeError, "`strength` must be a real number", lambda: mirror.dcs(good, mirror.sparse(), "0.1")),
        (ValueError, "must not be negative", lambda: mirror.dcs(good, mirror.sparse(), -0.1)),
        (
            ValueError,
            "`changed` must be one of",
            lambda: mirror.dcs(good, mirror.sparse(), 0.1, changed="no"),
        ),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()
    tx = mirror.dcs(good, mirror.sparse(), 0.1)
    with pytest.raises(ValueError, match=r"call update\(…, params\)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


@pytest.mark.claim("MS-2.6", "MS-2.5")
def test_the_lasso_path(x64, record_claim):
    """scikit-learn's lasso, at equal penalties along the path, from random starts, with L-BFGS inside."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    n, d = 80, 30
    x, truth = rng.normal(size=(n, d)), np.zeros(d)
    truth[:6] = 2 * rng.normal(size=6)
    y = x @ truth + 0.3 * rng.normal(size=n)

    def half_mse(theta):
        return jnp.sum((y - x @ theta) ** 2) / (2 * n)

    @jax.jit
    def fit(a, theta):
        search = optax.scale_by_zoom_linesearch(50)
        tx = mirror.dcs(optax.lbfgs(memory_size=30, linesearch=search), mirror.sparse(imbalance=1.0), a / 2)

        def step(carry, _):
            params, state = carry
            value, grad = jax.value_and_grad(half_mse)(params)
            updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=half_mse)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (theta, tx.init(theta)), length=1000)[0][0]

    largest, gaps, misses = np.abs(x.T @ y).max() / n, [], []
    for share in np.geomspace(0.9, 2e-3, 8):
        a = share * largest
        want = linear_model.Lasso(alpha=a, fit_intercept=False, tol=1e-15, max_iter=10**6).fit(x, y).coef_
        got = np.asarray(fit(a, jnp.asarray(rng.normal(size=d))))
        objective = lambda b, a=a: np.sum((y - x @ b) ** 2) / (2 * n) + a * np.abs(b).sum()  # noqa: E731
        gaps.append(objective(got) - objective(want))
        misses.append(np.abs(got - want).max())
    assert max(gaps) <= 1e-9
    assert max(misses) <= 1e-8
    record_claim("MS-2.5", measured=float(max(misses)), expected="the lasso's coefficients, to 1e-8")
