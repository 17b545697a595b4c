"""The Hessian averaged over an ensemble has the structure of the commutant (GC, figures 7 to 9)."""

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
from eqtoolbox.experiments._finding import Finding
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._structure import NETS, falls, measure, paint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIMS = {"two-layer tanh": "GC-F7", "three-layer tanh": "GC-F8", "three-layer relu": "GC-F9"}


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

    models: tuple[int, int, int] = (1024, 1024, 1024)
    chunks: int = 32
    steps: int = 20
    rate: float = 0.3
    examples: int = 20
    decades: float = 1.0
    seed: int = 2


def hessian(loss: Callable[[Any], Array], params: Any) -> tuple[Array, Array]:
    """No vector to take away, and the p × p Hessian."""
    flat, unravel = ravel_pytree(params)
    return jnp.zeros_like(flat), jax.hessian(lambda v: loss(unravel(v)))(flat)


def run(config: Config, store: Store) -> Result:
    """Averages over each ensemble."""
    result = {}
    for (name, (widths, activation, bias)), models in zip(NETS.items(), config.models, strict=True):
        store.progress.describe(name)
        net = Net(widths, activation, bias, config.examples, config.decades)

        def compute(net: Net = net, models: int = models) -> dict[str, Any]:
            return measure(
                net,
                hessian,
                models=models,
                chunks=config.chunks,
                steps=config.steps,
                rate=config.rate,
                seed=config.seed,
            )

        result[name] = {**store.once(name.replace(" ", "-"), compute), "steps": config.steps}
    return result


def claims(result: Result) -> Sequence[Finding]:
    """The distance falls as it must."""
    return falls(result, "Hessian", CLAIMS)


def plot(result: Result) -> Figure:
    """The averaged Hessians, their projections, the distances."""
    return paint(result, "Hessian")


EXPERIMENT = Experiment(
    name="global-hessian",
    title="The Hessian averaged over an ensemble, and the structure that symmetry gives it",
    text=(
        "The same networks as for the gradient covariance. The mean of the Hessian over models commutes with the "
        "symmetry of the hidden units as the covariance does: what is outside the commutant falls as one over the "
        "square root of the number of models, before and after training, and stays with a group that is no symmetry."
    ),
    claim_ids=("GC-F7", "GC-F8", "GC-F9"),
    quick=Config(),
    full=Config(models=(16384, 16384, 131072), chunks=128, examples=50),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Mean Hessian over an ensemble before and after 20 steps of gradient descent, the projection of the latter on "
        "the commutant, and the distance from the commutant against the number of models. Blue is positive, orange "
        "negative; entries are drawn as square roots."
    ),
    cost=(0.3, 20.0),
    x64=True,
)
