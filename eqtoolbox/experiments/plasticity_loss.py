"""Continual learning with and without a rescaling symmetry, and two fixes of a loss of plasticity (MS, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.mirror import dead_parameters, random_bias
from eqtoolbox.pages import INK, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Params = Any
VANILLA, PRODUCT, NOISE, BIAS = "vanilla", "u ⊙ w", "u ⊙ w, noise", "u ⊙ w, bias"


@dataclass(frozen=True)
class Config:
    """Linear regressors on one task after the other.

    Attributes:
      size: of the inputs.
      examples: of each task.
      tasks: how many.
      steps: on each task.
      batch: examples of a step.
      rate: the learning rate of Adam without momentum.
      decay: weight decay of the second set of runs, in the gradient; the first has none.
      variance: of the noise on the gradients, and of the bias.
      dead: a parameter is dead whose gradient is at most this on every example of the task.
      seeds: how many.
    """

    size: int = 100
    examples: int = 100
    tasks: int = 6
    steps: int = 8000
    batch: int = 16
    rate: float = 0.01
    decay: float = 0.01
    variance: float = 1e-4
    dead: float = 1e-6
    seeds: int = 2


def run(config: Config, store: Store) -> Result:
    """The share of dead parameters and the training loss after each task."""
    result: dict[str, Any] = {}
    for decay in (0.0, config.decay):
        for name in (VANILLA, PRODUCT, NOISE, BIAS):
            store.progress.describe(f"{name}, decay {decay}")
            number = f"{'decay' if decay else 'none'}-{(VANILLA, PRODUCT, NOISE, BIAS).index(name)}"
            result.setdefault("decay" if decay else "none", {})[name] = store.once(
                number, lambda d=decay, n=name: _curves(config, n, d)
            )
    return result


def _curves(config: Config, name: str, decay: float) -> dict[str, np.ndarray]:
    keys = jax.random.split(jax.random.key(0), config.seeds)
    dead, loss = jax.jit(jax.vmap(lambda key: _life(config, name, decay, key)))(keys)
    return {"dead": np.asarray(dead), "loss": np.asarray(loss)}


def _life(config: Config, name: str, decay: float, key: Array) -> tuple[Array, Array]:
    """All tasks, each from the weights of the one before."""
    data, start, other, bias, noise = jax.random.split(key, 5)
    params = {"w": jax.random.normal(start, (config.size,))}
    if name != VANILLA:
        params["u"] = jax.random.normal(other, (config.size,))
    biased = lambda p: p  # noqa: E731
    if name == BIAS:
        params, biased = random_bias(params, config.variance**0.5, key=bias)
    adam = optax.chain(
        optax.add_decayed_weights(decay), optax.scale_by_adam(b1=0.0), optax.scale(-config.rate)
    )
    tx = optax.chain(optax.add_noise(config.variance, 0.0, noise), adam) if name == NOISE else adam

    inputs, errors, order = jax.random.split(data, 3)
    xs = jax.random.normal(inputs, (config.tasks, config.examples, config.size))
    ys = xs.mean(-1) + jax.random.normal(errors, (config.tasks, config.examples))
    batches = jax.random.randint(order, (config.tasks, config.steps, config.batch), 0, config.examples)

    def one_task(carry: tuple[Params, Any], task: Any) -> tuple[tuple[Params, Any], tuple[Array, Array]]:
        x, y, rows = task

        def loss(params: Params, rows: Array) -> Array:
            leaves = biased(params)
            theta = leaves["w"] * leaves["u"] if "u" in leaves else leaves["w"]
            return jnp.mean((x[rows] @ theta - y[rows]) ** 2)

        def step(carry: tuple[Params, Any], rows: Array) -> tuple[tuple[Params, Any], None]:
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, rows), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry, _ = jax.lax.scan(step, carry, rows)
        every = jnp.arange(config.examples)
        slopes = jax.vmap(lambda i: jax.grad(loss)(carry[0], i[None]))(every)
        dead = dead_parameters(slopes, config.dead) / (len(slopes) * config.size)
        return carry, (dead, loss(carry[0], every))

    return jax.lax.scan(one_task, (params, tx.init(params)), (xs, ys, batches))[1]


def claims(result: Result) -> Sequence[Finding]:
    """Who dies, with and without decay."""
    ids = ("MS-F4", "MS-3.4")
    end = {kind: {n: float(np.mean(r["dead"][:, -1])) for n, r in result[kind].items()} for kind in result}
    first = {kind: {n: float(np.mean(r["dead"][:, 0])) for n, r in result[kind].items()} for kind in result}
    none, decay = end["none"], end["decay"]
    return [
        at_most("No decay: share of dead parameters of vanilla regression", none[VANILLA], 0.01, claims=ids),
        at_least(
            "No decay: growth of the share of dead parameters of u ⊙ w from the first task to the last",
            none[PRODUCT] - first["none"][PRODUCT],
            0.1,
            claims=ids,
        ),
        at_most(
            "No decay: dead parameters of u ⊙ w with noise on the gradients", none[NOISE], 0.01, claims=ids
        ),
        at_most(
            "No decay: dead parameters of u ⊙ w behind a random bias. As printed the bias is a fix; but without decay "
            "training does not see it",
            none[BIAS],
            0.01,
            claims=ids,
            anticipated="refuted",
        ),
        at_least("With decay: dead parameters of u ⊙ w", decay[PRODUCT], 0.1, claims=ids),
        at_most("With decay: dead parameters of u ⊙ w with noise", decay[NOISE], 0.01, claims=ids),
        at_most("With decay: dead parameters of u ⊙ w behind a random bias", decay[BIAS], 0.01, claims=ids),
    ]


def plot(result: Result) -> Figure:
    """Dead parameters and losses, task by task."""
    figure, axes = new_figure(2, 2, height=5.0)
    styles = {
        VANILLA: (INK, "--"),
        PRODUCT: (SERIES[0], "-"),
        NOISE: (SERIES[1], "-"),
        BIAS: (SERIES[2], "-"),
    }
    for column, kind in enumerate(("none", "decay")):
        top, bottom = axes[column], axes[2 + column]
        for name, (color, dashes) in styles.items():
            runs = result[kind][name]
            tasks = np.arange(1, runs["dead"].shape[1] + 1)
            top.plot(tasks, 100 * runs["dead"].mean(0), color=color, ls=dashes, marker="o", ms=3, label=name)
            bottom.plot(tasks, runs["loss"].mean(0), color=color, ls=dashes, marker="o", ms=3)
        top.set_title("without weight decay" if kind == "none" else "with weight decay", color=INK)
        bottom.set_xlabel("task")
        bottom.set_yscale("log")
    axes[0].set_ylabel("dead parameters, %")
    axes[2].set_ylabel("training loss")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="plasticity-loss",
    title="Loss of plasticity, and what brings it back",
    text=(
        "Linear regressors learn one noisy task after the other, by Adam without momentum. Where every weight is a "
        "product u w, pairs fall into the absorbing state u = w = 0 one by one and are dead from then on. Noise on the "
        "gradients revives them. A random fixed bias, the other fix of the paper, cannot be seen by an optimizer that "
        "sees gradients only: it shifts where training starts, no more. It does help where what kills is weight decay, "
        "which then no longer pulls to the symmetric point."
    ),
    claim_ids=("MS-F4", "MS-3.4"),
    quick=Config(),
    full=Config(tasks=10, steps=25000, seeds=5),
    run=run,
    claims=claims,
    plot=plot,
    caption="Share of dead parameters (above) and training loss (below) at the end of each task, mean over the seeds.",
    cost=(2.5, 25.0),
)
