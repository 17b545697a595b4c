"""An ensemble on a quadratic loss, preconditioned by the inverse root of its gradient covariance (GC, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, Verdict, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONSTANT, FALLING, PLAIN = "constant rate", "falling rate", "no preconditioner"
STEPS = "falling rate, made for steps"


@dataclass(frozen=True)
class Config:
    """A Gaussian ensemble and its steps, which are Euler steps of length 1 of the flow.

    Attributes:
      size: p, of the parameters.
      models: of the ensemble, from whose gradients the covariance is taken in every step.
      decades: powers of ten that the eigenvalues of the Hessian span.
      spread: √s₀, of the parameters at the start.
      rate: α of the constant rate.
      decay: β of the falling rate α₀βᵗ, with α₀ = √s₀ log(1/β).
      steps: of each run.
      seed: of the Hessian and the models.
    """

    size: int = 20
    models: int = 400
    decades: float = 4.0
    spread: float = 1.0
    rate: float = 0.01
    decay: float = 0.98
    steps: int = 150
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Mean and variance of the parameters in every step, for the three flows."""
    return store.once("flows", lambda: _flows(config))


def _flows(config: Config) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(config.seed)
    basis, _ = np.linalg.qr(rng.normal(size=(config.size, config.size)))
    values = np.logspace(0, -config.decades, config.size)
    hessian = jnp.asarray((basis * values) @ basis.T)
    # Exactly white, with a mean of length 1: the claims are about infinitely many models.
    start = rng.normal(size=(config.models, config.size))
    start -= start.mean(0)
    start = start @ np.linalg.inv(np.linalg.cholesky(start.T @ start / config.models)).T
    mean = rng.normal(size=config.size)
    models = jnp.asarray(mean / np.linalg.norm(mean) + config.spread * start)
    times = jnp.arange(config.steps)
    alpha = config.spread * np.log(1 / config.decay)
    rates = {
        CONSTANT: jnp.full(config.steps, config.rate),
        FALLING: alpha * config.decay**times,
        STEPS: config.spread * (1 - config.decay) * config.decay**times,
        PLAIN: jnp.full(config.steps, 1.0),
    }

    def flow(models: Array, rates: Array, whiten: bool) -> dict[str, Array]:
        def step(models: Array, rate: Array) -> tuple[Array, dict[str, Array]]:
            centred = models - models.mean(0)[None]
            seen = {"mean": models.mean(0), "variance": jnp.mean(centred**2, 0)}
            gradients = models @ hessian
            if whiten:
                spread = centred @ hessian
                w, v = jnp.linalg.eigh(spread.T @ spread / len(models))
                gradients = gradients @ (v * jnp.maximum(w, w[-1] * 1e-14)[None] ** -0.5) @ v.T
            return models - rate * gradients, seen

        return jax.lax.scan(step, models, rates)[1]

    run_flow = jax.jit(flow, static_argnums=2)
    return {
        name: {k: np.asarray(v) for k, v in run_flow(models, rate, name != PLAIN).items()}
        | {"rate": np.asarray(rate), "spread": np.asarray(config.spread), "decay": np.asarray(config.decay)}
        for name, rate in rates.items()
    }


def predicted(r: Result, name: str) -> np.ndarray:
    """√s/√s₀, which is also the length of the mean over that at the start: (51), (52), (54), (55)."""
    t = np.arange(len(r[name]["rate"]))
    if name in (FALLING, STEPS):
        return r[name]["decay"] ** t
    return np.maximum(1 - r[name]["rate"][0] * t / r[name]["spread"], 0)


def length(r: Result, name: str) -> np.ndarray:
    """The length of the mean, over that at the start."""
    mean = np.linalg.norm(r[name]["mean"], axis=1)
    return mean / mean[0]


