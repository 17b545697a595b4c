"""Trajectories that never leave the stationary manifolds of two losses (MS-F5)."""

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
from eqtoolbox.groups import Orthogonal, SignedPermutation
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("MS-F5",)


@dataclass(frozen=True)
class Config:
    """Gradient descent with and without noise on (wu - 1)² and -‖θ‖² + ‖θ‖⁴, from points on and off the manifolds.

    Attributes:
      rate: the learning rate.
      steps: of each trajectory.
      noise: relative noise of the gradient, the same factor for all of its entries, as a minibatch would.
      starts: trajectories for each loss that start off the manifolds.
      seed: of everything random.
    """

    rate: float = 0.01
    steps: int = 2000
    noise: float = 1.0
    starts: int = 6
    seed: int = 0


def product_loss(theta: Array, x: Array | float = 1.0) -> Array:
    """(wu - 1)², scaled by a random factor x of the example."""
    return x * (theta[0] * theta[1] - 1) ** 2


def hat_loss(theta: Array, x: Array | float = 1.0) -> Array:
    """-‖θ‖² + ‖θ‖⁴, scaled by a random factor x of the example."""
    square = jnp.sum(theta**2)
    return x * (-square + square**2)


def run(config: Config, store: Store) -> Result:
    """Trajectories from the lines u = ±w and through the origin, and from elsewhere."""
    return {name: store.once(name, lambda n=name: _trajectories(n, config)) for name in ("product", "hat")}


def _trajectories(name: str, config: Config) -> dict[str, Any]:
    spread, draw = jax.random.split(jax.random.key(config.seed))
    factors = jax.random.normal(draw, (config.steps,))
    if name == "product":
        # u = w and u = -w are the exchange and the signed exchange of B(2), the symmetries of uw that are mirrors
        loss, sym = product_loss, Symmetry({"": "h"}, {"h": SignedPermutation(2)})
        mirrors = [mirror.of(sym).select(kind=kind)[0] for kind in ("exchange", "signed exchange")]
        starts = np.array([[0.1, 0.1], [1.6, 1.6], [-0.3, -0.3], [1.4, -1.4], [-0.6, 0.6], [0.2, -0.2]])
        which = np.array([0, 0, 0, 1, 1, 1])
    else:
        loss, sym = hat_loss, Symmetry({"": "h"}, {"h": Orthogonal(2)})
        angles = np.array([0.3, 1.0, 1.9, 2.6, 3.7, 5.2])
        lengths = np.array([0.05, 1.2, 0.3, 1.1, 0.1, 1.3])
        starts = lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        mirrors = [mirror.reflection(sym, "h", [-np.sin(a), np.cos(a)]) for a in angles]
        which = np.arange(len(angles))
    off = np.asarray(jax.random.uniform(spread, (config.starts, 2), minval=-1.7, maxval=1.7))

    @jax.jit
    def descend(starts: Array, noise: Array) -> Array:
        def step(theta: Array, factor: Array) -> tuple[Array, Array]:
            theta = theta - config.rate * jax.vmap(jax.grad(loss), (0, None))(theta, 1 + noise * factor)
            return theta, theta

        return jnp.concatenate([starts[None], jax.lax.scan(step, starts, factors)[1]])

    paths = {
        "exact": np.asarray(descend(jnp.asarray(starts), jnp.asarray(0.0))),
        "noisy": np.asarray(descend(jnp.asarray(starts), jnp.asarray(config.noise))),
        "off": np.asarray(descend(jnp.asarray(off), jnp.asarray(0.0))),
    }
    distances = {
        kind: np.array(
            [
                np.max(jax.vmap(mirrors[m].distance)(jnp.asarray(paths[kind][:, i])))
                for i, m in enumerate(which)
            ]
        )
        for kind in ("exact", "noisy")
    }
    # off the lines the order parameter is not kept: how much it changes
    first = [
        np.asarray(jax.vmap(m.distance)(jnp.asarray(paths["off"][[0, -1]].reshape(-1, 2)))) for m in mirrors
    ]
    changes = np.abs(np.stack(first).reshape(len(mirrors), 2, -1))
    length = np.linalg.norm(paths["off"][-1] - paths["off"][0], axis=-1)
    return {
        **paths,
        "distance": distances,
        "moved": np.abs(changes[:, 1] - changes[:, 0]).max(),
        "length": length,
    }


def claims(result: Result) -> Sequence[Finding]:
    """On the manifolds the order parameter stays 0, off them it moves."""
    found = []
    for name, text in (("product", "(wu − 1)²: u = w and u = −w"), ("hat", "−‖θ‖² + ‖θ‖⁴: lines through 0")):
        for kind, how in (("exact", "gradient descent"), ("noisy", "noisy gradients")):
            worst = float(result[name]["distance"][kind].max())
            found.append(at_most(f"{text}, {how}: largest |Oᵀθ| on the way", worst, 1e-10, claims=CLAIM))
        far = float(np.abs(result[name]["noisy"][-1] - result[name]["noisy"][0]).max())
        found.append(at_least(f"{text}: trajectories move within", far, 0.1, claims=CLAIM))
    moved = float(result["product"]["moved"])
    found.append(at_least("(wu − 1)², off the lines: change of an order parameter", moved, 0.1, claims=CLAIM))
    return found


def plot(result: Result) -> Figure:
    """Both losses: manifolds, trajectories on them, trajectories off them."""
    figure, axes = new_figure(2, height=3.7)
    grid = np.linspace(-2, 2, 201)
    x, y = np.meshgrid(grid, grid)
    square = x**2 + y**2
    levels = {"product": np.log1p((x * y - 1) ** 2), "hat": np.log1p(0.25 + square**2 - square)}
    for ax, (name, title) in zip(axes, (("product", "(wu − 1)²"), ("hat", "−‖θ‖² + ‖θ‖⁴")), strict=True):
        found = result[name]
        ax.contour(x, y, levels[name], 14, colors=MUTED, linewidths=0.4)
        # every point of the plane is on a line through the origin
        for i in range(found["off"].shape[1] if name == "product" else 0):
            path = found["off"][:, i]
            ax.plot(
                path[:, 0], path[:, 1], lw=1, color=SERIES[0], label="off the manifolds" if i == 0 else None
            )
            ax.plot(*path[0], "o", ms=3, color=SERIES[0])
        for i in range(found["noisy"].shape[1]):
            path = found["noisy"][:, i]
            direction = path[0] / np.linalg.norm(path[0])
            ax.axline((0, 0), tuple(direction), lw=0.8, ls="--", color=MUTED, zorder=1)
            label = "on them, noisy" if i == 0 else None
            ax.plot(path[:, 0], path[:, 1], lw=2, color=SERIES[1], label=label)
            ax.plot(*path[0], "o", ms=4, color=SERIES[1])
        ax.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal", title=title)
    axes[0].set_xlabel("u")
    axes[0].set_ylabel("w")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="stationary-conditions",
    title="Stationary conditions of two losses",
    text=(
        "The symmetries of a loss cut its landscape by manifolds that no gradient leaves: u = w and u = −w for "
        "(wu − 1)², every line through the origin for −‖θ‖² + ‖θ‖⁴. Gradient descent, exact or with the noise of "
        "minibatches, moves within them."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(rate=0.002, steps=20000, starts=12),
    run=run,
    claims=claims,
    plot=plot,
    caption="Trajectories that start on the stationary manifolds (dashed) stay on them; the others do not.",
    cost=(0.1, 0.2),
    x64=True,
)
