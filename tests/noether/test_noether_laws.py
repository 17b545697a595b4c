"""The exact laws of charges against runs, at every step size, and their continuous limits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from noether_tools import SYM, apart, batch_loss, problem, train
from scipy.integrate import solve_ivp

from eqtoolbox import Symmetry, groups, noether, track_charges
from eqtoolbox.linalg import tree_norm

RATE, STEPS = 0.02, 2000
COSINE = optax.cosine_decay_schedule(0.03, STEPS)


def decayed(weight, *rest):
    return optax.chain(optax.add_decayed_weights(weight), *rest)


def decoupled(rate, weight, **trace):
    return optax.chain(
        optax.trace(**trace), optax.add_decayed_weights(weight), optax.scale_by_learning_rate(rate)
    )


RULES = {
    "sgd": (optax.sgd(RATE), noether.Law(RATE)),
    "edge of stability": (optax.sgd(0.09), noether.Law(0.09)),
    "heavy ball": (optax.sgd(RATE, 0.9), noether.Law(RATE, 0.9)),
    "nesterov": (optax.sgd(RATE, 0.9, nesterov=True), noether.Law(RATE, 0.9, nesterov=True)),
    "l2": (decayed(1e-3, optax.sgd(RATE)), noether.Law(RATE, l2=1e-3)),
    "heavy ball, l2": (decayed(1e-3, optax.sgd(RATE, 0.9)), noether.Law(RATE, 0.9, l2=1e-3)),
    "nesterov, l2, cosine": (
        decayed(1e-3, optax.sgd(COSINE, 0.9, nesterov=True)),
        noether.Law(COSINE, 0.9, nesterov=True, l2=1e-3),
    ),
    "decoupled": (decayed(1e-2, optax.scale(-RATE)), noether.Law(RATE, weight_decay=1e-2)),
    "heavy ball, decoupled": (
        decoupled(RATE, 1e-2, decay=0.9),
        noether.Law(RATE, 0.9, weight_decay=1e-2),
    ),
    "nesterov, decoupled, cosine": (
        decoupled(COSINE, 1e-2, decay=0.9, nesterov=True),
        noether.Law(COSINE, 0.9, nesterov=True, weight_decay=1e-2),
    ),
}


@pytest.mark.claim("EQ-4.1a", "EQ-4.1b", "EQ-7", "DA-T30")
@pytest.mark.parametrize("name", RULES)
def test_the_law_follows_the_run_for_2000_steps(name, x64, record_claim):
    inner, law = RULES[name]
    params, batch = problem()
    tx = track_charges(inner, SYM, law=law)
    end, state = jax.jit(lambda p: train(tx, p, batch, STEPS))(params)
    charges, measured = noether.charge_fn(SYM)(end), state.charge_state
    assert np.isfinite(batch_loss(end, batch))
    change = jax.tree.map(jnp.subtract, charges, measured.charge_start)
    assert apart(charges, measured.charge_start) > 1e-2, "the charges move"
    error = apart(measured.charge_law.law_charge, charges)
    assert error <= 1e-9, error
    assert apart(measured.charge_drift, change) <= 1e-9
    assert apart(measured.charge, charges) <= 1e-12
    record_claim("EQ-4.1a", measured=error, expected="<= 1e-9")


def test_a_law_of_another_rule_does_not_follow(x64):
    params, batch = problem()
    for inner, law in (
        (optax.sgd(RATE, 0.9), noether.Law(RATE, 0.8)),
        (optax.sgd(RATE, 0.9), noether.Law(RATE, 0.9, nesterov=True)),
        (decayed(1e-3, optax.sgd(RATE)), noether.Law(RATE)),
        (optax.adam(1e-3), noether.Law(1e-3)),
    ):
        tx = track_charges(inner, SYM, law=law)
        end, state = jax.jit(lambda p, tx=tx: train(tx, p, batch, 200))(params)
        assert apart(state.charge_state.charge_law.law_charge, noether.charge_fn(SYM)(end)) > 1e-4


@pytest.mark.claim("DA-T30", "EQ-4.1a")
def test_one_step_of_gradient_descent_and_the_order_of_the_total(x64):
    params, batch = problem()
    gradient = jax.grad(batch_loss)(params, batch)
    square = noether.charge_fn(SYM)(gradient)
    for rate in (1e-3, 1.0):
        step = jax.tree.map(lambda g, rate=rate: -rate * g, gradient)
        found = noether.drift(SYM, params, step)
        moved = noether.charge_fn(SYM)(optax.apply_updates(params, step))
        assert apart(found.total, jax.tree.map(lambda c, rate=rate: rate**2 * c, square)) < 1e-9
        assert float(tree_norm(found.source)) < 1e-13 * rate * float(tree_norm(square))
        assert apart(jax.tree.map(jnp.add, noether.charge_fn(SYM)(params), found.total), moved) < 1e-14
    # Proposition A.4.1 for U, V with Q = Tr(UᵀU - VVᵀ), and its inequality.
    linear = Symmetry({"w1": "_ h", "w2": "h* _"}, {"h": groups.GeneralLinear(4)})
    p = {name: params[name] for name in ("w1", "w2")}
    loss = lambda p: jnp.mean((batch[0] @ p["w1"] @ p["w2"] - 1) ** 2)  # noqa: E731
    g = jax.grad(loss)(p)
    found = -jnp.trace(noether.drift(linear, p, jax.tree.map(lambda x: -0.1 * x, g)).total["h"])
    u, v = (float(jnp.sum(g[name] ** 2)) for name in ("w2", "w1"))
    assert abs(found - 0.01 * (u - v)) < 1e-15
    assert abs(found) <= 0.01 * (u + v)
    # Over one unit of time the drift is of first order in the step size.
    totals = []
    for steps in (100, 1000, 10000):
        tx = track_charges(optax.sgd(1 / steps), linear)

        def run(p, tx=tx, steps=steps):
            def step(carry, _):
                p, state = carry
                updates, state = tx.update(jax.grad(loss)(p), state, p)
                return (optax.apply_updates(p, updates), state), None

            return jax.lax.scan(step, (p, tx.init(p)), length=steps)[0][1].charge_state.charge_drift["h"]

        totals.append(float(jnp.linalg.norm(jax.jit(run)(p))))
    slopes = np.diff(np.log10(totals))
    assert np.all(np.abs(slopes + 1) < 0.1), slopes


@pytest.mark.claim("EQ-7", "DA-T25")
def test_the_continuous_limits(x64):
    """Decay, friction, and the current of O(h), against integrated flows."""
    rng = np.random.default_rng(0)
    p = {"v": jnp.asarray(rng.normal(size=(3, 4)) / 2), "u": jnp.asarray(rng.normal(size=(4, 2)) / 2)}
    x, y = jnp.asarray(rng.normal(size=(9, 3))), jnp.asarray(rng.normal(size=(9, 2)))
    sym = Symmetry({"v": "_ h", "u": "h* _"}, {"h": groups.GeneralLinear(4)})
    turn = sym.subgroup({"h": groups.Orthogonal(4)})
    flat, unravel = ravel_pytree(p)
    slope = jax.jit(jax.grad(lambda w: jnp.mean((x @ unravel(w)["v"] @ unravel(w)["u"] - y) ** 2)))
    charge = noether.charge_fn(sym)

    def integrate(field, start, until):
        run = solve_ivp(
            lambda t, z: np.asarray(field(z)), (0, until), start, "DOP853", rtol=1e-11, atol=1e-12
        )
        return jnp.asarray(run.y[:, -1])

    end = integrate(lambda w: -slope(w) - 0.3 * w, flat, 2.0)
    assert apart(charge(unravel(end)), noether.decayed(sym, charge(p), 0.3, 2.0)) < 1e-9

    friction, d = 0.7, flat.size
    push = jnp.asarray(rng.normal(size=d))

    @jax.jit
    def both(z):
        w, velocity = unravel(z[:d]), unravel(z[d : 2 * d])
        rates = noether.friction_rates(sym, w, velocity, friction)
        return jnp.concatenate([z[d : 2 * d], -friction * z[d : 2 * d] - slope(z[:d])]), rates

    def field(z):
        # Beside θ and θ': C and Ċ by the law alone, which sees θ' in the source term.
        flow, rates = both(z)
        rate = z[2 * d + 16 :]
        source = np.ravel(rates.second["h"] + friction * rates.first["h"])
        return np.concatenate([flow, rate, source - friction * rate])

    rates = both(jnp.concatenate([flat, push]))[1]
    start = np.concatenate([flat, push, np.ravel(charge(p)["h"]), np.ravel(rates.first["h"])])
    end = integrate(field, start, 2.0)
    w, velocity = unravel(end[:d]), unravel(end[d : 2 * d])
    assert apart(end[2 * d : 2 * d + 16], charge(w)["h"].ravel()) < 1e-9
    current = noether.currents(turn, p, unravel(push))
    assert (
        apart(noether.currents(turn, w, velocity), jax.tree.map(lambda j: np.exp(-1.4) * j, current)) < 1e-9
    )


@pytest.mark.claim("EQ-7")
def test_heavy_ball_multiplies_the_current_by_beta(x64):
    """An exact law at any step size; Nesterov's look ahead breaks it."""
    rng = np.random.default_rng(0)
    p = {"v": jnp.asarray(rng.normal(size=(3, 4))), "u": jnp.asarray(rng.normal(size=(4, 2)))}
    turn = Symmetry({"v": "_ h", "u": "h _"}, {"h": groups.Orthogonal(4)})
    loss = lambda p: jnp.mean((p["v"] @ p["u"] - 1) ** 2)  # noqa: E731
    for nesterov in (False, True):
        tx = optax.sgd(0.05, 0.8, nesterov=nesterov)
        m = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), p)
        state, q = optax.tree.set(tx.init(p), trace=m), p
        start = noether.currents(turn, q, m)
        for _ in range(3):
            updates, state = tx.update(jax.grad(loss)(q), state, q)
            q = optax.apply_updates(q, updates)
        found = apart(
            noether.currents(turn, q, optax.tree.get(state, "trace")),
            jax.tree.map(lambda j: 0.8**3 * j, start),
        )
        assert (found < 1e-13) != nesterov


