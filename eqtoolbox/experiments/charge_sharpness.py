"""The charge of a two-layer network against the eigenvalues of the Hessian where training ends (DA-X6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._two_layer import ACTIVATIONS, draw_weights, squared_error, total_charge
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = ("DA-X6",)
FORMULA = ("DA-T29",)
#: An eigenvalue counts as zero below this, as in the figure.
ZERO = 1e-3


@dataclass(frozen=True)
class Config:
    """Networks U σ(V) on X = I, trained by gradient descent on the sum of squares.

    Attributes:
      outputs: m.
      hidden: h.
      inputs: n.
      deviations: of the entries of U and V at initialisation.
      rate: learning rate.
      steps: of gradient descent; four times as many for the sigmoid.
      seeds: networks for each activation and deviation.
      charges: Q of the one-dimensional minima.
      seed: of everything random.
    """

    outputs: int = 10
    hidden: int = 50
    inputs: int = 5
    deviations: tuple[float, ...] = (0.001, 0.3, 0.6, 0.9)
    rate: float = 2e-3
    steps: int = 4000
    seeds: int = 1
    charges: tuple[float, ...] = (-3.0, 0.0, 2.5)
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Trains, and computes all eigenvalues of the Hessian at the end."""
    nets = {}
    for name in ACTIVATIONS:
        store.progress.describe(f"{name}: training and the Hessian")
        nets[name] = store.once(name, lambda n=name: _train(n, config))
    scalar = store.once("scalar", lambda: _scalar(config))
    sizes = {"outputs": config.outputs, "hidden": config.hidden, "inputs": config.inputs}
    return {"nets": nets, "scalar": scalar, "deviations": np.array(config.deviations), **sizes}


def _train(name: str, config: Config) -> dict[str, Any]:
    """For each seed and deviation: charge at both ends, loss, eigenvalues, and those predicted for a linear net."""
    activation = ACTIVATIONS[name]
    steps = config.steps * (4 if name == "sigmoid" else 1)

    def one(params: Any, target: jax.Array, deviation: jax.Array) -> dict[str, jax.Array]:
        start = jax.tree.map(lambda w: deviation * w, params)
        loss = lambda p: squared_error(activation, p, target)  # noqa: E731
        slope = jax.grad(loss)
        step = lambda _, p: jax.tree.map(lambda w, g: w - config.rate * g, p, slope(p))  # noqa: E731
        end = jax.lax.fori_loop(0, steps, step, start)
        flat, unravel = ravel_pytree(end)
        hessian = jax.hessian(lambda v: loss(unravel(v)))(flat)
        grams = jnp.linalg.eigvalsh(end["V"].T @ end["V"]), jnp.linalg.eigvalsh(end["U"] @ end["U"].T)
        return {
            "start": total_charge(activation, start),
            "end": total_charge(activation, end),
            "loss": loss(end) / loss(start),
            "values": jnp.linalg.eigvalsh(hessian),
            "predicted": 2 * jnp.sort((grams[0][:, None] + grams[1][None, :]).ravel()),
        }

    keys = [jax.random.key(config.seed + i) for i in range(config.seeds)]
    deviations = jnp.asarray(config.deviations)

    @jax.jit
    def grid(key: jax.Array) -> dict[str, jax.Array]:
        params, target = draw_weights(key, config.outputs, config.hidden, config.inputs)
        return jax.lax.map(lambda d: one(params, target, d), deviations)

    found = [jax.device_get(grid(key)) for key in keys]
    return jax.tree.map(lambda *x: np.stack(x), *found)


def _scalar(config: Config) -> dict[str, Any]:
    """Eigenvalues of the Hessian of ½(1 - UV)² at the minimum of charge Q = U² - V²."""
    charge = jnp.asarray(config.charges)
    root = jnp.sqrt(charge**2 + 4)
    at = jnp.stack([jnp.sqrt((root + charge) / 2), jnp.sqrt((root - charge) / 2)], 1)
    values = jax.vmap(lambda w: jnp.linalg.eigvalsh(jax.hessian(lambda w: (1 - w[0] * w[1]) ** 2 / 2)(w)))(at)
    return {"charge": np.asarray(charge), "values": np.asarray(values)}


def rest(net: Any, count: int) -> np.ndarray:
    """The mean of the ``count`` largest eigenvalues, for each seed and deviation."""
    return np.sort(net["values"], -1)[..., -count:].mean(-1)


