"""Teleportation in training a classifier (DB-F4.6, DB-F4.8, DC-X3.5)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.experiments._errors import ExperimentError
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.groups import PositiveScaling
from eqtoolbox.orbits import feature_action, teleport_params
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Params = Any
FIGURE, SCHEDULES, OPTIMIZERS = ("DB-F4.6",), ("DB-F4.8",), ("DC-X3.5",)
LAYERS = ("first", "second", "third")


@dataclass(frozen=True)
class Config:
    """A LeakyReLU network with two hidden layers, trained with one teleport.

    Attributes:
      data: "digits", or "mnist": files in its format in the folder EQTOOLBOX_DATA, such as Fashion-MNIST.
      hidden: both widths.
      epochs: of training.
      batch: examples of a step; on so many the action on features is exact.
      seeds: runs.
      mini_batches: how many a teleport by the action on features goes through, one after the other.
      inner: steps of each search.
      reach: the largest norm of a step on the features; ten times as much in all.
      rates: learning rate of each optimizer, in the order of ``optimizers``.
      times: epochs before which SGD teleports, one run each.
      counts: numbers of mini-batches that SGD teleports on, one run each.
    """

    data: str = "digits"
    hidden: tuple[int, int] = (32, 32)
    epochs: int = 8
    batch: int = 20
    seeds: int = 3
    mini_batches: int = 4
    inner: int = 10
    reach: float = 3e-3
    rates: tuple[float, ...] = (2e-2, 5e-3, 1e-2, 5e-4, 5e-4)
    times: tuple[int, ...] = (0, 1, 3)
    counts: tuple[int, ...] = (1, 8)


def optimizers(rates: tuple[float, ...]) -> dict[str, optax.GradientTransformation]:
    """The five optimizers of the paper."""
    sgd, momentum, adagrad, rmsprop, adam = rates
    return {
        "SGD": optax.sgd(sgd),
        "momentum": optax.sgd(momentum, 0.9),
        "AdaGrad": optax.adagrad(adagrad),
        "RMSProp": optax.rmsprop(rmsprop),
        "Adam": optax.adam(adam),
    }


def leaky(slope: float) -> Callable[[Array], Array]:
    """LeakyReLU; its inverse has the inverse slope."""
    return lambda z: jnp.where(z > 0, z, slope * z)


def forward(params: Params, x: Array) -> Array:
    """The logits."""
    return leaky(0.1)(leaky(0.1)(x @ params["first"]) @ params["second"]) @ params["third"]


def loss(params: Params, x: Array, y: Array) -> Array:
    """The mean cross-entropy."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(forward(params, x), y))


def image_data(
    name: str, known: Sequence[str] = ("digits", "mnist", "cifar10")
) -> tuple[Array, Array, Array, Array]:
    """Rows of pixels and labels, to train and to test."""
    if name not in known:
        raise ExperimentError(f"`data` must be {' or '.join(map(repr, known))}, got {name!r}")
    try:
        found = {"digits": zoo.digits, "mnist": zoo.mnist, "cifar10": zoo.cifar10}[name]()
    except FileNotFoundError as error:
        raise ExperimentError(str(error)) from None
    flat = lambda x: jnp.asarray(x).reshape(len(x), -1)  # noqa: E731
    return flat(found.train_x), jnp.asarray(found.train_y), flat(found.test_x), jnp.asarray(found.test_y)


def _draw(key: Array, sizes: tuple[int, ...]) -> Params:
    keys = jax.random.split(key, len(LAYERS))
    shapes = itertools.pairwise(sizes)
    return {
        name: jax.random.uniform(k, s, minval=-1, maxval=1) / s[0] ** 0.5
        for name, k, s in zip(LAYERS, keys, shapes, strict=True)
    }


def run(config: Config, store: Store) -> Result:
    """Trains with every optimizer alone, with teleports by scalings, and by the action on features."""
    store.progress.describe("training with a teleport")
    return store.once("runs", lambda: _runs(config))