def test_laws_of_shifts_and_mixed_groups(x64):
    """Linear charges: ΔC = -η⟨c, d⟩, and decay by 1 - ηκ only."""
    rng = np.random.default_rng(0)
    p = {"w": jnp.asarray(rng.normal(size=(3, 4))), "b": jnp.asarray(rng.normal(size=4))}
    sym = Symmetry({"w": "t _", "b": "_ | u"}, {"t": groups.Translation(3), "u": groups.Translation(1)})
    x = jnp.asarray(rng.normal(size=(9, 3)))
    loss = lambda p: -jnp.mean(jax.nn.log_softmax(x @ p["w"] + p["b"][None])[:, 0])  # noqa: E731
    law = noether.Law(0.5, 0.9, nesterov=True, l2=0.01, weight_decay=0.02)
    inner = optax.chain(
        optax.add_decayed_weights(0.01),
        optax.trace(0.9, nesterov=True),
        # decoupled from θ: added after the momentum
        optax.add_decayed_weights(0.02),
        optax.scale(-0.5),
    )
    tx = track_charges(inner, sym, law=law)

    @jax.jit
    def run(p):
        def step(carry, _):
            p, state = carry
            updates, state = tx.update(jax.grad(loss)(p), state, p)
            return (optax.apply_updates(p, updates), state), None

        return jax.lax.scan(step, (p, tx.init(p)), length=50)[0]

    end, state = run(p)
    s = state.charge_state
    charges = {"t": jnp.sum(end["w"], 1), "u": jnp.sum(end["b"])[None]}
    assert apart(s.charge, charges) < 1e-13
    assert apart(s.charge_law.law_charge, charges) < 1e-11
    assert apart(s.charge, s.charge_start) > 0.1
    assert (
        apart(noether.decayed(sym, s.charge, 0.1, 2.0), jax.tree.map(lambda c: np.exp(-0.2) * c, s.charge))
        < 1e-14
    )


def test_bad_laws_are_refused():
    for bad, error in (({"learning_rate": -1.0}, ValueError), ({"learning_rate": "0.1"}, TypeError)):
        with pytest.raises(error, match="learning_rate"):
            noether.Law(**bad)
    with pytest.raises(ValueError, match="momentum"):
        noether.Law(0.1, momentum=float("nan"))
