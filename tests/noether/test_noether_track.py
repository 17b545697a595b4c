"""track_charges: it changes nothing, measures exactly, and goes wherever an optax transformation goes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from noether_tools import SYM, apart, batch_loss, problem, train

from eqtoolbox import Symmetry, groups, noether, track_charges
from eqtoolbox.noether import ChargeState, Law, metrics, observe_charges


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def charges_of(state):
    (found,) = (
        s
        for s in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ChargeState))
        if isinstance(s, ChargeState)
    )
    return found


@pytest.mark.parametrize("every", [1, 10])
def test_it_leaves_training_alone_and_measures_the_true_change(every):
    params, batch = problem()
    for inner in (optax.sgd(0.05, 0.9), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))):
        tx = track_charges(inner, SYM, every=every)
        plain, _ = jax.jit(lambda p, tx=inner: train(tx, p, batch, 40))(params)
        end, state = jax.jit(lambda p, tx=tx: train(tx, p, batch, 40))(params)
        assert same(plain, end), "bit for bit"
        found, charges = state.charge_state, noether.charge_fn(SYM)(end)
        change = jax.tree.map(jnp.subtract, charges, found.charge_start)
        assert apart(found.charge_drift, change) < 1e-4
        assert apart(found.charge, charges) < 1e-6
        values = metrics(state)
        assert max(values["residual/h"], values["residual/k"]) < 1e-6
        assert values["unexplained/h"] < 1e-5
        assert found.charge_count == 40
    assert set(values) == {
        f"{a}/{k}{b}"
        for k in "hk"
        for a, b in (("charge", "/norm"), ("drift", ""), ("residual", ""), ("unexplained", ""))
    }


def test_the_drift_is_that_of_the_last_recorded_step():
    params, batch = problem()
    tx = track_charges(optax.sgd(0.05), SYM, every=10)
    twenty, _ = jax.jit(lambda p: train(tx, p, batch, 20))(params)
    _, state = jax.jit(lambda p: train(tx, p, batch, 20))(params)
    later, after = jax.jit(lambda p, s: train(tx, p, batch, 7, state=s))(twenty, state)
    assert same(state.charge_state._replace(charge_count=jnp.int32(27)), after.charge_state)
    assert not same(twenty, later)


def test_a_broken_symmetry_raises_the_alarm():
    params, batch = problem()
    wrong = Symmetry({"w1": "_ h", "w2": "h* _"}, {"h": groups.GeneralLinear(4)})  # leaves the bias behind
    gradient = jax.grad(batch_loss)(params, batch)
    assert float(noether.residual(wrong, params, gradient)["h"]) > 1e-2
    tx = track_charges(optax.sgd(0.05), wrong)
    _, state = tx.update(gradient, tx.init(params), params)
    assert float(metrics(state)["residual/h"]) > 1e-2


def step_of(tx, params, batch):
    """One jitted step: (updates, state)."""
    grads = jax.grad(batch_loss)(params, batch)
    return jax.jit(tx.update)(grads, tx.init(params), params)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.chain(optax.clip(0.1), tx),
        lambda tx: optax.named_chain(("first", optax.identity()), ("noether", tx)),
        lambda tx: optax.masked(tx, {"w1": True, "b1": True, "w2": True, "b2": True, "w3": True}),
        lambda tx: optax.partition({"a": tx}, dict.fromkeys(("w1", "b1", "w2", "b2", "w3"), "a")),
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.with_extra_args_support(tx),
    ],
)
def test_it_goes_into_other_transformations(wrap):
    params, batch = problem()
    tx = wrap(track_charges(optax.sgd(0.05), SYM))
    updates, state = step_of(tx, params, batch)
    found = charges_of(state)
    assert apart(found.charge, noether.charge_fn(SYM)(optax.apply_updates(params, updates))) < 1e-6
    assert metrics(state)["drift/h"] > 0


def test_multi_steps_schedules_and_injected_hyperparams():
    params, batch = problem()
    tx = optax.MultiSteps(track_charges(optax.sgd(optax.linear_schedule(0.1, 0.0, 10)), SYM), 2)
    end, state = jax.jit(lambda p: train(tx, p, batch, 6))(params)
    assert apart(charges_of(state).charge, noether.charge_fn(SYM)(end)) < 1e-6
    assert int(charges_of(state).charge_count) == 3

    def make(learning_rate):
        return track_charges(optax.sgd(learning_rate, 0.9), SYM, law=Law(learning_rate, 0.9))

    tx = optax.inject_hyperparams(make)(learning_rate=0.05)
    end, state = jax.jit(lambda p: train(tx, p, batch, 6))(params)
    assert apart(charges_of(state).charge_law.law_charge, noether.charge_fn(SYM)(end)) < 1e-5
    assert float(optax.tree.get(state, "charge_drift")["h"][0, 0]) != 0


def test_cond_vmap_eval_shape_and_no_second_compilation():
    params, batch = problem()
    tx = track_charges(optax.sgd(0.05, 0.9), SYM, every=3, law=Law(0.05, 0.9))
    grads = jax.grad(batch_loss)(params, batch)
    shapes = jax.eval_shape(tx.init, params)
    state = tx.init(params)

    def spec(tree):
        return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

    assert spec(shapes) == spec(state)
    traced = []

    @jax.jit
    def update(s, on):
        traced.append(spec(s))
        return jax.lax.cond(on, lambda s: tx.update(grads, s, params)[1], lambda s: s, s)

    state = update(update(state, True), False)
    assert spec(state) == spec(shapes)
    assert len(traced) == 1
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), (params, grads))
    states = jax.jit(jax.vmap(tx.init))(many[0])
    _, states = jax.jit(jax.vmap(tx.update))(many[1], states, many[0])
    _, single = jax.jit(tx.update)(grads, tx.init(params), params)
    assert apart(jax.tree.map(lambda x: x[0], states.charge_state), single.charge_state) < 1e-6
    mapped = optax.tree.map_params(tx, lambda x: x * 0, single)
    assert not np.any(mapped.charge_state.charge_law.law_buffer["w1"])
    assert same(mapped.charge_state.charge, single.charge_state.charge)


def test_donated_states_and_checkpoints(tmp_path):
    params, batch = problem()
    tx = track_charges(optax.adam(1e-3), SYM, law=Law(1e-3, 0.9))
    grads = jax.grad(batch_loss)(params, batch)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=(1, 2))
    with pytest.warns(UserWarning, match="donated") if False else np.errstate():
        _, state = step(grads, tx.init(params), jax.tree.map(jnp.copy, params))
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert same(restored, state)
    update = jax.jit(tx.update)
    assert same(update(grads, restored, params), update(grads, state, params))


@pytest.mark.parametrize("every", [1, 2])
def test_parameters_may_be_sharded(every):
    """Over eight devices, along the axes that the groups act on: the same charges, and leaves stay where they are."""
    rng = np.random.default_rng(0)
    params = {"v": rng.normal(size=(5, 16)), "u": rng.normal(size=(16, 8)), "w": rng.normal(size=(8, 3))}
    params = {name: jnp.asarray(x / len(x) ** 0.5, jnp.float32) for name, x in params.items()}
    x, y = (jnp.asarray(rng.normal(size=(12, n)), jnp.float32) for n in (5, 3))
    acting = {"h": groups.PositiveScaling(16), "k": groups.GeneralLinear(8)}
    sym = Symmetry({"v": "_ h", "u": "h* k", "w": "k* _"}, acting)
    tx = track_charges(optax.sgd(0.05, 0.9), sym, every=every, law=Law(0.05, 0.9))

    @jax.jit
    def run(params):
        def step(carry, _):
            p, state = carry
            loss = lambda p: jnp.mean((jax.nn.relu(x @ p["v"]) @ p["u"] @ p["w"] - y) ** 2)  # noqa: E731
            updates, state = tx.update(jax.grad(loss)(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=6)[0]

    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    places = {"v": P(None, "d"), "u": P("d"), "w": P("d")}
    spread = {name: jax.device_put(params[name], NamedSharding(mesh, places[name])) for name in params}
    (_, want), (end, found) = run(params), run(spread)
    assert all(end[name].sharding.is_equivalent_to(spread[name].sharding, 2) for name in params)
    assert len(end["u"].sharding.device_set) == 8
    assert float(metrics(want)["drift/h"]) > 1e-3
    for a, b in zip(*(jax.tree.leaves(s.charge_state) for s in (found, want)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_parameters_are_measured_in_float32():
    params, batch = problem(jnp.bfloat16)
    tx = track_charges(optax.sgd(0.05, 0.9), SYM)
    end, state = jax.jit(lambda p: train(tx, p, batch, 30))(params)
    found = state.charge_state
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(end))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((found.charge, found.charge_drift)))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), end)
    # What the update says is what happens, up to the rounding of the parameters, which is reported on its own.
    exact = noether.charge_fn(SYM)(wide)
    values = metrics(state)
    assert apart(found.charge, exact) < 0.02
    assert values["unexplained/h"] > 1e-4
    total = jax.tree.map(lambda a, b: a - b, found.charge, found.charge_start)
    gap = jax.tree.map(jnp.subtract, total, found.charge_drift)
    assert np.isclose(values["unexplained/h"], np.linalg.norm(gap["h"]), rtol=1e-4)


def test_frozen_leaves():
    params, batch = problem()
    grads = jax.grad(batch_loss)(params, batch)
    # A whole orbit frozen: its factor is left out. Half of one: refused by name.
    first = Symmetry(
        {"w1": "_ h", "w2": "h _", "v1": "_ k", "v2": "k* _"},
        {"h": groups.Orthogonal(4), "k": groups.GeneralLinear(2)},
    )
    tree = {"w1": jnp.ones((2, 4)), "w2": jnp.ones((4, 3)), "v1": jnp.ones((3, 2)), "v2": jnp.ones((2, 3))}
    mask = {"w1": False, "w2": False, "v1": True, "v2": True}
    tx = optax.masked(track_charges(optax.sgd(0.1), first), mask)
    _, state = tx.update(tree, tx.init(tree), tree)
    assert set(charges_of(state).charge) == {"k"}
    assert set(charges_of(state).charge_residual) == {"k"}
    half = optax.masked(
        track_charges(optax.sgd(0.1), SYM), {"w1": False, "b1": True, "w2": True, "b2": True, "w3": True}
    )
    with pytest.raises(ValueError, match="leaf 'w1' is masked out"):
        half.init(params)
    none = optax.masked(track_charges(optax.sgd(0.1), first), dict.fromkeys(mask, False))
    with pytest.raises(ValueError, match="every leaf"):
        none.init(tree)
    # Frozen inside: the wrapper sees the whole orbit, and what the optimizer really did.
    labels = dict.fromkeys(params, "train") | {"w1": "freeze"}
    tx = track_charges(
        optax.partition({"train": optax.sgd(0.05), "freeze": optax.set_to_zero()}, labels), SYM
    )
    updates, state = tx.update(grads, tx.init(params), params)
    assert (
        apart(charges_of(state).charge, noether.charge_fn(SYM)(optax.apply_updates(params, updates))) < 1e-6
    )
    assert metrics(state)["residual/h"] < 1e-6
    assert metrics(state)["drift/h"] > 1e-3


def test_the_bare_elements_see_what_they_are_told():
    params, batch = problem()
    tx = optax.chain(
        observe_charges(SYM, observes="gradients"), optax.adam(1e-2), observe_charges(SYM, observes="updates")
    )
    both = track_charges(optax.adam(1e-2), SYM)
    _, (head, _, tail) = jax.jit(lambda p: train(tx, p, batch, 20))(params)
    _, state = jax.jit(lambda p: train(both, p, batch, 20))(params)
    want = state.charge_state
    assert apart((tail.charge, tail.charge_drift), (want.charge, want.charge_drift)) < 1e-6
    assert max(jnp.abs(head.charge_residual[k] - want.charge_residual[k]) for k in "hk") < 1e-7
    assert tail.charge_residual == ()
    assert "residual/h" in metrics(head)
    assert "residual/h" not in metrics(tail)
    with pytest.raises(ValueError, match="one tracker, got 2"):
        metrics((head, tail))
    with pytest.raises(ValueError, match="'gradients' or 'updates'"):
        observe_charges(SYM, observes="both")


def test_bad_arguments_are_refused_by_name():
    params, batch = problem()
    grads = jax.grad(batch_loss)(params, batch)
    for call, error, match in (
        (lambda: track_charges(None, SYM), TypeError, "`inner` must be an optax transformation"),
        (lambda: track_charges(optax.sgd(1.0), "sym"), TypeError, "needs an eqtoolbox.Symmetry"),
        (
            lambda: track_charges(
                optax.sgd(1.0), SYM.subgroup({"h": groups.Permutation(4), "k": groups.Permutation(6)})
            ),
            TypeError,
            "discrete",
        ),
        (
            lambda: track_charges(optax.sgd(1.0), SYM, every=0),
            ValueError,
            "`every` must be a positive integer",
        ),
        (lambda: track_charges(optax.sgd(1.0), SYM, law=0.1), TypeError, "`law` must be"),
        (lambda: metrics(optax.sgd(1.0).init(params)), ValueError, "one tracker, got 0"),
    ):
        with pytest.raises(error, match=match):
            call()
    tx = track_charges(optax.sgd(1.0), SYM)
    with pytest.raises(ValueError, match="params"):
        tx.update(grads, tx.init(params))
    with pytest.raises(ValueError, match="law"):
        tx.update(grads, tx.init(params), params, gradient_samples=grads)
    with pytest.raises(ValueError, match="matches no leaf"):
        tx.init({"w1": params["w1"]})
