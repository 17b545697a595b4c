"""How far gradient descent with a finite learning rate moves the charge (DA-X9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._two_layer import ACTIVATIONS, draw_weights, squared_error, total_charge
from eqtoolbox.noether import activation_integral
from eqtoolbox.pages import INK, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE, PROPOSITION = ("DA-X9",), ("DA-T30",)


@dataclass(frozen=True)
class Config:
    """Networks U σ(V) on X = I by gradient descent on the mean of squares.

    Attributes:
      outputs: m.
      hidden: h.
      inputs: n.
      deviation: of the entries of U and V at initialisation.
      rates: learning rates, in increasing order.
      steps: the same for all.
      records: how often the charge is measured.
      seed: of everything random.
    """

    outputs: int = 5
    hidden: int = 50
    inputs: int = 10
    deviation: float = 0.1
    rates: tuple[float, ...] = (0.001, 0.01, 0.1)
    steps: int = 40000
    records: int = 100
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Trains with each rate, on the mean and on the sum of squares, and takes one step exactly."""
    found: dict[str, Any] = {}
    for name in ACTIVATIONS:
        store.progress.describe(f"{name}: drift of the charge")
        found[name] = store.once(name, lambda n=name: _train(n, config))
    step = store.once("step", lambda: _one_step(config))
    return {"nets": found, "step": step, "rates": np.array(config.rates)}


def _start(config: Config) -> tuple[Any, Array]:
    params, target = draw_weights(jax.random.key(config.seed), config.outputs, config.hidden, config.inputs)
    return jax.tree.map(lambda w: config.deviation * w, params), target


def _train(name: str, config: Config) -> dict[str, Any]:
    """Relative drift of the charge and loss by step; for the sum of squares at the end alone."""
    activation = ACTIVATIONS[name]
    start, target = _start(config)
    loss = lambda p: squared_error(activation, p, target)  # noqa: E731
    slope = jax.grad(loss)
    charge = lambda p: total_charge(activation, p)  # noqa: E731
    # As in (A.29), but with the sign of Q: its absolute value has a kink where Q changes sign.
    size = jnp.sum(start["U"] ** 2) / 2 + jnp.abs(jnp.sum(activation_integral(activation, start["V"])))
    every = config.steps // config.records

    @jax.jit
    def descend(rates: Array) -> dict[str, Array]:
        def one(rate: Array) -> dict[str, Array]:
            step = lambda _, p: jax.tree.map(lambda w, g: w - rate * g, p, slope(p))  # noqa: E731

            def segment(p: Any, _: Array) -> tuple[Any, dict[str, Array]]:
                p = jax.lax.fori_loop(0, every, step, p)
                return p, {"drift": (charge(p) - charge(start)) / size, "loss": loss(p) / loss(start)}

            return jax.lax.scan(segment, start, jnp.arange(config.records))[1]

        return jax.vmap(one)(rates)

    rates = jnp.asarray(config.rates)
    entries = target.size
    mean, total = jax.device_get((descend(rates / entries), descend(rates)))
    return {
        "steps": every * np.arange(1, config.records + 1),
        "drift": mean["drift"],
        "loss": mean["loss"],
        "sum_drift": total["drift"][:, -1],
        "sum_loss": total["loss"][:, -1],
    }


def _one_step(config: Config) -> dict[str, float]:
    """Both sides of Proposition A.4.1 for a linear network, for the trace and for the matrix."""
    (start, target), rate = _start(config), config.rates[-1]
    slope = jax.grad(lambda p: squared_error(ACTIVATIONS["linear"], p, target))(start)
    end = jax.tree.map(lambda w, g: w - rate * g, start, slope)
    balance = lambda p: p["U"].T @ p["U"] - p["V"] @ p["V"].T  # noqa: E731
    moved = balance(end) - balance(start)
    exact = rate**2 * (slope["U"].T @ slope["U"] - slope["V"] @ slope["V"].T)
    bound = rate**2 * (jnp.sum(slope["U"] ** 2) + jnp.sum(slope["V"] ** 2))
    return {
        "error": float(jnp.max(jnp.abs(moved - exact)) / jnp.max(jnp.abs(exact))),
        "share": float(jnp.abs(jnp.trace(moved)) / bound),
    }


