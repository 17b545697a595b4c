"""The ranks of queries and keys under weight decay, in attention that learns regression in context (MS-F9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox import mirror
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.pages import INK, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("MS-F9",)


@dataclass(frozen=True)
class Config:
    """Single-head self-attention without MLPs on rows (x, y) with y = x·w*, w* ~ N(0, I); the last y is asked for.

    Attributes:
      inputs: dimension of x.
      demonstrations: rows with a y.
      tasks: training sequences, each with its own w*.
      layers: numbers of layers.
      decays: γ of γ‖θ‖², in the loss.
      rate: learning rate of Adam, full batch.
      steps: of Adam.
      records: how often the ranks are measured.
      tolerance: of the rank, relative to the largest singular value at the start.
      seed: of everything random.
    """

    inputs: int = 7
    demonstrations: int = 13
    tasks: int = 100
    layers: tuple[int, ...] = (1, 2)
    decays: tuple[float, ...] = (0.0, 0.02, 0.1, 0.4)
    rate: float = 4e-3
    steps: int = 2000
    records: int = 25
    tolerance: float = 0.05
    seed: int = 0


def predict(params: Any, rows: Array) -> Array:
    """The prediction in the last row of a stack of sequences, (tasks,)."""
    for layer in params:
        scores = rows @ layer["query"] @ layer["key"].T @ jnp.swapaxes(rows, -1, -2) / rows.shape[-1] ** 0.5
        rows = rows + jax.nn.softmax(scores, axis=-1) @ rows @ layer["value"]
    return rows[:, -1, -1]


def run(config: Config, store: Store) -> Result:
    """Trains with every number of layers and every decay."""
    found = {}
    for layers in config.layers:
        store.progress.describe(f"{layers} layers of attention")
        found[f"layers{layers}"] = store.once(f"layers{layers}", lambda n=layers: _train(n, config))
    return {**found, "decays": np.array(config.decays), "tolerance": config.tolerance}


def _train(layers: int, config: Config) -> dict[str, Any]:
    """Singular values over time, shape (decays, records, layers, 2, width); the loss without decay."""
    a, b, c = jax.random.split(jax.random.key(config.seed), 3)
    x = jax.random.normal(a, (config.tasks, config.demonstrations + 1, config.inputs))
    y = jnp.einsum("tij,tj->ti", x, jax.random.normal(b, (config.tasks, config.inputs)))
    rows = jnp.concatenate([x, y.at[:, -1].set(0)[..., None]], axis=-1)
    width = config.inputs + 1
    draws = jax.random.normal(c, (layers, 3, width, width)) / width**0.5
    start = [dict(zip(("query", "key", "value"), draw, strict=True)) for draw in draws]
    task_loss = lambda p: jnp.mean((predict(p, rows) - y[:, -1]) ** 2)  # noqa: E731
    every = config.steps // config.records
    tx = optax.adam(config.rate)

    @jax.jit
    def train(decays: Array) -> tuple[Array, Array]:
        def one(gamma: Array) -> tuple[Array, Array]:
            def loss(p: Any) -> Array:
                return task_loss(p) + gamma * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))

            def step(carry: tuple, _: None) -> tuple[tuple, None]:
                p, state = carry
                updates, state = tx.update(jax.grad(loss)(p), state, p)
                return (optax.apply_updates(p, updates), state), None

            def segment(carry: tuple, _: None) -> tuple[tuple, tuple[Array, Array]]:
                carry = jax.lax.scan(step, carry, None, length=every)[0]
                weights = jnp.stack([jnp.stack([layer["query"], layer["key"]]) for layer in carry[0]])
                return carry, (mirror.effective_rank(weights).singular_values, task_loss(carry[0]))

            return jax.lax.scan(segment, (start, tx.init(start)), None, length=config.records)[1]

        return jax.vmap(one)(decays)

    values, losses = train(jnp.asarray(config.decays))
    return {
        "values": np.asarray(values),
        "loss": np.asarray(losses),
        "steps": every * np.arange(1, config.records + 1),
        "variance": float(jnp.var(y[:, -1])),
    }


def ranks(result: Result, layers: int) -> np.ndarray:
    """Numerical ranks over time, shape (decays, records, layers, 2): of queries and keys.

    Relative to a scale that all share, the largest singular value without decay, so that weights that are gone have
    rank 0.
    """
    values = result[f"layers{layers}"]["values"]
    return np.sum(values > result["tolerance"] * values[0].max(), axis=-1)


def claims(result: Result) -> Sequence[Finding]:
    """The ranks fall with decay; within a layer they are the same, across layers they need not be."""
    found = []
    decays = result["decays"]
    for name in (key for key in result if key.startswith("layers")):
        layers = int(name.removeprefix("layers"))
        rank = ranks(result, layers)
        width = result[name]["values"].shape[-1]
        last = rank[:, -1]
        mean = last.mean(axis=(1, 2))
        text = f"{layers} layer{'s' * (layers > 1)}"
        found += [
            at_least(
                f"{text}: rank of W_Q and W_K without decay (of the full)",
                mean[0] / width,
                0.75,
                claims=CLAIM,
            ),
            at_most(
                f"{text}: largest rise of the mean rank from one decay to the next",
                float(np.max(np.diff(mean))),
                0.25,
                claims=CLAIM,
            ),
            at_most(
                f"{text}: mean rank at γ = {decays[-1]:g} (of the full)", mean[-1] / width, 0.5, claims=CLAIM
            ),
            at_most(
                f"{text}: largest difference of the ranks of W_Q and W_K at the end, with decay",
                int(np.abs(last[1:, :, 0] - last[1:, :, 1]).max()),
                1,
                claims=CLAIM,
            ),
        ]
        spectra = result[name]["values"][1:, -1]
        gap = np.abs(spectra[:, :, 0] - spectra[:, :, 1]).max() / spectra.max()
        found.append(
            at_most(f"{text}: … of their singular values (of the largest)", float(gap), 0.15, claims=CLAIM)
        )
        if layers > 1:
            across = np.abs(spectra[:, 0, 0] - spectra[:, 1, 0]).max() / spectra.max()
            found.append(
                at_least(
                    f"{text}: largest difference of the singular values of W_Q between layers, over that within one",
                    float(across / gap),
                    2.0,
                    claims=CLAIM,
                )
            )
    return found


def plot(result: Result) -> Figure:
    """Ranks over time of queries (solid) and keys (dashed), one panel for each layer."""
    names = [int(key.removeprefix("layers")) for key in result if key.startswith("layers")]
    panels = [(layers, i) for layers in names for i in range(layers)]
    figure, axes = new_figure(len(panels), height=3.3)
    for ax, (layers, i) in zip(axes, panels, strict=True):
        rank, steps = ranks(result, layers), result[f"layers{layers}"]["steps"]
        for d, (gamma, colour) in enumerate(zip(result["decays"], SERIES, strict=False)):
            ax.plot(steps, rank[d, :, i, 0], color=colour, label=f"γ = {gamma:g}")
            ax.plot(steps, rank[d, :, i, 1], "--", color=colour)
        title = "one layer" if layers == 1 else f"layer {i + 1} of {layers}"
        ax.set(
            xlabel="step",
            title=f"Rank, {title}",
            ylim=(-0.3, result[f"layers{layers}"]["values"].shape[-1] + 0.3),
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="attention-rank",
    title="Ranks of queries and keys under weight decay",
    text=(
        "Attention depends on W_Q and W_K through their product: a double rotation symmetry, whose mirrors make both "
        "lose the same direction. In attention that learns linear regression in context, the ranks fall as the decay "
        "grows, together within a layer; different layers share no symmetry and need not agree."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(inputs=100, demonstrations=49, tasks=500, steps=5000, records=50),
    run=run,
    claims=claims,
    plot=plot,
    caption="Numerical ranks of W_Q (solid) and W_K (dashed) over time, by weight decay.",
    cost=(1.0, 120.0),
)
