"""Approximate symmetries along training: the spectrum of the generator equations over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox import discovery, groups, zoo
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IDS = ("DC-T6.11",)
SIGMA: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "ReLU": jax.nn.relu}


@dataclass(frozen=True)
class Config:
    """Digits, averaged over blocks of pixels, by one hidden layer from a small start.

    Attributes:
      width: of the hidden layer.
      steps: of Adam.
      checkpoints: at which spectra are taken, at geometric times.
      scale: of the weights at the start, relative to the usual.
      rate: of Adam.
      spread: of the parameters around each checkpoint, relative.
      tolerance: of an approximate symmetry, relative to the root mean square of the singular values.
      images: of the training set.
      seed: of everything random.
    """

    width: int = 4
    steps: int = 500
    checkpoints: int = 6
    scale: float = 0.05
    rate: float = 1e-2
    spread: float = 0.1
    tolerance: float = 0.02
    images: int = 400
    seed: int = 0


def forward(sigma: Callable[[Array], Array], params: Any, x: Array) -> Array:
    """Logits."""
    return sigma(x @ params["v"] + params["b"][None]) @ params["u"]


def run(config: Config, store: Store) -> Result:
    """Trains with each activation; spectra of all matrices on the hidden units, on both sides."""
    data = zoo.digits()
    images = np.asarray(data.train_x[: config.images], np.float64).reshape(-1, 4, 2, 4, 2).mean((2, 4))
    x, y = jnp.asarray(images.reshape(len(images), 16)), jnp.asarray(data.train_y[: config.images])
    found: dict[str, Any] = {}
    for name in SIGMA:
        store.progress.describe(f"symmetries of {name} along training")
        found[name] = store.once(name, lambda n=name: _one(n, x, y, config))
    return {"found": found, "width": config.width, "tolerance": config.tolerance}


def _one(name: str, x: Array, y: Array, config: Config) -> dict[str, Any]:
    k_v, k_u, k_find = jax.random.split(jax.random.key(config.seed), 3)
    sigma, h = SIGMA[name], config.width
    params = {
        "v": config.scale * jax.random.normal(k_v, (16, h)) / 4,
        "b": jnp.zeros(h),
        "u": jax.random.normal(k_u, (h, 10)) / h**0.5,
    }
    optimizer = optax.adam(config.rate)

    def loss(p: Any) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(forward(sigma, p, x), y).mean()

    def step(carry: Any, _: Any) -> tuple[Any, tuple[Any, Array]]:
        p, state = carry
        value, slope = jax.value_and_grad(loss)(p)
        updates, state = optimizer.update(slope, state, p)
        return (optax.apply_updates(p, updates), state), (p, value)

    train = jax.jit(lambda c: jax.lax.scan(step, c, length=config.steps + 1))
    _, (path, losses) = train((params, optimizer.init(params)))
    times = np.unique(np.geomspace(1, config.steps + 1, config.checkpoints).astype(int)) - 1
    chosen = jax.tree.map(lambda a: a[times], path)
    sym = Symmetry({"v": "_ h", "b": "h", "u": "h^-1 _"}, {"h": groups.GeneralLinear(h)})
    # one family for the input side and one for the output side: a symmetry ties them
    family = discovery.axis_family(params, sym)
    course = discovery.symmetry_course(
        family,
        lambda p, x: forward(sigma, p, x),
        chosen,
        x[:32],
        key=k_find,
        spread=config.spread,
        definition="data_dependent",
    )
    return {
        "times": times,
        "loss": np.asarray(losses)[times],
        "spectrum": course.spectrum,
        "dimension": course.dimension,
        "gap": course.gap,
        "near": course.count(config.tolerance),
    }


def claims(result: Result) -> Sequence[Finding]:
    """Exact symmetries at all times, approximate ones at the start."""
    h, tanh, relu = result["width"], result["found"]["tanh"], result["found"]["ReLU"]
    at_start = np.sort(tanh["spectrum"], axis=1)[:, : h * h].max(1)
    return [
        Finding(
            "ReLU: exact symmetries near each checkpoint are the scalings of the hidden units, and more where a "
            "unit is on or off for the whole batch",
            ", ".join(map(str, relu["dimension"].tolist())),
            f"at least {h}",
            "verified" if (relu["dimension"] >= h).all() else "refuted",
            IDS,
        ),
        Finding(
            "tanh: there is none at any",
            ", ".join(map(str, tanh["dimension"].tolist())),
            "0",
            "verified" if (tanh["dimension"] == 0).all() else "refuted",
            IDS,
        ),
        at_least(
            f"tanh: at the start, where it is nearly linear, gl({h}) is there up to the tolerance "
            f"{result['tolerance']:g}",
            int(tanh["near"][0]),
            h * h,
        ),
        at_most("tanh: at the end fewer generators are", int(tanh["near"][-1]), h * h / 2),
        at_least(
            f"tanh: the last of the {h * h} smallest singular values grows by (factor)",
            float(at_start[-1] / at_start[0]),
            10.0,
        ),
    ]


def plot(result: Result) -> Figure:
    """Singular values over time, and the number of generators below the tolerance."""
    figure, axes = new_figure(3, height=3.3)
    h = result["width"]
    for ax, (name, own) in zip(axes, result["found"].items(), strict=False):
        spectrum = np.maximum(np.sort(own["spectrum"], axis=1), 1e-17)
        time = own["times"] + 1
        ax.plot(time, spectrum[:, h * h :], color=MUTED, lw=0.6)
        ax.plot(time, spectrum[:, : h * h], color=SERIES[0], lw=1.0)
        ax.axhline(result["tolerance"], color=INK, lw=0.7, ls=":")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.minorticks_off()
        ax.set_xlabel("step + 1")
        ax.set_title(f"{name}: the smallest {h * h} in colour")
    axes[0].set_ylabel("singular value / root mean square")
    last = axes[2]
    for (name, own), colour in zip(result["found"].items(), SERIES, strict=False):
        last.plot(
            own["times"] + 1, own["near"], "o-", ms=3, lw=1.2, color=colour, label=f"{name}, approximate"
        )
        last.plot(own["times"] + 1, own["dimension"], "--", lw=1.0, color=colour, label=f"{name}, exact")
    last.set_xscale("log")
    last.minorticks_off()
    last.set_xlabel("step + 1")
    last.set_ylabel("generators")
    last.set_title("How many are symmetries")
    last.legend(labelcolor=INK, fontsize=7)
    return figure


EXPERIMENT = Experiment(
    name="symmetries-in-training",
    title="Approximate symmetries along training",
    text=(
        "All pairs of matrices on the two sides of a hidden layer, and the singular values of their equations at "
        "checkpoints. A tanh network that starts small is nearly linear: the generators of gl(h) are nearly "
        "symmetries, and training takes them away. The scalings of a ReLU network stay, exactly; it has more near "
        "parameters at which a unit is on, or off, for the whole batch."
    ),
    claim_ids=IDS,
    quick=Config(),
    full=Config(width=8, steps=4000, checkpoints=12, images=1000),
    run=run,
    claims=claims,
    plot=plot,
    caption="Singular values of the generator equations at checkpoints, and generators below the tolerance.",
    cost=(0.5, 2.0),
    x64=True,
)
