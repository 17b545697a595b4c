"""The gradient along training: no part of it points along the orbit, and it moves with the parameters."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array
from markupsafe import Markup

from eqtoolbox.linalg import tree_norm
from eqtoolbox.report._blocks import figure, number, paragraph, table
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._figures import INK, MUTED, SERIES, canvas, svg
from eqtoolbox.report._precision import float64, rounding
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._series import kept
from eqtoolbox.report._train import Probe, Step
from eqtoolbox.symmetry import Symmetry
from eqtoolbox.testing import discrepancy

ELEMENTS = 3
POWER_ITERATIONS = 8
#: What counts as rounding, in machine epsilons.
ROUNDING = {"training": 100, "float64": 1e4}


def orbit_part(sym: Symmetry, params: Params, gradient: Params, key: Array) -> dict[str, Array]:
    """How much of a gradient points along the orbit: |Xᵀg| / (|X| |g|), by space and in all.

    X is the map from algebra vectors to characteristic directions at θ and |X| its largest stretch, by power
    iteration. The value is 0 for the gradient of an invariant function (EQ-T1-i, DA-T8), and 1 if the gradient
    points along the most stretched direction of the orbit.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      gradient: g, a pytree like ``params``.
      key: a typed key, for the start of the power iteration.

    Returns:
      The value keyed ``""``, and with only the generators of one factor in Xᵀg, keyed by its spaces.
    """
    pulled = sym.pullback(params, gradient)

    def power(xi: Any, _: None) -> tuple[Any, Array]:
        length = tree_norm(xi)
        unit = jax.tree.map(lambda v: v / length, xi)
        direction = sym.generator(unit, params)
        return sym.pullback(params, direction), tree_norm(direction)

    start = sym.pullback(params, sym.generator(sym.sample_algebra(key), params))
    _, stretches = jax.lax.scan(power, start, length=POWER_ITERATIONS)
    scale = stretches[-1] * tree_norm(gradient)
    scale = jax.numpy.where(scale > 0, scale, 1)
    return {"": tree_norm(pulled) / scale, **{f: tree_norm(part) / scale for f, part in pulled.items()}}


def probe(context: Context) -> Probe | None:
    """Records the orbit part of every gradient, and that of the wrong symmetry."""
    sym, control, key = context.symmetry, context.control, context.key("power iteration")
    if sym.is_discrete:
        return None

    def record(state: tuple[()], step: Step) -> tuple[tuple[()], Any]:
        parts = {"right": orbit_part(sym, step.params, step.gradient, jax.random.clone(key))}
        if control is not None:
            wrong = orbit_part(control.symmetry, step.params, step.gradient, jax.random.clone(key))
            parts["wrong"] = {"": wrong[""]}
        return state, parts

    return Probe(lambda params: (), record)


def run(context: Context) -> SectionResult:
    """Collects the orbit part along training and compares gradients at moved points."""
    sym, control, dtype = context.symmetry, context.control, context.invariance.dtype
    steps = [step for step, _ in context.training.snapshots]
    exact = context.invariance.fine is not None
    moved = {"training": _moved_errors(context, sym)}
    if exact:
        moved["float64"] = _moved_errors(context, sym, fine=True)
    if control is not None:
        moved["wrong"] = _moved_errors(context, control.symmetry)
    data: dict[str, Any] = {"snapshots": steps, "moved_gradient_error": moved, "dtype": dtype}
    checks = [
        Check(
            f"∇L(gθ) = g⁻ᵀ∇L(θ) at {len(steps)} points of training ({dtype})",
            max(moved["training"]),
            ROUNDING["training"] * rounding(dtype),
        )
    ]
    if exact:
        bound = ROUNDING["float64"] * rounding("float64")
        checks.append(Check("The same in float64", max(moved["float64"]), bound))
    if sym.is_discrete:
        data["orbit_part"] = None
        note = f"a wrong symmetry: {number(min(moved['wrong']))}" if control else f"in {dtype}"
        numbers = [Number("Largest error of the gradient at a moved point", max(moved["training"]), note)]
        return SectionResult(_html(context, data), numbers, checks, data)

    record = context.training.records["gradient"]
    keep = kept(len(context.training.loss))
    right = record["right"]
    data["orbit_part"] = {
        "steps": keep.tolist(),
        "training": right[""][keep],
        "largest": float(right[""].max()),
        "median": float(np.median(right[""])),
        "largest_by_space": {f.key: float(right[f.key].max()) for f in sym.factors if f.key in right},
        "float64": _fine_orbit_part(context) if exact else None,
        "wrong": record["wrong"][""][keep] if control else None,
        "wrong_median": float(np.median(record["wrong"][""])) if control else None,
    }
    largest = data["orbit_part"]["largest"]
    checks.insert(
        0,
        Check(
            f"The gradient has no part along the orbit at any of the {len(right[''])} steps ({dtype})",
            largest,
            ROUNDING["training"] * rounding(dtype),
        ),
    )
    if exact:
        bound = ROUNDING["float64"] * rounding("float64")
        checks.insert(1, Check("The same in float64", max(data["orbit_part"]["float64"]), bound))
    note = "of its norm, over all steps"
    if control is not None:
        note += f"; {number(data['orbit_part']['wrong_median'])} for a wrong symmetry"
    return SectionResult(
        _html(context, data), [Number("Gradient along the orbit", largest, note)], checks, data
    )


def _moved_errors(context: Context, sym: Symmetry, *, fine: bool = False) -> list[float]:
    """The largest relative error of ∇L(gθ) = g⁻ᵀ∇L(θ) under random elements, at each snapshot."""
    gradient = jax.grad(context.problem.batch_loss)

    @jax.jit
    def both(params: Params, batch: Any, key: Array) -> tuple[Params, Params]:
        g = sym.sample(key)
        return gradient(sym.act(g, params), batch), sym.act_dual(g, gradient(params, batch))

    def measure(params: Params, batch: Any) -> float:
        keys = jax.random.split(context.key("moved gradient"), ELEMENTS)
        return max(discrepancy(*both(params, batch, key)).error for key in keys)

    errors = []
    for _, params in context.training.snapshots:
        if fine:
            with float64(params, context.examples) as (p, batch):
                errors.append(measure(p, batch))
        else:
            errors.append(measure(params, context.examples))
    return errors


def _fine_orbit_part(context: Context) -> list[float]:
    """The orbit part in float64 at each snapshot, on the fixed examples."""
    key = context.key("power iteration")

    @jax.jit
    def measure(params: Params, batch: Any) -> Array:
        gradient = jax.grad(context.problem.batch_loss)(params, batch)
        return orbit_part(context.symmetry, params, gradient, jax.random.clone(key))[""]

    with float64(context.examples) as (batch,):
        found = []
        for _, params in context.training.snapshots:
            with float64(params) as (p,):
                found.append(float(measure(p, batch)))
    return found


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    discrete = data["orbit_part"] is None
    html = []
    if not discrete:
        html.append(
            paragraph(
                "Along the orbit of a symmetry the loss is constant, so its gradient has no component there: with "
                "X the generators at θ, Xᵀ∇L(θ) = 0, at every point, on every batch, whatever the data. Shown is "
                "|Xᵀg| / (|X||g|) for the gradient g of every training step; it would be 1 for a gradient along "
                "the orbit."
            )
        )
    html.append(
        paragraph(
            "At a moved point gθ, where the network computes the same function, the gradient is g⁻ᵀ∇L(θ), the "
            "inverse transpose of the action: the same vector for a permutation or a rotation, a different one for a "
            "scaling."
            + ("" if not discrete else " The group is discrete: it has no directions to look along.")
        )
    )
    text = "What should be seen: the true symmetry at the level of rounding from the first step to the last"
    text += ", and in float64 nine orders of magnitude below" if context.invariance.fine is not None else ""
    text += (
        f". The wrong symmetry, which forgets {context.control.leaf}, is many orders above."
        if context.control
        else "."
    )
    html.append(paragraph(text, "see"))
    html.append(figure(_draw(context, data), _caption(context, data)))
    if not discrete and len(data["orbit_part"]["largest_by_space"]) > 1:
        html.append(
            table(
                ["space", "largest |Xᵀg| / (|X||g|) over all steps"],
                [[space, value] for space, value in data["orbit_part"]["largest_by_space"].items()],
            )
        )
    return html


def _caption(context: Context, data: dict[str, Any]) -> str:
    dtype = data["dtype"]
    moved = (
        f"Largest relative error of ∇L(gθ) = g⁻ᵀ∇L(θ) over {ELEMENTS} random elements, on "
        f"{context.examples.size} training examples."
    )
    if data["orbit_part"] is None:
        return moved
    return (
        f"Left: the orbit part of the gradient at every step, as trained in {dtype}"
        + (", and in float64 at some of them" if data["orbit_part"]["float64"] else "")
        + f". The dashed line is the machine epsilon of {dtype}. Right: {moved[0].lower()}{moved[1:]}"
    )


def _draw(context: Context, data: dict[str, Any]) -> Markup:
    part, moved, dtype = data["orbit_part"], data["moved_gradient_error"], data["dtype"]
    names = {"training": f"the symmetry, {dtype}", "float64": "the symmetry, float64", "wrong": "a wrong symmetry"}
    colours = {"training": SERIES[0], "float64": SERIES[1], "wrong": SERIES[2]}
    fig, axes = canvas(1 if part is None else 2, height=3.3)
    if part is not None:
        ax = axes[0]
        ax.set_title("Part of the gradient along the orbit")
        ax.plot(part["steps"], part["training"], color=colours["training"], lw=0.9)
        if part["wrong"] is not None:
            ax.plot(part["steps"], part["wrong"], color=colours["wrong"], lw=0.9)
        if part["float64"] is not None:
            ax.plot(data["snapshots"], part["float64"], "o-", ms=3.5, lw=0.9, color=colours["float64"])
        ax.set_ylabel("|Xᵀg| / (|X||g|)")
    ax = axes[-1]
    ax.set_title("Error of the gradient at a moved point")
    for name, values in moved.items():
        ax.plot(data["snapshots"], values, "o-", ms=3.5, color=colours[name], label=names[name])
    ax.set_ylabel("relative error")
    for ax in axes:
        ax.set_yscale("log")
        ax.set_xlabel("step")
        ax.axhline(rounding(dtype), color=MUTED, lw=0.9, ls=(0, (4, 3)))
        ax.set_ylim(1e-18, 10)
        ax.set_yticks([10.0**k for k in range(-18, 1, 3)])
        ax.minorticks_off()
    handles, labels = axes[-1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, labelcolor=INK)
    return svg(fig, "gradient", "Orbit part and covariance of the gradient along training, on a log scale.")


SECTION = Section("gradient", "The gradient has no part along the orbit", 20, run, probe)
