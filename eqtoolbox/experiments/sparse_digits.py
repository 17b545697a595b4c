"""DCS on the digits: sparse weights against magnitude pruning, and half of the neurons taken out (MS, sec. 2.6)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.mirror import Constraint, PruneInfo, dcs, group_sparse, keep_zeros, prune, sparse
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import catalog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Params = Any
LAYERS = ["Dense_0", "Dense_1"]
DENSE, DCS, MAGNITUDE, NEURONS = "dense", "DCS, sparse", "magnitude pruning", "DCS, neurons"


@dataclass(frozen=True)
class Config:
    """A network of one hidden layer on splits of the digits; all runs have the same number of steps.

    Attributes:
      hidden: units.
      splits: of the data, each with weights of its own.
      first_split: number of the first one.
      steps: of every run.
      warm: the share of the steps in which all runs are the same, dense.
      first: the share of the steps before weights are removed; the rest trains what is left.
      batch: examples of a step.
      rate: learning rate of dense training, until weights are removed.
      last_rate: that of the rest, of every run, falling by a cosine.
      decay: weight decay of dense training and of what is left.
      factor_rate: learning rate of DCS for single weights, falling to a tenth by a cosine.
      unit_rate: that of DCS for neurons.
      clip: the norm to which DCS clips the gradient of the factors.
      strength: α of single weights.
      unit_strength: α of neurons.
      weights: the share of the weights to remove.
      units: the share of the neurons.
    """

    hidden: int = 256
    splits: int = 10
    first_split: int = 0
    steps: int = 6000
    warm: float = 1 / 3
    first: float = 0.6
    batch: int = 64
    rate: float = 0.1
    last_rate: float = 0.3
    decay: float = 1e-3
    factor_rate: float = 0.2
    unit_rate: float = 0.1
    clip: float = 1.0
    strength: float = 3e-4
    unit_strength: float = 1e-3
    weights: float = 0.9
    units: float = 0.5


def run(config: Config, store: Store) -> Result:
    """Accuracies on the test part of every split, and what was removed."""
    study, found = _Study(config), {}
    for name, job in (
        (DENSE, study.dense),
        (MAGNITUDE, study.magnitude),
        (DCS, study.sparse),
        (NEURONS, study.neurons),
    ):
        store.progress.describe(name)
        found[name] = store.once(name.replace(", ", "-").replace(" ", "-"), job)
    return found


class _Study:
    """The networks of all splits, trained at once."""

    def __init__(self, config: Config):
        self.config = config
        parts = [zoo.digits(seed=config.first_split + i) for i in range(config.splits)]
        stacks = [jnp.stack(x) for x in zip(*((*p.train, *p.test) for p in parts), strict=True)]
        self.train, self.test = tuple(stacks[:2]), tuple(stacks[2:])
        self.module = zoo.MLP((config.hidden, 10), "relu")
        start, order = jax.random.split(jax.random.key(config.first_split))
        keys = jax.random.split(start, config.splits)
        shape = (config.splits, config.steps, config.batch)
        self.rows = jax.random.randint(order, shape, 0, self.train[0].shape[1])
        self.start = jax.vmap(lambda k: self.module.init(k, self.train[0][0, :1])["params"])(keys)
        self.units = group_sparse(catalog.mlp(_at(self.start, 0), LAYERS, "relu"))
        self.begin, self.cut = (int(share * config.steps) for share in (config.warm, config.first))

    def fit(self, tx: optax.GradientTransformation, params: Params, begin: int, end: int) -> Params:
        """Steps ``begin`` to ``end`` of every network."""

        def one(params: Params, x: Array, y: Array, rows: Array) -> Params:
            def step(carry: tuple[Params, Any], rows: Array) -> tuple[tuple[Params, Any], None]:
                params, state = carry
                updates, state = tx.update(jax.grad(_loss)(params, x[rows], y[rows]), state, params)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, tx.init(params)), rows)[0][0]

        return jax.jit(jax.vmap(one))(params, *self.train, self.rows[:, begin:end])

    def accuracy(self, params: Params) -> np.ndarray:
        """Per cent right on the test part of each split."""

        def one(params: Params, x: Array, y: Array) -> Array:
            return jnp.mean(_outputs(params, x).argmax(-1) == y)

        return 100 * np.asarray(jax.jit(jax.vmap(one))(params, *self.test))

    def sgd(self, rate: Any) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(self.config.decay), optax.sgd(rate, momentum=0.9))

    @functools.cached_property
    def warmed(self) -> Params:
        return self.fit(self.sgd(self.config.rate), self.start, 0, self.begin)

    @functools.cached_property
    def whole(self) -> Params:
        """Dense until weights are removed."""
        return self.fit(self.sgd(self.config.rate), self.warmed, self.begin, self.cut)

    def constrained(self, constraint: Constraint, rate: float, strength: float) -> Params:
        """Trained with a constraint until weights are removed."""
        falling = optax.cosine_decay_schedule(rate, self.cut - self.begin, 0.1)
        sgd = optax.chain(optax.clip_by_global_norm(self.config.clip), optax.sgd(falling, momentum=0.9))
        return self.fit(dcs(sgd, constraint, strength), self.warmed, self.begin, self.cut)

    def pruned(self, params: Params, constraint: Constraint, share: float) -> tuple[Params, list[PruneInfo]]:
        """Without the smallest weights or neurons of each network."""
        count = range(self.config.splits)
        done = [prune(_at(params, i), constraint, fraction=share) for i in count]
        small: Any = jax.tree.map(lambda *x: jnp.stack(x), *(one for one, _ in done))
        return small, [info for _, info in done]

    def finish(self, params: Params, zeros: bool = False) -> Params:
        """The rest of the steps, in which weights that are 0 may have to stay so."""
        tx = self.sgd(optax.cosine_decay_schedule(self.config.last_rate, self.config.steps - self.cut))
        return self.fit(keep_zeros(tx) if zeros else tx, params, self.cut, self.config.steps)

    def dense(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy(self.finish(self.whole))}

    def magnitude(self) -> dict[str, Any]:
        return self.weights(self.whole)

    def sparse(self) -> dict[str, Any]:
        return self.weights(self.constrained(sparse(), self.config.factor_rate, self.config.strength))

    def weights(self, before: Params) -> dict[str, Any]:
        """The smallest weights removed, and what is left trained on."""
        small, _ = self.pruned(before, sparse(), self.config.weights)
        end, sizes = self.finish(small, zeros=True), np.sort(np.abs(_flat(before)), 1)
        return {
            "accuracy": self.accuracy(end),
            "removed": (_flat(end) == 0).mean(1),
            "before": self.accuracy(before),
            "pruned": self.accuracy(small),
            "sizes": sizes[:, :: max(1, sizes.shape[1] // 2000)],
        }

    def neurons(self) -> dict[str, Any]:
        """Arrays that are smaller, trained on as such."""
        before = self.constrained(self.units, self.config.unit_rate, self.config.unit_strength)
        norms = jax.vmap(lambda p: self.units.norms(p)["h1"])(before)
        small, infos = self.pruned(before, self.units, self.config.units)
        gone = jnp.stack([jnp.ones(self.config.hidden).at[i.kept["h1"]].set(0) for i in infos]) == 1
        masked = jax.vmap(_without)(before, gone)
        moved = jnp.abs(jax.vmap(_outputs)(small, self.test[0]) - jax.vmap(_outputs)(masked, self.test[0]))
        return {
            "accuracy": self.accuracy(self.finish(small)),
            "before": self.accuracy(before),
            "pruned": self.accuracy(small),
            "units": np.array([info.sizes["h1"] for info in infos]),
            "parameters": np.array([info.after for info in infos]),
            "moved": np.asarray(moved).max((1, 2)),
            "removed": np.array([info.fraction for info in infos]),
            "norms": np.sort(np.asarray(norms), 1),
        }


def _outputs(params: Params, x: Array) -> Array:
    """The network at parameters of any width."""
    module = zoo.MLP((params["Dense_0"]["bias"].shape[0], 10), "relu")
    return module.apply({"params": params}, x)  # pyright: ignore[reportReturnType]


def _loss(params: Params, x: Array, y: Array) -> Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(_outputs(params, x), y))


def _without(params: Params, gone: Array) -> Params:
    """Some neurons switched off, in arrays of the size that they had."""
    kernel, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
    off = {"kernel": jnp.where(gone[None], 0, kernel), "bias": jnp.where(gone, 0, bias)}
    return {**params, "Dense_0": off}


def _at(params: Params, i: int) -> Params:
    return jax.tree.map(lambda x: x[i], params)


def _flat(params: Params) -> np.ndarray:
    return np.concatenate([np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(params)], 1)


def paired(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The mean of a − b over the splits, and its standard error."""
    d = np.asarray(a, float) - np.asarray(b, float)
    return float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))


