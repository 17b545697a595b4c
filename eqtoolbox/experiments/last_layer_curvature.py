"""The curvature of the last layer is a variance under the softmax (EQ-5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.experiments._digits import DigitsNet, digits_net
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._trained import descent, trained
from eqtoolbox.identities import softmax_variance
from eqtoolbox.linalg import hvp
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("EQ-5.3",)
DIRECTIONS = ("the weights W", "a random W P", "noise")


@dataclass(frozen=True)
class Config:
    """Full-batch gradient descent of a classifier of digits.

    Attributes:
      widths: of the hidden layers.
      examples: digits trained on.
      rate: the step size.
      steps: of gradient descent.
      every: steps between two measurements.
      seed: of the initial weights and of the directions.
    """

    widths: tuple[int, ...] = (32, 32)
    examples: int = 500
    rate: float = 0.1
    steps: int = 1200
    every: int = 60
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Trains; measures curvatures of the last layer and of the outputs along the way."""
    store.progress.describe("gradient descent")
    net = digits_net(config.widths, "cross_entropy", examples=config.examples, seed=config.seed)
    measure = _measure(net, f"Dense_{len(config.widths)}", config.seed)
    start, step = descent(lambda params, t: net.loss(params), optax.sgd(config.rate))
    done = trained(
        store, "train", start(net.params), step, steps=config.steps, every=config.every, measure=measure
    )
    return {"steps": done.times, "loss": done.records["loss"], **done.measured}


def _measure(net: DigitsNet, last: str, seed: int) -> Any:
    """Curvature along directions of the last kernel W by Hessian-vector products and as variances."""

    @jax.jit
    def measure(state: Any) -> dict[str, Array]:
        params = state["params"]
        kernel = params[last]["kernel"]
        inside, outside = jax.random.split(jax.random.key(seed))
        square = jax.random.normal(inside, (kernel.shape[1],) * 2, kernel.dtype)
        noise = jax.random.normal(outside, kernel.shape, kernel.dtype)
        stack = jnp.stack([v / jnp.linalg.norm(v) for v in (kernel, kernel @ square, noise)])
        loss = lambda w: net.loss({**params, last: {"kernel": w}})  # noqa: E731
        outputs, moved = net.model(params), lambda v: net.model({**params, last: {"kernel": v}})
        probabilities = jax.nn.softmax(outputs)
        margin, tail = _margin_and_tail(probabilities, net.labels)
        return {
            "hessian": jax.vmap(lambda v: jnp.vdot(v, hvp(loss, kernel, v)))(stack),
            "variance": jax.vmap(lambda v: jnp.mean(softmax_variance(probabilities, moved(v))))(stack),
            "margin": jnp.mean(softmax_variance(probabilities, margin)),
            "tail": jnp.mean(softmax_variance(probabilities, tail)),
            "missing": jnp.mean(1 - jnp.take_along_axis(probabilities, net.labels[:, None], 1)),
        }

    return measure


def _margin_and_tail(probabilities: Array, labels: Array) -> tuple[Array, Array]:
    """Unit directions of the outputs: the true class against the rest, and the two least likely classes."""
    classes = probabilities.shape[1]
    true = jax.nn.one_hot(labels, classes, dtype=probabilities.dtype)
    margin = true - (1 - true) / (classes - 1)
    order = jnp.argsort(probabilities, axis=1)
    one_hot = jax.nn.one_hot(order[:, :2], classes, dtype=probabilities.dtype)
    tail = one_hot[:, 0] - one_hot[:, 1]
    return tuple(v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (margin, tail))  # pyright: ignore


def claims(result: Result) -> Sequence[Finding]:
    """The identity, its needless condition, and what becomes of sharp and flat directions late in training."""
    error = np.abs(result["hessian"] - result["variance"]) / np.abs(result["hessian"])
    margin, tail = result["margin"], result["tail"]
    return [
        at_most(
            "⟨V,∇²_W L V⟩ = mean of Var_p(Vh) for V with rows in the row space of W (largest relative error)",
            float(error[:, :2].max()),
            1e-9,
            claims=CLAIM,
        ),
        at_most(
            "The same for V of noise: the outputs are linear in W, no condition on the rows is needed",
            float(error[:, 2].max()),
            1e-9,
            claims=CLAIM,
        ),
        at_least(
            "Late in training the outputs are sharper along true class against rest than along the tail, by a factor",
            float(margin[-1] / tail[-1]),
            100.0,
        ),
        at_least(
            "Late in training curvature along true class against rest is still large (last over largest)",
            float(margin[-1] / margin.max()),
            0.5,
            anticipated="refuted",
        ),
    ]


def plot(result: Result) -> Figure:
    """Both sides for three directions of W, and curvatures of the outputs."""
    figure, (left, right) = new_figure(2, height=3.6)
    left.set_title("Curvature of the last layer")
    for k, name in enumerate(DIRECTIONS):
        left.plot(result["steps"], result["variance"][:, k], lw=1.2, color=SERIES[k], label=name)
        left.plot(result["steps"], result["hessian"][:, k], "o", ms=3.2, color=SERIES[k])
    left.set_ylabel("line: variance, dots: Hessian")
    right.set_title("Curvature of the outputs")
    right.plot(
        result["steps"],
        result["missing"],
        color=MUTED,
        lw=1.0,
        ls=(0, (4, 3)),
        label="1 − p of the true class",
    )
    curves = (
        ("margin", "o-", SERIES[3], "true class against rest"),
        ("tail", "s-", INK, "two least likely classes"),
    )
    for key, mark, colour, label in curves:
        right.plot(result["steps"], result[key], mark, ms=2.8, lw=1.2, color=colour, label=label)
    for ax in (left, right):
        ax.set_yscale("log")
        ax.minorticks_off()
        ax.set_xlabel("step of gradient descent")
    handles, names = zip(
        *[pair for ax in (left, right) for pair in zip(*ax.get_legend_handles_labels(), strict=True)],
        strict=True,
    )
    figure.legend(handles, names, loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="last-layer-curvature",
    title="The curvature of the last layer is a variance under the softmax",
    text=(
        "Outputs are linear in the last kernel W, so that the curvature of the cross-entropy along a direction V of W "
        "is the variance of the moved outputs Vh under the softmax, averaged over the examples. Both are measured "
        "along training, on digits. The paper expects that late in training directions of the top class against the "
        "rest stay sharp and directions among unlikely classes become flat. The ratio grows as expected, but all of "
        "these curvatures vanish with the missing probability 1 − p."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(widths=(64, 64, 64), examples=1438, steps=10000, every=200),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: curvature along three unit directions of the last kernel, by Hessian-vector products and as mean "
        "softmax variances. Right: mean curvature of the loss of one example along two unit directions of its outputs."
    ),
    cost=(0.1, 0.4),
    x64=True,
)
