"""The balances W₁W₁ᵀ − W₂ᵀW₂ of every symmetry: conserved by gradient flow, moved by the step size."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from markupsafe import Markup

from eqtoolbox.linalg import coarsest_dtype, float64, rounding, tree_norm
from eqtoolbox.pages import INK, MUTED, SERIES, draw, figure, kept, number, paragraph, table
from eqtoolbox.problem import Batch
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._train import Probe, Step, train
from eqtoolbox.symmetry import Symmetry

ADAM_RATE = 1e-3
#: One-step changes are measured at these multiples of the learning rate.
MULTIPLES = tuple(float(m) for m in np.logspace(-2, 1, 7))

Charges = dict[str, Any]

_WHY = {
    "discrete": "it is discrete: it has no generators",
    "not linear": "it does not act linearly on the parameters",
    "skew": "its generators are skew, so that ⟨θ, Xθ⟩ = 0 for every θ",
    "not conserved": "its generators are not symmetric matrices, and gradient flow does not conserve ⟨θ, Xθ⟩",
}


def charges(sym: Symmetry, params: Params, spaces: tuple[str, ...]) -> Charges:
    """The balances ⟨θ, X_k θ⟩ of all generators of some factors.

    For a layer of linear units this is W₁W₁ᵀ − W₂ᵀW₂; for ReLU units what comes into each unit, squared and
    summed, minus what goes out. They are conserved by gradient flow if the generators are symmetric matrices
    (EQ-4.1a, EQ-4.1b).

    Args:
      sym: a symmetry.
      params: the parameters θ.
      spaces: keys of factors.

    Returns:
      The part of an algebra vector.
    """
    pulled = sym.pullback(params, params)
    return {f: pulled[f] for f in spaces}


def charge_probe(sym: Symmetry, spaces: tuple[str, ...]) -> Probe:
    """Records the norm of the balances, their change, and what second order predicts of the change.

    A step u changes ⟨θ, Xθ⟩ by ⟨u, Xθ⟩ + ⟨θ, Xu⟩ + ⟨u, Xu⟩. For u = −ηg and symmetric X the first two terms
    vanish; the prediction is the running sum of the last.
    """

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


def at_start(context: Context) -> dict[str, Any]:
    """What is known of each factor at θ_0, in float64 where the model allows it.

    The balances are quadratic, so everything follows from their values at a few points: C(θ + g) − C(θ − g) is
    twice the first-order change along g.

    Returns:
      ``kinds``: for each factor "balance", or why it has none: "discrete", "not linear", "skew", "not
      conserved". ``one_step``: the change of the balances in one step of gradient descent and of Adam at the
      step sizes of ``MULTIPLES``, and how far the former is from η²⟨g, Xg⟩; None in less than float64.
    """
    sym = context.symmetry
    kinds = {
        f.key: "discrete" if not f.group.dimension else "balance" if f.group.is_linear else "not linear"
        for f in sym.factors
    }
    spaces = tuple(key for key, kind in kinds.items() if kind == "balance")
    if not spaces:
        return {"kinds": kinds, "one_step": None}
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(p.dtype), context.params)
    fine = context.invariance.fine is not None
    if fine:
        with float64(context.params, noise, context.examples) as trees:
            found = _measure(context, spaces, *trees)
    else:
        found = _measure(context, spaces, context.params, noise, context.examples)
    tolerance = 1e-9 if fine else 1e3 * rounding(context.invariance.dtype)
    for f in spaces:
        if found["generic"][f] <= tolerance:
            kinds[f] = "skew"
        elif found["flow"][f] > tolerance:
            kinds[f] = "not conserved"
    balanced = [f for f in spaces if kinds[f] == "balance"]
    if not (fine and balanced):
        return {"kinds": kinds, "one_step": None}
    names = ("sgd", "adam", "exact", "gap")
    norms = {n: np.sqrt(np.sum([found[n][f] ** 2 for f in balanced], axis=0)) for n in names}
    return {"kinds": kinds, "one_step": norms}


def _measure(
    context: Context, spaces: tuple[str, ...], params: Params, noise: Params, batch: Batch
) -> dict[str, dict[str, Any]]:
    """By factor: the balances at a random z, their first-order change along the gradient, and one-step changes.

    Returns:
      ``generic``: |C(z)| / |z|²; ``flow``: the first-order change / |θ||g|; for each step size ``sgd`` and
      ``adam``, the change; ``exact``, η²|C(g)|; ``gap``, that of the former from the latter.
    """
    sym, adam = context.symmetry, optax.scale_by_adam()
    value = jax.jit(lambda p: charges(sym, p, spaces))

    @jax.jit
    def directions(params: Params, batch: Batch) -> tuple[Params, Params]:
        gradient = jax.grad(context.problem.batch_loss)(params, batch)
        return gradient, adam.update(gradient, adam.init(params))[0]

    params, noise = jax.device_get((params, noise))
    gradient, adam_direction = jax.device_get(directions(params, batch))

    def at(direction: Params, rate: float) -> dict[str, np.ndarray]:
        moved = jax.tree.map(lambda p, d: np.asarray(p - rate * d, p.dtype), params, direction)
        return {f: np.asarray(ravel_pytree(c)[0]) for f, c in value(moved).items()}

    def norm(tree: Params) -> float:
        return float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree))))

    zero = jax.tree.map(np.zeros_like, params)
    start, forward, backward = at(zero, 0.0), at(gradient, -1.0), at(gradient, 1.0)
    rates = context.config.learning_rate * np.asarray(MULTIPLES)
    sgd = [at(gradient, rate) for rate in rates]
    scaled = [at(adam_direction, rate) for rate in ADAM_RATE * np.asarray(MULTIPLES)]
    result: dict[str, dict[str, Any]] = {n: {} for n in ("generic", "flow", "sgd", "adam", "exact", "gap")}
    size, scale = norm(noise), norm(params) * norm(gradient)
    generic = {f: np.asarray(ravel_pytree(c)[0]) for f, c in value(noise).items()}
    for f in spaces:
        second = (forward[f] + backward[f]) / 2 - start[f]
        result["generic"][f] = norm(generic[f]) / size**2
        result["flow"][f] = norm(forward[f] - backward[f]) / 2 / scale if scale else 0.0
        result["sgd"][f] = np.asarray([norm(c[f] - start[f]) for c in sgd])
        result["adam"][f] = np.asarray([norm(c[f] - start[f]) for c in scaled])
        result["exact"][f] = rates**2 * norm(second)
        result["gap"][f] = np.asarray(
            [norm(c[f] - start[f] - r**2 * second) for c, r in zip(sgd, rates, strict=True)]
        )
    return result


def _start(context: Context) -> tuple[dict[str, str], tuple[str, ...], Any]:
    found = context.once("balances at start", lambda: at_start(context))
    kinds = found["kinds"]
    return kinds, tuple(f for f, kind in kinds.items() if kind == "balance"), found["one_step"]


def probe(context: Context) -> Probe | None:
    """Records the balances along training."""
    _, spaces, _ = _start(context)
    return charge_probe(context.symmetry, spaces) if spaces else None


def run(context: Context) -> SectionResult:
    """Compares the drift of the balances with η²Σ⟨g, Xg⟩, and with Adam's."""
    kinds, spaces, one_step = _start(context)
    if not spaces:
        return SectionResult(_absent(kinds), data={"kinds": kinds})
    sgd = context.training.records[SECTION.name]
    adam = train(
        context.problem,
        optax.adam(ADAM_RATE),
        context.params,
        context.data,
        context.indices,
        probes={SECTION.name: charge_probe(context.symmetry, spaces)},
        progress=context.progress,
    ).records[SECTION.name]
    scale = float(sgd["norm"][0]) or float(tree_norm(context.params)) ** 2
    data = _data(sgd, adam, scale) | {"kinds": kinds, "one_step": _slopes(one_step, scale)}
    steps, dtype = len(context.training.loss), coarsest_dtype(context.params)
    checks = [
        Check(
            f"In {steps} steps of gradient descent the balances move by η²Σ⟨g, Xg⟩ and nothing else ({dtype})",
            data["prediction_error"],
            10 * rounding(dtype) * max(steps, 10) ** 0.5,
        )
    ]
    if data["one_step"] is not None:
        checks.append(
            Check(
                "One step moves them by exactly η²⟨g, Xg⟩, at 1 to 10 learning rates (float64)",
                float(np.max(data["one_step"]["sgd_relative_error"][np.asarray(MULTIPLES) >= 1])),
                1e-6,
            )
        )
    note = f"of their norm, as the step size predicts; {number(data['adam']['final'])} under Adam"
    numbers = [Number("Drift of the balances", data["final"], note)]
    return SectionResult(_html(context, data), numbers, checks, data)


