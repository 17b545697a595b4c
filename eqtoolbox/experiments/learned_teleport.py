"""Learning to teleport: one recurrent network for the update, one for the group element (DC-X3.6, DC-T5.16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.orbits import feature_action
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Params = Any
FIGURE, EXACT = ("DC-X3.6",), ("DC-T5.16",)
VARIANTS = ("update", "rate, teleport", "update, teleport")
#: The norm of the element less 1, at most.
REACH = 0.01


@dataclass(frozen=True)
class Config:
    """Networks σ(X W₁) W₂, everything square and uniform in [0, 1], loss ½‖Y - f(X)‖², LeakyReLU.

    Attributes:
      width: of all matrices.
      hidden: units of each of the two layers of a recurrent network.
      unroll: steps through which the meta-gradient goes.
      steps: of a trajectory.
      trajectories: to learn from, one after the other, each with new matrices.
      rates: of Adam for the two recurrent networks.
      seeds: independent learners.
      tests: trajectories that are new to a learner.
      descent: learning rates of gradient descent, of which the best stable one is shown.
    """

    width: int = 6
    hidden: int = 24
    unroll: int = 10
    steps: int = 50
    trajectories: int = 500
    rates: tuple[float, float] = (5e-3, 3e-3)
    seeds: int = 5
    tests: int = 5
    descent: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3)


class Task(NamedTuple):
    """The data of one trajectory."""

    x: Array
    y: Array


def leaky(slope: float, z: Array) -> Array:
    """LeakyReLU; its inverse has the inverse slope."""
    return jnp.where(z > 0, z, slope * z)


def loss(task: Task, params: Params) -> Array:
    """½‖Y - σ(X W₁) W₂‖²."""
    return jnp.sum((leaky(0.1, task.x @ params["first"]) @ params["second"] - task.y) ** 2) / 2


def draw(key: Array, width: int) -> tuple[Task, Params]:
    """A new trajectory's data and weights."""
    a, b, c, d = (jax.random.uniform(k, (width, width)) for k in jax.random.split(key, 4))
    return Task(a, b), {"first": c, "second": d}


def make_lstm(key: Array, inputs: int, hidden: int, outputs: int) -> Params:
    """Two stacked cells, and a head of zeros: at first its outputs are 0."""
    one, two = jax.random.split(key)
    cell = lambda k, n: {  # noqa: E731
        "weights": jax.random.normal(k, (n + hidden, 4 * hidden)) / (n + hidden) ** 0.5,
        "bias": jnp.zeros(4 * hidden),
    }
    return {"cells": [cell(one, inputs), cell(two, hidden)], "head": jnp.zeros((hidden, outputs))}


def lstm(net: Params, state: Any, gradient: Array) -> tuple[Array, Any]:
    """The outputs for one gradient, of which the logarithm of the size goes in, and the new state."""
    x, new = jnp.sign(gradient) * jnp.log1p(jnp.abs(gradient)), []
    for cell, (h, c) in zip(net["cells"], state, strict=True):
        i, f, o, g = jnp.split(jnp.concatenate([x, h]) @ cell["weights"] + cell["bias"], 4)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        x = jax.nn.sigmoid(o) * jnp.tanh(c)
        new.append((x, c))
    return x @ net["head"], new


def still(hidden: int) -> Any:
    """The state of a recurrent network at the start of a trajectory."""
    return [(jnp.zeros(hidden), jnp.zeros(hidden)) for _ in range(2)]


def move(task: Task, params: Params, outputs: Array) -> Params:
    """The teleport by an element within ``REACH`` of 1, with its exact inverse."""
    width = task.x.shape[1]
    t = outputs.reshape(width, width)
    t = REACH * t / (1 + jnp.sqrt(jnp.sum(t**2) + 1e-12))
    eq = feature_action(params, ("first", "second"), task.x, partial(leaky, 0.1), partial(leaky, 10.0))
    return eq.act(params, {"h1": t})


