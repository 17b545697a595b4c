"""Equivariant updates keep an invariant distribution invariant (GC, theorem 2.2 and appendix F)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.curvature import Commutant
from eqtoolbox.ensemble import Net
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._trained import descent
from eqtoolbox.experiments._two_sample import GROUPS, IMPLAUSIBLE, PLAUSIBLE, invariance_p
from eqtoolbox.linalg import tree_norm
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Updates that differ by more than this, of their size, are not equivariant, and below ``SAME`` they are.
SAME, DIFFERENT = 1e-8, 1e-3
#: Those whose ensembles are tested.
ENSEMBLES = ("sgd", "momentum", "commutant root", "adam", "sgd, positive parameters")


@dataclass(frozen=True)
class Config:
    """A linear network without biases: all three groups are symmetries of it.

    Attributes:
      widths: of the network.
      optimizers: names; all when empty.
      elements: of each group, for the difference of updates.
      steps: of training.
      models: of the ensembles.
      seed: of all.
    """

    widths: tuple[int, ...] = (4, 5, 3)
    optimizers: tuple[str, ...] = (
        "sgd",
        "momentum",
        "commutant root",
        "muon",
        "lbfgs",
        "adam",
        "lion",
        "sgd, positive parameters",
        "sgd, units frozen",
    )
    elements: int = 3
    steps: int = 10
    models: int = 4000
    seed: int = 6


def inverse_root(com: Commutant) -> optax.GradientTransformation:
    """The update of (1): Σ^(−1/2) g with Σ estimated by the commutant from g itself.

    The roots of the blocks are by Newton-Schulz, products alone: XLA's batched eigh inside a loop can stop for ever
    on CPU.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        roots = {name: _inverse_root(block) for name, block in com.gram(updates).items()}
        return com.matvec(roots, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _inverse_root(block: Array, damping: float = 1e-2, iterations: int = 12) -> Array:
    """(A + damping tr A)^(−1/2) of a positive matrix."""
    one = jnp.eye(block.shape[-1], dtype=block.dtype)
    scale = jnp.trace(block)
    y, z = block / scale + damping * one, one
    for _ in range(iterations):
        t = (3 * one - z @ y) / 2
        y, z = y @ t, t @ z
    return z / jnp.sqrt(scale)


def _frozen(params: Any) -> Any:
    """1 for all entries, 0 for those of the first hidden unit."""
    first = {name: jax.tree.map(jnp.ones_like, layer) for name, layer in params.items()}
    kernel = first["Dense_0"]["kernel"]
    return {**first, "Dense_0": {"kernel": kernel.at[:, 0].set(0)}}


def optimizers(net: Net) -> dict[str, tuple[optax.GradientTransformation, str]]:
    """Optimizers by name, with the groups under which they are equivariant.

    Norms of whole leaves, products of matrices and sums over steps see no group; what is done to every entry by
    itself sees rotations, and also signs unless it is odd.
    """
    com = Commutant(net.symmetry(), net.shapes)
    freeze = optax.stateless(lambda u, p: jax.tree.map(jnp.multiply, u, _frozen(u)))
    rate = 0.05
    by_entry = {
        "adam": optax.adam(rate),
        "adamw": optax.adamw(rate),
        "adamax": optax.adamax(rate),
        "amsgrad": optax.amsgrad(rate),
        "adan": optax.adan(rate),
        "nadam": optax.nadam(rate),
        "radam": optax.radam(rate, threshold=1.0),
        "adabelief": optax.adabelief(rate),
        "yogi": optax.yogi(rate),
        "lamb": optax.lamb(rate),
        "adadelta": optax.adadelta(rate),
        "adafactor": optax.adafactor(rate),
        "adagrad": optax.adagrad(rate),
        "rmsprop": optax.rmsprop(rate),
        "rprop": optax.rprop(rate),
        "sign_sgd": optax.sign_sgd(rate),
        "lion": optax.lion(rate),
        "sm3": optax.sm3(rate),
    }
    everything = {
        "sgd": optax.sgd(rate),
        "momentum": optax.sgd(rate, 0.9),
        "nesterov": optax.sgd(rate, 0.9, nesterov=True),
        "optimistic": optax.optimistic_gradient_descent(rate),
        "clipped by norm": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(rate)),
        "lars": optax.lars(rate),
        "fromage": optax.fromage(rate),
        "novograd": optax.novograd(rate),
        "muon": optax.contrib.muon(rate),
        "lbfgs": optax.chain(optax.scale_by_lbfgs(), optax.scale(-rate)),
        "commutant root": optax.chain(inverse_root(com), optax.scale(-rate)),
    }
    positive = optax.chain(optax.sgd(rate), optax.keep_params_nonnegative())
    return {
        **{name: (optimizer, "OBS") for name, optimizer in everything.items()},
        **{name: (optimizer, "BS") for name, optimizer in by_entry.items()},
        "sgd, positive parameters": (positive, "S"),
        "sgd, units frozen": (optax.chain(freeze, optax.sgd(rate)), ""),
    }


