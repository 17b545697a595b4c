"""Where gradient flow goes on two-dimensional losses: the charge decides (DA-X5, DA-T27)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HYPERBOLAS, ELLIPSE = ("DA-X5",), ("DA-T27",)


@dataclass(frozen=True)
class Config:
    """Gradient flow of ½(Y - UV)² and of w₁² + a w₂².

    Attributes:
      target: Y.
      charges: U² - V² of the trajectories.
      start: UV at their start.
      ratios: a.
      loss: of the ellipses at time 0, the same for all.
      points: charges of each ellipse.
      time: until which both are followed; the hyperbolas three times as long.
    """

    target: float = 2.0
    charges: tuple[float, ...] = (-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0)
    start: float = 0.1
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0)
    loss: float = 1.0
    points: int = 12
    time: float = 2.0


def run(config: Config, store: Store) -> Result:
    """Integrates both."""
    return {
        "hyperbolas": store.once("hyperbolas", lambda: _hyperbolas(config)),
        "ellipses": store.once("ellipses", lambda: {f"{a:g}": _ellipse(a, config) for a in config.ratios}),
        "target": config.target,
        "time": config.time,
    }


def _flow(loss: Callable[[Array], Array], starts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Gradient flow from all starts, shape (times, starts, 2)."""
    from scipy.integrate import solve_ivp

    slope = jax.jit(jax.vmap(jax.grad(loss)))
    field = lambda _, w: -np.asarray(slope(w.reshape(-1, 2))).ravel()  # noqa: E731
    path = solve_ivp(field, (0, times[-1]), starts.ravel(), "DOP853", times, rtol=1e-11, atol=1e-18)
    return path.y.T.reshape(len(times), -1, 2)


def _on_hyperbola(charge: np.ndarray, product: float) -> np.ndarray:
    """(U, V) with U² - V² = Q and UV = P, both positive."""
    root = np.sqrt(charge**2 + 4 * product**2)
    return np.sqrt(np.stack([(root + charge) / 2, (root - charge) / 2], -1))


def _hyperbolas(config: Config) -> dict[str, Any]:
    charge = np.array(config.charges)
    times = np.linspace(0, 3 * config.time, 200)
    path = _flow(lambda w: (config.target - w[0] * w[1]) ** 2 / 2, _on_hyperbola(charge, config.start), times)
    drift = np.abs(path[..., 0] ** 2 - path[..., 1] ** 2 - charge).max()
    missed = np.abs(path[-1] - _on_hyperbola(charge, config.target)).max()
    return {"charge": charge, "path": path, "drift": float(drift), "missed": float(missed)}


def _ellipse(a: float, config: Config) -> dict[str, Any]:
    """Loss by time for several charges, by formula and by integration, and the derivative by the charge."""
    first, time = config.loss, config.time
    w2 = jnp.linspace(0.1, 0.9, config.points) * np.sqrt(first / a)
    start = np.stack([np.sqrt(first - a * np.asarray(w2) ** 2), np.asarray(w2)], -1)
    charge = lambda w: (first - a * w**2) ** a / w**2  # noqa: E731

    def later(w: Array, t: float) -> Array:  # (2.22) at fixed loss
        return (first - a * w**2) * jnp.exp(-4 * t) + a * w**2 * jnp.exp(-4 * a * t)

    def printed(w: Array, t: float) -> Array:  # (2.24)
        rest = first - a * w**2
        inner = 2 * w * rest ** (a - 1) * (-(a**2) * w**2 - rest)
        return 2 * a * w**5 * (jnp.exp(-4 * a * t) - jnp.exp(-4 * t)) / inner

    t = time / 4
    times = np.linspace(0, time, 50)
    path = _flow(lambda w: w[0] ** 2 + a * w[1] ** 2, start, times)
    losses = path[..., 0] ** 2 + a * path[..., 1] ** 2
    closed = np.stack([np.asarray(later(w2, s)) for s in times])
    by_charge = jax.vmap(lambda w: jax.grad(later)(w, t) / jax.grad(charge)(w))(w2)
    inside = path[..., 0] ** (2 * a) / path[..., 1] ** 2
    return {
        "charge": np.asarray(charge(w2)),
        "later": np.asarray(later(w2, t)),
        "error": float(np.abs(losses - closed).max()),
        "drift": float(np.abs(inside / inside[0] - 1).max()),
        "derivative": float(jnp.max(jnp.abs(by_charge - printed(w2, t)))),
        "slope": float(jnp.max(jnp.abs(by_charge))),
    }