def claims(result: Result) -> Sequence[Finding]:
    """The solutions hold; the constant rate does not stop in steps; without a preconditioner nothing of it does."""
    found = []
    for name, equations in ((CONSTANT, "(51), (52)"), (FALLING, "(54), (55)")):
        want = predicted(result, name)
        inside = want > 0.05
        spread = np.sqrt(result[name]["variance"].mean(1)) / result[name]["spread"]
        for what, got in (("mean", length(result, name)), ("spread", spread)):
            found.append(
                at_most(
                    f"{equations}, {name}: {what} of the parameters, largest error relative to the start, until 95 % "
                    "of the way is done",
                    float(np.max(np.abs(got - want)[inside])),
                    0.02,
                    claims=("GC-B",),
                )
            )
        uneven = result[name]["variance"][inside]
        found.append(
            at_most(
                f"{name}: the ensemble stays isotropic whatever the Hessian: spread of the variances of the "
                "directions (relative)",
                float(np.max(uneven.std(1) / uneven.mean(1))),
                0.02,
                claims=("GC-B",),
            )
        )
    end = len(result[CONSTANT]["rate"]) - 1
    found.append(
        at_least(
            "Constant rate: in steps it jumps over the minimum for ever; the ensemble's spread, in steps",
            float(np.sqrt(result[CONSTANT]["variance"][end].mean()) / result[CONSTANT]["rate"][0]),
            0.1,
            claims=("GC-B",),
        )
    )
    cases: tuple[tuple[str, str, Verdict], ...] = (
        (FALLING, "Steps follow (55) closely with √s₀ = α₀ / log(1/β), as printed", "refuted"),
        (STEPS, "Steps follow (55) with √s₀ = α₀ / (1 - β): then they add up to √s₀", "verified"),
    )
    for name, text, verdict in cases:
        spread = np.sqrt(result[name]["variance"][end].mean()) / result[name]["spread"]
        found.append(
            at_most(
                f"{text}: error of √s at the last step, relative to what is predicted there",
                float(abs(spread / predicted(result, name)[end] - 1)),
                0.05,
                claims=("GC-B",),
                anticipated=verdict,
            )
        )
    found.append(
        at_least(
            "Gradient flow for comparison, at the largest stable rate: what is left of the mean at the end, over what "
            "the falling rate leaves",
            float(length(result, PLAIN)[end] / length(result, FALLING)[end]),
            3.0,
            claims=("GC-B",),
        )
    )
    return found


def plot(result: Result) -> Figure:
    """The lengths of the mean against the predictions, and the variances of the directions."""
    figure, (left, right) = new_figure(2, height=3.2)
    for i, name in enumerate((CONSTANT, FALLING, STEPS, PLAIN)):
        left.plot(length(result, name), color=SERIES[i], lw=1.6, label=name)
        if name != PLAIN:
            left.plot(
                predicted(result, name), color=INK, lw=0.8, ls="--", label="predicted" if i == 0 else None
            )
        variances = np.sqrt(result[name]["variance"])
        right.fill_between(
            np.arange(len(variances)), variances.min(1), variances.max(1), color=SERIES[i], alpha=0.35, lw=0
        )
        right.plot(np.sqrt((variances**2).mean(1)), color=SERIES[i], lw=1.4)
    for ax, title in ((left, "distance of the mean"), (right, "spread, least and most spread direction")):
        ax.set_yscale("log")
        ax.set_ylim(1e-3, 2)
        ax.set_xlabel("step")
        ax.set_title(title, color=INK)
    left.set_ylabel("relative to the start", color=MUTED)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="quadratic-flow",
    title="An ensemble on a quadratic loss",
    text=(
        "Gaussian models on a quadratic loss, moved by the gradient times the inverse root of the covariance of their "
        "gradients. From an isotropic start the Hessian drops out: all models run straight to the minimum and reach it "
        "in finite time at a constant rate, and exponentially fast at a rate that falls as √s does. In steps the first "
        "overshoots; the second keeps an error of √s₀ (1 - β) / 2, unless its steps are made to add up to √s₀."
    ),
    claim_ids=("GC-B",),
    quick=Config(),
    full=Config(size=100, models=2000, decades=6.0),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Length of the ensemble's mean (left) and the spreads of its directions (right; lines: mean, bands: from the "
        "least to the largest) in each step, for three flows."
    ),
    cost=(0.05, 0.3),
    x64=True,
)