def run(config: Config, store: Store) -> Result:
    """The differences of updates, and the probabilities that ensembles are invariant."""
    net = Net(config.widths, "linear", bias=False)
    known = optimizers(net)
    names = list(config.optimizers or known)
    loss = net.loss_on(net.data())
    symmetries = [net.symmetry(group) for group in GROUPS.values()]
    start_key, element_key, ensemble_key, test_key = jax.random.split(jax.random.key(config.seed), 4)

    def small(key: Array) -> Any:
        """Small parameters, so that what an optimizer does to the distribution can be seen."""
        return jax.tree.map(lambda x: 0.3 * x, net.init(key))

    @jax.jit
    def prepare() -> tuple[Any, list, Any]:
        start, elements, moved = small(start_key), [], []
        keys = jax.random.split(element_key, (len(symmetries), config.elements))
        for sym, some in zip(symmetries, keys, strict=True):
            elements.append(jax.vmap(sym.sample)(some))
            moved.append(jax.vmap(sym.act, (0, None))(elements[-1], start))
        stacked = jax.tree.map(lambda x, *y: jnp.concatenate([x[None], *y]), start, *moved)
        return stacked, elements, jax.vmap(small)(jax.random.split(ensemble_key, config.models))

    stacked, elements, ensemble = prepare()
    differences = jax.jit(lambda ends: _differences(ends, stacked, symmetries, elements))
    errors, p = [], []
    for name in names:
        store.progress.describe(name)
        train = jax.jit(jax.vmap(_training(known[name][0], loss, config.steps)))
        errors.append(jax.device_get(differences(train(stacked))))
        if name in ENSEMBLES:
            keys = jax.random.split(jax.random.fold_in(test_key, len(errors)), len(symmetries))
            trained = train(ensemble)
            p.append([invariance_p(s, trained, k) for s, k in zip(symmetries, keys, strict=True)])
    return {
        "names": names,
        "errors": np.array(errors),
        "expected": np.array([[g in known[name][1] for g in GROUPS] for name in names]),
        "ensembles": [name for name in names if name in ENSEMBLES],
        "p": np.array(p).reshape(-1, len(GROUPS)),
    }


def _training(
    optimizer: optax.GradientTransformation, loss: Callable[[Any], Array], steps: int
) -> Callable[[Any], Any]:
    begin, step = descent(lambda params, t: loss(params), optimizer)
    return lambda params: jax.lax.scan(step, begin(params), jnp.arange(steps))[0]["params"]


def _differences(ends: Any, starts: Any, symmetries: list, elements: list) -> Array:
    """The largest ‖u(gθ) − g u(θ)‖ / ‖u(θ) − θ‖ over the elements g of each group.

    Args:
      ends: u of all starts: θ, then gθ for the elements of one group after the other.
      starts: θ and gθ.
      symmetries: the groups.
      elements: stacked elements of each.
    """
    first = [jax.tree.map(lambda x: x[0], tree) for tree in (ends, starts)]
    way, found, at = tree_norm(jax.tree.map(jnp.subtract, *first)), [], 1
    for sym, own in zip(symmetries, elements, strict=True):
        moved = jax.vmap(sym.act, (0, None))(own, first[0])
        count = jax.tree.leaves(moved)[0].shape[0]
        trained = jax.tree.map(lambda x, i=at, n=count: x[i : i + n], ends)
        at += count
        found.append(jnp.max(jax.vmap(tree_norm)(jax.tree.map(jnp.subtract, trained, moved))) / way)
    return jnp.stack(found)


