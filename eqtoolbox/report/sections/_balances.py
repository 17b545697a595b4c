"""The balances W₁W₁ᵀ − W₂ᵀW₂ of every symmetry: conserved by gradient flow, moved by the step size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from markupsafe import Markup

from eqtoolbox.linalg import random_like, tree_norm
from eqtoolbox.problem import Batch
from eqtoolbox.report._blocks import figure, number, paragraph, table
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._figures import INK, MUTED, SERIES, canvas, svg
from eqtoolbox.report._precision import coarsest, float64, rounding
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._series import kept
from eqtoolbox.report._train import Probe, Step, train
from eqtoolbox.symmetry import Symmetry

ADAM_RATE = 1e-3
#: One-step changes are measured at these multiples of the learning rate.
MULTIPLES = tuple(float(m) for m in np.logspace(-2, 1, 7))

Charges = dict[str, Any]


def charges(sym: Symmetry, params: Params, spaces: tuple[str, ...]) -> Charges:
    """The balances ⟨θ, X_k θ⟩ of all generators of some factors.

    For a layer of linear units this is W₁W₁ᵀ − W₂ᵀW₂, for ReLU units what comes into each unit, squared and
    summed, minus what goes out. They are conserved by gradient flow if the generators are symmetric matrices.

    Args:
      sym: a symmetry.
      params: the parameters θ.
      spaces: keys of factors.

    Returns:
      The part of an algebra vector.
    """
    pulled = sym.pullback(params, params)
    return {f: pulled[f] for f in spaces}


def first_order(sym: Symmetry, params: Params, update: Params, spaces: tuple[str, ...]) -> Charges:
    """⟨u, X_k θ⟩ + ⟨θ, X_k u⟩: the change of the balances in first order in the update u."""
    left, right = sym.pullback(params, update), sym.pullback(update, params)
    return {f: left[f] + right[f] for f in spaces}


def kinds(context: Context) -> dict[str, str]:
    """What is known of each factor's balances: "balance", or why there is none.

    Returns:
      For each factor "balance", "discrete", "not linear", "skew" (⟨θ, Xθ⟩ vanishes identically) or "not
      conserved" (the generators are not symmetric, so gradient flow does not conserve it).
    """
    sym = context.symmetry
    found = {}
    for f in sym.factors:
        found[f.key] = (
            "discrete" if not f.group.dimension else "balance" if f.group.is_linear else "not linear"
        )
    open_ones = tuple(key for key, kind in found.items() if kind == "balance")
    if not open_ones:
        return found
    exact = context.invariance.fine is not None
    tolerance = 1e-9 if exact else 1e3 * rounding(context.invariance.dtype)
    key = context.key("kinds of balances")

    @jax.jit
    def measure(params: Params, batch: Batch, key: Array) -> tuple[Charges, Charges, Array, Array]:
        noise = random_like(key, params)
        gradient = jax.grad(context.problem.batch_loss)(params, batch)
        flow = first_order(sym, params, gradient, open_ones)
        return charges(sym, noise, open_ones), flow, tree_norm(noise), tree_norm(params) * tree_norm(gradient)

    if exact:
        with float64(context.params, context.examples) as (params, batch):
            generic, flow, size, scale = jax.device_get(measure(params, batch, key))
    else:
        generic, flow, size, scale = jax.device_get(measure(context.params, context.examples, key))
    for f in open_ones:
        if np.abs(generic[f]).max(initial=0) <= tolerance * size**2:
            found[f] = "skew"
        elif np.abs(flow[f]).max(initial=0) > tolerance * scale:
            found[f] = "not conserved"
    return found


def balanced(context: Context) -> tuple[str, ...]:
    """The factors that have balances."""
    return tuple(key for key, kind in kinds(context).items() if kind == "balance")


def charge_probe(sym: Symmetry, spaces: tuple[str, ...]) -> Probe:
    """Records the norm of the balances, their change, and what second order predicts of the change."""

    def init(params: Params) -> tuple[Charges, Charges]:
        start = charges(sym, params, spaces)
        return start, jax.tree.map(jnp.zeros_like, start)

    def record(state: tuple[Charges, Charges], step: Step) -> tuple[Any, dict[str, Array]]:
        start, predicted = state
        now = charges(sym, step.params, spaces)
        change = jax.tree.map(jnp.subtract, now, start)
        measured = {
            "norm": tree_norm(now),
            "change": tree_norm(change),
            "predicted": tree_norm(predicted),
            "error": tree_norm(jax.tree.map(jnp.subtract, change, predicted)),
        }
        second = charges(sym, step.updates, spaces)
        return (start, jax.tree.map(jnp.add, predicted, second)), measured

    return Probe(init, record)


def probe(context: Context) -> Probe | None:
    """Records the balances along training."""
    spaces = balanced(context)
    return charge_probe(context.symmetry, spaces) if spaces else None


def run(context: Context) -> SectionResult:
    """Compares the drift of the balances with η²Σ⟨g, X g⟩, and with Adam's."""
    kind = kinds(context)
    spaces = tuple(key for key, k in kind.items() if k == "balance")
    data: dict[str, Any] = {"kinds": kind}
    if not spaces:
        return SectionResult(_absent(kind), (), (), data)
    sym, dtype = context.symmetry, coarsest(context.params)
    sgd = context.training.records["balances"]
    adam = train(
        context.problem,
        optax.adam(ADAM_RATE),
        context.params,
        context.data,
        context.indices,
        probes={"balances": charge_probe(sym, spaces)},
        advance=context.advance,
    ).records["balances"]
    scale = float(sgd["norm"][0]) or float(tree_norm(context.params)) ** 2
    keep = kept(len(context.training.loss))
    data |= {
        "start": float(sgd["norm"][0]),
        "scale": scale,
        "steps": keep.tolist(),
        "norm": sgd["norm"][keep],
        "relative_change": sgd["change"][keep] / scale,
        "predicted_relative_change": sgd["predicted"][keep] / scale,
        "prediction_error": float(sgd["error"].max()) / scale,
        "final_relative_change": float(sgd["change"][-1]) / scale,
        "adam": {
            "learning_rate": ADAM_RATE,
            "norm": adam["norm"][keep],
            "relative_change": adam["change"][keep] / scale,
            "final_relative_change": float(adam["change"][-1]) / scale,
        },
        "one_step": one_step(context, spaces, scale) if context.invariance.fine is not None else None,
    }
    steps = len(context.training.loss)
    checks = [
        Check(
            f"Under gradient descent the balances move by η²Σ⟨g, Xg⟩ and nothing else ({dtype}, {steps} steps)",
            data["prediction_error"],
            10 * rounding(dtype) * max(steps, 10) ** 0.5,
        )
    ]
    if data["one_step"] is not None:
        checks.append(
            Check(
                "One step of gradient descent moves them by exactly η²⟨g, Xg⟩ (float64, 7 step sizes)",
                max(data["one_step"]["sgd_relative_error"]),
                1e-6,
            )
        )
    numbers = [
        Number(
            "Drift of the balances",
            data["final_relative_change"],
            f"of their norm, by step size alone; {number(data['adam']['final_relative_change'])} under Adam",
        )
    ]
    return SectionResult(_html(context, data), numbers, checks, data)


