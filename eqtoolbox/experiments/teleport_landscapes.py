"""Teleportation on test functions (DB-F4.1, DB-F4.3a, DB-F4.3b, DB-EC6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.orbits import (
    Landscape,
    booth,
    ellipse,
    gradient_norm,
    rosenbrock,
    teleport_as_printed,
    teleport_params,
)
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ELLIPSE, ROSENBROCK, BOOTH, POINTWISE = ("DB-F4.1",), ("DB-F4.3a",), ("DB-F4.3b",), ("DB-EC6",)
GOLDEN_ROSENBROCK, GOLDEN_BOOTH = 0.11134068, 2.20251699


@dataclass(frozen=True)
class Config:
    """Gradient descent with teleports.

    Attributes:
      seeds: random angles to start each search from.
      inner: steps of a search.
      aspect: a of the ellipse x₁² + a x₂².
    """

    seeds: int = 20
    inner: int = 10
    aspect: float = 10.0


@dataclass(frozen=True)
class Run:
    """The settings of one function, those of the paper.

    Attributes:
      land: the function.
      rate: of descent.
      steps: of descent.
      when: at which steps it teleports.
      search_rate: of the search.
    """

    land: Callable[[], Landscape]
    rate: float
    steps: int
    when: Callable[[Array], Array]
    search_rate: float


RUNS = {
    "Rosenbrock": Run(rosenbrock, 1e-3, 1000, lambda t: t % 100 == 99, 0.1),
    "Booth": Run(booth, 0.08, 10, lambda t: t == 4, 1e-3),
}


def run(config: Config, store: Store) -> Result:
    """Descends without teleports, with those that are printed, and with ours, from random angles."""
    found: dict[str, Any] = {}
    for name, setting in RUNS.items():
        store.progress.describe(f"{name}: descent and teleports")
        found[name] = store.once(name.lower(), partial(_descents, setting, config))
    found["ellipse"] = store.once("ellipse", lambda: _ellipse(config))
    return found


def _descents(setting: Run, config: Config) -> dict[str, Any]:
    land = setting.land()
    rate = jax.grad(land.loss)
    squared = partial(gradient_norm, squared=True)

    def sensitivity(x: Array) -> Array:
        """How much the loss changes when each parameter is rounded, about: near a minimum that is many digits of it."""
        return jnp.finfo(x.dtype).eps * (land.loss(x) + jnp.sum(jnp.abs(x * rate(x))))

    def none(x: Array, angle: Array) -> tuple[Array, Array]:
        return x, jnp.ones(())

    def printed(x: Array, angle: Array) -> tuple[Array, Array]:
        moved, info = teleport_as_printed(
            land.symmetry, land.loss, x, steps=config.inner, learning_rate=setting.search_rate, initial=angle
        )
        return moved, info.objective / info.objective_before

    def ours(x: Array, angle: Array) -> tuple[Array, Array]:
        moved, info = teleport_params(
            land.symmetry,
            land.loss,
            x,
            objective=squared,
            steps=config.inner,
            learning_rate=setting.search_rate,
            initial=angle,
            max_growth=1e3,
        )
        return moved, info.objective / info.objective_before

    def descend(move: Callable, key: Array) -> dict[str, Array]:
        def step(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], dict[str, Array]]:
            x, key = carry
            key, own = jax.random.split(key)
            angle = jax.random.uniform(own, (), minval=0, maxval=np.pi)
            before = land.loss(x)
            moved, gain = jax.lax.cond(setting.when(t), move, none, x, angle)
            change = jnp.abs(land.loss(moved) - before) / (sensitivity(x) + sensitivity(moved))
            new = moved - setting.rate * rate(moved)
            seen = {"loss": land.loss(moved), "slope": jnp.sum(rate(moved) ** 2), "x": moved, "gain": gain}
            return (new, key), seen | {"change": change}

        (x, _), seen = jax.lax.scan(step, (land.start, key), jnp.arange(setting.steps))
        end = {"loss": land.loss(x), "slope": jnp.sum(rate(x) ** 2), "x": x}
        return {k: jnp.concatenate([v, end[k][None]]) if k in end else v for k, v in seen.items()}

    keys = jax.random.split(jax.random.key(0), config.seeds)
    found = {"none": jax.jit(partial(descend, none))(jax.random.key(0))}
    for name, move in (("printed", printed), ("ours", ours)):
        found[name] = jax.jit(jax.vmap(partial(descend, move)))(jax.random.clone(keys))
    return jax.device_get(found)


def _ellipse(config: Config) -> dict[str, Any]:
    """From the same level set: descent, Newton's step, and descent after one teleport."""
    land = ellipse(config.aspect)
    x = land.start
    moved, info = teleport_params(land.symmetry, land.loss, x, steps=30, learning_rate=0.1)
    paths = []
    for start in (x, moved):
        path = [start]
        for _ in range(20):
            path.append(path[-1] - 0.45 / config.aspect * jax.grad(land.loss)(path[-1]))
        paths.append(np.asarray(jnp.stack(path)))
    across = np.abs(np.asarray(moved[0])) / np.linalg.norm(moved)
    return {
        "descent": paths[0],
        "teleport": paths[1],
        "across": float(across),
        "error": float(info.loss_error),
        "aspect": config.aspect,
    }