def claims(result: Result) -> Sequence[Finding]:
    """Trajectories are level sets of the charge, and the formulas for the ellipse."""
    lines, ellipses = result["hyperbolas"], result["ellipses"]
    worst = lambda key: max(e[key] for e in ellipses.values())  # noqa: E731
    found = [
        at_most("Gradient flow of ½(Y−UV)² keeps U² − V² (drift)", lines["drift"], 1e-8, claims=HYPERBOLAS),
        at_most(
            "It ends where the hyperbola of its charge meets UV = Y (distance)",
            lines["missed"],
            1e-6,
            claims=HYPERBOLAS,
        ),
        at_most(
            "w₁² + a w₂²: Q = w₁²ᵃ/w₂² is conserved (relative drift)", worst("drift"), 1e-7, claims=ELLIPSE
        ),
        at_most("The loss at time t is that of (2.22) (error)", worst("error"), 1e-8, claims=ELLIPSE),
        at_most(
            "Its derivative by the charge is that of (2.24) (error)",
            worst("derivative"),
            1e-10,
            claims=ELLIPSE,
        ),
    ]
    if "1" in ellipses:
        found.append(
            at_most(
                "For a = 1 the charge makes no difference (|dL/dQ|)",
                ellipses["1"]["slope"],
                1e-12,
                claims=ELLIPSE,
            )
        )
    return found


def plot(result: Result) -> Figure:
    """Hyperbolas, and the loss at a fixed time against the charge of ellipses."""
    figure, (left, right) = new_figure(2, height=3.6)
    lines, target = result["hyperbolas"], result["target"]
    for i in range(len(lines["charge"])):
        path = lines["path"][:, i]
        left.plot(path[:, 0], path[:, 1], color=SERIES[0], lw=1.2)
        left.plot(*path[0], "o", ms=3, color=MUTED)
        left.plot(*path[-1], "o", ms=4, color=SERIES[2])
        left.annotate(
            f"Q = {lines['charge'][i]:g}", path[-1], (4, 3), textcoords="offset points", fontsize=7, color=INK
        )
    u = np.linspace(target / 3.3, 3.3, 200)
    left.plot(u, target / u, color=SERIES[2], lw=1.0, ls=(0, (4, 3)), label="minima, UV = Y")
    left.set_xlim(0, 3.4)
    left.set_ylim(0, 3.4)
    left.set_box_aspect(1)
    left.set_xlabel("U")
    left.set_ylabel("V")
    left.set_title("Gradient flow of ½(Y − UV)²")
    left.legend(loc="upper right", labelcolor=INK, fontsize=7.5)
    for (a, e), colour in zip(result["ellipses"].items(), SERIES, strict=False):
        right.plot(e["charge"], e["later"], "o-", ms=3.5, color=colour, label=f"a = {a}")
    right.set_xscale("log")
    right.minorticks_off()
    right.set_title("Loss of w₁² + a w₂² at one time")
    right.set_xlabel("charge Q = w₁²ᵃ / w₂²")
    right.set_ylabel(f"loss at t = {result['time'] / 4:g}, from the same loss")
    right.legend(loc="best", labelcolor=INK, fontsize=7.5)
    return figure


EXPERIMENT = Experiment(
    name="charge-trajectories",
    title="Gradient flow along level sets of the charge",
    text=(
        "Gradient flow of ½(Y − UV)² follows the hyperbolas U² − V² = Q and ends where they meet the minima UV = Y: "
        "the charge at the start picks the minimum. For w₁² + a w₂² the conserved quantity is w₁²ᵃ/w₂², and from "
        "the same loss it decides how fast the loss falls, unless a = 1."
    ),
    claim_ids=HYPERBOLAS + ELLIPSE,
    quick=Config(),
    full=Config(charges=tuple(float(q) for q in range(-8, 9)), points=60),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: trajectories from grey to orange dots, which lie on the minima. Right: the loss at one time after "
        "starts of equal loss, against the charge."
    ),
    cost=(0.1, 0.1),
    x64=True,
)
