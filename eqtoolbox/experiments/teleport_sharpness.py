"""Teleporting to flatter, sharper, more and less curved minima (DC-X3.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments.teleport_training import LAYERS, forward, image_data, loss
from eqtoolbox.groups import PositiveScaling
from eqtoolbox.orbits import orbit_curvature, sharpness, teleport_params
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Params = Any
FIGURES = ("DC-X3.3",)
#: What becomes larger or smaller, and whether it is to be larger.
KINDS = {
    "flatter": ("sharpness", False),
    "sharper": ("sharpness", True),
    "more curved": ("curvature", True),
    "less curved": ("curvature", False),
}


@dataclass(frozen=True)
class Config:
    """A LeakyReLU network with two hidden layers, trained, teleported once in the middle, and trained on.

    Attributes:
      data: "digits", "mnist" or "cifar10": the files of the last two lie in the folder EQTOOLBOX_DATA.
      hidden: both widths.
      epochs: of training.
      at: the epoch before which it teleports.
      batch: examples of a step.
      seeds: runs.
      rows: examples of which the loss is that of the teleport.
      inner: steps of the search.
      directions: of the sharpness; 9 displacements each.
      curves: random curves of the curvature.
      rates: learning rates of SGD and AdaGrad.
    """

    data: str = "digits"
    hidden: tuple[int, int] = (32, 10)
    epochs: int = 16
    at: int = 8
    batch: int = 20
    seeds: int = 5
    rows: int = 400
    inner: int = 10
    directions: int = 8
    curves: int = 8
    rates: tuple[float, float] = (2e-2, 5e-3)


def run(config: Config, store: Store) -> Result:
    """Trains both optimizers to the teleport, teleports in every way, and trains on."""
    store.progress.describe("teleports to flat and curved places")
    return store.once("runs", lambda: _runs(config))


def _runs(config: Config) -> dict[str, Any]:
    x, y, test_x, test_y = image_data(config.data)
    sizes = (x.shape[1], *config.hidden, 10)
    sym = Symmetry(
        {"first": "_ h", "second": "h^-1 k", "third": "k^-1 _"},
        {key: PositiveScaling(n) for key, n in zip("hk", config.hidden, strict=True)},
    )
    objectives = {
        "sharpness": partial(sharpness, directions=config.directions),
        "curvature": partial(orbit_curvature, sym=sym, curves=config.curves),
    }
    whole = lambda p: loss(p, x[: config.rows], y[: config.rows])  # noqa: E731

    def move(params: Params, kind: str) -> tuple[Params, dict[str, Array]]:
        name, up = KINDS[kind]
        moved, info = teleport_params(
            sym, whole, params, objective=objectives[name], maximize=up, steps=config.inner
        )
        before, after = forward(params, test_x), forward(moved, test_x)
        held = jnp.linalg.norm(after - before) / jnp.linalg.norm(before)
        return moved, {
            "error": info.loss_error,
            "ratio": info.objective / info.objective_before,
            "held": held,
        }

    def measured(params: Params) -> dict[str, Array]:
        return {"train": loss(params, x, y), "test": loss(params, test_x, test_y)}

    measure = jax.jit(jax.vmap(measured))
    moves = {kind: jax.jit(jax.vmap(partial(move, kind=kind))) for kind in KINDS}
    keys = jax.random.split(jax.random.key(0), config.seeds)
    start = jax.vmap(lambda k: _draw(k, sizes))(keys)
    found: dict[str, Any] = {"at": config.at}
    for name, tx in (("SGD", optax.sgd(config.rates[0])), ("AdaGrad", optax.adagrad(config.rates[1]))):
        epoch = _epoch(tx, x, y, config)

        def train(
            params: Params, state: Any, first: int, last: int, epoch: Any = epoch
        ) -> tuple[Params, Any, list[Any]]:
            seen = []
            for t in range(first, last):
                batches = jax.random.split(jax.random.fold_in(jax.random.key(1), t), config.seeds)
                params, state = epoch(params, state, batches)
                seen.append(jax.device_get(measure(params)))
            return params, state, seen

        params, state, before = train(start, jax.vmap(tx.init)(start), 0, config.at)
        runs, told = {}, {}
        for kind in ("none", *KINDS):
            moved = params
            if kind != "none":
                moved, told[kind] = jax.device_get(moves[kind](params))
            after = train(moved, state, config.at, config.epochs)[2]
            seen = [*before, *after]
            runs[kind] = {key: np.stack([s[key] for s in seen]) for key in seen[0]}
        found[name] = {"runs": runs, "teleport": told}
    return found


def _draw(key: Array, sizes: tuple[int, ...]) -> Params:
    keys = jax.random.split(key, len(LAYERS))
    return {
        name: jax.random.uniform(k, s, minval=-1, maxval=1) / s[0] ** 0.5
        for name, k, s in zip(LAYERS, keys, itertools.pairwise(sizes), strict=True)
    }


def _epoch(
    tx: optax.GradientTransformation, x: Array, y: Array, config: Config
) -> Callable[..., tuple[Params, Any]]:
    steps = len(x) // config.batch

    def one(params: Params, state: Any, key: Array) -> tuple[Params, Any]:
        order = jax.random.permutation(key, len(x))[: steps * config.batch]

        def step(carry: tuple[Params, Any], rows: Array) -> tuple[tuple[Params, Any], None]:
            params, state = carry
            slope = jax.grad(loss)(params, x[rows], y[rows])
            updates, state = tx.update(slope, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), order.reshape(steps, config.batch))[0]

    return jax.jit(jax.vmap(one))


def _gain(result: Result, name: str, kind: str) -> tuple[float, float]:
    """The mean over seeds of log (held-out loss at the end, of that without a teleport), and its standard error."""
    runs = result[name]["runs"]
    logs = np.log(runs[kind]["test"][-1] / runs["none"]["test"][-1])
    return float(np.mean(logs)), float(np.std(logs, ddof=1) / len(logs) ** 0.5)


def claims(result: Result) -> Sequence[Finding]:
    """That a teleport does what it is to do, and what becomes of the held-out loss."""
    told = [result[name]["teleport"] for name in ("SGD", "AdaGrad")]
    worst = lambda key: max(float(np.max(t[kind][key])) for t in told for kind in KINDS)  # noqa: E731
    found = [
        at_most("Largest relative change of the loss by a teleport", worst("error"), 1e-6, claims=FIGURES),
        at_most("Largest relative change of held-out outputs", worst("held"), 1e-5, claims=FIGURES),
    ]
    for kind, (name, up) in KINDS.items():
        ratios = np.concatenate([np.ravel(t[kind]["ratio"]) for t in told])
        decide = at_least if up else at_most
        extreme = float(ratios.min() if up else ratios.max())
        found.append(
            decide(
                f"{kind}: the {name} after a teleport, of that before (worst run)",
                extreme,
                1.0,
                claims=FIGURES,
            )
        )
    for name in ("SGD", "AdaGrad"):
        for kind, sign, words in (
            ("more curved", 1, "lowers"),
            ("less curved", -1, "raises"),
            ("flatter", 1, "lowers"),
            ("sharper", 1, "does not raise"),
        ):
            mean, error = _gain(result, name, kind)
            found.append(
                at_most(
                    f"{name}: {kind} {words} the held-out loss at the end "
                    f"({100 * np.expm1(mean):+.1f} % ± {100 * error:.1f}; {'' if sign > 0 else 'minus '}its logarithm)",
                    sign * mean,
                    0.0,
                    error=error,
                    claims=FIGURES,
                    anticipated=ANTICIPATED[name, kind],
                )
            )
    return found


#: What was found on digits with five seeds.
ANTICIPATED: dict[tuple[str, str], Any] = {
    **{(name, kind): "inconclusive" for name in ("SGD", "AdaGrad") for kind in KINDS},
    ("SGD", "more curved"): "verified",
    ("AdaGrad", "more curved"): "verified",
    ("AdaGrad", "less curved"): "refuted",
}


def plot(result: Result) -> Figure:
    """The held-out loss by epoch, of that without a teleport."""
    figure, axes = new_figure(2, height=3.4)
    for ax, name in zip(axes, ("SGD", "AdaGrad"), strict=True):
        runs, at = result[name]["runs"], result["at"]
        ax.axhline(1, color=MUTED, lw=1.0)
        for kind, colour in zip(KINDS, SERIES, strict=False):
            ratio = (runs[kind]["test"] / runs["none"]["test"])[at - 1 :]
            epochs = np.arange(at, at + len(ratio))
            ax.plot(epochs, ratio.mean(1), color=colour, lw=1.4, label=kind if name == "SGD" else None)
            ax.fill_between(epochs, ratio.min(1), ratio.max(1), color=colour, alpha=0.12, lw=0)
        ax.set_title(name)
        ax.set_xlabel("epoch")
    axes[0].set_ylabel("held-out loss, of that without")
    axes[0].legend(labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="teleport-sharpness",
    title="Teleporting to flat and curved minima",
    text=(
        "A LeakyReLU network is trained, moved along its orbit once to where the loss is flatter or sharper, or its "
        "minimum more or less curved, and trained on. The moves are scalings of hidden units, so that nothing else "
        "changes: the published runs move by the action on features of a batch that is too large for it to be exact, "
        "and see a jump of the loss as well. On digits more curvature does help, less does not hurt, and sharpness, "
        "which scalings hardly change, has no effect that five seeds show."
    ),
    claim_ids=FIGURES,
    quick=Config(),
    full=Config(data="cifar10", epochs=40, at=20, rows=2000, directions=100, curves=200),
    run=run,
    claims=claims,
    plot=plot,
    caption="Held-out loss by epoch, of that without a teleport: means over seeds, and their range.",
    cost=(1.0, 60.0),
)
