"""The charge against the rate of convergence: two-layer networks (DA-X3) and radial units (DA-X4)."""

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
from eqtoolbox.experiments._two_layer import ACTIVATIONS, draw_weights, squared_error, total_charge
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETS, RADIAL, PROPOSITION = ("DA-X3",), ("DA-X4",), ("DA-T28",)
#: Convergence: the loss is below this share of the first.
NEAR = 0.01


@dataclass(frozen=True)
class Config:
    """Two-layer networks on X = I by gradient descent, and radial units by gradient flow.

    Attributes:
      outputs: m.
      hidden: h.
      inputs: n.
      deviations: of the entries of U and V.
      balances: factors c of cU and V/c, which leave the function of a linear or ReLU network alone.
      rate: learning rate, for the sum of squares.
      steps: most steps of gradient descent.
      units: radial units.
      charges: Σ u² + v² of the radial units.
      seed: of everything random.
    """

    outputs: int = 5
    hidden: int = 50
    inputs: int = 10
    deviations: tuple[float, ...] = (0.01, 0.1, 1.0)
    balances: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    rate: float = 1e-3
    steps: int = 8000
    units: int = 5
    charges: tuple[float, ...] = (0.157, 1.57, 15.7, 157.0)
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Steps to convergence of networks, and integrated flow of radial units."""
    nets = {}
    for name in ACTIVATIONS:
        store.progress.describe(f"{name}: steps to convergence")
        nets[name] = store.once(name, lambda n=name: _train(n, config))
    store.progress.describe("radial units: gradient flow")
    radial = store.once("radial", lambda: _radial(config))
    return {"nets": nets, "radial": radial, "deviations": np.array(config.deviations), "steps": config.steps}


def _train(name: str, config: Config) -> dict[str, Any]:
    """Charge and losses for all deviations, and for all balances of one function."""
    activation = ACTIVATIONS[name]
    params, target = draw_weights(jax.random.key(config.seed), config.outputs, config.hidden, config.inputs)
    slope = jax.value_and_grad(lambda p: squared_error(activation, p, target))

    def step(p: Any, _: Array) -> tuple[Any, Array]:
        value, g = slope(p)
        return jax.tree.map(lambda w, d: w - config.rate * d, p, g), value

    @jax.jit
    def descend(start: Any) -> dict[str, Array]:
        _, losses = jax.lax.scan(jax.vmap(step, (0, None)), start, jnp.arange(config.steps))
        charge = jax.vmap(lambda p: total_charge(activation, p))(start)
        return {"charge": charge, "losses": losses.T[:, ::10], "converged": _first(losses.T)}

    scales = jnp.asarray(config.deviations)
    starts = jax.tree.map(lambda w: jnp.multiply.outer(scales, w), params)
    found = {"scaled": jax.device_get(descend(starts))}
    if name in ("linear", "ReLU"):
        c = jnp.asarray(config.balances)
        starts = {
            "U": jnp.multiply.outer(0.1 * c, params["U"]),
            "V": jnp.multiply.outer(0.1 / c, params["V"]),
        }
        found["balanced"] = jax.device_get(descend(starts))
    return found


def _first(losses: Array) -> Array:
    """The first step with a loss of ``NEAR`` of the first; the number of steps where there is none."""
    below = losses <= NEAR * losses[:, :1]
    return jnp.where(jnp.any(below, 1), jnp.argmax(below, 1), losses.shape[1])


def _radial(config: Config) -> dict[str, Any]:
    """Gradient flow of ½‖Y - U g(Vᵀ)‖², rows g(w) = w/|w|², from singular vectors of Y, as matrices."""
    from scipy.integrate import solve_ivp

    k, n = config.units, config.inputs
    rng = np.random.default_rng(config.seed)
    target = rng.normal(size=(k, n))
    phi, sy, psi = np.linalg.svd(target, full_matrices=False)
    ratio = sy * rng.uniform(0.2, 0.6, k)
    shares = rng.uniform(0.6, 1.4, k)
    shares /= shares.sum()

    @jax.jit
    def flow(flat: Array) -> Array:
        def loss(flat: Array) -> Array:
            u, v = flat[: k * k].reshape(k, k), flat[k * k :].reshape(n, k)
            return jnp.sum((target - u @ (v / jnp.sum(v**2, 0, keepdims=True)).T) ** 2) / 2

        return -jax.grad(loss)(flat)

    runs = []
    for charge in config.charges:
        lam = charge * shares
        u, v = np.sqrt(lam) * ratio / np.sqrt(1 + ratio**2), np.sqrt(lam / (1 + ratio**2))
        start = np.concatenate([(phi * u).ravel(), (psi.T * v).ravel()])
        times = np.concatenate([[0.0], np.geomspace(1e-4, 6.0, 60)]) * lam.max()
        path = solve_ivp(
            lambda _, w: np.asarray(flow(w)), (0, times[-1]), start, "LSODA", times, rtol=1e-10, atol=1e-13
        )
        ode = lambda _, s, lam=lam: (sy - s) * (s**2 + 1) ** 2 / lam  # noqa: E731
        exact = solve_ivp(ode, (0, times[-1]), ratio, "LSODA", times, rtol=1e-11, atol=1e-13).y.T
        us = path.y.T[:, : k * k].reshape(-1, k, k)
        vs = path.y.T[:, k * k :].reshape(-1, n, k)
        turned = np.einsum("ji,tjk->tik", phi, us), np.einsum("ij,tjk->tik", psi, vs)
        diagonals = [np.einsum("tii->ti", x) for x in turned]
        outside = max(float(np.abs(x * (1 - np.eye(k))).max() / np.abs(x).max()) for x in turned)
        s = diagonals[0] / diagonals[1]
        distance = np.abs(s - sy)
        bound = distance[0] * np.exp(-times[:, None] / lam)
        loss = np.sum((s - sy) ** 2, 1)
        near = np.interp(-np.log(NEAR), -np.log(loss / loss[0]), times)
        runs.append(
            {
                "times": times,
                "loss": loss / loss[0],
                "outside": outside,
                "error": float(np.abs(s - exact).max() / sy.max()),
                "above": float(np.max((distance - bound) / sy.max())),
                "drift": float(np.abs(diagonals[0] ** 2 + diagonals[1] ** 2 - lam).max() / lam.max()),
                "near": float(near),
            }
        )
    return {"charge": np.array(config.charges), "runs": runs}


def claims(result: Result) -> Sequence[Finding]:
    """Order of the numbers of steps, and the propositions on radial units."""
    nets, radial = result["nets"], result["radial"]
    runs, near = radial["runs"], np.array([r["near"] for r in radial["runs"]])
    found = []
    for name, net in nets.items():
        steps = net["scaled"]["converged"]
        found.append(
            at_most(
                f"{name}: a larger scale of initialisation, so a larger |Q|, takes fewer steps: "
                f"{', '.join(map(str, steps))} (largest ratio of neighbours)",
                float(np.max(steps[1:] / steps[:-1])),
                0.95,
                claims=NETS,
            )
        )
    for name in ("linear", "ReLU"):
        net = nets[name]["balanced"]
        order = np.argsort(np.abs(net["charge"]))
        steps = net["converged"][order]
        found.append(
            at_most(
                f"{name}: the same function and loss, with another balance of U and V: steps fall with |Q| "
                f"({', '.join(map(str, steps))}; the last over the first)",
                float(steps[-1] / steps[0]),
                0.8,
                claims=NETS,
            )
        )
    slope = float(np.polyfit(np.log(radial["charge"]), np.log(near), 1)[0])
    return [
        *found,
        at_least(
            "Radial units: a smaller Q converges faster (least ratio of times)",
            float(np.min(near[1:] / near[:-1])),
            2.0,
            claims=RADIAL,
        ),
        at_most(
            "Radial units: in times proportional to Q (exponent minus one)",
            abs(slope - 1),
            1e-3,
            claims=RADIAL,
        ),
        at_most(
            "The flow stays diagonal (outside the diagonal)",
            max(r["outside"] for r in runs),
            1e-8,
            claims=PROPOSITION,
        ),
        at_most(
            "s = u/v follows s' = (s_Y − s)(s² + 1)²/λ (error)",
            max(r["error"] for r in runs),
            1e-6,
            claims=PROPOSITION,
        ),
        at_most(
            "λ = u² + v² is conserved (relative drift)",
            max(r["drift"] for r in runs),
            1e-7,
            claims=PROPOSITION,
        ),
        at_most(
            "|s − s_Y| ≤ |s(0) − s_Y| exp(−t/λ) at all times (excess)",
            max(r["above"] for r in runs),
            1e-8,
            claims=PROPOSITION,
        ),
    ]


def plot(result: Result) -> Figure:
    """Losses along training for three scales, steps at one function, and radial units."""
    figure, (left, middle, right) = new_figure(3, height=3.6)
    styles = ["-", "--", ":", "-."]
    nets = result["nets"]
    for (name, net), colour in zip(nets.items(), SERIES, strict=True):
        for k in range(len(result["deviations"])):
            losses = net["scaled"]["losses"][k]
            steps = 10 * np.arange(len(losses)) + 1
            seen = losses >= 1e-4 * losses[0]
            label = name if k == 0 else None
            left.plot(
                steps[seen], (losses / losses[0])[seen], styles[k % 4], lw=1.2, color=colour, label=label
            )
    left.axhline(NEAR, color=MUTED, lw=0.9)
    left.set_title("Loss by step")
    left.set_xlabel("step")
    left.set_ylabel("loss / first loss")
    left.set_xscale("log")
    for name, colour in (("linear", SERIES[0]), ("ReLU", SERIES[1])):
        net = nets[name]["balanced"]
        order = np.argsort(net["charge"])
        middle.plot(net["charge"][order], net["converged"][order], "o-", ms=4, color=colour)
    middle.set_xscale("symlog", linthresh=1.0)
    middle.set_xticks([-10, 0, 10])
    middle.set_title("Same function, other Q")
    middle.set_xlabel("charge Q")
    middle.set_ylabel(f"steps to {NEAR:.0%} of the loss")
    radial = result["radial"]
    for charge, r, shade in zip(
        radial["charge"], radial["runs"], np.linspace(0.35, 1, len(radial["charge"])), strict=True
    ):
        seen = (r["times"] > 0) & (r["loss"] >= 1e-6)
        label = f"Q = {charge:g}"
        right.plot(r["times"][seen], r["loss"][seen], color=SERIES[3], alpha=float(shade), label=label)
    right.set_xscale("log")
    right.set_title("Radial units")
    right.set_xlabel("time")
    right.legend(loc="lower left", labelcolor=INK, fontsize=7)
    for ax in (left, right):
        ax.set_yscale("log")
        ax.minorticks_off()
    middle.minorticks_off()
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    name="charge-convergence",
    title="The charge and the rate of convergence",
    text=(
        "Networks U σ(V) on whitened inputs converge in fewer steps from a larger scale of initialisation, which is "
        "also a larger charge. The scale changes the function and its loss, too: a second run starts linear and ReLU "
        "networks at one function with other balances of cU and V/c, where only the charge differs, and the steps fall "
        "with |Q|. Radial units that start at singular vectors of the target stay there; each is one number "
        "s = u/v with s' = (s_Y − s)(s² + 1)²/λ and the charge λ = u² + v², so that a smaller charge converges faster, "
        "in a time proportional to it, and at least as fast as exp(−t/λ)."
    ),
    claim_ids=NETS + RADIAL + PROPOSITION,
    quick=Config(),
    full=Config(
        deviations=(0.01, 0.03, 0.1, 0.3, 1.0),
        balances=(0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        charges=(0.157, 0.5, 1.57, 5.0, 15.7, 50.0, 157.0, 500.0),
        steps=20000,
    ),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: loss by step; solid, dashed and dotted for deviations of the initial weights in increasing order. "
        "Middle: steps of networks that start with the same function. Right: radial units of several charges under "
        "gradient flow, from the same function."
    ),
    cost=(0.2, 0.2),
    x64=True,
)
