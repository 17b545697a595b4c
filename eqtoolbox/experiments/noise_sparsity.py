"""Sparsity by the noise of SGD alone: v against u ⊙ w in a linear regression (MS-F3a)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import mirror
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.groups import Monomial
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("MS-F3a",)


@dataclass(frozen=True)
class Config:
    """Online regression of y = mean(x) + ε on x ~ N(0, I), one example a step, no weight decay.

    Attributes:
      inputs: d.
      noise: standard deviation of ε.
      rates: learning rates.
      steps: of SGD.
      scale: standard deviation of u and w at the start; v starts as u ⊙ w.
      tolerance: a weight below this counts as zero.
      samples: batches behind the predicted exponents.
      seed: of everything random.
    """

    inputs: int = 200
    noise: float = 1.0
    rates: tuple[float, ...] = (0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024)
    steps: int = 40000
    scale: float = 0.1
    tolerance: float = 1e-6
    samples: int = 40000
    seed: int = 0


def draw(key: Array, inputs: int, noise: float) -> tuple[Array, Array]:
    """One example."""
    a, b = jax.random.split(key)
    x = jax.random.normal(a, (inputs,))
    return x, jnp.mean(x) + noise * jax.random.normal(b)


def run(config: Config, store: Store) -> Result:
    """Trains both parametrisations with every rate, and predicts where a coordinate collapses."""
    store.progress.describe("SGD with and without the symmetry")
    trained = store.once("trained", lambda: _train(config))
    store.progress.describe("Lyapunov exponents")
    predicted = store.once("predicted", lambda: _predict(config))
    return {
        **trained,
        **predicted,
        "rates": np.array(config.rates),
        "steps": config.steps,
        "tolerance": config.tolerance,
    }


def _train(config: Config) -> dict[str, Any]:
    start, examples = jax.random.split(jax.random.key(config.seed))
    u, w = config.scale * jax.random.normal(start, (2, config.inputs))

    @jax.jit
    def train(rates: Array) -> tuple[Array, Array]:
        def one(rate: Array) -> tuple[Array, Array]:
            def step(state: tuple, key: Array) -> tuple[tuple, None]:
                u, w, v = state
                x, y = draw(key, config.inputs, config.noise)
                slope = 2 * rate * (jnp.vdot(u * w, x) - y) * x
                u, w = u - slope * w, w - slope * u
                return (u, w, v - 2 * rate * (jnp.vdot(v, x) - y) * x), None

            keys = jax.random.split(examples, config.steps)
            u_, w_, v_ = jax.lax.scan(step, (u, w, u * w), keys)[0]
            return u_ * w_, v_

        return jax.vmap(one)(rates)

    product, vanilla = train(jnp.asarray(config.rates))
    return {"product": np.asarray(product), "vanilla": np.asarray(vanilla)}


def _predict(config: Config) -> dict[str, Any]:
    """Λ of the mirror u = -w of one coordinate at 0, which stands for all, as for its critical learning rate."""
    params = {"u": jnp.zeros(config.inputs), "w": jnp.zeros(config.inputs)}
    group = Monomial(config.inputs, scales=["a"], signs=["a"])
    sym = Symmetry({"u": "h", "w": "h*"}, {"h": group})
    signal = mirror.of(sym, params).select(kind="rescaling pair")[1]

    def loss(p: Any, batch: tuple[Array, Array]) -> Array:
        key, sign = batch
        x, y = draw(key, config.inputs, config.noise)
        # every example also with all but the first input turned round: the mean of h is small beside its spread
        own = x[0] / config.inputs
        return (jnp.vdot(p["u"] * p["w"], x) - (own + sign * (y - own))) ** 2

    keys = jax.random.split(jax.random.key(config.seed + 1), config.samples // 2)
    batches = jnp.repeat(keys, 2), jnp.tile(jnp.array([1.0, -1.0]), config.samples // 2)
    found = mirror.lyapunov(loss, params, signal, batches, learning_rate=jnp.asarray(config.rates))
    batches = jax.random.clone(batches[0]), batches[1]
    critical = mirror.critical_learning_rate(loss, params, signal, batches)
    return {
        "exponent": np.asarray(found.value),
        "error": np.asarray(found.standard_error),
        "critical": np.array([critical.lower.value, critical.lower.standard_error]),
        # E[ξ] = -2/d and E[ξ²] = 4E[x²y²] for ξ = -2xy, with y = x/d and a rest of variance σ² + (d - 1)/d²
        "second_order": 1 / config.inputs / (config.noise**2 + (config.inputs + 2) / config.inputs**2),
    }


def sparsity(weights: np.ndarray, tolerance: float) -> np.ndarray:
    """The share of weights that are 0, for each rate; NaN where SGD diverged."""
    share = np.mean(np.abs(weights) < tolerance, axis=-1)
    return np.where(np.all(np.isfinite(weights), axis=-1), share, np.nan)


def claims(result: Result) -> Sequence[Finding]:
    """v is never sparse; u ⊙ w is above the predicted learning rate, the more so the higher the rate."""
    vanilla = sparsity(result["vanilla"], result["tolerance"])
    product = sparsity(result["product"], result["tolerance"])
    rates, gone = result["rates"], result["exponent"] * result["steps"]
    error = result["error"] * result["steps"]
    surely = gone + 3 * error < -20
    never = gone - 3 * error > 20
    finite = np.isfinite(product)
    found = [
        at_most("v: largest share of zeros at any learning rate", np.nanmax(vanilla), 0.0, claims=CLAIM),
        at_least("v: learning rates at which it converges", int(np.isfinite(vanilla).sum()), 3, claims=CLAIM),
        at_least(
            "u ⊙ w: share of zeros at the highest learning rate", product[finite][-1], 0.9, claims=CLAIM
        ),
        at_most(
            "u ⊙ w: largest fall of the share from one rate to the next higher",
            float(np.max(product[finite][:-1] - product[finite][1:])),
            0.02,
            claims=CLAIM,
        ),
        at_least("u ⊙ w: rates predicted to collapse within the steps", int(surely.sum()), 1, claims=CLAIM),
    ]
    if surely.any():
        worst = float(np.nanmin(product[surely]))
        found.append(at_least("… their smallest share of zeros", worst, 0.9, claims=CLAIM))
    if never.any():
        worst = float(np.nanmax(product[never]))
        found.append(
            at_most("u ⊙ w: largest share of zeros at rates predicted to escape", worst, 0.1, claims=CLAIM)
        )
    value, spread = result["critical"]
    ratio = float(value / result["second_order"])
    text = "Root of Λ over the second-order rate −2E[ξ]/E[ξ²] of the population"
    spread = float(spread / result["second_order"])
    found.append(at_most(f"{text} (|ratio − 1|)", abs(ratio - 1), 0.25, error=spread, claims=CLAIM))
    half = rates[finite][product[finite] > 0.5]
    onset = float(half[0] / value) if half.size and value > 0 else float("nan")
    text = "Half of the weights are 0 from this multiple of the predicted rate on"
    found.append(at_most(text, onset, 4.0, claims=CLAIM))
    return found


def plot(result: Result) -> Figure:
    """Sparsity and Λ by learning rate; weights of one run."""
    figure, (left, right) = new_figure(2, height=3.3)
    rates = result["rates"]
    for name, label, colour, size in (("vanilla", "v", SERIES[0], 9), ("product", "u ⊙ w", SERIES[1], 4)):
        share = sparsity(result[name], result["tolerance"])
        left.plot(rates, share, "o-", color=colour, label=label, markersize=size)
    left.axvline(result["critical"][0], color=MUTED, ls="--", lw=1, label="predicted")
    left.set(xscale="log", xlabel="learning rate", title="Share of weights that are 0", ylim=(-0.05, 1.05))
    left.legend(labelcolor=INK)
    right.axhline(0, color=MUTED, lw=0.8)
    right.errorbar(
        rates, 1e4 * result["exponent"], yerr=2e4 * result["error"], fmt="o-", color=SERIES[1], capsize=2
    )
    right.set(xscale="log", xlabel="learning rate", title="Λ of one coordinate, per 10⁴ steps")
    return figure


EXPERIMENT = Experiment(
    name="noise-sparsity",
    title="Sparsity by the noise of SGD",
    text=(
        "Linear regression with one example a step and no weight decay. Written as u ⊙ w, every weight has the mirrors "
        "u = ±w; above a critical learning rate the noise of SGD makes u = w = 0 attractive although it is a saddle "
        "of the mean loss, and weights die. The plain parametrisation never becomes sparse. The critical rate is "
        "predicted from the Lyapunov exponent at the origin."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(rates=(0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024), steps=100000),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Share of zeros by learning rate (v diverges at higher ones), and the predicted exponent, which is negative "
        "where weights die."
    ),
    cost=(0.5, 1.0),
)
