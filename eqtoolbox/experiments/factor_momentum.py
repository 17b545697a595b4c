"""How well the factors of one model agree with those of another while both train (GC, figure 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.curvature import Commutant
from eqtoolbox.ensemble import Net
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments.single_model_factors import factors
from eqtoolbox.pages import INK, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    """Two-layer tanh networks without biases under gradient descent.

    Attributes:
      widths: of the networks.
      models: that are compared, pair by pair.
      examples: of the data.
      decays: β_h of the factors.
      rate: of gradient descent.
      steps: of training.
      seeds: of data and teacher.
    """

    widths: tuple[int, int, int] = (100, 70, 40)
    models: int = 10
    examples: int = 1000
    decays: tuple[float, ...] = (0.0, 0.9, 0.95, 0.98)
    rate: float = 0.8
    steps: int = 300
    seeds: tuple[int, ...] = (0,)


def run(config: Config, store: Store) -> Result:
    """For each teacher and decay the mean correlation between the factors of two models, in every step."""
    curves = [
        store.once(f"teacher-{seed}", lambda seed=seed: {"mean": _correlations(config, seed)})["mean"]
        for seed in config.seeds
    ]
    return {"mean": np.stack(curves), "decays": np.array(config.decays)}


def _correlations(config: Config, seed: int) -> np.ndarray:
    net = Net(config.widths, "tanh", bias=False, examples=config.examples, decades=5.0, seed=seed)
    com, decays = Commutant(net.symmetry(), net.shapes), jnp.asarray(config.decays)

    @jax.jit
    def curves(keys: Array, data: tuple[Array, Array]) -> Array:
        gradient = jax.grad(net.loss_on(data))

        def step(carry: tuple[Any, Array], t: Array) -> tuple[tuple[Any, Array], Array]:
            params, means = carry
            grads = jax.vmap(gradient)(params)
            one = jax.vmap(lambda g: jnp.concatenate([f.ravel() for f in factors(com, g).values()]))(grads)
            means = decays[:, None, None] * means + (1 - decays[:, None, None]) * one[None]  # (192) to (194)
            params = jax.tree.map(lambda p, g: p - config.rate * g, params, grads)
            return (params, means), jax.vmap(_mean_correlation)(means)

        params = jax.vmap(net.init)(keys)
        size = config.widths[0] ** 2 + config.widths[2] ** 2 + config.widths[0] * config.widths[2]
        start = jnp.zeros((len(config.decays), config.models, size))
        return jax.lax.scan(step, (params, start), jnp.arange(config.steps))[1]

    keys = jax.random.split(jax.random.key(seed + 1), config.models)
    return np.asarray(curves(keys, net.data())).T


def _mean_correlation(rows: Array) -> Array:
    """Over the pairs of rows; the bias correction of a mean does not change it."""
    n = len(rows)
    return (jnp.sum(jnp.corrcoef(rows)) - n) / (n * (n - 1))


def claims(result: Result) -> Sequence[Finding]:
    """What momentum adds at its best, and that it is lost again."""
    mean, decays = result["mean"].mean(0), result["decays"]
    late = slice(10, None)
    plain = mean[0][late].mean()
    found = [
        at_most(
            f"Without momentum the correlation is {plain:.2f}, in the paper about 0.5 (difference)",
            float(abs(plain - 0.5)),
            0.15,
            claims=("GC-F10",),
        )
    ]
    for decay, curve in zip(decays[1:], mean[1:], strict=True):
        gain = curve[late].max() - plain
        found.append(
            at_least(
                f"β_h = {decay:g}: the largest correlation is {curve[late].max():.2f}, in the paper about 0.7; more "
                "than without momentum",
                float(gain),
                0.08,
                claims=("GC-F10",),
            )
        )
        lost = round(15 / (1 - decay))
        if lost <= len(curve):
            found.append(
                at_most(
                    f"β_h = {decay:g}: after 15 times the memory of the mean, at step {lost}, that is lost again "
                    "(in the paper after about 10); difference to no momentum at that step",
                    float(abs(curve[lost - 1] - mean[0][lost - 1])),
                    0.08,
                    claims=("GC-F10",),
                )
            )
    return found


def plot(result: Result) -> Figure:
    """The mean correlation against the step."""
    figure, (ax,) = new_figure(1, height=3.2)
    for i, (decay, curve) in enumerate(zip(result["decays"], result["mean"].mean(0), strict=True)):
        ax.plot(np.arange(1, len(curve) + 1), curve, color=SERIES[i], lw=1.5, label=f"β_h = {decay:g}")
    ax.set_xscale("log")
    ax.set_ylim(0, 1)
    ax.set_xlabel("step of gradient descent")
    ax.set_ylabel("mean correlation of two models' factors")
    ax.legend(labelcolor=INK, loc="lower left")
    return figure


EXPERIMENT = Experiment(
    name="factor-momentum",
    title="Factors with momentum: how well two models agree",
    text=(
        "Ten networks, started from different weights, train on the same data, and each estimates the factors of the "
        "global gradient covariance from its own gradients, with a running mean of decay β_h. If these were the "
        "factors of the ensemble, all would agree. Momentum makes them agree better, and most for a while: the longer "
        "its memory, the longer it holds the start of training, when the gradients of all are alike."
    ),
    claim_ids=("GC-F10",),
    quick=Config(),
    full=Config(examples=5000, steps=1000, decays=(0.0, 0.9, 0.95, 0.98, 0.99), seeds=(0, 1, 2)),
    run=run,
    claims=claims,
    plot=plot,
    caption="Mean correlation over all pairs of models between their factors, against the step of gradient descent.",
    cost=(0.2, 6.0),
)
