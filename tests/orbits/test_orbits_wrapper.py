"""`teleport` as an optax wrapper, and what it carries along."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqtoolbox as eqt
from eqtoolbox import groups, orbits
from eqtoolbox.orbits import Motion
from eqtoolbox.orbits._transport import transport_state
from eqtoolbox.symmetry import Equivariance

SYM = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.GeneralLinear(3)})
SCALED = eqt.Symmetry({"u": "_ h", "v": "h^-1 _"}, {"h": groups.PositiveScaling(3)})
SIGNED = eqt.Symmetry({"u": "_ h", "v": "h* _"}, {"h": groups.SignedPermutation(3)})
HEADS = eqt.Symmetry(
    {"u": "_ (heads dim)", "v": "(heads dim*) _"},
    {("heads", "dim"): groups.Wreath(groups.GeneralLinear(2), groups.Permutation(3))},
)


def problem(width=3, dtype=jnp.float32, seed=0):
    ku, kv, kx, ky = jax.random.split(jax.random.key(seed), 4)
    params = {"u": jax.random.normal(ku, (4, width), dtype), "v": jax.random.normal(kv, (width, 2), dtype)}
    x, y = jax.random.normal(kx, (7, 4), dtype), jax.random.normal(ky, (7, 2), dtype)
    return params, lambda p: jnp.mean((x @ p["u"] @ p["v"] - y) ** 2)


def close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), a, b)


def matrix_of(function, tree):
    """The dense matrix of a linear map on trees."""
    flat, back = jax.flatten_util.ravel_pytree(tree)
    return jax.jacobian(lambda w: jax.flatten_util.ravel_pytree(function(back(w)))[0])(flat)


def test_what_must_run_as_written():
    params, loss = problem()
    grads = jax.grad(loss)(params)
    tx = orbits.teleport(
        optax.sgd(1e-3), SYM, objective=orbits.gradient_norm, every=100, steps=10, learning_rate=1e-1
    )
    state = tx.init(params)
    updates, state = tx.update(grads, state, params, value_fn=loss)
    close(updates, jax.tree.map(lambda g: -1e-3 * g, grads))
    assert state.teleport_count == 1
    assert state.teleports == 0


@pytest.mark.claim("DB-P4.5.1", "DC-T5.12")
def test_gradients_move_as_covectors(x64, record_claim):
    params, loss = problem(dtype=jnp.float64)
    g = SYM.sample(jax.random.key(1))
    motion = Motion(SYM, g, params)
    moved = SYM.act(g, params)
    dense = matrix_of(lambda p: SYM.act(g, p), params)
    own = matrix_of(motion.covector, params)
    np.testing.assert_allclose(own, np.linalg.inv(dense).T, atol=1e-10)
    np.testing.assert_allclose(matrix_of(motion.vector, params), dense, atol=1e-10)
    close(motion.covector(jax.grad(loss)(params)), jax.grad(loss)(moved), 1e-9, 1e-10)
    # So the rate of the loss at g·θ is the norm of the moved gradient.
    rate = jax.jvp(loss, (moved,), (jax.tree.map(jnp.negative, jax.grad(loss)(moved)),))[1]
    square = optax.tree.norm(motion.covector(jax.grad(loss)(params))) ** 2
    np.testing.assert_allclose(rate, -square, rtol=1e-9)
    # A map that is not linear, and two of them after each other.
    land = orbits.rosenbrock()
    x, angles = jnp.array([-0.7, 0.4]), jnp.array([0.3, 1.1])
    path = Motion(land.symmetry, angles, x, path=True)
    end = land.symmetry.act(land.symmetry.act(x, angles[0]), angles[1])
    close(path.covector(jax.grad(land.loss)(x)), jax.grad(land.loss)(end), 1e-9)
    error = jnp.max(jnp.abs(path.covector(jax.grad(land.loss)(x)) - jax.grad(land.loss)(end)))
    record_claim("DC-T5.12", measured=float(error), expected="<= 1e-9")


@pytest.mark.parametrize("sym", [SYM, SCALED, SIGNED, HEADS], ids=["GL", "scaling", "signed", "heads"])
def test_squares_move_by_the_squares_of_the_entries(sym, x64):
    params, loss = problem(6 if sym is HEADS else 3, jnp.float64)
    g = sym.sample(jax.random.key(2))
    motion = Motion(sym, g, params)
    second = jax.tree.map(lambda w: jnp.square(w) + 1, params)
    entries = matrix_of(motion.covector, params) ** 2
    flat, back = jax.flatten_util.ravel_pytree(second)
    close(motion.squares(second), back(entries @ flat), 1e-9)
    if sym in (SCALED, SIGNED):
        gradient = jax.grad(loss)(params)
        squares = motion.squares(jax.tree.map(jnp.square, gradient))
        close(squares, jax.tree.map(jnp.square, jax.grad(loss)(sym.act(g, params))), 1e-9)
    if sym is SYM:  # estimated where only products are known
        estimate = Motion(Equivariance.of(sym), sym.log(sym.exp({"h": jnp.eye(3) / 5})), params).squares(
            second
        )
        exact = Motion(sym, sym.exp({"h": jnp.eye(3) / 5}), params).squares(second)
        close(estimate, exact, 1e-9)  # a multiple of 1 has no other entries: any signs are right


OPTIMIZERS = {
    "momentum": optax.sgd(1e-2, 0.9),
    "adagrad": optax.adagrad(1e-1),
    "rmsprop": optax.rmsprop(1e-2, momentum=0.9),
    "adam": optax.adam(1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_step_after_a_teleport(name):
    """It is the step of the optimizer at the new place, with its gradients and squares moved there."""
    inner, sym = OPTIMIZERS[name], SCALED
    params, loss = problem()
    plain, state = params, inner.init(params)
    grad = jax.grad(loss)
    for _ in range(2):
        updates, state = inner.update(grad(plain), state, plain)
        plain = optax.apply_updates(plain, updates)
    moved, info = orbits.teleport_params(sym, loss, plain, steps=4)
    motion = Motion(sym, info.element, plain)
    cover, squares = motion.covector, motion.squares

    def carried(node):
        if isinstance(node, optax.TraceState):
            return node if name == "rmsprop" else node._replace(trace=cover(node.trace))  # else it is white
        if isinstance(node, optax.ScaleByAdamState):
            return node._replace(mu=cover(node.mu), nu=squares(node.nu))
        if isinstance(node, optax.ScaleByRssState):
            return node._replace(sum_of_squares=squares(node.sum_of_squares))
        if isinstance(node, optax.ScaleByRmsState):
            return node._replace(nu=squares(node.nu))
        return node

    states = (optax.TraceState, optax.ScaleByAdamState, optax.ScaleByRssState, optax.ScaleByRmsState)
    after = jax.tree.map(carried, state, is_leaf=lambda x: isinstance(x, states))
    updates, expected = inner.update(grad(moved), after, moved)
    end = optax.apply_updates(moved, updates)

    tx = orbits.teleport(inner, sym, every=3, steps=4)

    @jax.jit
    def train(params):
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(grad(params), state, params, value_fn=loss)
            params = optax.apply_updates(params, updates)
        return params, state

    own, state = train(params)
    assert state.teleports == 1
    assert state.teleport_info.objective > state.teleport_info.objective_before
    close(own, end, 2e-4, 1e-4)
    close(state.inner_state, expected, 2e-3, 1e-4)


class Strange(NamedTuple):
    """A state that nobody knows."""

    strange: dict


class Willing(NamedTuple):
    """A state that says itself what becomes of it."""

    strange: dict

    def transport(self, motion):
        return Willing(motion.vector(self.strange))


def keeping(kind):
    return optax.GradientTransformation(
        lambda p: kind(optax.tree.ones_like(p)),
        lambda u, s, p=None: (u, kind(jax.tree.map(lambda x: 2 * x, s.strange))),
    )


def test_other_states_and_what_is_done_with_buffers():
    params, loss = problem()
    schedule = optax.exponential_decay(1e-2, 1, 0.5)
    inner = optax.chain(
        keeping(Strange), keeping(Willing), optax.scale_by_adam(), optax.scale_by_learning_rate(schedule)
    )
    found = {}
    for how in ("transport", "keep", "reset"):
        tx = orbits.teleport(inner, SCALED, every=3, steps=2, buffers=how)

        @jax.jit
        def train(params, tx=tx):
            state = tx.init(params)
            for _ in range(3):
                updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
                params = optax.apply_updates(params, updates)
            return state

        state = train(params)
        assert state.teleports == 1
        found[how] = state.inner_state
    ones = jax.tree.map(jnp.ones_like, params)
    times = lambda c: jax.tree.map(lambda x: c * x, ones)  # noqa: E731
    close(found["transport"][0].strange, times(2))  # anew
    close(found["keep"][0].strange, times(8))
    close(found["reset"][1].strange, times(2))
    close(found["keep"][1].strange, times(8))
    assert not np.allclose(found["transport"][1].strange["u"], 8 * ones["u"])
    # An optimizer that is begun anew counts anew, for its correction of the bias; a schedule goes on.
    assert found["reset"][2].count == 1
    assert found["transport"][2].count == found["keep"][2].count == 3
    assert {int(s[3].count) for s in found.values()} == {3}


def test_it_goes_where_an_optax_transformation_goes():
    params, loss = problem()
    inner = optax.inject_hyperparams(optax.adam)(learning_rate=1e-2)
    tx = orbits.teleport(optax.chain(optax.clip_by_global_norm(1.0), inner), SYM, every=2, steps=2)

    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params, value_fn=loss)
            return (optax.apply_updates(params, updates), state), loss(params)

        return jax.lax.scan(step, (params, tx.init(params)), None, length=4)

    stack = jax.tree.map(lambda w: jnp.stack([w, w + 0.1]), params)
    (many, states), _ = jax.jit(jax.vmap(train))(stack)
    (one, state), _ = jax.jit(train)(params)
    assert state.teleports == 2
    assert states.teleports.tolist() == [2, 2]
    close(jax.tree.map(lambda w: w[0], many), one, 1e-3, 1e-4)
    # Where other leaves are trained by another optimizer, and the orbit is whole.
    wide = {**params, "w": jnp.ones(3)}
    both = optax.partition(
        {"a": orbits.teleport(optax.sgd(1e-2, 0.9), SYM, every=1, steps=1), "b": optax.sgd(1e-2)},
        {"u": "a", "v": "a", "w": "b"},
    )
    whole = lambda p: loss({"u": p["u"], "v": p["v"]})  # noqa: E731
    state = both.init(wide)
    with_masked = lambda p: loss(p)  # noqa: E731
    updates, state = both.update(jax.grad(whole)(wide), state, wide, value_fn=with_masked)
    assert state.inner_states["a"].inner_state.teleports == 1
    assert jax.tree.structure(updates) == jax.tree.structure(wide)


def test_steps_without_a_teleport_do_not_search():
    """The search is in one branch of a conditional, also for many models at once."""
    params, loss = problem()
    tx = orbits.teleport(optax.sgd(1e-2), SYM, every=5, steps=7)

    def step(params, state):
        return tx.update(jax.grad(loss)(params), state, params, value_fn=loss)

    def scans(jaxpr):
        found = [0, 0]
        for eqn in jaxpr.eqns:
            found[0] += eqn.primitive.name == "scan" and eqn.params["length"] == 8
            for value in eqn.params.values():
                for sub in value if isinstance(value, (tuple, list)) else [value]:
                    inner = getattr(sub, "jaxpr", sub)
                    if hasattr(inner, "eqns"):
                        below = scans(inner)
                        found[1] += sum(below) if eqn.primitive.name == "cond" else below[1]
                        found[0] += 0 if eqn.primitive.name == "cond" else below[0]
        return found

    stack = jax.tree.map(lambda w: jnp.stack([w, w]), (params, tx.init(params)))
    assert scans(jax.make_jaxpr(step)(params, tx.init(params)).jaxpr) == [0, 1]
    assert scans(jax.make_jaxpr(jax.vmap(step))(*stack).jaxpr) == [0, 1]


def test_objectives_that_know_the_optimizer_and_symmetries_that_know_the_data():
    key = jax.random.key(4)
    ka, kb, kx, ky = jax.random.split(key, 4)
    params = {"a": jax.random.normal(ka, (6, 5)) / 2, "b": jax.random.normal(kb, (5, 2)) / 2}
    batch = {"x": jax.random.normal(kx, (4, 6)), "y": jax.random.normal(ky, (4, 2))}
    leaky = lambda slope: lambda z: jnp.where(z > 0, z, slope * z)  # noqa: E731
    loss = lambda p, batch: jnp.mean((leaky(0.1)(batch["x"] @ p["a"]) @ p["b"] - batch["y"]) ** 2)  # noqa: E731
    of_batch = lambda batch: orbits.feature_action(params, ["a", "b"], batch["x"], leaky(0.1), leaky(10.0))  # noqa: E731
    tx = orbits.teleport(
        optax.adagrad(1e-2),
        of_batch,
        objective=orbits.preconditioned_gradient_norm,
        every=lambda count: count == 1,
        steps=4,
    )

    @jax.jit
    def train(params):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(
                jax.grad(loss)(params, batch), state, params, value_fn=loss, batch=batch
            )
            params = optax.apply_updates(params, updates)
        return state

    state = train(params)
    assert state.teleports == 1
    info = state.teleport_info
    assert info.objective > info.objective_before
    assert info.loss_error <= 1e-6
    params, loss = problem()
    plain = orbits.teleport(optax.sgd(1e-2), SYM, objective=orbits.preconditioned_gradient_norm)
    with pytest.raises(ValueError, match="second moments"):
        plain.update(params, plain.init(params), params, value_fn=loss)


def test_bad_arguments_are_named():
    params, _ = problem()
    with pytest.raises(TypeError, match="inner"):
        orbits.teleport("sgd", SYM)
    with pytest.raises(ValueError, match="every"):
        orbits.teleport(optax.sgd(1e-2), SYM, every=0)
    with pytest.raises(ValueError, match="buffers"):
        orbits.teleport(optax.sgd(1e-2), SYM, buffers="drop")
    with pytest.raises(TypeError, match="act_inverse"):
        orbits.teleport(optax.sgd(1e-2), Equivariance(lambda p, lam: p, identity=jnp.zeros(())))
    tx = orbits.teleport(optax.sgd(1e-2), SYM)
    with pytest.raises(ValueError, match="value_fn"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="say maximize"):
        orbits.teleport(optax.sgd(1e-2), SYM, objective=lambda f, p: f(p))


ROTATED = eqt.Symmetry({"u": "_ h", "v": "h _"}, {"h": groups.Orthogonal(3)})
PERMUTED = eqt.Symmetry(
    {"u": "_ h", "b": "h", "v": "h k", "w": "k _"}, {"h": groups.Permutation(3), "k": groups.Permutation(4)}
)


@pytest.mark.parametrize("sym", [ROTATED, PERMUTED], ids=["rotation", "permutations"])
def test_a_compact_teleport_commutes_with_the_steps_of_symo(sym):
    rng = np.random.default_rng(7)
    shapes = {"u": (4, 3), "v": (3, 2)}
    if sym is PERMUTED:
        shapes = {"u": (4, 3), "b": (3,), "v": (3, 4), "w": (4, 2)}
    draw = lambda *n: {k: jnp.asarray(rng.normal(size=(*n, *s)), jnp.float32) for k, s in shapes.items()}  # noqa: E731
    start, first, then = draw(), draw(4), draw(2)
    inner = eqt.symo(0.1, sym, sides=None)  # units on every axis, momentum

    def train(params, state, slopes):
        def step(carry, slope):
            updates, state = inner.update(slope, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, state), slopes)[0]

    @jax.jit
    def both(params, g):
        params, state = train(params, inner.init(params), first)
        other = transport_state(Motion(sym, g, params), state, inner.init(params), "transport")
        moved, other = train(sym.act(g, params), other, jax.vmap(sym.act_dual, (None, 0))(g, then))
        return sym.act(g, train(params, state, then)[0]), moved, other

    wanted, moved, other = both(start, sym.sample(jax.random.key(8)))
    close(moved, wanted, 1e-4, 1e-4)
    assert other[0].symo_count == 6


def test_symo_begins_anew_where_its_state_cannot_be_moved():
    params, _ = problem()
    for sym, moving in ((SCALED, SCALED), (ROTATED, SIGNED)):  # not compact; not the symmetry of the state
        inner = eqt.scale_by_symmetry(sym)
        state = inner.init(params)._replace(symo_count=jnp.int32(5))
        motion = Motion(moving, moving.sample(jax.random.key(3)), params)
        assert transport_state(motion, state, inner.init(params), "transport").symo_count == 0
        assert transport_state(motion, state, inner.init(params), "keep").symo_count == 5
