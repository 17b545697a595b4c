"""An experiment in miniature: noisy descent of a quadratic, in segments, with a piece beside it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from eqtoolbox.experiments import Experiment, at_least, at_most, descent, trained
from eqtoolbox.pages import SERIES, new_figure


@dataclass(frozen=True)
class Config:
    rate: float = 0.1
    steps: int = 10
    every: int = 3
    sizes: tuple[int, ...] = (3, 2)


def kernel(sizes):
    return jnp.sin(jnp.arange(float(sizes[0] * sizes[1]))).reshape(sizes)


def run(config, store, look=lambda state: {"norm": jnp.linalg.norm(state["params"]["w"])}):
    def loss(params, t):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), params["w"].shape)
        return jnp.mean((params["w"] - noise) ** 2) + jnp.sum(jnp.tanh(params["w"]))

    start, step = descent(loss, optax.adam(config.rate))
    begin = start({"w": kernel(config.sizes)})
    done = trained(store, "train", begin, step, steps=config.steps, every=config.every, measure=look)
    beside = store.once("beside", lambda: {"square": done.state["params"]["w"] ** 2, "note": "a text"})
    return {
        "w": done.state["params"]["w"],
        "loss": done.records["loss"],
        "times": done.times,
        "norm": done.measured["norm"],
        "beside": beside,
        "rate": config.rate,
    }


def claims(result):
    return [
        at_most("The weights stay small", result["norm"].max(), 10.0, claims=("EQ-D1",)),
        at_least(
            "The weights grow large", result["norm"].max(), 1e3, claims=("EQ-D2",), anticipated="refuted"
        ),
    ]


def plot(result):
    figure, (ax,) = new_figure(height=2.0)
    ax.plot(result["times"], result["norm"], color=SERIES[0])
    return figure


EXPERIMENT = Experiment(
    name="toy",
    title="A toy",
    text="Descends.",
    claim_ids=("EQ-D1", "EQ-D2"),
    quick=Config(),
    full=Config(steps=12),
    run=run,
    claims=claims,
    plot=plot,
    caption="The norm of the weights.",
    cost=(0.01, 2.0),
)