def interval(a: np.ndarray, b: np.ndarray) -> str:
    """Student's 95 % interval of the mean of a − b, in words."""
    from scipy.stats import t

    mean, error = paired(a, b)
    reach = float(t.ppf(0.975, len(a) - 1)) * error
    return f"95 % interval {mean - reach:.2f} to {mean + reach:.2f}"


def claims(result: Result) -> Sequence[Finding]:
    """Sparsity, what it costs on the mean over the splits, and how magnitude pruning does."""
    dense, own, other, units = (result[name] for name in (DENSE, DCS, MAGNITUDE, NEURONS))
    whole, right = dense["accuracy"], own["accuracy"]
    ids = ("MS-2.6",)
    return [
        at_least("Share of the weights removed, least of all splits", own["removed"].min(), 0.9, claims=ids),
        at_most(
            f"Points of accuracy lost against dense ({whole.mean():.2f} %), mean of {len(whole)} splits, "
            f"{interval(whole, right)}",
            paired(whole, right)[0],
            0.5,
            claims=ids,
        ),
        at_least(
            "Points of accuracy above magnitude pruning at the same sparsity and steps, "
            f"{interval(right, other['accuracy'])}",
            paired(right, other["accuracy"])[0],
            0.0,
            claims=ids,
        ),
        at_least(
            "Share of the neurons removed, least of all splits", units["removed"].min(), 0.5, claims=ids
        ),
        at_most(
            f"Points of accuracy lost by the smaller arrays, {interval(whole, units['accuracy'])}",
            paired(whole, units["accuracy"])[0],
            0.5,
            claims=ids,
        ),
        at_most(
            "Largest change of an output by making the arrays smaller, against neurons switched off",
            units["moved"].max(),
            1e-4,
            claims=ids,
        ),
    ]


