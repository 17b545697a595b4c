"""Symmetries of a function, of its loss, of a batch and of a mean, told apart on digits (DC-T1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import discovery, zoo
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least
from eqtoolbox.experiments._store import Store
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import IMPLICATIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IDS = ("DC-T1.5",)
CLASSES = 10


@dataclass(frozen=True)
class Config:
    """A softmax classifier x W of digits, without a bias.

    Attributes:
      images: the data set of the definitions that have one.
      columns: of pixels, of 8, from the left; the outer ones have pixels that never change.
      seed: of everything random.
    """

    images: int = 100
    columns: int = 2
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """The null space of translations of W by each definition, and the dimensions by counting."""
    data = zoo.digits()
    images = np.asarray(data.train_x[: config.images], np.float64).reshape(-1, 8, 8)[:, :, : config.columns]
    x = jnp.asarray(images.reshape(len(images), -1))
    y = jnp.asarray(data.train_y[: config.images])
    found = store.once("spectra", lambda: _find(x, y, jax.random.key(config.seed)))
    rank = int(np.linalg.matrix_rank(np.asarray(x)))
    return {
        "found": found,
        "rank": rank,
        "pixels": x.shape[1],
        "expected": _expected(x.shape[1], rank),
        "dark": (np.ptp(np.asarray(x), axis=0) == 0).reshape(8, -1),
    }


def _expected(d: int, rank: int) -> dict[str, int]:
    """Translations W + C of d x 10 weights, by the rank of X."""
    still = (d - rank) * (CLASSES - 1) + d  # X C has equal columns
    return {
        "functional": 0,
        "functional_loss": d,
        "data_dependent": (d - rank) * CLASSES,
        "data_dependent_loss": still,
        "distribution": (d - 1) * CLASSES,
        "distribution_loss": still,
    }


def _find(x: Array, y: Array, key: Array) -> dict[str, Any]:
    params = {"W": jnp.ones((x.shape[1], CLASSES))}

    def loss(outputs: Array, targets: Array) -> Array:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], 1))

    found = discovery.null_spaces(
        discovery.translation_family(params), lambda p, x: x @ p["W"], params, x, y, output_loss=loss, key=key
    )
    moved = np.abs(found["data_dependent"].vectors).reshape(-1, x.shape[1], CLASSES)
    off = 0.0
    for a, b in IMPLICATIONS:
        stronger, weaker = found[a].vectors, found[b].vectors
        if len(stronger):
            off = max(off, float(np.linalg.norm(stronger - (stronger @ weaker.T) @ weaker, 2)))
    return {
        "dimensions": {name: f.dimension for name, f in found.items()},
        "gaps": {name: f.gap for name, f in found.items()},
        "spectra": {name: f.spectrum for name, f in found.items()},
        "moved": np.sqrt(np.sum(moved**2, (0, 2))) if len(moved) else np.zeros(x.shape[1]),
        "off": off,
    }


def claims(result: Result) -> Sequence[Finding]:
    """Each dimension, the implications, and where the symmetries of the batch are."""
    own = result["found"]
    found = [
        Finding(
            f"Symmetries: {words}",
            own["dimensions"][name],
            str(result["expected"][name]),
            "verified" if own["dimensions"][name] == result["expected"][name] else "refuted",
            IDS,
        )
        for name, words in WORDS.items()
    ]
    found.append(at_least("The gap that decides these (least)", min(own["gaps"].values()), 1e3, claims=IDS))
    verdict = "verified" if own["off"] < 1e-8 else "refuted"
    found.append(
        Finding(
            "Each symmetry in a stronger sense is one in the weaker",
            own["off"],
            "at most 1e-08",
            verdict,
            IDS,
        )
    )
    return found


WORDS = {
    "functional": "outputs, all inputs",
    "functional_loss": "loss, all inputs",
    "data_dependent": "outputs, this batch",
    "data_dependent_loss": "losses, this batch",
    "distribution": "mean output",
    "distribution_loss": "mean loss",
}


def plot(result: Result) -> Figure:
    """Dimensions by definition, the spectra, and the weights that symmetries of the batch move."""
    figure, (left, middle, right) = new_figure(3, height=3.4)
    own = result["found"]
    positions = np.arange(len(WORDS))
    values = [own["dimensions"][name] for name in WORDS]
    left.barh(positions, values, color=SERIES[0])
    for i, value in enumerate(values):
        left.text(value, i, f" {value}", va="center", fontsize=7, color=INK)
    left.set_yticks(positions, list(WORDS.values()), fontsize=7)
    left.invert_yaxis()
    left.set_xlim(0, 1.2 * max(values))
    left.set_xlabel(f"symmetries, of {CLASSES * result['pixels']} translations")
    left.set_title("In six senses")
    shown = ("functional", "functional_loss", "data_dependent", "data_dependent_loss")
    for name, colour in zip(shown, SERIES, strict=False):
        spectrum = own["spectra"][name]
        middle.plot(np.maximum(spectrum / spectrum[0], 1e-18), color=colour, lw=1.2, label=WORDS[name])
    middle.set_yscale("log")
    middle.minorticks_off()
    middle.set_xlabel("index")
    middle.set_ylabel("singular value / largest")
    middle.set_title("Spectra")
    handles, labels = middle.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, labelcolor=INK, fontsize=7)
    right.imshow(own["moved"].reshape(8, -1), cmap="Blues", vmin=0)
    for i, j in np.argwhere(result["dark"]):
        right.plot(j, i, "x", color=SERIES[1], ms=5)
    right.plot([], [], "x", color=SERIES[1], label="the same in all images", ls="")
    right.grid(False)
    right.set_xticks([])
    right.set_yticks([])
    right.set_title("Free in the batch")
    right.legend(labelcolor=INK, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.02))
    for spine in right.spines.values():
        spine.set_color(MUTED)
    return figure


EXPERIMENT = Experiment(
    name="symmetry-definitions",
    title="Symmetries of a function, of a loss, of a batch",
    text=(
        "Translations of the weights of a softmax classifier on digits, as symmetries in six senses: all dimensions "
        "follow from the rank of the data, and the null spaces find them. Adding one number to all logits is a "
        "symmetry of the loss alone; what weights of pixels that are the same in all images do together is free on "
        "this batch and nowhere else."
    ),
    claim_ids=IDS,
    quick=Config(),
    full=Config(images=1000, columns=8),
    run=run,
    claims=claims,
    plot=plot,
    caption="Dimensions by definition, spectra of the equations, and the pixels whose weights a batch leaves free.",
    cost=(0.4, 1.5),
    x64=True,
)
