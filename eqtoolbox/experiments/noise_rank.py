"""Low rank by the noise of SGD alone, with and without residual connections (MS-F3b)."""

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
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("MS-F3b",)


@dataclass(frozen=True)
class Config:
    """W U x, or (I + W)(I + U) x, on y = μx + (1 - μ)ε, ε_i ~ N(0, 2/i), one example a step, no decay.

    Attributes:
      width: of x, y and the hidden layer.
      rates: learning rates for the sum of squares.
      signals: μ.
      steps: of SGD.
      scale: the entries of W and U start as N(0, scale²/width).
      tolerance: of the rank, relative to the largest singular value.
      seed: of everything random.
    """

    width: int = 24
    rates: tuple[float, ...] = (0.002, 0.005, 0.01, 0.015)
    signals: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3)
    steps: int = 30000
    scale: float = 0.1
    tolerance: float = 1e-3
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Trains both networks for every rate and signal, and the residual one also from the other's start."""
    found = {}
    for name in ("plain", "residual", "shifted"):
        store.progress.describe(f"SGD, {name} factorisation")
        found[name] = store.once(name, lambda n=name: _train(n, config))
    return {
        **found,
        "rates": np.array(config.rates),
        "signals": np.array(config.signals),
        "tolerance": config.tolerance,
    }


def _train(name: str, config: Config) -> dict[str, Any]:
    """Singular values of the product and of W, shape (signals, rates, width)."""
    n = config.width
    start, examples = jax.random.split(jax.random.key(config.seed))
    w, u = config.scale * jax.random.normal(start, (2, n, n)) / n**0.5
    eye = jnp.eye(n) if name != "plain" else jnp.zeros((n, n))
    if name == "shifted":  # I + W is where W of the plain network starts
        w, u = w - eye, u - eye
    deviation = jnp.sqrt(2 / jnp.arange(1.0, n + 1))

    @jax.jit
    def train(signals: Array, rates: Array) -> tuple[Array, Array]:
        def one(mu: Array, rate: Array) -> tuple[Array, Array]:
            def step(state: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], None]:
                w, u = state
                a, b = jax.random.split(key)
                x = jax.random.normal(a, (n,))
                y = mu * x + (1 - mu) * deviation * jax.random.normal(b, (n,))
                hidden = x + u @ x if name != "plain" else u @ x
                output = hidden + w @ hidden if name != "plain" else w @ hidden
                error = 2 * (output - y)
                back = error + w.T @ error if name != "plain" else w.T @ error
                return (w - rate * jnp.outer(error, hidden), u - rate * jnp.outer(back, x)), None

            keys = jax.random.split(examples, config.steps)
            w_, u_ = jax.lax.scan(step, (w, u), keys)[0]
            svd = lambda m: jnp.linalg.svd(m, compute_uv=False)  # noqa: E731
            return svd((eye + w_) @ (eye + u_)), svd(w_)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(signals, rates)

    product, factor = train(jnp.asarray(config.signals), jnp.asarray(config.rates))
    return {"product": np.asarray(product), "factor": np.asarray(factor)}


def ranks(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Numerical ranks; NaN where SGD diverged."""
    top = values.max(axis=-1, keepdims=True)
    return np.where(np.isfinite(top[..., 0]), np.sum(values > tolerance * top, axis=-1), np.nan)


def claims(result: Result) -> Sequence[Finding]:
    """The rank falls with rate and noise; the residual network does the same, only its factor W does not."""
    tolerance = result["tolerance"]
    full = result["plain"]["product"].shape[-1]
    plain = ranks(result["plain"]["product"], tolerance)
    residual = ranks(result["residual"]["product"], tolerance)
    shifted = ranks(result["shifted"]["product"], tolerance)
    factor = ranks(result["residual"]["factor"], tolerance)
    noisiest, clearest = plain[0], plain[-1]
    found = [
        at_most(
            "WU, noisiest task: rank at the highest learning rate (of the full)", noisiest[-1] / full, 0.75
        ),
        at_least("… its fall from the lowest rate (of the full)", (noisiest[0] - noisiest[-1]) / full, 0.25),
        at_most("… largest rise from one rate to the next higher", float(np.max(np.diff(noisiest))), 0),
        at_least(
            "WU, clearest task: rank at the highest learning rate (of the full)", clearest[-1] / full, 0.99
        ),
        at_most("WU: largest fall of the rank with less noise", float(np.max(-np.diff(plain, axis=0))), 0),
        at_least(
            "(I + W)(I + U): smallest rank of the product (of the full); printed: always full",
            float(np.nanmin(residual)) / full,
            0.99,
            anticipated="refuted",
        ),
        at_most(
            "… its largest difference from the rank of WU from the same W + I, U + I",
            float(np.nanmax(np.abs(shifted - plain))),
            0,
        ),
        at_least("… smallest rank of W itself (of the full)", float(np.nanmin(factor)) / full, 0.99),
    ]
    return [Finding(f.statement, f.measured, f.expected, f.verdict, CLAIM, f.anticipated) for f in found]


def plot(result: Result) -> Figure:
    """Rank by learning rate for every signal; the residual network beside it."""
    figure, axes = new_figure(2, height=3.4)
    tolerance, full = result["tolerance"], result["plain"]["product"].shape[-1]
    for ax, name, title in zip(axes, ("plain", "residual"), ("W U", "(I + W)(I + U)"), strict=True):
        found = ranks(result[name]["product"], tolerance)
        for row, mu, colour in zip(found, result["signals"], SERIES, strict=False):
            ax.plot(result["rates"], row, "o-", color=colour, label=f"μ = {mu:g}")
        if name == "residual":
            factor = ranks(result[name]["factor"], tolerance)
            ax.plot(result["rates"], factor[0], "--", color=MUTED, label="W alone, μ = 0")
        ax.set(xscale="log", xlabel="learning rate", title=f"Rank of {title}", ylim=(0, 1.06 * full))
        ax.minorticks_off()
        ax.set_xticks(result["rates"], [f"{r:g}" for r in result["rates"]])
    axes[1].legend(labelcolor=INK, loc="lower left")
    return figure


EXPERIMENT = Experiment(
    name="noise-rank",
    title="Low rank by the noise of SGD",
    text=(
        "A linear network with one example a step and no weight decay: its rank falls with the learning rate and with "
        "the noise of the labels. Residual connections are said to prevent this. But W ↦ I + W only moves the origin: "
        "SGD on (I + W)(I + U) is SGD on WU from another start, with the same double rotation symmetry, and the rank "
        "of the product falls all the same. What stays of full rank is W by itself."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(width=60, rates=(0.0005, 0.001, 0.002, 0.004, 0.006), steps=200000),
    run=run,
    claims=claims,
    plot=plot,
    caption="Numerical rank of the product by learning rate, for signals μ; dashed: the rank of the factor W alone.",
    cost=(0.6, 30.0),
)
