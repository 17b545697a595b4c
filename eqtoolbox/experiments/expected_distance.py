"""How far a minimum moves when the loss shifts, against its curvature (DC-X3.2, Figure 5.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.orbits import expected_distance
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE, LAW, OPPOSITE = ("DC-X3.2",), ("DC-T5.7",), ("DC-E0.10",)
#: E/r by κr, to six and five digits, by adaptive quadrature of distances found by search.
TABLE = {
    "circle": {
        0.1: 0.636354,
        0.5: 0.629554,
        1: 0.598743,
        1.5: 0.542080,
        2: 0.563544,
        3: 0.694643,
        10: 0.902502,
    },
    "parabola": {0.1: 0.63636, 0.5: 0.63095, 1: 0.62106, 2: 0.61401, 4: 0.62979, 10: 0.67315, 160: 0.77570},
}
#: The radii and the largest curvature that the published figures show.
PUBLISHED = {"parabola": ((2.0, 1.0, 0.5, 0.2, 0.1), 80.0), "circle": ((0.1, 0.05, 0.02, 0.01, 0.005), 10.0)}


@dataclass(frozen=True)
class Config:
    """The curves.

    Attributes:
      points: curvatures on each.
      largest: the largest κr of the first panel.
    """

    points: int = 121
    largest: float = 40.0


def run(config: Config, store: Store) -> Result:
    """E/r on a grid of κr, on the published ranges, and at the values of the table."""
    x = jnp.geomspace(1e-2, config.largest, config.points)
    result: dict[str, Any] = {"x": np.asarray(x)}
    for shape, (radii, largest) in PUBLISHED.items():
        kappa = jnp.linspace(0.1, largest, config.points)
        shown = [np.asarray(expected_distance(shape, kappa, r) / r) for r in radii]
        known = jnp.array(list(TABLE[shape]))
        result[shape] = {
            "curve": np.asarray(expected_distance(shape, x)),
            "kappa": np.asarray(kappa),
            "shown": np.stack(shown),
            "table": np.asarray(expected_distance(shape, known)),
        }
    return result


def claims(result: Result) -> Sequence[Finding]:
    """The table; one law for all radii; the printed trends and where they come from."""
    found = []
    for shape, table in TABLE.items():
        error = np.abs(result[shape]["table"] - np.array(list(table.values()))).max()
        found.append(
            at_most(f"{shape}: E/r at the values of the table (largest error)", error, 1e-4, claims=LAW)
        )
    trend = {shape: result[shape]["shown"][:, -1] - result[shape]["shown"][:, 0] for shape in PUBLISHED}
    found += [
        at_least(
            "On the published ranges E/r of the parabola rises with the curvature (least change over radii)",
            trend["parabola"].min(),
            0.0,
            claims=FIGURE,
        ),
        at_most(
            "and that of the circle falls (largest change over radii)",
            trend["circle"].max(),
            0.0,
            claims=FIGURE,
        ),
    ]
    x = result["x"]
    small, large = x < 1, x > 5
    for shape in PUBLISHED:
        curve = result[shape]["curve"]
        found.append(
            at_most(
                f"{shape}: below κr = 1 it falls (largest step)",
                np.diff(curve[small]).max(),
                0.0,
                claims=OPPOSITE,
            )
        )
        found.append(
            at_least(
                f"{shape}: above κr = 5 it rises (least step)",
                np.diff(curve[large]).min(),
                0.0,
                claims=OPPOSITE,
            )
        )
    found.append(
        at_least(
            "So the two depend on the curvature in opposite ways at equal κr (share of the grid, as printed)",
            float(
                np.mean(
                    np.sign(np.diff(result["circle"]["curve"]))
                    != np.sign(np.diff(result["parabola"]["curve"]))
                )
            ),
            0.5,
            claims=OPPOSITE,
            anticipated="refuted",
        )
    )
    return found


def plot(result: Result) -> Figure:
    """E/r by κr for both curves, and on the published ranges by κ."""
    figure, (left, middle, right) = new_figure(3, height=3.2)
    for shape, colour in zip(PUBLISHED, SERIES, strict=False):
        left.plot(result["x"], result[shape]["curve"], color=colour, label=shape)
    left.axhline(2 / np.pi, color=MUTED, lw=0.8, ls=":")
    left.set_xscale("log")
    left.set_xlabel("curvature × radius")
    left.set_ylabel("expected distance / radius")
    left.set_title("One law for each curve")
    left.legend(labelcolor=INK)
    for ax, shape in ((middle, "parabola"), (right, "circle")):
        for r, curve, colour in zip(
            PUBLISHED[shape][0], result[shape]["shown"], [*SERIES[:4], MUTED], strict=True
        ):
            ax.plot(result[shape]["kappa"], curve, color=colour, label=f"r = {r:g}")
        ax.axhline(2 / np.pi, color=MUTED, lw=0.8, ls=":")
        ax.set_xlabel("curvature")
        ax.set_title(f"{shape.capitalize()}, published range")
        low, high = ax.get_ylim()
        if shape == "parabola":
            ax.set_ylim(top=high + 0.45 * (high - low))
        ax.legend(labelcolor=INK, fontsize=7, loc="upper left" if shape == "parabola" else "lower left")
    return figure


EXPERIMENT = Experiment(
    name="expected-distance",
    title="Curvature and the displacement of a minimum",
    text=(
        "A minimum that is a curve is shifted by r in a random direction; the expected distance from the old solution "
        "to the shifted curve depends on curvature times radius alone. A parabola and a circle start with the same "
        "law, 2/π − (κr)²/(12π), fall and then rise. The published figures show the parabola where it rises and the "
        "circle where it falls, which looks like opposite laws."
    ),
    claim_ids=FIGURE + LAW + OPPOSITE,
    quick=Config(),
    full=Config(points=1001, largest=400.0),
    run=run,
    claims=claims,
    plot=plot,
    caption="Expected distance over radius; the dotted line is 2/π, that of a straight line.",
    cost=(0.1, 0.1),
    x64=True,
)
