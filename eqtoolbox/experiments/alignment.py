"""Two networks from different seeds, brought together by more and more of their symmetry."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from eqtoolbox.experiments._digit_models import DigitsModel, digits_model, train_models
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.orbits import barrier, match_weights
from eqtoolbox.pages import INK, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: From nothing to the whole symmetry.
LEVELS = ("as trained", "permutations", "whole group")


@dataclass(frozen=True)
class Config:
    """Networks trained from different seeds, and all pairs of them.

    Attributes:
      networks: "mlp", "cnn", "transformer".
      widths: of each, see ``digits_model``.
      seeds: networks of each kind; all pairs are aligned.
      steps: of training.
      batch: examples of a step.
      points: at which the barrier is measured.
    """

    networks: tuple[str, ...] = ("mlp", "cnn", "transformer")
    widths: tuple[int, ...] = (64, 16, 16)
    seeds: int = 3
    steps: int = 400
    batch: int = 64
    points: int = 25


def run(config: Config, store: Store) -> Result:
    """Distances and barriers of all pairs, for every network and level."""
    result: dict[str, Any] = {}
    for name, width in zip(config.networks, config.widths, strict=True):
        store.progress.describe(f"{name}: training")
        result[name] = store.once(name, lambda n=name, w=width: _measure(digits_model(n, w), config))
    return result


def _measure(model: DigitsModel, config: Config) -> dict[str, Any]:
    params, _ = train_models(model, config.seeds, config.steps, config.batch)
    pairs = list(itertools.combinations(range(config.seeds), 2))
    first, second = (jax.tree.map(lambda x, k=k: x[jnp.array([p[k] for p in pairs])], params) for k in (0, 1))
    sym, (_, _, inputs, labels) = model.symmetry, model.data

    def moved(only: str | None) -> Any:
        # One pair after the other: under vmap a step would cost those of all spaces.
        each = lambda ab: match_weights(sym, ab[1], to=ab[0], only=only)  # noqa: E731
        return jax.jit(lambda *ab: jax.lax.map(each, ab))(first, second)

    permuted, whole = moved("permutations"), moved(None)
    loss = lambda p: model.loss(p, inputs, labels)  # noqa: E731
    curves = jax.jit(
        lambda a, b: jax.lax.map(lambda ab: barrier(loss, *ab, points=config.points).losses, (a, b))
    )
    accuracy = jax.jit(jax.vmap(lambda p: jnp.mean(jnp.argmax(model.logits(p, inputs), -1) == labels)))
    same = jax.vmap(
        lambda p, q: jnp.max(jnp.abs(model.logits(p, inputs[:50]) - model.logits(q, inputs[:50])))
    )
    return jax.device_get(
        {
            "groups": ", ".join(sorted({str(f.group) for f in sym.factors})),
            "accuracy": accuracy(params),
            "distance": jnp.stack([permuted.before, permuted.after, whole.after]),
            "losses": jnp.stack([curves(first, b) for b in (second, permuted.aligned, whole.aligned)]),
            "change": jnp.max(jax.jit(same)(second, whole.aligned)),
            "size": jnp.max(jnp.abs(model.logits(jax.tree.map(lambda x: x[0], params), inputs[:50]))),
        }
    )


def heights(losses: np.ndarray) -> np.ndarray:
    """The barriers of curves of losses along their last axis."""
    t = np.linspace(0, 1, losses.shape[-1])
    return np.max(losses - (1 - t) * losses[..., :1] - t * losses[..., -1:], -1)


def claims(result: Result) -> Sequence[Finding]:
    """More symmetry brings networks nearer, and lowers the barrier between them."""
    found = []
    for name, net in result.items():
        distance, barriers = net["distance"], heights(net["losses"])
        medians = np.median(barriers, 1)
        listed = ", ".join(f"{level} {b:.3f}" for level, b in zip(LEVELS, medians, strict=True))
        shares = ", ".join(f"{x:.3f}" for x in np.median(distance[1:] / distance[0], 1))
        found += [
            at_least(
                f"{name}: the worst network's share of test digits that are right", net["accuracy"].min(), 0.8
            ),
            at_most(
                f"{name}: the outputs of an aligned network change by (largest, of the largest logit)",
                net["change"] / net["size"],
                1e-4,
            ),
            at_most(
                f"{name}: distance with the whole group, of that with permutations alone (largest over pairs; "
                f"medians of the distances, of those as trained: {shares})",
                (distance[2] / distance[1]).max(),
                1.0,
            ),
            at_most(
                f"{name}: median barrier with permutations, of that as trained ({listed})",
                medians[1] / medians[0],
                1.0,
            ),
            at_most(
                f"{name}: median barrier with the whole group, of that as trained",
                medians[2] / medians[0],
                1.0,
            ),
        ]
    return found


def plot(result: Result) -> Figure:
    """Test loss on the segment between two networks, median over pairs, for each level."""
    figure, axes = new_figure(len(result), height=3.2)
    for ax, (name, net) in zip(axes, result.items(), strict=True):
        t = np.linspace(0, 1, net["losses"].shape[-1])
        for level, losses, colour in zip(LEVELS, net["losses"], SERIES, strict=False):
            ax.plot(t, np.median(losses, 0), color=colour, label=level)
            ax.fill_between(t, losses.min(0), losses.max(0), color=colour, alpha=0.15, lw=0)
        ax.set_title({"mlp": "MLP", "cnn": "CNN"}.get(name, name.capitalize()))
        ax.set_xlabel("from one network to the other")
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("test loss")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="alignment",
    title="Networks from different seeds, aligned",
    text=(
        "An MLP, a CNN and a transformer with one block learn the digits from several seeds. For every pair the second "
        "network is moved along its orbit towards the first: by permutations alone, as published weight matching does, "
        "and by the whole symmetry, which adds positive scalings of ReLU units, scalings and signs of normalised "
        "channels, and a matrix for each head of attention. The outputs stay; the loss on the segment between the two "
        "tells how far they are from one basin."
    ),
    claim_ids=(),
    quick=Config(),
    full=Config(widths=(512, 64, 32), seeds=6, steps=2000, batch=128),
    run=run,
    claims=claims,
    plot=plot,
    caption="Test loss between two networks: median over pairs, and the range.",
    cost=(2.0, 40.0),
)
