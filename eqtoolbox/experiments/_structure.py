"""How near a matrix averaged over models is to the commutant of the symmetry, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.curvature import Commutant
from eqtoolbox.ensemble import Net
from eqtoolbox.experiments._ensembles import gradient_descent, halved, in_chunks, slope
from eqtoolbox.experiments._experiment import Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.groups import Permutation
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure, show_matrix
from eqtoolbox.symmetry import Symmetry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Params = Any
#: (loss, θ) -> a vector and a p × p matrix; the curvature is the mean of the matrix minus v vᵀ, v the mean vector.
Matrix = Callable[[Callable[[Params], Array], Params], tuple[Array, Array]]

#: The networks of the figures: widths, activation, biases.
NETS = {
    "two-layer tanh": ((5, 5, 5), "tanh", True),
    "three-layer tanh": ((5, 5, 5, 5), "tanh", True),
    "three-layer relu": ((5, 5, 5, 5), "relu", False),
}


def measure(
    net: Net, matrix: Matrix, *, models: int, chunks: int, steps: int, rate: float, seed: int
) -> dict[str, Any]:
    """Averages a matrix over models, before and after training, and projects it on the commutant.

    Args:
      net: the network.
      matrix: of one model.
      models: how many, a multiple of ``chunks``.
      chunks: a power of 2; the distance is measured for models/chunks, 2·models/chunks, …, models.
      steps: of gradient descent.
      rate: its step size.
      seed: of the models.

    Returns:
      For ``start`` and ``end`` the raw matrix and its projection, in the order of the paper; and the distances.
    """
    loss = net.loss_on(net.data())

    def both(key: Array) -> dict[str, tuple[Array, Array]]:
        start = net.init(key)
        end = gradient_descent(loss, start, rate, steps)
        return {"start": matrix(loss, start), "end": matrix(loss, end)}

    averages = in_chunks(both, jax.random.key(seed), models, chunks)
    order, com, wrong = net.order(), commutant(net), Commutant(_too_large(net), net.shapes)
    project = jax.jit(lambda a: com.to_dense(com.project(a)))
    result: dict[str, Any] = {"factors": com.num_factors, "size": com.size}
    sizes = [models // chunks * 2**k for k in range(len(halved(np.arange(chunks))))]
    counts = np.array([chunks // 2**k for k in range(len(sizes))])
    for when, (vectors, matrices) in averages.items():
        levels = [
            second - first[:, :, None] * first[:, None, :]
            for first, second in zip(halved(vectors), halved(matrices), strict=True)
        ]
        structure = np.asarray(project(levels[-1][0]))
        own, other = distances(com, levels), distances(wrong, levels)
        result[when] = {
            "raw": levels[-1][0][np.ix_(order, order)],
            "structure": structure[np.ix_(order, order)],
            "distance": own,
            "wrong": other,
            "slope": slope(np.array(sizes), own, counts),
        }
    parts = net.parts()
    return {
        **result,
        "models": np.array(sizes),
        "counts": counts,
        "parts": [name for name, _ in parts],
        "part_sizes": [size for _, size in parts],
    }


def commutant(net: Net) -> Commutant:
    """The commutant of the symmetry of a network's hidden units."""
    return Commutant(net.symmetry(), net.shapes)


def distances(com: Commutant, levels: Sequence[np.ndarray]) -> np.ndarray:
    """The root mean square of ‖A − PA‖ / ‖PA‖ over the matrices of each level, Frobenius norms."""

    @jax.jit
    def one(a: Array) -> Array:
        blocks = com.project(a)
        kept = com.norm(blocks) ** 2
        return (jnp.sum(a**2) - kept) / kept

    return np.array([np.sqrt(np.mean([one(a) for a in level])) for level in levels])