def _data(sgd: dict[str, np.ndarray], adam: dict[str, np.ndarray], scale: float) -> dict[str, Any]:
    keep = kept(len(sgd["norm"]))
    return {
        "start": float(sgd["norm"][0]),
        "scale": scale,
        "steps": keep.tolist(),
        "norm": sgd["norm"][keep],
        "change": sgd["change"][keep] / scale,
        "predicted": sgd["predicted"][keep] / scale,
        "prediction_error": float(sgd["error"].max()) / scale,
        "final": float(sgd["change"][-1]) / scale,
        "adam": {
            "learning_rate": ADAM_RATE,
            "norm": adam["norm"][keep],
            "change": adam["change"][keep] / scale,
            "final": float(adam["change"][-1]) / scale,
        },
    }


def _slopes(one_step: dict[str, np.ndarray] | None, scale: float) -> dict[str, Any] | None:
    """The one-step changes relative to the balances, and their slopes in log-log; None where a change is 0."""
    if one_step is None or not all(np.all(one_step[name] > 0) for name in ("sgd", "adam", "exact")):
        return None
    rate = np.log(MULTIPLES)
    return {
        "multiples": list(MULTIPLES),
        "sgd": one_step["sgd"] / scale,
        "adam": one_step["adam"] / scale,
        "sgd_relative_error": one_step["gap"] / one_step["exact"],
        "sgd_slope": float(np.polyfit(rate, np.log(one_step["sgd"]), 1)[0]),
        "adam_slope": float(np.polyfit(rate, np.log(one_step["adam"]), 1)[0]),
    }


