"""Mean, covariance, Hessian, Fisher and Gauss-Newton matrices of an invariant ensemble commute (GC, lemma 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from eqtoolbox.ensemble import Net
from eqtoolbox.experiments._ensembles import in_chunks
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.groups import Orthogonal
from eqtoolbox.linalg import per_example_grads
from eqtoolbox.pages import INK, SERIES, new_figure
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {
    "covariance": "gradient covariance",
    "hessian": "Hessian",
    "fisher": "Fisher",
    "gauss_newton": "Gauss-Newton",
}
#: Functions of the spectrum of a positive matrix; the Hessian has eigenvalues of both signs.
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "inverse root": lambda w: 1 / np.sqrt(w + 1e-2 * w.max()),
    "exponential": lambda w: np.exp(w / w.max()),
}
#: Mean squares of differences in standard errors: 1 for noise, with few independent entries.
NOISE, SIGNAL = 3.0, 10.0


@dataclass(frozen=True)
class Config:
    """Two-layer tanh networks at random initialisation.

    Attributes:
      widths: of the network.
      models: drawn.
      orbits: of the ensemble that is invariant exactly: every element of the group applied to so many models.
      chunks: for standard errors.
      examples: of the data.
      seed: of the models.
    """

    widths: tuple[int, int, int] = (2, 3, 2)
    models: int = 6400
    orbits: int = 10
    chunks: int = 64
    examples: int = 12
    seed: int = 8


def matrices(net: Net) -> Callable[[Any], dict[str, Array]]:
    """θ -> the gradient of one model and its curvature matrices, in ravel order."""
    x, y = net.data()
    loss = net.loss_on((x, y))
    _, unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape), net.shapes))

    def outputs(flat: Array) -> Array:
        return jnp.asarray(net.module.apply({"params": unravel(flat)}, x)).reshape(-1)

    def compute(params: Any) -> dict[str, Array]:
        flat, _ = ravel_pytree(params)
        g = jax.grad(lambda v: loss(unravel(v)))(flat)
        per_example = per_example_grads(lambda p, batch: net.loss_on(batch)(unravel(p)), flat, (x, y))
        jacobian = jax.jacobian(outputs)(flat)
        return {
            "gradient": g,
            "covariance": jnp.outer(g, g),
            "hessian": jax.hessian(lambda v: loss(unravel(v)))(flat),
            "fisher": per_example.T @ per_example / len(x),
            "gauss_newton": jacobian.T @ jacobian / len(x),
        }

    return compute


def moving(net: Net, act: Callable[[Any], Any]) -> Array:
    """The p × p matrix of a linear map of the parameters."""
    flat, unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape), net.shapes))
    return jax.vmap(lambda e: ravel_pytree(act(unravel(e)))[0])(jnp.eye(flat.size)).T


def run(config: Config, store: Store) -> Result:
    """The averages over an ensemble closed under the group, and over a random one in chunks."""
    net = Net(config.widths, "tanh", examples=config.examples)
    sym, compute = net.symmetry(), matrices(net)
    elements = sym.groups["h1"].elements()
    orbit_key, chunk_key, rotation_key = jax.random.split(jax.random.key(config.seed), 3)
    hidden = net.symmetry(Orthogonal)
    inputs = Symmetry({"Dense_0/kernel": "x _"}, {"x": Orthogonal(config.widths[0])})

    @jax.jit
    def closed(keys: Array) -> tuple[Any, Array, list[Array]]:
        def orbit(key: Array) -> Any:
            params = net.init(key)
            return jax.vmap(lambda g: compute(sym.act({"h1": g}, params)))(elements)

        averages = jax.tree.map(lambda x: jnp.mean(x, (0, 1)), jax.vmap(orbit)(keys))
        moves = jax.vmap(lambda g: moving(net, lambda p: sym.act({"h1": g}, p)))(elements)
        turns = [
            (s, s.sample(k)) for s, k in zip((hidden, inputs), jax.random.split(rotation_key), strict=True)
        ]
        return averages, moves, [moving(net, lambda p, s=s, g=g: s.act(g, p)) for s, g in turns]

    store.progress.describe("an ensemble closed under the group")
    exact, moves, (turn, wrong) = jax.device_get(closed(jax.random.split(orbit_key, config.orbits)))
    store.progress.describe("a random ensemble")
    chunks = in_chunks(lambda k: compute(net.init(k)), chunk_key, config.models, config.chunks)
    chosen = moves[:: max(1, len(moves) // 7)][1:7]
    result: dict[str, Any] = {"exact": {}, "z": {}, "rotated": {}, "wrong": {}, "elements": len(moves)}
    result["exact"]["mean"] = _gap_of_vector(exact["gradient"], moves)
    result["z"]["mean"] = _scores(chunks["gradient"], lambda m: [g @ m - m for g in chosen])
    exact = _curvature(exact)
    parts = [_curvature(jax.tree.map(lambda x, i=i: x[i], chunks)) for i in range(config.chunks)]
    for kind in KINDS:
        result["exact"][kind] = _gap(exact[kind], moves)
        stack = np.stack([part[kind] for part in parts])
        result["z"][kind] = _scores(stack, lambda m: [g @ m @ g.T - m for g in chosen])
        result["rotated"][kind] = _scores(stack, lambda m: [turn @ m @ turn.T - m])
        result["wrong"][kind] = _scores(stack, lambda m: [wrong @ m @ wrong.T - m])
    for name, function in FUNCTIONS.items():
        image = _function(function, exact["covariance"])
        result["exact"][f"{name} of covariance"] = _gap(image, moves)
    return result


def _curvature(averages: Any) -> dict[str, np.ndarray]:
    g = averages["gradient"]
    return {**averages, "covariance": averages["covariance"] - np.outer(g, g)}


def _gap(matrix: np.ndarray, moves: np.ndarray) -> float:
    return max(float(np.abs(g @ matrix @ g.T - matrix).max()) for g in moves) / float(np.abs(matrix).max())


def _gap_of_vector(vector: np.ndarray, moves: np.ndarray) -> float:
    return max(float(np.abs(g @ vector - vector).max()) for g in moves) / float(np.abs(vector).max())


def _function(function: Callable[[np.ndarray], np.ndarray], matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * function(values)) @ vectors.T


def _scores(chunks: np.ndarray, differences: Callable[[np.ndarray], list[np.ndarray]]) -> np.ndarray:
    """The means of differences over chunks, in standard errors, for entries that move."""
    stack = np.stack([np.concatenate([d.ravel() for d in differences(chunk)]) for chunk in chunks])
    error = stack.std(0, ddof=1) / np.sqrt(len(stack))
    moved = error > 1e-12 * np.abs(chunks).max()
    return (stack.mean(0) / np.where(moved, error, 1))[moved]


def claims(result: Result) -> Sequence[Finding]:
    """Exactly for an invariant ensemble, within the standard error for a random one, and not for a rotation."""
    own, found = ("GC-L2.4",), []
    names = {
        "mean": "gradient mean",
        **KINDS,
        **{f"{f} of covariance": f"{f} of the covariance" for f in FUNCTIONS},
    }
    for name, gap in result["exact"].items():
        text = f"Ensemble closed under {result['elements']} elements, {names[name]}: it commutes (error, relative)"
        found.append(at_most(text, gap, 1e-12, claims=own))
    for name, z in result["z"].items():
        text = f"Random ensemble, {names[name]}: mean square of {len(z)} differences, in standard errors"
        found.append(at_most(text, float(np.mean(z**2)), NOISE, claims=own))
    for name, z in result["rotated"].items():
        text = f"Random ensemble, {names[name]}, hidden units rotated, as under O: mean square, in standard errors"
        found.append(at_most(text, float(np.mean(z**2)), NOISE, claims=own))
    for name, z in result["wrong"].items():
        text = f"Random ensemble, {names[name]}, inputs rotated, no symmetry: mean square, in standard errors"
        found.append(at_least(text, float(np.mean(z**2)), SIGNAL, claims=own))
    return found


def plot(result: Result) -> Figure:
    """The differences in standard errors, for elements of the group and for a rotation."""
    figure, axes = new_figure(len(KINDS), height=2.7)
    bins = np.linspace(-6, 6, 41)
    for ax, (kind, name) in zip(axes, KINDS.items(), strict=True):
        options = {"bins": bins, "density": True, "histtype": "step", "lw": 1.3}
        ax.hist(
            np.clip(result["z"][kind], -5.9, 5.9), color=SERIES[0], label="elements of the group", **options
        )
        ax.hist(
            np.clip(result["wrong"][kind], -5.9, 5.9),
            color=SERIES[2],
            label="a rotation of the inputs",
            **options,
        )
        ax.plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), color=INK, lw=0.8, label="N(0, 1)")
        ax.set_title(name, fontsize=8)
        ax.set_yticks([])
        ax.set_xlabel("standard errors")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="curvature-commutes",
    title="Curvature averaged over an invariant ensemble commutes with the symmetry",
    text=(
        "Two-layer tanh networks with Gaussian parameters: signed permutations of the hidden units leave loss and "
        "distribution alone. Then so they leave the mean of the gradient, and the gradient covariance, the mean "
        "Hessian, Fisher and Gauss-Newton matrices commute with them, and every function of these. For an ensemble "
        "closed under the group this holds to rounding; for a random ensemble within its standard error. Rotations of "
        "the hidden units are no symmetry of tanh, and yet the matrices commute with them too: for these networks O "
        "and B have the same commutant. With a rotation of the inputs they do not commute."
    ),
    claim_ids=("GC-L2.4",),
    quick=Config(),
    full=Config(models=640000, orbits=200, examples=50),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Entries of gMgᵀ − M over their standard errors, for the matrices M of a random ensemble; for elements of the "
        "group they are those of noise. Values beyond the axis are counted in its last bins."
    ),
    cost=(0.1, 2.0),
    x64=True,
)