def claims(result: Result) -> Sequence[Finding]:
    """The drift is small, of the order of the rate, and ends with the loss."""
    nets, step, rates = result["nets"], result["step"], result["rates"]
    last = {name: np.abs(net["drift"][:, -1]) for name, net in nets.items()}
    found = [
        at_most(
            "One step moves UᵀU − VVᵀ by η²(G_UᵀG_U − G_V G_Vᵀ) (relative error)",
            step["error"],
            1e-9,
            claims=PROPOSITION,
        ),
        at_most(
            "and its trace by at most η²(‖G_U‖² + ‖G_V‖²) (share)", step["share"], 1.0, claims=PROPOSITION
        ),
    ]
    for name, drift in last.items():
        listed = ", ".join(f"{d:.1e} at {r:g}" for d, r in zip(drift, rates, strict=True))
        statement = f"{name}: relative drift of the charge by rate ({listed}; largest)"
        found.append(at_most(statement, float(drift.max()), 1e-2, claims=FIGURE))
        found.append(
            at_least(
                f"{name}: it is largest for the largest rate (ratio to the next)",
                float(drift[-1] / drift[:-1].max()),
                2.0,
                claims=FIGURE,
            )
        )
    for name in ("linear", "ReLU", "tanh"):
        slope = float(np.polyfit(np.log(rates), np.log(last[name]), 1)[0])
        found.append(
            at_most(
                f"{name}: it is proportional to the rate (|exponent − 1|)",
                abs(slope - 1),
                0.1,
                claims=PROPOSITION,
            )
        )
        net = nets[name]
        done = int(np.argmax(net["loss"][-1] < 1e-6))
        after = np.abs(net["drift"][-1, done:] - net["drift"][-1, -1]).max() / last[name][-1]
        found.append(
            at_most(
                f"{name}: it stands still once the loss has converged (change after, of all)",
                float(after),
                0.02,
                claims=FIGURE,
            )
        )
    total = {n: np.nan_to_num(np.abs(net["sum_drift"][-1]), nan=np.inf) for n, net in nets.items()}
    worst = max(total, key=lambda n: total[n])
    return [
        *found,
        at_most(
            f"The same rates with the sum of squares ‖·‖², as printed (largest drift, of the {worst} network)",
            float(total[worst]),
            0.1,
            claims=FIGURE,
            anticipated="refuted",
        ),
    ]


def plot(result: Result) -> Figure:
    """Drift and loss by step, for each activation and rate."""
    figure, (left, right) = new_figure(2, height=3.6)
    styles = [":", "--", "-"]
    for (name, net), colour in zip(result["nets"].items(), SERIES, strict=True):
        for k in range(len(result["rates"])):
            label = name if k == len(result["rates"]) - 1 else None
            style = styles[max(k + 3 - len(result["rates"]), 0)]
            left.plot(net["steps"], np.abs(net["drift"][k]), style, lw=1.2, color=colour, label=label)
            seen = net["loss"][k] > 1e-12
            right.plot(net["steps"][seen], net["loss"][k][seen], style, lw=1.2, color=colour)
    left.set_title("Drift of the charge")
    left.set_ylabel("|change of Q| / size at the start")
    right.set_title("Loss")
    right.set_ylabel("loss / first loss")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.minorticks_off()
        ax.set_xlabel("step")
    figure.legend(loc="outside lower center", ncols=4, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="charge-drift",
    title="How far gradient descent moves the charge",
    text=(
        "Gradient flow keeps the charge of U σ(V) on whitened inputs; a step of gradient descent moves that of a "
        "linear network by exactly η²(‖∂L/∂U‖² − ‖∂L/∂V‖²). Over a whole training this adds up to a drift that is "
        "proportional to the learning rate and stops when the loss has converged. The printed rate 0.1 is meant for "
        "the mean of squares: with their sum, which is 50 times as steep, the sigmoid network jumps far off the flow."
    ),
    claim_ids=FIGURE + PROPOSITION,
    quick=Config(),
    full=Config(rates=(0.001, 0.003, 0.01, 0.03, 0.1), steps=150000),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Drift of the charge and loss by step; solid lines for the largest learning rate, dashed and dotted for "
        "smaller ones."
    ),
    cost=(0.3, 0.7),
    x64=True,
)
