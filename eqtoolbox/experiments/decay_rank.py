"""The rank of a matrix factorisation under weight decay (MS-F8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import mirror
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.groups import GeneralLinear
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("MS-F8",)


@dataclass(frozen=True)
class Config:
    """W U x of widths n → n → n on N(0, I) inputs, gradient descent on the mean of ‖WUx - y‖² + γ(‖W‖² + ‖U‖²).

    The task is y = A x with singular values of A from 1 down to ``least``, evenly spaced.

    Attributes:
      width: n.
      examples: N.
      decays: γ.
      rate: the learning rate.
      steps: of gradient descent.
      least: the smallest singular value of the task.
      tolerance: of the rank, relative to the largest singular value.
      seed: of everything random.
    """

    width: int = 50
    examples: int = 200
    decays: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2, 1.8)
    rate: float = 0.05
    steps: int = 1500
    least: float = 0.02
    tolerance: float = 1e-3
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Trains with every decay; at the end asks whether gradient descent is attracted along every lost direction."""
    store.progress.describe("gradient descent with weight decay")
    trained = store.once("trained", lambda: _train(config))
    return {**trained, "decays": np.array(config.decays), "tolerance": config.tolerance}


def _data(config: Config) -> tuple[Array, Array, Array]:
    a, b, c, d = jax.random.split(jax.random.key(config.seed), 4)
    n = config.width
    values = jnp.linspace(1, config.least, n)
    task = (jax.random.orthogonal(a, n) * values[None]) @ jax.random.orthogonal(b, n)
    x = jax.random.normal(c, (config.examples, n))
    return x, x @ task.T, d


def _loss(p: Any, x: Array, y: Array) -> Array:
    return jnp.mean(jnp.sum((x @ p["u"] @ p["w"] - y) ** 2, axis=1))


def _train(config: Config) -> dict[str, Any]:
    x, y, key = _data(config)
    n = config.width
    start = dict(zip("uw", jax.random.normal(key, (2, n, n)) / n**0.5, strict=True))

    @jax.jit
    def descend(decays: Array) -> tuple[Any, Array]:
        def one(gamma: Array) -> tuple[Any, Array]:
            def step(p: Any, _: None) -> tuple[Any, None]:
                slope = jax.grad(_loss)(p, x, y)
                return jax.tree.map(lambda a, g: a - config.rate * (g + 2 * gamma * a), p, slope), None

            def segment(p: Any, _: None) -> tuple[Any, Array]:
                p = jax.lax.scan(step, p, None, length=config.steps // 10)[0]
                return p, jnp.linalg.svd(p["u"] @ p["w"], compute_uv=False)

            return jax.lax.scan(segment, start, None, length=10)

        return jax.vmap(one)(decays)

    decays = jnp.asarray(config.decays)
    ends, history = descend(decays)
    values = np.asarray(history[:, -1])
    # the mean loss as a function of the product alone is strictly convex: its gradient at the end tells all directions
    gram, cross = x.T @ x / len(x), x.T @ y / len(x)
    products = jax.vmap(lambda p: p["u"] @ p["w"])(ends)
    slopes = jax.vmap(lambda m: 2 * (cross - gram @ m))(products)
    pull = np.asarray(jnp.linalg.svd(slopes, compute_uv=False))[:, 0]
    # the same for one lost direction by Lanczos on the model
    sym = Symmetry({"u": "_ h", "w": "h* _"}, {"h": GeneralLinear(n)})
    lost = []
    middle = len(config.decays) // 2
    for i in (middle, middle + 1):
        end = jax.tree.map(lambda a, i=i: a[i], ends)
        both = jnp.concatenate([end["u"].T, end["w"]], axis=1)
        direction = np.asarray(jnp.linalg.svd(both)[0][:, -1])
        m = mirror.reflection(sym, "h", direction)
        found = mirror.gd_weight_decay(lambda p: _loss(p, x, y), end, m)
        lost.append([i, found.weight_decay, m.distance(end)])
    design = np.asarray(jnp.linalg.svd(cross, compute_uv=False))
    return {
        "values": values,
        "history": np.asarray(history),
        "pull": pull,
        "lost": np.array(lost),
        "design": design,
    }


def claims(result: Result) -> Sequence[Finding]:
    """The rank falls with the decay, and lost directions are those that gradient descent is attracted to."""
    decays = result["decays"]
    rank = ranks(result)
    full = result["values"].shape[1]
    with_decay = decays > 0
    lost = with_decay & (rank < full)
    excess = (result["pull"] / (2 * decays.clip(1e-12)))[lost]
    counts = np.sum(result["design"][None] > decays[:, None], axis=1)
    convex = result["pull"][result["lost"][:, 0].astype(int)] / 2
    error = np.abs(result["lost"][:, 1] / convex - 1)
    return [
        at_least("Rank without weight decay (of the full)", float(rank[0] / full), 1.0, claims=CLAIM),
        at_most(
            "Largest rise of the rank from one decay to the next",
            int(np.max(np.diff(rank))),
            0,
            claims=CLAIM,
        ),
        at_most("Rank at the largest decay", int(rank[-1]), 0, claims=CLAIM),
        at_most(
            "Largest difference from the number of singular values of E[xyᵀ] above γ",
            int(np.max(np.abs(rank - counts))),
            1,
            claims=CLAIM,
        ),
        at_least("Different ranks along the sweep", len(set(rank.tolist())), 6, claims=CLAIM),
        at_most(
            "Largest pull of the loss along a lost direction, over what the decay holds (‖∇‖/2γ)",
            float(excess.max()),
            1.02,
            claims=CLAIM,
        ),
        at_most(
            "Critical decay −ξ*/2 of a lost direction by Lanczos, against that of the convex problem (relative error)",
            float(error.max()),
            1e-3,
            claims=CLAIM,
        ),
    ]


def ranks(result: Result) -> np.ndarray:
    """The numerical rank of WU for each decay, relative to the largest singular value of all."""
    values = result["values"]
    return np.sum(values > result["tolerance"] * max(values.max(), 1e-12), axis=1)


def plot(result: Result) -> Figure:
    """Rank and singular values by decay."""
    figure, (left, right) = new_figure(2, height=3.2)
    left.plot(result["decays"], ranks(result), "o-", color=SERIES[0], label="rank of WU")
    counts = [np.sum(result["design"] > g) for g in result["decays"]]
    left.plot(result["decays"], counts, "--", color=MUTED, label="singular values of E[xyᵀ] above γ")
    left.set(xlabel="weight decay γ", title="Rank of WU")
    left.legend(labelcolor=INK)
    chosen = [0, len(result["decays"]) // 3, 2 * len(result["decays"]) // 3]
    for i, colour in zip(chosen, SERIES, strict=False):
        values = np.maximum(result["values"][i], 1e-9)
        right.plot(values, ".-", ms=3, color=colour, label=f"γ = {result['decays'][i]:g}")
    right.set(yscale="log", xlabel="index", title="Singular values of WU")
    right.legend(labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="decay-rank",
    title="The rank of a matrix factorisation under weight decay",
    text=(
        "A linear network W U x under gradient descent with weight decay. Its double rotation symmetry has a mirror "
        "for every direction n of the hidden layer; above a critical decay the symmetric point, on which both matrices "
        "have lost n, attracts. So the rank falls step by step as the decay grows, to 0."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(steps=20000, decays=tuple(round(0.08 * i, 2) for i in range(24))),
    run=run,
    claims=claims,
    plot=plot,
    caption="Rank and singular values of the product by weight decay.",
    cost=(0.5, 3.0),
)
