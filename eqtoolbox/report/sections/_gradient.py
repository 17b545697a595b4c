"""The gradient along training: no part of it points along the orbit, and it moves with the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from markupsafe import Markup

from eqtoolbox.linalg import float64, rounding, tree_norm
from eqtoolbox.pages import INK, MUTED, SERIES, draw, figure, kept, number, paragraph, table
from eqtoolbox.problem import Batch
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._train import Probe, Step
from eqtoolbox.symmetry import Symmetry
from eqtoolbox.testing import TOLERANCES, discrepancy

ELEMENTS = 3
POWER_ITERATIONS = 8


def orbit_part(sym: Symmetry, params: Params, gradient: Params) -> dict[str, Array]:
    """How much of a gradient points along the orbit: |Xᵀg| / (|X| |g|), in all and by space.

    X is the map from algebra vectors to characteristic directions at θ and |X| its largest stretch, by power
    iteration. The value is 0 for the gradient of an invariant function (EQ-T1-i, DA-T8), and 1 if the gradient
    points along the most stretched direction of the orbit.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      gradient: g, a pytree like ``params``.

    Returns:
      The value keyed ``""``, and with only the generators of one factor in Xᵀg, keyed by its spaces.
    """
    pulled = sym.pullback(params, gradient)

    def power(xi: Any, _: None) -> tuple[Any, Array]:
        length = tree_norm(xi)
        direction = sym.generator(jax.tree.map(lambda v: v / jnp.where(length > 0, length, 1), xi), params)
        return sym.pullback(params, direction), tree_norm(direction)

    rng = np.random.default_rng(0)
    start = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape), v.dtype), pulled)
    _, stretches = jax.lax.scan(power, start, length=POWER_ITERATIONS)
    scale = stretches[-1] * tree_norm(gradient)
    scale = jnp.where(scale > 0, scale, 1)
    return {"": tree_norm(pulled) / scale, **{f: tree_norm(part) / scale for f, part in pulled.items()}}


def probe(context: Context) -> Probe | None:
    """Records the orbit part of every gradient, and that of the wrong symmetry."""
    sym, control = context.symmetry, context.control
    if sym.is_discrete:
        return None

    def record(state: tuple[()], step: Step) -> tuple[tuple[()], Any]:
        parts = {"right": orbit_part(sym, step.params, step.gradient)}
        if control is not None:
            parts["wrong"] = {"": orbit_part(control.symmetry, step.params, step.gradient)[""]}
        return state, parts

    return Probe(lambda params: (), record)


def run(context: Context) -> SectionResult:
    """Collects the orbit part along training and compares gradients at moved points."""
    sym, control, dtype = context.symmetry, context.control, context.invariance.dtype
    points = [step for step, _ in context.training.snapshots]
    moved, fine_part = _at_snapshots(context)
    data: dict[str, Any] = {"snapshots": points, "moved_gradient_error": moved, "dtype": dtype}
    data["orbit_part"] = None if sym.is_discrete else _along_training(context, fine_part)
    checks = []
    if data["orbit_part"] is not None:
        steps = f"{len(context.training.loss)} steps ({dtype})"
        checks.append(
            Check(
                f"The gradient has no part along the orbit, at any of {steps}",
                data["orbit_part"]["largest"],
                TOLERANCES[dtype],
            )
        )
        if fine_part:
            statement = f"The same at {len(points)} points of training in float64"
            checks.append(Check(statement, max(fine_part), TOLERANCES["float64"]))
    finest = "float64" if "float64" in moved else "training"
    precision = "float64" if finest == "float64" else dtype
    checks.append(
        Check(
            f"∇L(gθ) = g⁻ᵀ∇L(θ) for random g at {len(points)} points of training ({precision})",
            max(moved[finest]),
            TOLERANCES[precision],
        )
    )
    if data["orbit_part"] is None:
        note = f"{number(min(moved['wrong']))} for a wrong symmetry" if control else f"in {dtype}"
        numbers = [Number("Error of the gradient at a moved point", max(moved["training"]), note)]
    else:
        note = "of its norm, at most, over all steps"
        note += f"; {number(data['orbit_part']['wrong_median'])} for a wrong symmetry" if control else ""
        numbers = [Number("Gradient along the orbit", data["orbit_part"]["largest"], note)]
    return SectionResult(_html(context, data), numbers, checks, data)


def _along_training(context: Context, fine_part: list[float]) -> dict[str, Any]:
    """The records of the probe."""
    record = context.training.records[SECTION.name]
    right, wrong = record["right"], record.get("wrong")
    keep = kept(len(right[""]))
    return {
        "steps": keep.tolist(),
        "training": right[""][keep],
        "largest": float(right[""].max()),
        "median": float(np.median(right[""])),
        "largest_by_space": {key: float(values.max()) for key, values in right.items() if key},
        "float64": fine_part or None,
        "wrong": None if wrong is None else wrong[""][keep],
        "wrong_median": None if wrong is None else float(np.median(wrong[""])),
    }


def _at_snapshots(context: Context) -> tuple[dict[str, list[float]], list[float]]:
    """What is measured between the parts of training, on the fixed examples.

    Returns:
      The largest relative error of ∇L(gθ) = g⁻ᵀ∇L(θ) under random elements, in the precision of training, in
      float64 and for the wrong symmetry; and the orbit part in float64. What cannot be had is left out.
    """
    sym, control = context.symmetry, context.control
    gradient = jax.grad(context.problem.batch_loss)
    elements = context.elements(sym, ELEMENTS, "moved gradient")
    alike = {"right": sym, "wrong": control.symmetry} if control else {"right": sym}

    def pairs(params: Params, batch: Batch, g: Any, which: dict[str, Symmetry]) -> dict[str, Any]:
        here = gradient(params, batch)
        return {
            name: (gradient(s.act(g, params), batch), s.act_dual(g, here), here) for name, s in which.items()
        }

    coarse = jax.jit(lambda p, b, g: {k: v[:2] for k, v in pairs(p, b, g, alike).items()})

    @jax.jit
    def fine(params: Params, batch: Batch, g: Any) -> tuple[Any, Array]:
        moved, dual, here = pairs(params, batch, g, {"right": sym})["right"]
        part = jnp.zeros(()) if sym.is_discrete else orbit_part(sym, params, here)[""]
        return (moved, dual), part

    def each(tree: Any) -> list[Any]:
        return [jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), tree) for i in range(ELEMENTS)]

    errors: dict[str, list[float]] = {"training": []}
    parts: list[float] = []
    for _, params in context.training.snapshots:
        found = [jax.device_get(coarse(params, context.examples, g)) for g in each(elements)]
        errors["training"].append(max(discrepancy(*f["right"]).error for f in found))
        if control is not None:
            errors.setdefault("wrong", []).append(max(discrepancy(*f["wrong"]).error for f in found))
        if context.invariance.fine is None:
            continue
        with float64(params, context.examples) as (p, batch):
            exact = [jax.device_get(fine(p, batch, g)) for g in each(elements)]
        errors.setdefault("float64", []).append(max(discrepancy(*pair).error for pair, _ in exact))
        if not sym.is_discrete:
            parts.append(float(exact[0][1]))
    return errors, parts


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    part, control = data["orbit_part"], context.control
    html = []
    if part is not None:
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
            "At a moved point gθ, where the network computes the same function, the gradient is g⁻ᵀ∇L(θ), with the "
            "inverse transpose of the action: moved like the parameters by a permutation, a sign or a rotation, "
            "and the opposite way by a scaling."
            + (" This group is discrete: it has no directions to look along." if part is None else "")
        )
    )
    text = "What should be seen: the true symmetry at the level of rounding from the first step to the last"
    text += (
        ", and in float64 eight or nine orders of magnitude lower."
        if "float64" in data["moved_gradient_error"]
        else "."
    )
    text += f" A wrong symmetry, which leaves {control.leaf} alone, is many orders above." if control else ""
    html += [paragraph(text, "see"), figure(_picture(data), _caption(context, data))]
    if part is not None and len(part["largest_by_space"]) > 1:
        rows = [[space, value] for space, value in part["largest_by_space"].items()]
        html.append(table(["space", "largest |Xᵀg| / (|X||g|) of all steps"], rows, narrow=True))
    return html


def _caption(context: Context, data: dict[str, Any]) -> str:
    part = data["orbit_part"]
    moved = (
        f"argest relative error of ∇L(gθ) = g⁻ᵀ∇L(θ) over {ELEMENTS} random elements g, on "
        f"{context.examples.size} training examples. Dashed: the machine epsilon of {data['dtype']}."
    )
    if part is None:
        return f"L{moved}"
    fine = ", and in float64 at some of them" if part["float64"] else ""
    return f"Left: the orbit part of the gradient at every step, as trained in {data['dtype']}{fine}. Right: l{moved}"


def _picture(data: dict[str, Any]) -> Markup:
    part, moved, dtype = data["orbit_part"], data["moved_gradient_error"], data["dtype"]
    labels = {
        "wrong": "a wrong symmetry",
        "training": f"the symmetry, {dtype}",
        "float64": "the symmetry, float64",
    }
    colours = {"wrong": SERIES[2], "training": SERIES[0], "float64": SERIES[1]}

    def paint(fig: Any, axes: Any) -> None:
        if part is not None:
            ax = axes[0]
            ax.set_title("Gradient along the orbit")
            for name in ("wrong", "training"):
                if part[name] is not None:
                    ax.plot(part["steps"], part[name], color=colours[name], lw=0.9)
            if part["float64"] is not None:
                ax.plot(data["snapshots"], part["float64"], "o-", ms=3.5, lw=1.1, color=colours["float64"])
            ax.set_ylabel("|Xᵀg| / (|X||g|)")
        ax = axes[-1]
        ax.set_title("Error of the gradient at a moved point")
        for name in labels:
            if name in moved:
                ax.plot(
                    data["snapshots"],
                    moved[name],
                    "o-",
                    ms=3.5,
                    lw=1.1,
                    color=colours[name],
                    label=labels[name],
                )
        ax.set_ylabel("relative error")
        for ax in axes:
            ax.set_yscale("log")
            ax.set_xlabel("step")
            ax.axhline(rounding(dtype), color=MUTED, lw=0.9, ls=(0, (4, 3)))
            low, high = ax.get_ylim()
            ax.set_ylim(min(low, 1e-17), max(high, 10))
            ax.minorticks_off()
        handles, names = axes[-1].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower center", ncols=3, labelcolor=INK)

    alt = "The orbit part of the gradient and its error at a moved point along training, on a log scale."
    return draw("gradient", alt, paint, columns=1 if part is None else 2, height=3.3)


SECTION = Section("gradient", "The gradient along the orbit", 20, run, probe)
