"""The distribution of the charge over Xavier initialisations (DA-X1, DA-X2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._two_layer import ACTIVATIONS
from eqtoolbox.noether import activation_charge_moments, activation_integral
from eqtoolbox.pages import INK, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINEAR, OTHERS, FORMULA = ("DA-X1",), ("DA-X2",), ("DA-T26",)


@dataclass(frozen=True)
class Config:
    """Draws U ~ N(0, 1/h) of shape (m, h) and V ~ N(0, 1/n) of shape (h, n).

    Attributes:
      shapes: (m, h, n) of the linear networks.
      shape: of the networks of all activations.
      draws: of each.
      nodes: of the quadrature of the charge.
      seed: of all.
    """

    shapes: tuple[tuple[int, int, int], ...] = ((100, 100, 100), (100, 200, 100), (200, 100, 100))
    shape: tuple[int, int, int] = (100, 100, 100)
    draws: int = 1000
    nodes: int = 12
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Draws charges, and computes their exact moments."""
    cases = [("linear", shape) for shape in config.shapes]
    cases += [(name, config.shape) for name in ACTIVATIONS if (name, config.shape) not in cases]
    found = []
    for i, (name, shape) in enumerate(cases):
        store.progress.describe(f"{name} {shape}")
        found.append(store.once(f"case-{i}", lambda i=i, n=name, s=shape: _draw(n, s, i, config)))
    return {"cases": found}


def _draw(name: str, shape: tuple[int, int, int], index: int, config: Config) -> dict[str, Any]:
    activation, (m, h, n) = ACTIVATIONS[name], shape

    def charge(key: Array) -> Array:
        u, v = jax.random.split(key)
        outgoing = jnp.sum(jax.random.normal(u, (m, h)) ** 2) / (2 * h)
        incoming = jax.random.normal(v, (h, n)) / np.sqrt(n)
        return outgoing - jnp.sum(activation_integral(activation, incoming, nodes=config.nodes))

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), index), config.draws)
    sample = jax.jit(lambda keys: jax.lax.map(charge, keys, batch_size=10))(keys)
    unit = activation_charge_moments(activation, n, m, 1 / n, 1 / h)
    return {
        "name": name,
        "shape": shape,
        "sample": np.asarray(sample, np.float64),
        "mean": h * unit.mean,
        "deviation": float(np.sqrt(h * unit.variance)),
    }


def claims(result: Result) -> Sequence[Finding]:
    """Means and widths against the formulas, in standard errors; the shape; the printed mean."""
    found, widest, skewest = [], 0.0, 0.0
    for case in result["cases"]:
        sample, (m, h, n) = case["sample"], case["shape"]
        ids = (LINEAR if case["name"] == "linear" else OTHERS) + FORMULA
        off = abs(sample.mean() - case["mean"]) / (case["deviation"] / np.sqrt(len(sample)))
        centred = (sample - sample.mean()) ** 2
        spread = abs(centred.mean() - case["deviation"] ** 2) / (centred.std() / np.sqrt(len(sample)))
        which = f"{case['name']}, (m, h, n) = ({m}, {h}, {n})"
        found.append(
            at_most(
                f"{which}: the mean is {case['mean']:.2f} (difference, in standard errors)",
                float(off),
                4.0,
                claims=ids,
            )
        )
        found.append(
            at_most(
                f"{which}: the deviation is {case['deviation']:.2f} (difference of squares, in standard errors)",
                float(spread),
                4.0,
                claims=ids,
            )
        )
        widest = max(widest, float(sample.std() / (m / 2)))
        standard = (sample - sample.mean()) / sample.std()
        skewest = max(skewest, float(abs(np.mean(standard**3))) / np.sqrt(6 / len(sample)))
        if case["name"] == "linear" and m != h:
            printed = abs(sample.mean() - (m - h)) / (case["deviation"] / np.sqrt(len(sample)))
            found.append(
                at_most(
                    f"{which}: the mean is m − h, as printed (in standard errors)",
                    float(printed),
                    4.0,
                    claims=("DA-E14",),
                    anticipated="refuted",
                )
            )
    return [
        *found,
        at_most(
            "The charge is concentrated: largest deviation, of the mean m/2 of ½ Tr UᵀU",
            widest,
            0.5,
            claims=OTHERS,
        ),
        at_most(
            "It is bell-shaped: largest skewness, in standard errors of that of a normal sample",
            skewest,
            5.0,
            claims=OTHERS,
        ),
    ]


def plot(result: Result) -> Figure:
    """Histograms of the linear networks, and of the other activations, with the normal density of the exact moments."""
    linear = [c for c in result["cases"] if c["name"] == "linear"]
    others = [c for c in result["cases"] if c["name"] != "linear"]
    figure, axes = new_figure(len(others) + 1, height=3.0)
    for case, colour in zip(linear, SERIES, strict=False):
        _histogram(axes[0], case, colour, f"{case['shape'][0]}, {case['shape'][1]}, {case['shape'][2]}")
    axes[0].set_title("linear: m, h, n")
    axes[0].legend(loc="upper left", labelcolor=INK, fontsize=6.5, handlelength=0.8)
    top = axes[0].get_ylim()[1]
    axes[0].set_ylim(0, 1.55 * top)
    axes[0].set_ylabel("density")
    for ax, case, colour in zip(axes[1:], others, SERIES[1:], strict=False):
        _histogram(ax, case, colour, "")
        ax.set_title(case["name"])
    for ax in axes:
        ax.set_xlabel("charge Q")
    return figure


def _histogram(ax: Any, case: Any, colour: str, label: str) -> None:
    sample, mean, deviation = case["sample"], case["mean"], case["deviation"]
    ax.hist(sample, bins=30, density=True, color=colour, alpha=0.45, label=label)
    grid = np.linspace(mean - 4 * deviation, mean + 4 * deviation, 200)
    ax.plot(
        grid,
        np.exp(-(((grid - mean) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi)),
        color=colour,
        lw=1.2,
    )


EXPERIMENT = Experiment(
    name="charge-distribution",
    title="The distribution of the charge over initialisations",
    text=(
        "Over Xavier draws, U ~ N(0, 1/h) and V ~ N(0, 1/n), the charge Q = ½ Tr UᵀU − Σ ∫σ/σ' of a two-layer network "
        "is nearly normal and concentrated, though it is not bounded. Its mean and width are known exactly; for linear "
        "networks they are (m − h)/2, where m − h is printed, and √((m/h + h/n)/2)."
    ),
    claim_ids=(*LINEAR, *OTHERS, *FORMULA, "DA-E14"),
    quick=Config(),
    full=Config(draws=5000),
    run=run,
    claims=claims,
    plot=plot,
    caption="Histograms of the charge, and normal densities with the exact mean and deviation.",
    cost=(0.3, 0.7),
)
