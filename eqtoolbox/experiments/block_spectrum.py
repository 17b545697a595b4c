"""The spectrum of a p × p curvature matrix is that of small blocks, with multiplicities (GC, figures 11 to 13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.curvature import Commutant
from eqtoolbox.ensemble import Net
from eqtoolbox.experiments._ensembles import gradient_descent
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._structure import NETS
from eqtoolbox.linalg import ravel_stack
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure, show_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIMS = {"two-layer tanh": "GC-F11", "three-layer tanh": "GC-F12", "three-layer relu": "GC-F13"}


@dataclass(frozen=True)
class Config:
    """The gradient covariance of ensembles of small networks.

    Attributes:
      models: of each network.
      steps: of gradient descent before.
      rate: its step size.
      examples: of the data.
      seed: of the models.
    """

    models: int = 1024
    steps: int = 20
    rate: float = 0.3
    examples: int = 30
    seed: int = 3


def run(config: Config, store: Store) -> Result:
    """For each network the blocks, the full matrix, the surrogate, and all their spectra."""
    result = {}
    for name, (widths, activation, bias) in NETS.items():
        store.progress.describe(name)
        net = Net(widths, activation, bias, config.examples)
        result[name] = store.once(name.replace(" ", "-"), lambda net=net: _spectra(net, config))
    return result


def _spectra(net: Net, config: Config) -> dict[str, Any]:
    com = Commutant(net.symmetry(), net.shapes)
    least = 1 if net.activation == "tanh" else 2
    hidden = (least,) * (len(net.widths) - 2)
    small = Net((net.widths[0], *hidden, net.widths[-1]), net.activation, net.bias)
    surrogate = Commutant(small.symmetry(), small.shapes)
    loss = net.loss_on(net.data())

    @jax.jit
    def compute(keys: Array) -> dict[str, Any]:
        params = jax.vmap(lambda k: gradient_descent(loss, net.init(k), config.rate, config.steps))(keys)
        grads = jax.vmap(jax.grad(loss))(params)
        blocks = com.covariance(grads).value
        full, reduced, raw = com.to_dense(blocks), surrogate.to_dense(blocks), jnp.cov(ravel_stack(grads).T)
        spectrum = com.spectrum(blocks)
        return {
            "full": full,
            "surrogate": reduced,
            "values": spectrum.values,
            "multiplicities": spectrum.multiplicities,
            "full_values": jnp.linalg.eigvalsh(full)[::-1],
            "surrogate_values": jnp.linalg.eigvalsh(reduced)[::-1],
            "raw_values": jnp.linalg.eigvalsh(raw)[::-1],
            "traces": jnp.stack([com.trace(blocks), jnp.trace(full)]),
        }

    found = jax.device_get(compute(jax.random.split(jax.random.key(config.seed), config.models)))
    for name, of in (("full", net), ("surrogate", small)):
        found[name] = found[name][np.ix_(of.order(), of.order())]
        found[f"{name}_parts"] = {
            "parts": [k for k, _ in of.parts()],
            "part_sizes": [k for _, k in of.parts()],
        }
    return {**found, "factors": com.num_factors}


def claims(result: Result) -> Sequence[Finding]:
    """The block spectrum repeated is the spectrum of the full matrix, once it is that of the surrogate."""
    found = []
    for name, r in result.items():
        scale, own = r["values"][0], (CLAIMS[name],)
        repeated = np.repeat(r["values"], r["multiplicities"])
        full = float(np.max(np.abs(repeated - r["full_values"])) / scale)
        once = float(np.max(np.abs(r["values"] - r["surrogate_values"])) / scale)
        size, blocks = len(r["full_values"]), len(r["values"])
        found.append(
            at_most(
                f"{name}: the {blocks} eigenvalues of the blocks, repeated, are the {size} of the full matrix "
                "(largest difference, of the largest)",
                full,
                1e-12,
                claims=own,
            )
        )
        found.append(
            at_most(
                f"{name}: each once, they are those of the surrogate of hidden width "
                f"{1 if 'tanh' in name else 2} (largest difference, of the largest)",
                once,
                1e-12,
                claims=own,
            )
        )
        trace = float(np.abs(r["traces"][0] / r["traces"][1] - 1))
        found.append(at_most(f"{name}: the traces agree (relative)", trace, 1e-12, claims=own))
    return found


def plot(result: Result) -> Figure:
    """For each network the full matrix, the surrogate, and the eigenvalues."""
    figure, axes = new_figure(3, len(result), height=2.3 * len(result) + 0.3)
    for row, (name, r) in enumerate(result.items()):
        full, small, ax = axes[3 * row : 3 * row + 3]
        show_matrix(full, r["full"], r["full_parts"]["parts"], r["full_parts"]["part_sizes"])
        show_matrix(small, r["surrogate"], r["surrogate_parts"]["parts"], r["surrogate_parts"]["part_sizes"])
        full.set_ylabel(name, color=INK, fontsize=8)
        repeated = np.repeat(r["values"], r["multiplicities"])
        ax.plot(np.arange(len(repeated)) + 1, r["raw_values"], color=MUTED, lw=1.0, label="raw covariance")
        ax.plot(np.arange(len(repeated)) + 1, r["full_values"], color=SERIES[0], lw=2.4, label="full matrix")
        first = np.cumsum([1, *r["multiplicities"][:-1]]) + (r["multiplicities"] - 1) / 2
        ax.plot(
            first,
            r["surrogate_values"],
            "o",
            ms=3.2,
            color=SERIES[2],
            label="surrogate, in the middle of its copies",
        )
        ax.set_yscale("log")
        ax.minorticks_off()
        ax.tick_params(labelsize=7)
        if row == 0:
            full.set_title("full matrix", fontsize=8)
            small.set_title("surrogate", fontsize=8)
            ax.set_title("eigenvalues", fontsize=8)
    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="block-spectrum",
    title="The spectrum of a curvature matrix from its blocks",
    text=(
        "A matrix in the commutant is one small block for each irreducible. Its eigenvalues are those of the blocks, "
        "each as often as the irreducible has dimensions. The paper's surrogate is the matrix with the same blocks for "
        "networks with one hidden unit a layer (tanh) or two (ReLU), where each occurs once. Here the matrix is the "
        "gradient covariance of an ensemble after some gradient descent, projected on the commutant."
    ),
    claim_ids=("GC-F11", "GC-F12", "GC-F13"),
    quick=Config(),
    full=Config(models=65536, examples=100),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Gradient covariance projected on the commutant, its surrogate with the same blocks, and the eigenvalues of "
        "both and of the raw covariance. Eigenvalues that repeat are plateaus; those of the raw covariance are spread "
        "by the noise of a finite ensemble."
    ),
    cost=(0.2, 1.0),
    x64=True,
)