def plot(result: Result) -> Figure:
    """Sizes of weights, norms of neurons, and accuracies split by split."""
    figure, (left, middle, right) = new_figure(3, height=3.0)
    for ax, values, what in (
        (left, result[DCS]["sizes"], "weights |θ|"),
        (middle, result[NEURONS]["norms"], "neurons ‖θ_g‖"),
    ):
        for row in np.asarray(values):
            ax.plot(np.linspace(0, 1, len(row)), np.maximum(row, 1e-12), color=SERIES[0], lw=0.8, alpha=0.5)
        ax.set_yscale("log")
        ax.set_xlabel(f"share of all {what.split()[0]}")
        ax.set_ylabel(f"{what}, before pruning")
    dense = np.asarray(result[DENSE]["accuracy"])
    for i, (name, color) in enumerate(((DCS, SERIES[0]), (MAGNITUDE, SERIES[1]), (NEURONS, SERIES[2]))):
        d = np.asarray(result[name]["accuracy"]) - dense
        mean, error = paired(d, np.zeros(len(d)))
        right.plot(
            np.full(len(d), i) + np.linspace(-0.15, 0.15, len(d)), d, "o", color=color, ms=3, alpha=0.6
        )
        right.errorbar([i + 0.3], [mean], yerr=[2 * error], fmt="s", color=INK, ms=4, capsize=3)
    right.axhline(0, color=MUTED, lw=1)
    right.axhline(-0.5, color=MUTED, lw=1, ls=":")
    right.set_xticks(range(3), ["DCS\nweights", "magnitude\nweights", "DCS\nneurons"])
    right.set_ylabel("points of accuracy against dense")
    return figure


EXPERIMENT = Experiment(
    name="sparse-digits",
    title="Sparse weights and fewer neurons by a symmetry",
    text=(
        "A network of one hidden layer learns the bundled digits on ten splits into training and test data. All runs "
        "begin with the same dense steps. Then DCS trains the weights as u ⊙ w, with decay, while the others go on; "
        "90 % of the weights, the smallest, are removed (prune), and the rest of the steps trains what is left without "
        "the constraint (keep_zeros). Magnitude pruning does the same without DCS. For neurons, a gate multiplies all "
        "weights of each, and half of them are taken out of the arrays. Rates, strengths and the shares of the steps "
        "were chosen on splits 100 to 109."
    ),
    claim_ids=("MS-2.6",),
    quick=Config(),
    full=Config(splits=20, steps=12000),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left and middle: weights and norms of neurons in order of size before anything is removed, one line per "
        "split. Right: accuracy minus that of dense training on the same split; squares: mean and two standard errors."
    ),
    cost=(2.5, 10.0),
)