def claims(result: Result) -> Sequence[Finding]:
    """Which updates are equivariant, and which distributions stay invariant."""
    found = []
    errors, expected, own = result["errors"], result["expected"], ("GC-T2.2",)
    for i, group in enumerate(GROUPS):
        yes, no = expected[:, i], ~expected[:, i]
        text = f"Equivariant under {group}: {_listed(result, yes)} (largest difference, of the way)"
        found.append(at_most(text, errors[yes, i].max(), SAME, claims=own))
        text = f"Not equivariant under {group}: {_listed(result, no)} (least difference, of the way)"
        found.append(at_least(text, errors[no, i].min(), DIFFERENT, claims=own))
    table = dict(zip(result["names"], expected, strict=True))
    for name, p in zip(result["ensembles"], result["p"], strict=True):
        for i, group in enumerate(GROUPS):
            if table[name][i]:
                text = f"The ensemble trained by {name} is invariant under {group} (probability of the difference)"
                found.append(at_least(text, p[i], PLAUSIBLE, claims=own))
            else:
                text = f"The ensemble trained by {name} is not invariant under {group} (probability of the difference)"
                found.append(at_most(text, p[i], IMPLAUSIBLE, claims=own))
    return found


def _listed(result: Result, which: np.ndarray) -> str:
    return "; ".join(name for name, kept in zip(result["names"], which, strict=True) if kept)


def plot(result: Result) -> Figure:
    """The differences, on a line for each optimizer, and the probabilities of the ensembles."""
    count = len(result["names"])
    figure, (left, right) = new_figure(2, height=1.4 + 0.22 * count)
    rows, floor = np.arange(count), 1e-30
    for i, (group, marker) in enumerate(zip(GROUPS, "osD", strict=True)):
        shift = 0.22 * (i - 1)
        left.plot(np.maximum(result["errors"][:, i], 1e-17), rows + shift, marker, ms=4, color=SERIES[i])
        at = [result["names"].index(name) + shift for name in result["ensembles"]]
        right.plot(
            np.maximum(result["p"][:, i], floor), at, marker, ms=4, color=SERIES[i], label=f"under {group}"
        )
    left.set_title("difference of updates")
    right.set_title("ensembles: probability if invariant")
    left.axvline(SAME, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    right.axvline(PLAUSIBLE, color=MUTED, lw=0.9, ls=(0, (4, 3)))
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_ylim(count - 0.5, -0.5)
        ax.minorticks_off()
    left.set_yticks(rows, result["names"])
    right.set_yticks(rows, [""] * count)
    right.set_xlim(floor / 10, 10)
    figure.legend(loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="equivariant-optimizers",
    title="Which optimizers are equivariant, and what they do to an invariant distribution",
    text=(
        "The units of a linear network may be rotated (O), permuted with signs (B), or permuted (S). An optimizer is "
        "equivariant if training from gθ ends at g times the end of training from θ; then a distribution that the "
        "group leaves alone stays so. Gradient descent, momentum, the inverse root of the commutant, Muon, L-BFGS and "
        "all that scale whole leaves are equivariant under O; what treats each entry by itself, as Adam, is under B "
        "and S only. As controls, parameters kept positive break signs, and frozen units break permutations."
    ),
    claim_ids=("GC-T2.2",),
    quick=Config(),
    full=Config((4, 5, 5, 3), optimizers=(), elements=16, models=40000),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: difference between training from a moved start and the moved end of training, of the way gone, for "
        "elements of each group. Right: two-sample tests of ensembles trained so, against themselves moved; left of "
        "the dashed line they are not invariant."
    ),
    cost=(0.3, 2.0),
    x64=True,
)