def _absent(kinds: dict[str, str]) -> list[Markup]:
    return [
        paragraph(
            "A group of symmetric generators X has the balances ⟨θ, Xθ⟩, which gradient flow conserves. This "
            "model has none:"
        ),
        table(["space", "why not"], [[space, _WHY[k]] for space, k in kinds.items()], narrow=True),
    ]


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    html = [
        paragraph(
            "Every symmetric generator X gives a balance C = ⟨θ, Xθ⟩ that gradient flow conserves. For layers of "
            "linear units they are the entries of W₁W₁ᵀ − W₂ᵀW₂; for a ReLU unit, the squared norm of its "
            "incoming weights and bias minus that of its outgoing weights. A step of size η moves them by exactly "
            "η²⟨g, Xg⟩, since the first order vanishes with the gradient's part along the orbit. Adam's update is "
            "not a gradient: its first order stays."
        ),
        paragraph(
            "What should be seen: under gradient descent a small drift that lies on its prediction, the running sum "
            "of η²⟨g, Xg⟩, and a much larger one under Adam. In one step, a line of slope 2 for gradient descent "
            "(half the step, a quarter of the drift) and of slope 1 for Adam.",
            "see",
        ),
    ]
    caption = (
        f"Left: |C(θₜ) − C(θ₀)| / |C(θ₀)| along training; |C(θ₀)| = {number(data['start'])}, learning rate "
        f"{number(context.config.learning_rate)} (Adam: {number(ADAM_RATE)})."
    )
    if data["one_step"]:
        caption += (
            " Right: the same after one step from θ₀, against the step size as a multiple of the learning rate, "
            "in float64, with fitted slopes."
        )
    html.append(figure(_picture(data), caption))
    rows = [
        [name, data["start"], float(part["norm"][-1]), part["final"]]
        for name, part in (("gradient descent", data), ("Adam", data["adam"]))
    ]
    head = ["trained by", "|C| at the start", "|C| at the end", "relative change"]
    html.append(table(head, rows, narrow=True))
    others = [[space, _WHY[k]] for space, k in data["kinds"].items() if k != "balance"]
    if others:
        html.append(table(["space without balances", "why"], others, narrow=True))
    return html


def _picture(data: dict[str, Any]) -> Markup:
    step = data["one_step"]

    def paint(fig: Any, axes: Any) -> None:
        ax = axes[0]
        ax.set_title("Change of the balances in training")
        steps, predicted = np.asarray(data["steps"])[1:], np.asarray(data["predicted"])[1:]
        ax.plot(steps, data["adam"]["change"][1:], color=SERIES[2], label="Adam")
        ax.plot(steps, data["change"][1:], color=SERIES[0], label="gradient descent")
        at = np.unique(np.geomspace(1, max(len(steps) - 1, 1), 12).round().astype(int))
        at = at[at < len(steps)]
        style = {"ms": 4.5, "mfc": "none", "mew": 1.1, "color": INK}
        ax.plot(steps[at], predicted[at], "o", label="predicted: η²Σ⟨g, Xg⟩", **style)
        ax.set_xlabel("step")
        ax.set_ylabel("relative change")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.minorticks_off()
        if step:
            ax = axes[1]
            ax.set_title("Change in one step")
            for name, colour, at, shift in (("adam", SERIES[2], 3, (-4, 9)), ("sgd", SERIES[0], 2, (10, -8))):
                values = np.asarray(step[name])
                ax.plot(step["multiples"], values, "o-", ms=3.5, color=colour)
                ax.annotate(
                    f"slope {step[f'{name}_slope']:.2f}",
                    (step["multiples"][at], values[at]),
                    xytext=shift,
                    textcoords="offset points",
                    color=colour,
                    fontsize=8.5,
                    ha="right" if name == "adam" else "left",
                )
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlabel("step size / learning rate")
            ax.set_ylabel("relative change")
            ax.axvline(1, color=MUTED, lw=0.9, ls=(0, (4, 3)))
            ax.minorticks_off()
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK)

    alt = "Change of the balances along training and in one step, under gradient descent and under Adam."
    return draw("balances", alt, paint, columns=2 if step else 1, height=3.3)


SECTION = Section("balances", "Balances and their drift", 30, run, probe)