def claims(result: Result) -> Sequence[Finding]:
    """Both functions reach the target; the golden numbers; where the gradient is larger and where not."""
    rosen, boot, flat = result["Rosenbrock"], result["Booth"], result["ellipse"]
    last = {n: {k: v["loss"][..., -1] for k, v in result[n].items()} for n in RUNS}
    found = [
        at_most(
            "Ellipse: the target lies on the short axis (share across it)",
            flat["across"],
            1e-3,
            claims=ELLIPSE,
        ),
        at_most(
            "Ellipse: and from there descent is straight (largest distance from that axis, of the first point)",
            float(np.abs(flat["teleport"][:, 0]).max() / np.linalg.norm(flat["teleport"][0])),
            1e-3,
            claims=ELLIPSE,
        ),
    ]
    for name, golden, bound, ids in (
        ("Rosenbrock", GOLDEN_ROSENBROCK, 1e-6, ROSENBROCK),
        ("Booth", GOLDEN_BOOTH, 1e-3, BOOTH),
    ):
        own = last[name]
        found += [
            at_most(
                f"{name}: descent alone ends at {golden} (difference)",
                float(abs(own["none"] - golden)),
                1e-8,
                claims=ids,
            ),
            at_most(
                f"{name}: with printed teleports the median of the seeds ends below",
                float(np.median(own["printed"])),
                bound,
                claims=ids,
            ),
            at_most(f"{name}: with ours (median)", float(np.median(own["ours"])), 1.2 * bound, claims=ids),
            at_most(
                f"{name}: the worst seed with a printed teleport, against descent alone",
                float(own["printed"].max() / own["none"]),
                1.0,
                claims=ids,
            ),
            at_most(
                f"{name}: largest change of the loss in a teleport, in roundings of the parameters",
                float(result[name]["ours"]["change"].max()),
                4.0,
                claims=ids,
            ),
            at_least(
                f"{name}: the objective of ours never gets worse (least ratio)",
                float(result[name]["ours"]["gain"].min()),
                1.0,
                claims=ids,
            ),
        ]
    gains = rosen["printed"]["gain"][:, 99::100]
    found.append(
        at_least(
            "Rosenbrock: share of the printed teleports that enlarge the gradient",
            float(np.mean(gains > 1)),
            0.95,
            claims=ROSENBROCK,
        )
    )
    return [
        *found,
        at_least(
            "Booth: share of points with a larger gradient than descent has at equal loss",
            _larger(boot, 5),
            1.0,
            claims=(*BOOTH, *POINTWISE),
        ),
        at_least(
            "Rosenbrock: the same, of all points after the first teleport",
            _larger(rosen, 99),
            1.0,
            claims=POINTWISE,
            anticipated="refuted",
        ),
    ]