def one_step(context: Context, spaces: tuple[str, ...], scale: float) -> dict[str, Any]:
    """The change of the balances in one step against the step size, in float64, from θ_0.

    Args:
      context: gives the problem, θ_0 and the examples.
      spaces: the factors that have balances.
      scale: what changes are divided by.

    Returns:
      The step sizes, the changes under gradient descent and Adam, and how far the former are from
      η²⟨g, Xg⟩, relative to it; the local slopes of both in log-log.
    """
    sym, problem = context.symmetry, context.problem

    def rates(base: float) -> Array:
        return base * jnp.asarray(MULTIPLES)

    @jax.jit
    def measure(params: Params, batch: Batch) -> dict[str, Array]:
        gradient = jax.grad(problem.batch_loss)(params, batch)
        start, second = charges(sym, params, spaces), charges(sym, gradient, spaces)
        adam_direction, _ = optax.scale_by_adam().update(gradient, optax.scale_by_adam().init(params))

        def change(direction: Params, rate: Array) -> Charges:
            moved = jax.tree.map(lambda p, d: p - rate * d, params, direction)
            return jax.tree.map(jnp.subtract, charges(sym, moved, spaces), start)

        def sgd(rate: Array) -> tuple[Array, Array]:
            found = change(gradient, rate)
            exact = jax.tree.map(lambda c: rate**2 * c, second)
            gap = tree_norm(jax.tree.map(jnp.subtract, found, exact))
            return tree_norm(found), gap / tree_norm(exact)

        norms, errors = jax.vmap(sgd)(rates(context.config.learning_rate))
        adam = jax.vmap(lambda rate: tree_norm(change(adam_direction, rate)))(rates(ADAM_RATE))
        return {"sgd": norms, "sgd_relative_error": errors, "adam": adam}

    with float64(context.params, context.examples) as (params, batch):
        found = jax.device_get(measure(params, batch))
    log = np.log(MULTIPLES)
    return {
        "multiples": list(MULTIPLES),
        "sgd": found["sgd"] / scale,
        "adam": found["adam"] / scale,
        "sgd_relative_error": found["sgd_relative_error"],
        "sgd_slope": float(np.polyfit(log, np.log(found["sgd"]), 1)[0]),
        "adam_slope": float(np.polyfit(log, np.log(found["adam"]), 1)[0]),
    }