class _Lab:
    """The compiled parts: an epoch of each optimizer, a teleport of each kind, what is measured."""

    def __init__(self, config: Config):
        self.config, self.epochs = config, {}
        self.x, self.y, self.test_x, self.test_y = image_data(config.data, ("digits", "mnist"))
        a, b = config.hidden
        self.sizes = (self.x.shape[1], a, b, 10)
        self.sym = Symmetry(
            {"first": "_ h", "second": "h^-1 k", "third": "k^-1 _"},
            {"h": PositiveScaling(a), "k": PositiveScaling(b)},
        )
        self.per_epoch = len(self.x) // config.batch
        self.scalings = jax.jit(jax.vmap(self._by_scalings))
        self.features = jax.jit(jax.vmap(self._by_features, (0, None, None)))
        self.measure = jax.jit(jax.vmap(self._measured))

    def _by_scalings(self, params: Params) -> tuple[Params, Array]:
        """A symmetry of the network: all data stay where they are; the objective is that of 400 examples."""
        rows = slice(0, 400)
        whole = lambda p: loss(p, self.x[rows], self.y[rows])  # noqa: E731
        moved, info = teleport_params(self.sym, whole, params, steps=self.config.inner)
        return moved, info.loss_error

    def _by_features(self, params: Params, x: Array, y: Array) -> tuple[Params, Array]:
        """A symmetry on one mini-batch."""
        eq = feature_action(params, LAYERS, x, leaky(0.1), leaky(10.0))
        moved, info = teleport_params(
            eq,
            lambda p: loss(p, x, y),
            params,
            steps=self.config.inner,
            retract=True,
            max_step=self.config.reach,
        )
        return moved, info.loss_error

    def _measured(self, params: Params) -> dict[str, Array]:
        slope = jax.grad(loss)(params, self.x, self.y)
        logits = forward(params, self.test_x)
        return {
            "train": loss(params, self.x, self.y),
            "test": loss(params, self.test_x, self.test_y),
            "accuracy": jnp.mean(jnp.argmax(logits, -1) == self.test_y),
            "slope": optax.tree.norm(slope),
        }

    def epoch(self, tx: optax.GradientTransformation) -> Callable[..., tuple[Params, Any]]:
        def one(params: Params, state: Any, key: Array) -> tuple[Params, Any]:
            order = jax.random.permutation(key, len(self.x))[: self.per_epoch * self.config.batch]

            def step(carry: tuple[Params, Any], rows: Array) -> tuple[tuple[Params, Any], None]:
                params, state = carry
                slope = jax.grad(loss)(params, self.x[rows], self.y[rows])
                updates, state = tx.update(slope, state, params)
                return (optax.apply_updates(params, updates), state), None

            rows = order.reshape(self.per_epoch, self.config.batch)
            return jax.lax.scan(step, (params, state), rows)[0]

        return jax.jit(jax.vmap(one))

    def move(self, kind: str, params: Params, count: int) -> tuple[Params, dict[str, Any]]:
        """One teleport, on ``count`` mini-batches where it needs them, and what it did to other data."""
        before = jax.vmap(forward, (0, None))(params, self.test_x)
        start = time.perf_counter()
        if kind == "scalings":
            params, errors = self.scalings(params)
        else:
            worst = []
            for i in range(count):
                rows = slice(i * self.config.batch, (i + 1) * self.config.batch)
                params, error = self.features(params, self.x[rows], self.y[rows])
                worst.append(error)
            errors = jnp.max(jnp.stack(worst), 0)
        jax.block_until_ready(params)
        seconds = time.perf_counter() - start
        change = jax.vmap(forward, (0, None))(params, self.test_x) - before
        held = jnp.linalg.norm(change, axis=(1, 2)) / jnp.linalg.norm(before, axis=(1, 2))
        return params, {"error": np.asarray(errors), "held": np.asarray(held), "seconds": seconds}

    def train(self, name: str, kind: str, at: int, count: int) -> dict[str, Any]:
        """Measurements before each epoch and at the end; a teleport before epoch ``at``."""
        tx, config = optimizers(self.config.rates)[name], self.config
        if name not in self.epochs:
            self.epochs[name] = self.epoch(tx)
        params = jax.vmap(lambda k: _draw(k, self.sizes))(jax.random.split(jax.random.key(0), config.seeds))
        state = jax.vmap(tx.init)(params)
        seen, told, seconds = [], {}, []
        for t in range(config.epochs):
            if kind != "none" and t == at:
                params, told = self.move(kind, params, count)
            seen.append(self.measure(params))
            start = time.perf_counter()
            keys = jax.random.split(jax.random.fold_in(jax.random.key(1), t), config.seeds)
            params, state = self.epochs[name](params, state, keys)
            jax.block_until_ready(params)
            seconds.append(time.perf_counter() - start)
        seen.append(self.measure(params))
        found = {k: np.stack([np.asarray(s[k]) for s in seen]) for k in seen[0]}
        return {**found, "teleport": told, "epoch": float(np.median(seconds))}