def step(variant: str, nets: Params, states: Any, task: Task, params: Params) -> tuple[Params, Any, Array]:
    """One step of algorithm 3: both networks see the same gradient; w → g·(w + f)."""
    value, slope = jax.value_and_grad(partial(loss, task))(params)
    flat, back = ravel_pytree(jax.lax.stop_gradient(slope))
    first, states_one = lstm(nets["update"], states[0], flat)
    rate = jnp.clip(1e-3 * jnp.exp(first[0]), 1e-7, 5e-3)
    change = 0.1 * first if variant.startswith("update") else -rate * flat
    params = jax.tree.map(jnp.add, params, back(change))
    states_two = states[1]
    if variant.endswith("teleport"):
        second, states_two = lstm(nets["teleport"], states[1], flat)
        params = move(task, params, second)
    return params, (states_one, states_two), value


def follow(variant: str, nets: Params, task: Task, params: Params, hidden: int, steps: int) -> Array:
    """The losses of a trajectory."""

    def one(carry: tuple, _: Any) -> tuple[tuple, Array]:
        params, states, value = step(variant, nets, carry[1], task, carry[0])
        return (params, states), value

    return jax.lax.scan(one, (params, (still(hidden), still(hidden))), None, length=steps)[1]


def learn(variant: str, key: Array, config: Config) -> Params:
    """Algorithm 3: Adam on the sum of the losses of each stretch, through which the gradient goes."""
    size = 2 * config.width**2
    a, b, trajectories = jax.random.split(key, 3)
    outputs = size if variant.startswith("update") else 1
    nets = {
        "update": make_lstm(a, size, config.hidden, outputs),
        "teleport": make_lstm(b, size, config.hidden, config.width**2),
    }
    labels = {"update": "update", "teleport": "teleport"}
    tx = optax.partition({k: optax.adam(r) for k, r in zip(labels, config.rates, strict=True)}, labels)

    def stretch(nets: Params, task: Task, params: Params, states: Any, scale: Array) -> tuple[Array, Any]:
        def one(carry: tuple, _: Any) -> tuple[tuple, Array]:
            params, states, value = step(variant, nets, carry[1], task, carry[0])
            return (params, states), value

        (params, states), values = jax.lax.scan(one, (params, states), None, length=config.unroll)
        return (jnp.sum(values) + loss(task, params)) / scale, (params, states)

    def trajectory(carry: tuple, key: Array) -> tuple[tuple, None]:
        task, params = draw(key, config.width)
        scale = loss(task, params)

        def piece(carry: tuple, _: Any) -> tuple[tuple, None]:
            nets, state, params, states = carry
            slope, (params, states) = jax.grad(stretch, has_aux=True)(nets, task, params, states, scale)
            finite = jnp.isfinite(optax.tree.norm(slope))
            updates, new = tx.update(slope, state, nets)
            chosen = (optax.apply_updates(nets, updates), new)
            nets, state = jax.tree.map(lambda u, v: jnp.where(finite, u, v), chosen, (nets, state))
            return (nets, state, params, states), None

        start = (*carry, params, (still(config.hidden), still(config.hidden)))
        end, _ = jax.lax.scan(piece, start, None, length=config.steps // config.unroll)
        return end[:2], None

    keys = jax.random.split(trajectories, config.trajectories)
    return jax.lax.scan(trajectory, (nets, tx.init(nets)), keys)[0][0]


def run(config: Config, store: Store) -> Result:
    """Learns every variant with every seed, and follows new trajectories; gradient descent beside them."""
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        store.progress.describe(f"learning: {variant}")
        found[variant] = store.once(variant.replace(", ", "-"), lambda v=variant: _learnt(v, config))
    found["descent"] = store.once("descent", lambda: _descent(config))
    return found


def _test_keys(config: Config) -> Array:
    return jax.random.split(jax.random.key(99), config.tests)


def _learnt(variant: str, config: Config) -> dict[str, Any]:
    def whole(key: Array) -> tuple[Array, Array]:
        nets = learn(variant, key, config)

        def test(key: Array) -> tuple[Array, Array]:
            task, params = draw(key, config.width)
            losses = follow(variant, nets, task, params, config.hidden, config.steps)
            flat = ravel_pytree(jax.grad(partial(loss, task))(params))[0]
            outputs, _ = lstm(nets["teleport"], still(config.hidden), flat)
            moved = loss(task, move(task, params, outputs))
            return losses, jnp.abs(moved / loss(task, params) - 1)

        return jax.vmap(test)(_test_keys(config))

    losses, errors = jax.jit(jax.vmap(whole))(jax.random.split(jax.random.key(0), config.seeds))
    return {"losses": np.asarray(losses), "error": float(jnp.max(errors))}


def _descent(config: Config) -> np.ndarray:
    """Losses with the largest of the learning rates that is stable on all tests."""

    def one(rate: Array, key: Array) -> Array:
        task, params = draw(key, config.width)

        def down(params: Params, _: Any) -> tuple[Params, Array]:
            value, slope = jax.value_and_grad(partial(loss, task))(params)
            return jax.tree.map(lambda w, g: w - rate * g, params, slope), value

        return jax.lax.scan(down, params, None, length=config.steps)[1]

    rates = jnp.asarray(config.descent)
    many = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
    losses = np.asarray(many(rates, _test_keys(config)))
    ends = np.nan_to_num(losses[:, :, -1].mean(1), nan=np.inf)
    return losses[int(np.argmin(ends))]


def claims(result: Result) -> Sequence[Finding]:
    """Which is lower, at the end and over the trajectory, as means over seeds and tests."""
    area = {k: float(np.mean(result[k]["losses"])) for k in VARIANTS}
    area["descent"] = float(np.mean(result["descent"]))
    both, update, rate = (area[k] for k in ("update, teleport", "update", "rate, teleport"))
    seeds = len(result["update"]["losses"])
    error = {k: float(np.std(np.mean(result[k]["losses"], (1, 2))) / seeds**0.5) for k in VARIANTS}
    return [
        at_most(
            "Learnt elements keep the loss (largest relative change)",
            max(result[k]["error"] for k in VARIANTS if k.endswith("teleport")),
            1e-4,
            claims=EXACT,
        ),
        at_most(
            "Learnt update, of gradient descent with the best of its rates (mean loss)",
            update / area["descent"],
            1.0,
            error=error["update"] / area["descent"],
            claims=FIGURE,
            anticipated="inconclusive",
        ),
        at_most(
            "Learnt rate and teleport, of gradient descent with the best of its rates",
            rate / area["descent"],
            1.0,
            claims=FIGURE,
            anticipated="refuted",
        ),
        at_most(
            "Learnt update and teleport, of the learnt update alone",
            both / update,
            1.0,
            error=(error["update"] ** 2 + error["update, teleport"] ** 2) ** 0.5 / update,
            claims=FIGURE,
            anticipated="inconclusive",
        ),
        at_most("Learnt update and teleport, of learnt rate and teleport", both / rate, 1.0, claims=FIGURE),
    ]


def plot(result: Result) -> Figure:
    """Mean loss by step, with the range over the learners."""
    figure, (ax,) = new_figure(1, height=3.6)
    ax.plot(result["descent"].mean(0), color=MUTED, lw=1.4, label="gradient descent")
    for variant, colour in zip(VARIANTS, SERIES, strict=False):
        losses = result[variant]["losses"].mean(1)
        ax.fill_between(
            np.arange(losses.shape[1]), losses.min(0), losses.max(0), color=colour, alpha=0.15, lw=0
        )
        ax.plot(losses.mean(0), color=colour, lw=1.4, label=f"learnt {variant}")
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="learned-teleport",
    title="Learning to teleport",
    text=(
        "Two recurrent networks see the gradient: one gives the update, the other an element of GL that acts on the "
        "features, with its exact inverse. They learn by Adam on the losses of new problems. The published runs have "
        "matrices of 20 × 20, 300 units, 700 trajectories, and 1 − T for the inverse of 1 + T. At the quick size the "
        "update and the element together do as well as the update alone: the gain of the figure is not seen."
    ),
    claim_ids=FIGURE + EXACT,
    quick=Config(),
    full=Config(
        width=20,
        hidden=300,
        steps=100,
        trajectories=700,
        rates=(1e-3, 1e-4),
        descent=(1e-4, 2e-4, 3e-4, 5e-4),
    ),
    run=run,
    claims=claims,
    plot=plot,
    caption="Mean loss of new trajectories by step; shaded, the range over independent learners.",
    cost=(3.0, 60.0),
)