def claims(result: Result) -> Sequence[Finding]:
    """Counts of zeros, growth with the charge, and the exact formulas."""
    nets, scalar = result["nets"], result["scalar"]
    m, h, n = result["outputs"], result["hidden"], result["inputs"]
    flat, linear = h * (n + m) - n * m, nets["linear"]
    zeros = {name: np.sum(np.abs(net["values"]) <= ZERO, -1) for name, net in nets.items()}
    exact = np.sqrt(scalar["charge"] ** 2 + 4)
    predicted = np.sort(linear["values"], -1)[..., -m * n :]
    close = np.abs(predicted - linear["predicted"]) / linear["predicted"].max(-1, keepdims=True)
    grows = {name: _growth(net, m * n) for name, net in nets.items()}
    found = [
        at_most(
            "Scalars: the eigenvalues at the minimum of ½(1−UV)² are 0 and √(Q²+4) (error)",
            float(np.abs(scalar["values"] - np.stack([0 * exact, exact], 1)).max()),
            1e-12,
            claims=FORMULA,
        ),
        at_most(
            "Scalars: the second one is 2√(Q²+4), as printed (relative error)",
            float(np.abs(scalar["values"][:, 1] / (2 * exact) - 1).max()),
            1e-3,
            claims=FORMULA,
            anticipated="refuted",
        ),
        at_most(
            "Training has ended (largest loss, of the first)",
            max(float(x["loss"].max()) for x in nets.values()),
            1e-4,
        ),
        at_most(
            "linear: the others are 2(aᵢ+bⱼ) of the eigenvalues of VᵀV and UUᵀ (error, of the largest)",
            float(close.max()),
            1e-3,
            claims=FORMULA,
        ),
    ]
    for name, count in zeros.items():
        verdict = "verified" if (count == flat).all() else "refuted"
        text = "/".join(map(str, np.unique(count)))
        statement = f"{name}: eigenvalues of size at most {ZERO:g} of {h * (n + m)}"
        found.append(Finding(statement, text, f"exactly {flat} in every run", verdict, FIGURE))
    return [
        *found,
        at_least(
            "linear: the mean of the others grows with the charge (least ratio of neighbours in order of the charge)",
            grows["linear"],
            1.1,
            claims=FIGURE,
        ),
        at_least(
            "tanh: it does, too (the same)",
            grows["tanh"],
            1.0,
            claims=FIGURE,
            anticipated="refuted",
        ),
    ]


def _growth(net: Any, count: int) -> float:
    """The least ratio of the means of neighbours in the order of the charge."""
    order = np.argsort(net["start"].mean(0))
    means = rest(net, count).mean(0)[order]
    return float(np.min(means[1:] / means[:-1]))


def plot(result: Result) -> Figure:
    """Mean of the non-zero eigenvalues against the charge, and all eigenvalues of the linear networks."""
    figure, (left, right) = new_figure(2, height=3.6)
    count = result["outputs"] * result["inputs"]
    for (name, net), colour in zip(result["nets"].items(), SERIES, strict=True):
        for seed, (x, y) in enumerate(zip(net["start"], rest(net, count), strict=True)):
            left.plot(x, y, "o-", ms=4, lw=1.0, color=colour, label=None if seed else name)
    left.set_title("Mean of the non-zero eigenvalues")
    left.set_xlabel("charge Q at initialisation")
    left.set_ylabel("mean eigenvalue")
    right.set_title("linear: all eigenvalues")
    linear = result["nets"]["linear"]
    for k, deviation in enumerate(result["deviations"]):
        values = np.sort(np.abs(linear["values"][0, k]))[::-1]
        colour = SERIES[k % len(SERIES)]
        right.plot(
            np.arange(1, len(values) + 1),
            np.maximum(values, 1e-17),
            ".",
            ms=3,
            color=colour,
            label=f"deviation {deviation:g}",
        )
        right.plot(np.arange(1, count + 1), linear["predicted"][0, k][::-1], color=INK, lw=0.7)
    right.axhline(ZERO, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    right.set_yscale("log")
    right.set_xscale("log")
    right.minorticks_off()
    right.set_xlabel("number of the eigenvalue")
    right.set_ylabel("|eigenvalue|")
    for ax in (left, right):
        ax.legend(loc="best", labelcolor=INK, fontsize=7.5)
    return figure


EXPERIMENT = Experiment(
    name="charge-sharpness",
    title="The charge and the eigenvalues of the Hessian where training ends",
    text=(
        "For ½(1−UV)² in two numbers the charge Q = U² − V² decides where gradient flow ends, and there the Hessian "
        "has the eigenvalues 0 and √(Q²+4): a larger |Q| is a sharper minimum (the dissertation prints twice that). "
        "Networks U σ(V) of 750 parameters on whitened inputs are trained from several scales of initialisation, which "
        "give different charges, and all eigenvalues are computed. 700 of them vanish, and for linear networks the "
        "other 50 are exactly 2(aᵢ+bⱼ) with the eigenvalues a and b of VᵀV and UUᵀ: they grow with both, so with the "
        "charge only because the scale of initialisation moves all of these. For tanh the charge goes up and down "
        "again while sharpness grows."
    ),
    claim_ids=FIGURE + FORMULA,
    quick=Config(),
    full=Config(seeds=3),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: the mean of the non-zero eigenvalues against the charge at initialisation, for several deviations of "
        "the initial weights. Right: eigenvalues by size; lines are 2(aᵢ+bⱼ), below the dashed line they count as zero."
    ),
    cost=(0.6, 1.9),
    x64=True,
)
