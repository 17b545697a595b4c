"""Progressive sharpening of a homogeneous network, with the lower bound that its outputs give (EQ-5.1c)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eqtoolbox.experiments._digits import digits_net
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._trained import descent, trained
from eqtoolbox.identities import sharpness_bound
from eqtoolbox.linalg import hvp, hvp_fn, top_eigenpairs, tree_vdot
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "squared": "Squared loss, ten outputs",
    "cross_entropy": "Cross-entropy, ten outputs",
    "logistic": "Logistic loss, one output",
}


@dataclass(frozen=True)
class Config:
    """Full-batch gradient descent of bias-free ReLU networks.

    Attributes:
      widths: of the hidden layers.
      examples: digits trained on.
      losses: names of losses.
      rates: the step size for each loss.
      steps: of gradient descent.
      every: steps between two measurements.
      scale: of the initial weights, times 1/√(fan-in).
      seed: of the initial weights.
    """

    widths: tuple[int, ...] = (32, 32, 32)
    examples: int = 500
    losses: tuple[str, ...] = ("squared", "logistic")
    rates: tuple[float, ...] = (0.13, 0.15)
    steps: int = 900
    every: int = 30
    scale: float = 0.6
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Trains with each loss; measures sharpness and bound along the way."""
    result: dict[str, Any] = {}
    for loss, rate in zip(config.losses, config.rates, strict=True):
        store.progress.describe(f"gradient descent, {loss.replace('_', ' ')}")
        result[loss] = {"rate": rate, **_descend(config, store, loss, rate)}
    return result


def _descend(config: Config, store: Store, loss: str, rate: float) -> dict[str, Any]:
    net = digits_net(config.widths, loss, examples=config.examples, scale=config.scale, seed=config.seed)

    @jax.jit
    def measure(state: Any) -> dict[str, Any]:
        params = state["params"]
        pairs, _ = top_eigenpairs(hvp_fn(net.loss, params), params, 1, key=jax.random.key(1), tol=1e-5)
        square = tree_vdot(params, params)
        return {
            "sharpness": pairs.values[0],
            "error": pairs.residuals[0],
            "bound": sharpness_bound(net.model, net.output_loss, params, net.degree),
            "radial": tree_vdot(params, hvp(net.loss, params, params)) / square,
            "norm": jnp.sqrt(square),
        }

    start, step = descent(lambda params, t: net.loss(params), optax.sgd(rate))
    run = trained(
        store, loss, start(net.params), step, steps=config.steps, every=config.every, measure=measure
    )
    return {"steps": run.times, "loss": run.records["loss"], **run.measured}


def claims(result: Result) -> Sequence[Finding]:
    """The bound holds, it is what it says, and sharpness rises to the edge of stability."""
    found = []
    ratio = min(float(np.min(r["sharpness"] - r["bound"])) for r in result.values())
    gap = max(float(np.max(np.abs(r["bound"] - r["radial"]) / r["sharpness"])) for r in result.values())
    points = sum(len(r["steps"]) for r in result.values())
    found.append(
        at_least(
            f"The top Hessian eigenvalue is not below the bound, at any of {points} points (least difference)",
            ratio,
            0.0,
            claims=("EQ-5.1c",),
        )
    )
    found.append(
        at_most(
            "The bound from the outputs is ⟨θ,∇²Lθ⟩/‖θ‖² by a Hessian-vector product (difference, of the sharpness)",
            gap,
            1e-9,
            claims=("EQ-5.1c",),
        )
    )
    if "squared" in result:
        r = result["squared"]
        rise = float(np.max(r["sharpness"]) / r["sharpness"][0])
        edge = float(np.max(r["sharpness"]) * r["rate"] / 2)
        growth = float(r["bound"][-1] / r["bound"][0])
        found.append(at_least("Squared loss: sharpness rises by a factor", rise, 1.5))
        found.append(
            at_least("Squared loss: it comes to the edge of stability, 2/η (share of it)", edge, 0.95)
        )
        found.append(at_least("Squared loss: the bound rises with it, by a factor", growth, 1.5))
    if "logistic" in result:
        r = result["logistic"]
        left = float(r["bound"][-1] / np.max(r["bound"]))
        found.append(
            at_least(
                "Logistic loss: the bound keeps growing to the end (last over largest)",
                left,
                0.99,
                anticipated="refuted",
            )
        )
    return found


def plot(result: Result) -> Figure:
    """Sharpness, bound and the edge of stability along training."""
    figure, axes = new_figure(len(result), height=3.5)
    for ax, (loss, r) in zip(axes, result.items(), strict=True):
        ax.set_title(TITLES[loss])
        ax.axhline(2 / r["rate"], color=MUTED, lw=1.0, ls=(0, (4, 3)), label="2/η, edge of stability")
        ax.plot(
            r["steps"], r["sharpness"], "o-", ms=2.8, lw=1.2, color=SERIES[0], label="sharpness, by Lanczos"
        )
        bound = np.where(r["bound"] > 0, r["bound"], np.nan)
        ax.plot(
            r["steps"], bound, "o-", ms=2.8, lw=1.2, color=SERIES[2], label="lower bound, from the outputs"
        )
        ax.set_yscale("log")
        ax.set_xlabel("step of gradient descent")
        ax.minorticks_off()
    axes[0].set_ylabel("curvature")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="progressive-sharpening",
    title="Sharpness and its lower bound along gradient descent",
    text=(
        "ReLU networks of four layers without biases are homogeneous of degree 4. By the second-order identity their "
        "sharpness K is at least (m² ∇²ℓ[f,f] + m(m−1)⟨∇ℓ,f⟩)/‖θ‖², which takes one forward pass. They are trained by "
        "full-batch gradient descent on digits. The bound is never violated. With the squared loss sharpness rises "
        "to 2/η and stays about there (progressive sharpening, edge of stability), and the bound rises too, one to "
        "two orders of magnitude below. With the logistic loss both fall again once the digits are told apart: "
        "the growth of the bound that the paper suggests is one of early training."
    ),
    claim_ids=("EQ-5.1c",),
    quick=Config(),
    full=Config(widths=(64, 64, 64), examples=1438, steps=6000, every=100),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "The largest eigenvalue of the Hessian and the lower bound along full-batch gradient descent of bias-free "
        "ReLU networks on digits. Where the bound is negative it is not drawn."
    ),
    cost=(0.2, 0.8),
    x64=True,
)