_WHY = {
    "discrete": "it is discrete and has no generators",
    "not linear": "it does not act linearly",
    "skew": "its generators are skew, so ⟨θ, Xθ⟩ = 0 for every θ: its conserved quantities are angular momenta, "
    "which gradient flow has none of",
    "not conserved": "its generators are not symmetric matrices, so gradient flow does not conserve ⟨θ, Xθ⟩",
}


def _absent(kind: dict[str, str]) -> list[Markup]:
    return [
        paragraph(
            "A group of symmetric generators X has the balances ⟨θ, Xθ⟩, which gradient flow conserves. This "
            "model has none:"
        ),
        table(["space", "why not"], [[space, _WHY[k]] for space, k in kind.items()]),
    ]


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    html = [
        paragraph(
            "Every symmetric generator X gives a balance C = ⟨θ, Xθ⟩ that gradient flow conserves. For layers of "
            "linear units they are the entries of W₁W₁ᵀ − W₂ᵀW₂; for a ReLU unit, the squared norm of its "
            "incoming weights and bias minus that of its outgoing weights. A step of size η moves them by exactly "
            "η²⟨g, Xg⟩: first order vanishes with the gradient's orbit part. Adam's update is not a gradient, so "
            "first order stays."
        ),
        paragraph(
            "What should be seen: under gradient descent a small drift on top of its prediction, the running sum of "
            "η²⟨g, Xg⟩; under Adam a drift that needs no explanation by step size. In one step, a line of slope 2 "
            "for gradient descent (halve the step, quarter the drift) and of slope 1 for Adam.",
            "see",
        ),
        figure(
            _draw(context, data),
            f"Left: |C(θ_t) − C(θ_0)| / |C(θ_0)| along training, |C(θ_0)| = {number(data['start'])}, η = "
            f"{number(context.config.learning_rate)} (Adam: {number(ADAM_RATE)}). Right: the same after one step "
            "from θ_0, against the step size as a multiple of these, in float64; the numbers are fitted slopes.",
        ),
    ]
    others = [[space, _WHY[k]] for space, k in data["kinds"].items() if k != "balance"]
    if others:
        html.append(table(["space without balances", "why"], others))
    return html


def _draw(context: Context, data: dict[str, Any]) -> Markup:
    step = data["one_step"]
    fig, axes = canvas(2 if step else 1, height=3.3)
    ax = axes[0]
    ax.set_title("Change of the balances along training")
    ax.plot(data["steps"], data["adam"]["relative_change"], color=SERIES[2], label="Adam")
    ax.plot(data["steps"], data["relative_change"], color=SERIES[0], label="gradient descent")
    marks = kept(len(data["steps"]), 13)[1:]
    predicted = np.asarray(data["predicted_relative_change"])
    ax.plot(
        np.asarray(data["steps"])[marks],
        predicted[marks],
        "o",
        ms=4.5,
        mfc="none",
        mew=1.1,
        color=INK,
        label="predicted, η²Σ⟨g, Xg⟩",
    )
    ax.set_xlabel("step")
    ax.set_ylabel("relative change")
    ax.set_ylim(bottom=0)
    if step:
        ax = axes[1]
        ax.set_title("Change in one step")
        for name, colour in (("adam", SERIES[2]), ("sgd", SERIES[0])):
            values = np.asarray(step[name])
            ax.plot(step["multiples"], values, "o-", ms=3.5, color=colour)
            middle = len(values) // 2
            ax.annotate(
                f"slope {step[f'{name}_slope']:.2f}",
                (step["multiples"][middle], values[middle]),
                xytext=(6, -9),
                textcoords="offset points",
                color=colour,
                fontsize=8.5,
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("step size, in learning rates")
        ax.set_ylabel("relative change")
        ax.axvline(1, color=MUTED, lw=0.9, ls=(0, (4, 3)))
        ax.minorticks_off()
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK)
    return svg(fig, "balances", "Change of the balances along training and in one step, SGD against Adam.")


SECTION = Section("balances", "Balances and their drift", 30, run, probe)