def _runs(config: Config) -> dict[str, Any]:
    lab = _Lab(config)
    found: dict[str, Any] = {}
    for name in optimizers(config.rates):
        for kind in ("none", "scalings", "features"):
            found[f"{name} {kind}"] = lab.train(name, kind, 1, config.mini_batches)
    times = {str(t): lab.train("SGD", "features", t, config.mini_batches) for t in config.times}
    counts = {str(n): lab.train("SGD", "features", 1, n) for n in config.counts}
    return {
        "runs": found,
        "times": times,
        "counts": counts,
        "epochs": config.epochs,
        "per_epoch": lab.per_epoch,
    }


def claims(result: Result) -> Sequence[Finding]:
    """What a teleport does to the training and the held-out loss, to other data, and what it costs."""
    runs = result["runs"]
    mean = lambda run, key, t: float(np.mean(run[key][t]))  # noqa: E731
    last = result["epochs"]
    found = []
    for name in ("SGD", "AdaGrad"):
        alone, features = runs[f"{name} none"], runs[f"{name} features"]
        found.append(
            at_most(
                f"{name}: the training loss with one teleport by features, of that without, at the end",
                mean(features, "train", last) / mean(alone, "train", last),
                1.0,
                claims=FIGURE,
            )
        )
    for name in ("momentum", "AdaGrad", "RMSProp", "Adam"):
        alone, features = runs[f"{name} none"], runs[f"{name} features"]
        found.append(
            at_most(
                f"{name}: the training loss three epochs after a teleport by features, of that without",
                mean(features, "train", 4) / mean(alone, "train", 4),
                1.0,
                claims=OPTIMIZERS,
            )
        )
    scaled = [runs[k]["teleport"] for k in runs if k.endswith("scalings")]
    moved = [runs[k]["teleport"] for k in runs if k.endswith("features")]
    found += [
        at_most(
            "Scalings: largest relative change of the loss",
            max(float(m["error"].max()) for m in scaled),
            1e-6,
            claims=FIGURE,
        ),
        at_most(
            "Scalings: largest relative change of the outputs on held-out data",
            max(float(m["held"].max()) for m in scaled),
            1e-5,
            claims=FIGURE,
        ),
        at_most(
            "Features: largest relative change of the loss on a mini-batch",
            max(float(m["error"].max()) for m in moved),
            1e-6,
            claims=FIGURE,
        ),
        at_most(
            "Features: largest relative change of the outputs on held-out data",
            max(float(m["held"].max()) for m in moved),
            1e-5,
            claims=FIGURE,
            anticipated="refuted",
        ),
    ]
    times, counts = result["times"], result["counts"]
    ends = {t: mean(run, "train", last) for t, run in times.items()}
    first = min(times, key=int)
    later = [ends[t] for t in times if t != first]
    listed = ", ".join(f"{v:.3g} before epoch {t}" for t, v in ends.items())
    few, many = (mean(counts[n], "train", last) for n in sorted(counts, key=int)[:: len(counts) - 1 or 1])
    alone = runs["SGD none"]
    cost = min(m["seconds"] for m in moved) / alone["epoch"] * result["per_epoch"]
    return [
        *found,
        at_most(
            f"SGD: a teleport before training is the weakest (training loss at the end: {listed}; best later, of it)",
            min(later) / ends[first],
            1.0,
            claims=SCHEDULES,
        ),
        at_most(
            "SGD: after the first epoch, earlier is stronger (training loss at the end, of that of the latest)",
            ends[sorted(times, key=int)[1]] / ends[max(times, key=int)],
            1.0,
            claims=SCHEDULES,
            anticipated="refuted",
        ),
        at_most(
            f"SGD: more mini-batches are stronger ({few:.3g} with fewest, {many:.3g} with most; ratio)",
            many / few,
            1.0,
            claims=SCHEDULES,
        ),
        at_most(
            "One teleport by features costs less than an epoch of MNIST, 2400 steps (in steps of SGD)",
            cost,
            2400.0,
            claims=OPTIMIZERS,
        ),
        at_least(
            "Held-out accuracy of SGD at the end, with features less without",
            mean(runs["SGD features"], "accuracy", last) - mean(alone, "accuracy", last),
            -0.05,
            claims=FIGURE,
        ),
    ]


