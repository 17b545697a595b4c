"""Charges under stochastic gradient flow: Corollary 2 against a simulated diffusion and against SGD (EQ-5.2b)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.experiments._experiment import Experiment, Result
from eqtoolbox.experiments._finding import Finding, at_least, at_most
from eqtoolbox.experiments._store import Store
from eqtoolbox.linalg import per_example_grads
from eqtoolbox.noether import charge_fn, flow_drift, flow_drift_by_trace
from eqtoolbox.pages import INK, MUTED, SERIES, new_figure
from eqtoolbox.symmetry import catalog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIM = ("EQ-5.2b",)


@dataclass(frozen=True)
class Config:
    """A small network of one hidden layer, without biases, on noisy targets.

    Attributes:
      sizes: n, h, m.
      activation: with positive scalings, or "linear".
      examples: of the data set.
      noise: deviation of what is added to a teacher's outputs.
      rate: learning rate η of SGD.
      batch: B; the diffusion has σ² = η / 2B.
      time: until which it is followed.
      refine: steps of the diffusion for each of SGD.
      paths: of the diffusion, and as many of SGD.
      records: how often charges are measured.
      seed: of everything random.
    """

    sizes: tuple[int, int, int] = (3, 4, 2)
    activation: str = "relu"
    examples: int = 32
    noise: float = 1.4
    rate: float = 0.01
    batch: int = 1
    time: float = 15.0
    refine: int = 4
    paths: int = 192
    records: int = 40
    seed: int = 0


def run(config: Config, store: Store) -> Result:
    """Both sides of the corollary at a point, and the paths."""
    store.progress.describe("paths of the diffusion and of SGD")
    return store.once("paths", lambda: _paths(config))


def _paths(config: Config) -> dict[str, Any]:
    n, h, m = config.sizes
    keys = jax.random.split(jax.random.key(config.seed), 6)
    module = zoo.MLP((h, m), config.activation, use_bias=False)
    x = jax.random.normal(keys[0], (config.examples, n))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x[:1])["params"])
    kernels = jax.random.normal(keys[1], (n, h)), jax.random.normal(keys[2], (h, m))
    params = {name: {"kernel": 0.8 * k} for name, k in zip(shapes, kernels, strict=True)}
    model: Callable[[Any, Array], Array] = lambda p, x: jnp.asarray(module.apply({"params": p}, x))  # noqa: E731
    clean = model(params, x)
    y = clean + config.noise * jax.random.normal(keys[3], (config.examples, m))
    sym = catalog.mlp(params, list(shapes), config.activation)
    # Another balance of the two layers, and charges that are far from 0.
    params = {
        name: {"kernel": k} for name, k in zip(shapes, (1.2 * kernels[0], 0.5 * kernels[1]), strict=True)
    }

    def batch_loss(p: Any, batch: tuple[Array, Array]) -> Array:
        inputs, targets = batch
        return jnp.mean(jnp.sum((model(p, inputs) - targets) ** 2, -1)) / 2

    def gradients(p: Any) -> Any:
        return per_example_grads(batch_loss, p, (x, y))

    def charges(p: Any) -> Array:
        return jnp.diagonal(values) if (values := charge_fn(sym)(p)["h1"]).shape == (h, h) else values.ravel()

    strength = config.rate / (2 * config.batch)
    steps = round(config.time / config.rate)
    dt, share = config.rate / config.refine, (config.examples - 1) / config.examples

    def predicted(grads: Any) -> Array:
        value = flow_drift(sym, grads, strength).value["h1"] * share
        return jnp.diagonal(value) if value.shape == (h, h) else value.ravel()

    def diffuse(state: Any, xi: Array) -> tuple[Any, None]:
        p, work, bias = state
        grads = gradients(p)
        drift = jax.tree.map(lambda g: jnp.mean(g, 0), grads)
        centred = jax.tree.map(lambda g, d: g - d[None], grads, drift)
        noise = jax.tree.map(lambda c: jnp.tensordot(xi, c, 1) / np.sqrt(config.examples), centred)
        size = np.sqrt(2 * strength * dt)
        p = jax.tree.map(lambda w, d, b: w - dt * d + size * b, p, drift, noise)
        # What Euler steps add to the charge of the flow, which is not the corollary's: dt² of the mean gradient.
        return (p, work + dt * predicted(grads), bias + dt**2 * charges(drift)), None

    def descend(p: Any, rows: Array) -> tuple[Any, None]:
        g = jax.grad(batch_loss)(p, (x[rows], y[rows]))
        return jax.tree.map(lambda w, d: w - config.rate * d, p, g), None

    every = max(1, steps // config.records)

    @jax.jit
    def simulate(key: Array) -> dict[str, Array]:
        def record(state: Any, key: Array) -> tuple[Any, dict[str, Array]]:
            flow, sgd = state
            first, second = jax.random.split(key)
            xi = jax.random.normal(first, (every * config.refine, config.paths, config.examples))
            rows = jax.random.randint(second, (every, config.paths, config.batch), 0, config.examples)
            flow, _ = jax.lax.scan(jax.vmap(diffuse), flow, xi)
            sgd, _ = jax.lax.scan(jax.vmap(descend), sgd, rows)
            seen = {"flow": jax.vmap(charges)(flow[0]), "work": flow[1], "bias": flow[2]}
            return (flow, sgd), {**seen, "sgd": jax.vmap(charges)(sgd)}

        starts = jax.tree.map(lambda w: jnp.broadcast_to(w, (config.paths, *w.shape)), params)
        zero = jnp.zeros((config.paths, h))
        _, seen = jax.lax.scan(record, ((starts, zero, zero), starts), jax.random.split(key, config.records))
        return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), seen)

    grads = gradients(params)
    forms = flow_drift(sym, grads, strength).value["h1"] * share
    by_trace = flow_drift_by_trace(sym, batch_loss, params, (x, y), strength)["h1"]
    mixed = lambda p: charges(p) @ jnp.arange(1.0, 1.0 + h)  # noqa: E731
    return {
        **jax.device_get(simulate(keys[4])),
        "start": np.asarray(charges(params)),
        "times": config.rate * every * np.arange(1, config.records + 1),
        "forms": float(jnp.max(jnp.abs(forms - by_trace)) / jnp.max(jnp.abs(forms))),
        "printed": float(jnp.max(jnp.abs(forms + by_trace)) / jnp.max(jnp.abs(forms))),
        "sample": _per_sample(batch_loss, mixed, params, (x[0], y[0])),
    }


def _per_sample(batch_loss: Any, charge: Any, params: Any, example: tuple[Array, Array]) -> float:
    """The relative difference of ∇²C ∇L_x and -∇²L_x ∇C."""
    loss = lambda p: batch_loss(p, jax.tree.map(lambda a: a[None], example))  # noqa: E731
    along = lambda f, v: jax.jvp(jax.grad(f), (params,), (v,))[1]  # noqa: E731
    left, right = along(charge, jax.grad(loss)(params)), along(loss, jax.grad(charge)(params))
    total = jax.tree.map(jnp.add, left, right)
    size = lambda t: float(jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(t))))  # noqa: E731
    return size(total) / size(left)


def _summary(result: Result) -> dict[str, Any]:
    """At the end, for each charge: mean change, its standard error, the predicted mean, and the misfit in errors."""
    flow, work = result["flow"][:, -1] - result["start"], result["work"][:, -1]
    rest = flow - work - result["bias"][:, -1]
    error = rest.std(0, ddof=1) / np.sqrt(len(rest))
    return {"change": flow.mean(0), "work": work.mean(0), "error": error, "misfit": rest.mean(0) / error}


def claims(result: Result) -> Sequence[Finding]:
    """Identities at a point; the paths against the integrated rate, with its sign, and SGD."""
    s = _summary(result)
    wrong = (result["flow"][:, -1] - result["start"] + result["work"][:, -1]).mean(0) / s["error"]
    sgd = result["sgd"][:, -1] - result["start"]
    spread = np.sqrt(sgd.var(0, ddof=1) / len(sgd) + result["flow"][:, -1].var(0, ddof=1) / len(sgd))
    moved = float(np.abs(s["change"]).max() / np.abs(result["start"]).max())
    shrunk = np.abs(result["sgd"].mean(0)[-1]).sum() / np.abs(result["start"]).sum()
    return [
        at_most(
            "∇²C ∇L_x = −∇²L_x ∇C for one example (relative error)", result["sample"], 1e-9, claims=CLAIM
        ),
        at_most("σ²Tr(Σ∇²C) = −(σ²/2)⟨∇C, ∂Tr Σ⟩ (relative error)", result["forms"], 1e-9, claims=CLAIM),
        at_most(
            "The same without the minus sign, as the proof ends (relative error)",
            result["printed"],
            1e-9,
            claims=CLAIM,
            anticipated="refuted",
        ),
        at_least("Noise moves the charges (change of the mean, of the largest)", moved, 0.05, claims=CLAIM),
        at_most(
            f"by the integral of σ²Tr(Σ∇²C) along {len(sgd)} paths (difference of means, largest in standard errors)",
            float(np.abs(s["misfit"]).max()),
            4.0,
            claims=CLAIM,
        ),
        at_most(
            "and not by its opposite (the same)",
            float(np.abs(wrong).max()),
            4.0,
            claims=CLAIM,
            anticipated="refuted",
        ),
        at_most(
            "SGD moves them alike (difference of mean charges, of the change of the mean)",
            float(np.abs(sgd.mean(0) - s["change"]).max() / np.abs(s["change"]).max()),
            0.2,
            error=float(spread.max() / np.abs(s["change"]).max()),
            claims=CLAIM,
        ),
        at_most(
            "and brings the layers nearer to balance (Σ|mean charge|, of the start)",
            float(shrunk),
            0.95,
            claims=CLAIM,
        ),
    ]


def plot(result: Result) -> Figure:
    """Mean charges of the diffusion, of SGD, and as predicted; and all paths at the end."""
    figure, (left, right) = new_figure(2, height=3.6)
    times = np.concatenate([[0], result["times"]])
    start = result["start"]
    for k in range(len(start)):
        colour = SERIES[k % len(SERIES)]
        grow = lambda values, k=k: np.concatenate([[start[k]], values])  # noqa: E731
        label = [None] * 3 if k else ["predicted", "diffusion", "SGD"]
        drift = start + result["work"].mean(0) + result["bias"].mean(0)
        left.plot(times, grow(drift[:, k]), color=colour, lw=1.2, label=label[0])
        left.plot(times, grow(result["flow"].mean(0)[:, k]), "o", ms=3, mew=0, color=colour, label=label[1])
        left.plot(times, grow(result["sgd"].mean(0)[:, k]), ":", lw=1.5, color=colour, label=label[2])
        left.axhline(start[k], color=MUTED, lw=0.7, ls=(0, (4, 3)))
    left.set_title("Mean charge of each hidden unit")
    left.set_xlabel("time (steps × learning rate)")
    left.set_ylabel("charge")
    change = result["flow"][:, -1] - start
    for k in range(len(start)):
        right.plot(
            result["work"][:, -1, k],
            change[:, k],
            "o",
            ms=2.5,
            mew=0,
            alpha=0.5,
            color=SERIES[k % len(SERIES)],
        )
    low, high = min(change.min(), result["work"][:, -1].min()), max(change.max(), result["work"][:, -1].max())
    right.plot([low, high], [low, high], color=MUTED, lw=0.9, ls=(0, (4, 3)))
    right.set_title("Every path")
    right.set_xlabel("integral of σ²Tr(Σ∇²C)")
    right.set_ylabel("change of the charge")
    left.legend(loc="best", labelcolor=INK, fontsize=7.5)
    return figure


EXPERIMENT = Experiment(
    name="noether-flow",
    title="Charges under stochastic gradient flow",
    text=(
        "Gradient noise moves the charges that gradient flow conserves: dC/dt = σ²Tr(Σ∇²C) with the covariance Σ of "
        "the gradients of the examples, or −(σ²/2)⟨∇C, ∂Tr Σ⟩, which points to where noise is small. Paths of the "
        "diffusion dθ = −∇L dt + √2 σ Σ^½ dW of a ReLU network move in the mean as the integral of this rate says, and "
        "SGD with σ² = η/2B follows: it brings the two layers nearer to balance."
    ),
    claim_ids=CLAIM,
    quick=Config(),
    full=Config(paths=512, time=30.0),
    run=run,
    claims=claims,
    plot=plot,
    caption=(
        "Left: mean charges; the dashed lines are where gradient flow would keep them. Right: for each path and unit, "
        "the change of the charge against the integrated rate; the noise around the diagonal has mean zero."
    ),
    cost=(0.4, 1.2),
    x64=True,
)
