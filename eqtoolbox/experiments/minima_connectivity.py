"""Components of minima, chords across an orbit and curves inside it (DB-F3.1, DB-F3.2, DB-F3.3a, DB-F3.3b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.orbits import chord_barrier, residual_component
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPONENTS, CHORD, BOUND, CURVE = ("DB-F3.1",), ("DB-F3.2",), ("DB-F3.3a",), ("DB-F3.3b",)
SLOPE = 0.1


@dataclass(frozen=True)
class Config:
    """Sizes.

    Attributes:
      nets: sigmoid networks for the bound of the approximate action.
      largest: their largest width, input, output and batch.
      batch: examples of the LeakyReLU network, more than its 32 hidden units for the action to be approximate.
      curves: random curves from its minimum.
      steps: of gradient descent to it.
      seed: of everything.
    """

    nets: int = 100
    largest: int = 100
    batch: int = 48
    curves: int = 5
    steps: int = 4000
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Components on a grid, chords between scalar minima, changes of outputs, losses on curves and chords."""
    grid = np.linspace(-3, 3, 150)
    maps = [
        np.array([[residual_component((a, b, 0), skip) for a in grid] for b in grid]) for skip in (0.0, 1.0)
    ]
    scales = np.geomspace(1, 100, 41)
    return {
        "grid": grid,
        "components": np.stack(maps),
        "scales": scales,
        "chords": np.asarray(chord_barrier(scales, 1.0, 1.0)) ** 0.5,
        "measured": np.array([_scalar_chord(m) for m in scales]),
        "bound": store.once("bound", lambda: _bound(config)),
        "curves": store.once("curves", lambda: _curves(config)),
    }


def _scalar_chord(m: float) -> float:
    """|Y - W₂W₁X| in the middle between (1, 1) and (m, 1/m), X = Y = 1."""
    return abs(1 - (1 + m) / 2 * (1 + 1 / m) / 2)


def _bound(config: Config) -> dict[str, np.ndarray]:
    """‖Uσ(VX) - U'σ(V'X)‖ and ‖Uσ(VX)‖ of random sigmoid networks, as they are drawn."""
    rng = np.random.default_rng(config.seed)
    change, size, small = [], [], []
    for _ in range(config.nets):
        m, h, n, k = rng.integers(2, config.largest + 1, 4)
        u, v, x, g = (rng.standard_normal(s) for s in ((m, h), (h, n), (n, k), (h, h)))
        before, after = (1 / (1 + np.exp(-np.clip(z, -500, 500))) for z in (v @ x, g @ v @ x))
        moved = u @ before @ np.linalg.pinv(after)
        change.append(np.linalg.norm(u @ before - moved @ after))
        size.append(np.linalg.norm(u @ before))
        small.append(k <= h)
    return {"change": np.array(change), "size": np.array(size), "small": np.array(small)}


def _curves(config: Config) -> dict[str, np.ndarray]:
    """Losses along the curves of (3.6) and the chords between their ends, for two sizes of g."""
    keys = jax.random.split(jax.random.key(config.seed), 6)
    x = jax.random.normal(keys[0], (16, config.batch))
    w1 = jax.random.normal(keys[1], (32, 16)) / 4
    w2 = jax.random.normal(keys[2], (64, 32)) / 32**0.5
    y = jax.random.normal(keys[3], (64, config.batch))
    sigma = lambda z: jax.nn.leaky_relu(z, SLOPE)  # noqa: E731
    loss = lambda w: jnp.linalg.norm(w[1] @ sigma(w[0] @ x) - y)  # noqa: E731

    def step(_: int, w: Any) -> Any:
        slope = jax.grad(lambda w: loss(w) ** 2 / config.batch)(w)
        return jax.tree.map(lambda a, g: a - 0.02 * g, w, slope)

    start = jax.lax.fori_loop(0, config.steps, step, (w1, w2))
    times = jnp.linspace(0, 1, 21)

    def act(t: Array, m: Array) -> Any:
        # The form that is the identity at t = 0 also where the batch does not span.
        v = jax.scipy.linalg.expm(t * m) @ start[0]
        before, after = sigma(start[0] @ x), sigma(v @ x)
        return v, start[1] + start[1] @ (before - after) @ jnp.linalg.pinv(after)

    def one(m: Array) -> tuple[Array, Array]:
        end = act(jnp.asarray(1.0), m)
        along = jax.lax.map(lambda t: loss(act(t, m)), times)
        chord = jax.lax.map(lambda t: loss(jax.tree.map(lambda a, b: (1 - t) * a + t * b, start, end)), times)
        return along, chord

    drawn = jax.random.normal(keys[4], (config.curves, 32, 32)) / 32**0.5
    found = jax.jit(
        lambda ms: jax.lax.map(lambda s: jax.lax.map(lambda m: one(s * m), ms), jnp.array([0.5, 1.5]))
    )(drawn)
    along, chord = map(np.asarray, found)
    return {"times": np.asarray(times), "along": along, "chord": chord}