def _larger(found: dict[str, Any], first: int) -> float:
    """The share of the points from ``first`` on with a larger slope than descent alone has at that loss."""
    plain = found["none"]
    order = np.argsort(plain["loss"])
    shares = []
    for loss, slope in zip(found["printed"]["loss"], found["printed"]["slope"], strict=True):
        known = (
            (np.arange(len(loss)) >= first) & (loss >= plain["loss"].min()) & (loss <= plain["loss"].max())
        )
        at = np.interp(loss[known], plain["loss"][order], plain["slope"][order])
        shares.append(np.mean(slope[known] >= at))
    return float(np.mean(shares))


def plot(result: Result) -> Figure:
    """Trajectories over level sets, and losses."""
    figure, axes = new_figure(3, 2, height=5.2)
    for row, (name, setting) in enumerate(RUNS.items()):
        found, land = result[name], setting.land()
        path, losses, slopes = axes[3 * row : 3 * row + 3]
        every = [found["none"]["x"], found["ours"]["x"][0]]
        low, high = np.min(np.concatenate(every), 0) - 0.4, np.max(np.concatenate(every), 0) + 0.4
        grid = np.meshgrid(*(np.linspace(a, b, 120) for a, b in zip(low, high, strict=True)))
        level = np.asarray(jax.vmap(jax.vmap(land.loss))(jnp.stack([jnp.asarray(g) for g in grid], -1)))
        path.contour(*grid, np.log10(level + 1e-3), 12, colors=[MUTED], linewidths=0.4, linestyles="solid")
        for key, colour, label in (("none", MUTED, "descent"), ("ours", SERIES[0], "with teleports")):
            x = found[key]["x"] if key == "none" else found[key]["x"][0]
            path.plot(
                x[:, 0],
                x[:, 1],
                ".-",
                color=colour,
                lw=1.2,
                ms=3 if setting.steps < 100 else 0,
                label=None if row else label,
            )
        path.plot(*land.minimum, "*", color=SERIES[2], ms=9)
        path.set_title(f"{name}: trajectories")
        path.set_xlabel("x₁")
        path.set_ylabel("x₂")
        losses.plot(found["none"]["loss"], color=MUTED, lw=1.4)
        slopes.plot(found["none"]["loss"], found["none"]["slope"], color=MUTED, lw=1.4)
        for key, colour in (("printed", SERIES[2]), ("ours", SERIES[0])):
            middle = np.median(found[key]["loss"], 0)
            losses.fill_between(
                np.arange(len(middle)),
                found[key]["loss"].min(0),
                found[key]["loss"].max(0),
                color=colour,
                alpha=0.15,
                lw=0,
            )
            losses.plot(
                middle, color=colour, lw=1.4, label="as printed" if key == "printed" and not row else None
            )
            slopes.plot(found[key]["loss"][0], found[key]["slope"][0], color=colour, lw=1.0)
        losses.set_title("Loss")
        losses.set_xlabel("step")
        slopes.set_title("−dL/dt by loss")
        slopes.set_xlabel("loss")
        slopes.set_xscale("log")
        for ax in (losses, slopes):
            ax.set_yscale("log")
            ax.minorticks_off()
        slopes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="teleport-landscapes",
    title="Teleportation on test functions",
    text=(
        "The Rosenbrock, Booth and ellipse functions are squares of a distance after a change of variables, so that "
        "rotations keep them. Descent that now and then moves to the place of its level set with the steepest gradient "
        "reaches the minimum; descent alone does not in that time. The searches start from random angles: printed ones "
        "have a fixed learning rate and take every step, ours only those that are better. Right after a teleport the "
        "gradient is larger than it would be at the same loss, on Rosenbrock later it is not."
    ),
    claim_ids=ELLIPSE + ROSENBROCK + BOOTH + POINTWISE,
    quick=Config(),
    full=Config(seeds=200),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: trajectories over level sets, from a star on the minimum. Middle: loss by step, median and range over "
        "random angles. Right: the rate of the loss against the loss. Grey: descent alone; red: teleports as printed; "
        "blue: ours."
    ),
    cost=(0.2, 0.5),
    x64=True,
)
