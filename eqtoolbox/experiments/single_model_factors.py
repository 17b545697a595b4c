"""How well one model's gradient estimates the factors of the global gradient covariance (GC, table 1)."""

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
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTORS = ("Φ1", "Ψ1", "Φ2")
#: Table 1 of the paper: width of the hidden layer -> correlations of Φ1, Ψ1, Φ2, and their errors as printed.
PRINTED = {
    10: ((0.67, 0.38, 0.30), (0.05, 0.06, 0.05)),
    100: ((0.90, 0.61, 0.52), (0.02, 0.04, 0.03)),
    1000: ((0.96, 0.64, 0.54), (0.01, 0.03, 0.03)),
    10000: ((0.97, 0.65, 0.56), (0.01, 0.03, 0.03)),
}


@dataclass(frozen=True)
class Config:
    """Two-layer tanh networks at initialisation, of several widths.

    Attributes:
      widths: of the hidden layer.
      models: of each width, whose mean is the truth.
      singles: other models, each compared with the truth.
      outer: the number of inputs and of outputs.
      examples: of the data.
      decades: powers of ten that the eigenvalues of the inputs span.
      activation: of the hidden layer.
      teachers: seeds of inputs and teacher: their number of repetitions of everything.
      seed: of the models.
    """

    widths: tuple[int, ...] = (10, 100)
    models: tuple[int, ...] = (1500, 400)
    singles: int = 50
    outer: int = 100
    examples: int = 1000
    decades: float = 5.0
    activation: str = "tanh"
    teachers: tuple[int, ...] = (0,)
    seed: int = 4


def factors(com: Commutant, grads: Any) -> dict[str, Array]:
    """Φ1, Ψ1 and Φ2 of (37) to (39), from the block of a two-layer network without biases."""
    (component,) = com.components
    block = com.gram(grads)[component.name]
    rows = {m.path: slice(m.start, m.start + m.count) for m in component.members}
    first, second = rows["Dense_0/kernel"], rows["Dense_1/kernel"]
    return {"Φ1": block[first, first], "Ψ1": block[first, second], "Φ2": block[second, second]}


def run(config: Config, store: Store) -> Result:
    """The correlations of every single model with the truth."""
    result = {}
    for width, models in zip(config.widths, config.models, strict=True):
        rows = []
        for teacher in config.teachers:
            store.progress.describe(f"{models} models of width {width}")
            net = Net(
                (config.outer, width, config.outer),
                config.activation,
                bias=False,
                examples=config.examples,
                decades=config.decades,
                seed=teacher,
            )
            rows.append(
                store.once(
                    f"width-{width}/teacher-{teacher}",
                    lambda net=net, models=models: _correlations(net, models, config.singles, config.seed),
                )
            )
        result[str(width)] = {"correlations": np.stack([r["correlations"] for r in rows]), "models": models}
    return result


def _correlations(net: Net, models: int, singles: int, seed: int) -> dict[str, np.ndarray]:
    com, data = Commutant(net.symmetry(), net.shapes), net.data()
    keys = jax.random.split(jax.random.key(seed), models + singles)

    @jax.jit
    def estimate(data: tuple[Array, Array], key: Array) -> dict[str, Array]:
        return factors(com, jax.grad(net.loss_on(data))(net.init(key)))

    @jax.jit
    def truth(data: tuple[Array, Array], keys: Array) -> dict[str, Array]:
        def add(total: Any, key: Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, estimate(data, key)), None

        zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(estimate, data, keys[0]))
        return jax.lax.scan(add, zero, keys)[0]

    mean = jax.device_get(truth(data, keys[:models]))
    found = []
    for key in keys[models:]:
        one = jax.device_get(estimate(data, key))
        found.append([np.corrcoef(one[name].ravel(), mean[name].ravel())[0, 1] for name in FACTORS])
    return {"correlations": np.array(found)}


def claims(result: Result) -> Sequence[Finding]:
    """The numbers of the paper, and that they rise with the width, to less than 1."""
    found = []
    for width, r in result.items():
        flat = r["correlations"].reshape(-1, len(FACTORS))
        mean, deviation = flat.mean(0), flat.std(0, ddof=1)
        if int(width) in PRINTED:
            for i, name in enumerate(FACTORS):
                printed, spread = PRINTED[int(width)][0][i], PRINTED[int(width)][1][i]
                found.append(
                    at_most(
                        f"Width {width}, {name}: correlation {mean[i]:.2f} ± {deviation[i]:.2f}, in the paper "
                        f"{printed:.2f} ± {spread:.2f} (difference)",
                        float(abs(mean[i] - printed)),
                        2 * spread,
                        claims=("GC-T1",),
                    )
                )
    means = {width: r["correlations"].mean((0, 1)) for width, r in result.items()}
    (small, *_, large) = means
    for i, name in enumerate(FACTORS):
        found.append(
            at_least(
                f"{name}: the correlation rises from width {small} to {large}, by",
                float(means[large][i] - means[small][i]),
                0.02,
                claims=("GC-T1",),
            )
        )
    return found


def plot(result: Result) -> Figure:
    """Mean and spread of the correlations against the width, with the paper's."""
    figure, axes = new_figure(3, height=2.9)
    widths = np.array([int(w) for w in result])
    for i, (ax, name) in enumerate(zip(axes, FACTORS, strict=True)):
        flat = [r["correlations"].reshape(-1, 3)[:, i] for r in result.values()]
        mean, spread = [f.mean() for f in flat], [f.std(ddof=1) for f in flat]
        ax.errorbar(widths * 0.93, mean, spread, fmt="o-", ms=4, lw=1.2, color=SERIES[i], label="measured")
        own = [(w, *(PRINTED[w][k][i] for k in (0, 1))) for w in PRINTED if widths.min() <= w <= widths.max()]
        if own:
            w, value, error = np.array(own).T
            ax.errorbar(w * 1.07, value, error, fmt="s", ms=4, mfc="none", color=MUTED, lw=1.0, label="paper")
        ax.set_xscale("log")
        ax.set_ylim(0, 1)
        ax.set_title(name)
        ax.set_xlabel("hidden units")
        ax.minorticks_off()
    axes[0].set_ylabel("correlation with the truth")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="single-model-factors",
    title="Factors of the global covariance, from one model",
    text=(
        "For a two-layer tanh network without biases the gradient covariance is one block, made of Φ1, Ψ1 and Φ2; one "
        "gradient estimates it by an average over the hidden units. The correlation of such an estimate with the mean "
        "over thousands of models rises with the width, but not to 1: the residual of a model depends on all of its "
        "units at once and so does not average out, whatever the width. (A hundred inputs whose covariance has "
        "eigenvalues from 1 to 1e-5, as many outputs, a fixed teacher, half the squared error, weights N(0, 1/fan-in).)"
    ),
    claim_ids=("GC-T1",),
    quick=Config(),
    full=Config(widths=(10, 100, 1000), models=(10000, 10000, 2000), singles=100, teachers=(0, 1)),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Correlation over the entries of a factor estimated by one model with the mean over many, mean and standard "
        "deviation over single models, against the width of the hidden layer."
    ),
    cost=(0.2, 3.0),
)