def claims(result: Result) -> Sequence[Finding]:
    """Counts, the chord, the bound, and curves below chords."""
    counts = [len(np.unique(m)) for m in result["components"]]
    bound, curves = result["bound"], result["curves"]
    along, chord = curves["along"].mean(1), curves["chord"].mean(1)
    start = along[:, :1]
    inner = slice(1, -1)
    return [
        at_most("Components without a skip, distance from 4", abs(counts[0] - 4), 0, claims=COMPONENTS),
        at_most("and with one, distance from 3", abs(counts[1] - 3), 0, claims=COMPONENTS),
        at_most(
            "Loss in the middle of the scalar chord against |1 − (1+m)(1+1/m)/4| (largest relative error)",
            float(np.max(np.abs(result["measured"] - result["chords"]) / (1 + result["chords"]))),
            1e-6,
            claims=CHORD,
        ),
        at_most(
            f"Change of the output by (3.6), of the output (largest of {len(bound['size'])} networks)",
            float((bound["change"] / bound["size"]).max()),
            1.0,
            claims=BOUND,
        ),
        at_most(
            "and where the batch is no larger than the layer",
            float((bound["change"] / bound["size"])[bound["small"]].max(initial=0)),
            1e-6,
            claims=BOUND,
        ),
        at_least(
            "Mean rise of the loss on the chord, of that on the curve, small g (largest over t)",
            float((chord[0] - start[0])[inner].max() / max((along[0] - start[0])[inner].max(), 1e-9)),
            1.0,
            claims=CURVE,
        ),
        at_least(
            "and large g",
            float((chord[1] - start[1])[inner].max() / max((along[1] - start[1])[inner].max(), 1e-9)),
            1.0,
            claims=CURVE,
        ),
        at_least(
            "The chord rises more for the larger g (ratio)",
            float((chord[1] - start[1]).max() / (chord[0] - start[0]).max()),
            1.0,
            claims=CURVE,
        ),
    ]


def plot(result: Result) -> Figure:
    """The components, the bound, and losses on curves and chords."""
    figure, axes = new_figure(4, height=3.4)
    extent = (-3, 3, -3, 3)
    for ax, image, title in zip(
        axes[:2], result["components"], ("no skip: 4", "with a skip: 3"), strict=True
    ):
        ax.imshow(
            image,
            origin="lower",
            extent=extent,
            cmap=_colours(),
            vmin=0,
            vmax=3,
            interpolation="nearest",
            aspect="auto",
        )
        ax.set_title(title)
        ax.set_xlabel("W₁")
        ax.grid(False)
    axes[0].set_ylabel("W₂")
    bound = result["bound"]
    axes[2].plot(bound["change"], bound["size"], ".", color=SERIES[0], ms=4)
    top = bound["size"].max()
    axes[2].plot([0, top], [0, top], color=MUTED, lw=0.8, ls=":")
    axes[2].set_xlabel("change of the output")
    axes[2].set_ylabel("size of the output")
    axes[2].set_title("approximate action")
    curves = result["curves"]
    for i, (size, style) in enumerate((("small g", "-"), ("large g", "--"))):
        axes[3].plot(
            curves["times"], curves["along"][i].mean(0), style, color=SERIES[1], label=f"curve, {size}"
        )
        axes[3].plot(
            curves["times"], curves["chord"][i].mean(0), style, color=SERIES[2], label=f"chord, {size}"
        )
    axes[3].set_xlabel("t")
    axes[3].set_ylabel("loss")
    axes[3].set_title("curve and chord")
    figure.legend(*axes[3].get_legend_handles_labels(), loc="outside lower center", ncols=4, labelcolor=INK)
    return figure


def _colours() -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap(list(SERIES[:4]))


EXPERIMENT = Experiment(
    name="minima-connectivity",
    title="What connects minima, and what does not",
    text=(
        "The minima of a scalar three-layer net have four components, with a skip connection three. Inside an orbit "
        "there are curves of constant loss, or nearly so for an approximate action; the straight chord between the "
        "same ends can rise without bound."
    ),
    claim_ids=COMPONENTS + CHORD + BOUND + CURVE,
    quick=Config(),
    full=Config(nets=1000, curves=50, steps=40000),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Components by (W₁, W₂), the third weight being given; output change of the approximate action against the "
        "output, all above the diagonal; loss along symmetry curves and chords, mean over random curves."
    ),
    cost=(0.4, 3.0),
)
