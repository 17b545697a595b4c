"""The gradient covariance of an ensemble has the structure of the commutant (GC, figures 2 to 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from eqtoolbox.ensemble import Net
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._structure import NETS, across_layers, falls, measure, paint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIMS = {"two-layer tanh": "GC-F2", "three-layer tanh": "GC-F3", "three-layer relu": "GC-F4"}


@dataclass(frozen=True)
class Config:
    """Ensembles of small networks, trained by full-batch gradient descent.

    Attributes:
      models: of each network: two-layer tanh, three-layer tanh, three-layer ReLU.
      chunks: a power of 2; the distance is measured for this many halvings of ``models``.
      steps: of gradient descent.
      rate: its step size.
      examples: of the data.
      decades: powers of ten that the eigenvalues of the inputs span.
      seed: of the models.
    """

    models: tuple[int, int, int] = (4096, 8192, 8192)
    chunks: int = 32
    steps: int = 20
    rate: float = 0.3
    examples: int = 50
    decades: float = 1.0
    seed: int = 1


def gradient_moments(loss: Callable[[Any], Array], params: Any) -> tuple[Array, Array]:
    """The gradient g, and g gᵀ."""
    g, _ = ravel_pytree(jax.grad(loss)(params))
    return g, jnp.outer(g, g)


def run(config: Config, store: Store) -> Result:
    """Averages over each ensemble."""
    result = {}
    for (name, (widths, activation, bias)), models in zip(NETS.items(), config.models, strict=True):
        store.progress.describe(name)
        net = Net(widths, activation, bias, config.examples, config.decades)

        def compute(net: Net = net, models: int = models) -> dict[str, Any]:
            return measure(
                net,
                gradient_moments,
                models=models,
                chunks=config.chunks,
                steps=config.steps,
                rate=config.rate,
                seed=config.seed,
            )

        result[name] = {**store.once(name.replace(" ", "-"), compute), "steps": config.steps}
    return result


def claims(result: Result) -> Sequence[Finding]:
    """The distance falls as it must, and which correlations across layers are left."""
    found = falls(result, "Gradient covariance", CLAIMS)
    two, three, relu = result.values()
    found.append(
        at_least(
            "Two-layer tanh: weights of different layers correlate (share of the squared norm, projection)",
            across_layers(two, "end", "structure", "W"),
            1e-2,
            claims=("GC-F2",),
        )
    )
    found.append(
        at_most(
            "Three-layer tanh: weights of different layers do not correlate (share of the squared norm, raw)",
            across_layers(three, "end", "raw", "W"),
            1e-2,
            claims=("GC-F3",),
        )
    )
    found.append(
        at_least(
            "Three-layer ReLU: weights of different layers correlate (share of the squared norm, projection)",
            across_layers(relu, "end", "structure", "W"),
            1e-2,
            claims=("GC-F4",),
        )
    )
    return found


def plot(result: Result) -> Figure:
    """The covariance matrices, their projections, the distances."""
    return paint(result, "covariance")


EXPERIMENT = Experiment(
    name="gradient-covariance",
    title="The gradient covariance of an ensemble, and the structure that symmetry gives it",
    text=(
        "Networks of five units a layer, drawn from a distribution that every group of units leaves alone, are "
        "trained by full-batch gradient descent. The covariance of their gradients, over models, commutes with the "
        "symmetry of the hidden units: signed permutations for tanh, permutations for ReLU. So what is outside the "
        "commutant is only the noise of a finite ensemble, and falls as one over the square root of the number of "
        "models; with a group that is no symmetry it stays. Two-layer tanh networks keep correlations of weights "
        "across layers, three-layer ones lose them, ReLU networks keep them."
    ),
    claim_ids=("GC-F2", "GC-F3", "GC-F4"),
    quick=Config(),
    full=Config(models=(16384, 16384, 131072), chunks=128),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Gradient covariance over an ensemble before and after 20 steps of gradient descent, the projection of the "
        "latter on the commutant, and the distance from the commutant against the number of models. Blue is positive, "
        "orange negative; entries are drawn as square roots. W and b are weights and biases, column by column."
    ),
    cost=(0.3, 4.0),
    x64=True,
)