def _too_large(net: Net) -> Symmetry:
    """The symmetry of the hidden units and one that is none: permutations of the inputs and of the outputs."""
    last = f"Dense_{len(net.widths) - 2}"
    axes = {"Dense_0/kernel": "x _", f"{last}/kernel": "_ y", **({f"{last}/bias": "y"} if net.bias else {})}
    outer = Symmetry(axes, {"x": Permutation(net.widths[0]), "y": Permutation(net.widths[-1])})
    return outer.product(net.symmetry())


def across_layers(r: Result, when: str, matrix: str, parts: str = "Wb") -> float:
    """The share of the squared norm of a matrix that couples weights or biases of different layers.

    Args:
      r: what ``measure`` returned.
      when: ``"start"`` or ``"end"``.
      matrix: ``"raw"`` or ``"structure"``.
      parts: ``"W"`` for the weights alone.
    """
    names = np.repeat(r["parts"], r["part_sizes"])
    kept = np.array([name[0] in parts for name in names])
    layer = np.array([int(name[1:]) for name in names])
    a = r[when][matrix][np.ix_(kept, kept)] ** 2
    return float(a[layer[kept][:, None] != layer[kept][None, :]].sum() / a.sum())


def falls(result: Result, what: str, claims: dict[str, str]) -> list[Finding]:
    """The distance falls as 1/√models; for a group that is no symmetry it stays."""
    found = []
    for name, r in result.items():
        for when, time in (("start", "t = 0"), ("end", f"t = {r['steps']}")):
            text = (
                f"{what}, {name}, {time}: exponent of the distance to the commutant in the number of models"
            )
            error = abs(r[when]["slope"] + 0.5)
            own = (claims[name],)
            found.append(at_most(f"{text}, distance from −½", error, 0.08, claims=own))
        last = r["end"]["distance"][-1]
        found.append(
            at_most(
                f"{what}, {name}: distance of {r['models'][-1]} trained models, of the norm",
                last,
                0.25,
                claims=(claims[name],),
            )
        )
        ratio = float(r["end"]["wrong"][-1] / r["end"]["distance"][-1])
        found.append(
            at_least(
                f"{what}, {name}: with permutations of inputs and outputs too, no symmetry, it stays (times as far)",
                ratio,
                1.5,
                claims=(claims[name],),
            )
        )
    return found


def paint(result: Result, what: str) -> Figure:
    """For each network the raw matrix at both times, its projection, and the distance."""
    figure, axes = new_figure(4, len(result), height=2.05 * len(result) + 0.3)
    for row, (name, r) in enumerate(result.items()):
        ax = axes[4 * row : 4 * row + 4]
        titles = (f"{what}, t = 0", f"t = {r['steps']}", "projection", "distance")
        pictures = (r["start"]["raw"], r["end"]["raw"], r["end"]["structure"])
        for a, picture in zip(ax[:3], pictures, strict=True):
            show_matrix(a, picture, r["parts"], r["part_sizes"])
        for a, title in zip(ax, titles, strict=True):
            a.set_title(title if row == 0 else "", fontsize=8)
        ax[0].set_ylabel(name, color=INK, fontsize=8)
        curves(ax[3], r)
        if row == len(result) - 1:
            ax[3].set_xlabel("models")
    handles, labels = axes[3].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, labelcolor=INK)
    return figure


def curves(ax: Axes, r: Result) -> None:
    """The distance against the number of models, and 1/√models."""
    n = r["models"]
    ax.loglog(n, r["start"]["distance"], "o-", ms=2.5, lw=1.1, color=SERIES[0], label="t = 0")
    ax.loglog(n, r["end"]["distance"], "o-", ms=2.5, lw=1.1, color=SERIES[1], label=f"t = {r['steps']}")
    ax.loglog(n, r["end"]["wrong"], "o-", ms=2.5, lw=1.1, color=SERIES[2], label="a wrong group")
    guide = r["end"]["distance"][0] * np.sqrt(n[0] / n)
    ax.loglog(n, 0.7 * guide, color=MUTED, lw=0.9, ls=(0, (4, 3)), label="1/√models")
    ax.minorticks_off()
    ax.tick_params(labelsize=7)
