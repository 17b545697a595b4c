"""Homogeneous blocks of neurons under weight decay (MS, figures 3c and 6): ResNet18 on CIFAR-10, or a small net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._residual import Recipe, ResidualNet, images
from eqtoolbox.experiments._store import Store
from eqtoolbox.mirror import correlation_blocks
from eqtoolbox.pages import INK, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Config:
    """Two nets that differ in weight decay.

    Attributes:
      data: "digits" or "cifar10".
      root: the folder of the CIFAR-10 files; $EQTOOLBOX_DATA when it is empty.
      width: of the net; 64 for ResNet18.
      stages: of the net; (2, 2, 2, 2) for ResNet18.
      penultimate: units of the dense layer that is looked at.
      epochs: of training.
      every: epochs between two measurements of the accuracy.
      batch: examples of a step.
      rate: the learning rate, constant.
      decay: weight decay of the second net, in the gradient.
      points: test images at most.
      same: neurons correlated above this, or below minus this, are of one block.
    """

    data: str = "digits"
    root: str = ""
    width: int = 8
    stages: tuple[int, ...] = (1, 1)
    penultimate: int = 64
    epochs: int = 150
    every: int = 25
    batch: int = 128
    rate: float = 0.1
    decay: float = 2e-3
    points: int = 2000
    same: float = 0.9


def run(config: Config, store: Store) -> Result:
    """Correlations of the penultimate neurons over unseen images, before and after their activation."""
    module = ResidualNet(config.width, config.stages, config.penultimate)
    recipe = Recipe(module, images(config.data, config.root), config.epochs, config.every, config.batch)
    result: dict[str, Any] = {"data": config.data, "weight_decay": config.decay}
    for name, decay in (("none", 0.0), ("decay", config.decay)):
        store.progress.describe(f"weight decay {decay}")
        tx = optax.chain(optax.add_decayed_weights(decay), optax.sgd(config.rate, momentum=0.9))
        net = recipe.train(store, name, tx)
        before = recipe.outputs(net.params, net.stats)[1][: config.points]
        result[name] = {"accuracy": net.accuracy[-1]}
        order = None
        for what, values in ((BEFORE, before), (AFTER, np.maximum(before, 0))):
            found = look(values, config.same)
            order = found["order"] if order is None else order
            result[name][what] = {**found, "matrix": found["matrix"][np.ix_(order, order)]}
    return result


def look(values: np.ndarray, same: float) -> dict[str, Any]:
    """Correlations of the columns, the share of those that are constant, and of the others in a block."""
    spread = values.std(0)
    dead = spread <= 1e-5 * max(spread.max(), 1e-30)
    blocks = correlation_blocks(jnp.asarray(np.where(dead, 0, values)), same)
    order, labels = np.asarray(blocks.order), np.asarray(blocks.labels)
    sizes = (labels[:, None] == labels[None]).sum(1)
    matrix = np.empty((len(order),) * 2)
    matrix[np.ix_(order, order)] = blocks.correlation
    equal = float((sizes[~dead] > 1).mean()) if not dead.all() else 0.0
    return {
        "matrix": matrix,
        "order": order,
        "dead": float(dead.mean()),
        "equal": equal,
        "largest": int(sizes.max()),
    }


def claims(result: Result) -> Sequence[Finding]:
    """Blocks with decay, none without, before and after the activation."""
    ids, (none, decay) = ("MS-F3c",), (result["none"], result["decay"])
    found = [
        at_most(
            f"{result['data']}, no decay ({none['accuracy']:.1f} %): live neurons in blocks, {what} activation",
            none[what]["equal"],
            0.15,
            claims=ids,
        )
        for what in (BEFORE, AFTER)
    ]
    small = result["data"] == "digits"
    for what in (BEFORE, AFTER):
        share = decay[what]["equal"]
        found.append(
            at_least(
                f"Decay {result['weight_decay']} ({decay['accuracy']:.1f} %): how many more, {what} activation",
                share - none[what]["equal"],
                0.1,
                claims=ids,
            )
        )
        found.append(
            at_least(
                f"Decay {result['weight_decay']}: live neurons in blocks, {what} activation"
                + (" (so small a net does not show what ResNet18's figure does: most)" if small else ""),
                share,
                0.5,
                claims=ids,
                anticipated="refuted" if small else "verified",
            )
        )
    a, b = (decay[what]["matrix"] for what in (BEFORE, AFTER))
    off = ~np.eye(len(a), dtype=bool) & (np.diag(a) > 0.5)[:, None] & (np.diag(b) > 0.5)[None]
    alike = float(np.corrcoef(a[off], b[off])[0, 1]) if off.sum() > 2 else float("nan")
    found.append(
        at_least(
            "Correlation of the entries of both matrices, before and after, with decay",
            alike,
            0.8,
            claims=ids,
        )
    )
    return found


def plot(result: Result) -> Figure:
    """The four matrices."""
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = new_figure(4, height=2.6)
    colours = LinearSegmentedColormap.from_list("signs", [SERIES[2], "#ffffff", SERIES[0]])
    shown = [(kind, what) for kind in ("none", "decay") for what in (BEFORE, AFTER)]
    for ax, (kind, what) in zip(axes, shown, strict=True):
        image = ax.imshow(
            result[kind][what]["matrix"], cmap=colours, vmin=-1, vmax=1, interpolation="nearest"
        )
        decay = "no decay" if kind == "none" else f"decay {result['weight_decay']:g}"
        ax.set_title(f"{decay},\n{what} activation", color=INK, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
    figure.colorbar(image, ax=axes, shrink=0.7, label="correlation")
    return figure


EXPERIMENT = Experiment(
    name="neuron-blocks",
    title="Neurons that become copies of each other",
    text=(
        "A residual net with a dense layer before the last is trained with and without weight decay. The neurons of "
        "that layer are correlated over unseen images, in order of the top eigenvector. Decay favours the symmetric "
        "points of the exchanges of two neurons: groups of neurons become equal, before and after the activation. By "
        "default a small net on the bundled digits, with more decay for its few steps: there decay makes blocks where "
        "none are without, but of a minority of the neurons. ResNet18 on CIFAR-10 as in "
        "the paper (a GPU, an hour or two): eqtoolbox reproduce neuron-blocks --full, with the binary files in "
        "$EQTOOLBOX_DATA."
    ),
    claim_ids=("MS-F3c",),
    quick=Config(),
    full=Config(
        data="cifar10", width=64, stages=(2, 2, 2, 2), penultimate=128, epochs=100, every=10, decay=1e-3
    ),
    run=run,
    claims=claims,
    plot=plot,
    caption="Correlations of the neurons of the penultimate layer over test images, sorted by the top eigenvector.",
    cost=(2.0, 300.0),
)