def plot(result: Result) -> Figure:
    """Training and held-out loss by epoch for each optimizer; schedules of SGD."""
    figure, axes = new_figure(3, 2, height=5.0)
    names = list(dict.fromkeys(k.split()[0] for k in result["runs"]))
    colours = {"none": MUTED, "scalings": SERIES[1], "features": SERIES[0]}
    for ax, name in zip(axes, names, strict=False):
        for kind, colour in colours.items():
            run = result["runs"][f"{name} {kind}"]
            label = {"none": "alone", "scalings": "scalings", "features": "features"}[kind]
            ax.plot(run["train"].mean(1), color=colour, lw=1.4, label=label if name == names[0] else None)
            ax.plot(run["test"].mean(1), color=colour, lw=1.0, ls="--")
        ax.set_title(name)
    ax = axes[len(names)]
    for (t, run), colour in zip(result["times"].items(), (*SERIES, INK), strict=False):
        ax.plot(run["train"].mean(1), color=colour, lw=1.4, label=f"before epoch {t}")
    ax.set_title("SGD, when")
    ax.legend(labelcolor=INK)
    for i, ax in enumerate(axes):
        ax.set_ylim(0, None)
        ax.set_xlabel("epoch" if i >= 3 else "")
    axes[0].set_ylabel("loss")
    axes[3].set_ylabel("loss")
    axes[0].legend(labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="teleport-training",
    title="Teleportation in training a classifier",
    text=(
        "A LeakyReLU network with one teleport after the first epoch, its optimizer left as it is. Scalings of hidden "
        "units are a symmetry of the network, and leave all outputs alone; the action on features is one on a "
        "mini-batch of 20, and moves all others, by how much is shown. The published runs have the latter in a "
        "first-order form."
    ),
    claim_ids=FIGURE + SCHEDULES + OPTIMIZERS,
    quick=Config(),
    full=Config(epochs=40, seeds=5, times=(0, 1, 2, 5, 10, 20), counts=(1, 2, 4, 8, 16, 32)),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Mean loss by epoch on training (solid) and held-out data (dashed): alone, with a teleport by scalings, and by "
        "the action on features of four mini-batches. Last: SGD that teleports by features before different epochs."
    ),
    cost=(1.0, 8.0),
)
