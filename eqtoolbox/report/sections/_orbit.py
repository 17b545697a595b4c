"""Models of one orbit, equal as functions, trained on with the same batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from markupsafe import Markup

from eqtoolbox.linalg import float64, rounding, tree_norm
from eqtoolbox.pages import INK, SERIES, draw, figure, number, paragraph, table
from eqtoolbox.problem import Batch, Problem
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._train import descend, take
from eqtoolbox.symmetry import Symmetry

#: Points of a loss curve, and the largest number of steps that are trained.
POINTS = 50
STEPS = 300
#: Models trained in float64 are equal if their losses agree to this.
EQUAL = 1e-9
#: A relative difference of losses that cannot be missed.
VISIBLE = 0.1
#: Gradients on an orbit whose norms differ by less, relatively, have been moved by isometries.
ISOMETRIC = 1e-3


def loss_curves(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    starts: Params,
    data: Batch,
    indices: Array,
    examples: Batch,
) -> Array:
    """Trains several models on the same batches.

    Args:
      problem: gives the loss.
      optimizer: one for all.
      starts: initial parameters with a leading axis of length K.
      data: the training examples.
      indices: rows of the batches, shape (points, steps between them, batch_size).
      examples: what the losses of the curves are measured on.

    Returns:
      Losses before the first batch and after each group of batches, shape (points + 1, K).
    """

    def one_model(params: Params) -> Array:
        def step(carry: Any, rows: Array) -> tuple[Any, None]:
            params, state, _ = descend(problem, optimizer, carry[0], carry[1], take(data, rows))
            return (params, state), None

        def point(carry: Any, rows: Array) -> tuple[Any, Array]:
            loss = problem.batch_loss(carry[0], examples)
            return jax.lax.scan(step, carry, rows)[0], loss

        (end, _), losses = jax.lax.scan(point, (params, optimizer.init(params)), indices)
        return jnp.append(losses, problem.batch_loss(end, examples))

    return jax.vmap(one_model, out_axes=1)(starts)


def separation(curves: np.ndarray) -> np.ndarray:
    """How far the losses of K models are apart at each point: (largest − smallest) / mean, NaN if not finite."""
    finite = np.where(np.isfinite(curves), curves, np.nan)
    return (finite.max(1) - finite.min(1)) / np.abs(finite.mean(1))


def run(context: Context) -> SectionResult:
    """Trains on an orbit of the maximal compact subgroup and one of the whole group."""
    sym, count, dtype = context.symmetry, context.config.models, context.invariance.dtype
    groups = {"compact": sym.compact()} | ({} if sym.is_compact else {"whole": sym})
    elements = {
        name: context.elements(group, count - 1, f"orbit of the {name} group")
        for name, group in groups.items()
    }
    every = max(1, min(len(context.indices), STEPS) // POINTS)
    points = min(len(context.indices), STEPS) // every
    indices = context.indices[: points * every].reshape(points, every, -1)

    @jax.jit
    def curves(
        params: Params, elements: Any, data: Batch, indices: Array, examples: Batch
    ) -> tuple[Array, Array]:
        orbits = [
            jax.vmap(group.act, (0, None), axis_size=count - 1)(elements[name], params)
            for name, group in groups.items()
        ]
        starts = jax.tree.map(lambda p, *moved: jnp.concatenate([p[None], *moved]), params, *orbits)
        gradients = jax.vmap(jax.grad(context.problem.batch_loss), (0, None))(starts, examples)
        losses = loss_curves(context.problem, context.optimizer, starts, data, indices, examples)
        return losses, jax.vmap(tree_norm)(gradients)

    def by_group(values: Array) -> dict[str, np.ndarray]:
        """θ itself and its images under each group, along the last axis."""
        columns = np.arange(1, 1 + len(groups) * (count - 1)).reshape(len(groups), count - 1)
        return {name: np.asarray(values)[..., [0, *own]] for name, own in zip(groups, columns, strict=True)}

    context.progress.expect(points * every)
    found = curves(context.params, elements, context.data, indices, context.examples)
    losses, slopes = map(by_group, jax.device_get(found))
    context.progress.advance(points * every)
    data: dict[str, Any] = {
        "models": count,
        "steps": (np.arange(points + 1) * every).tolist(),
        "learning_rate": context.config.learning_rate,
        "dtype": dtype,
    }
    for name, group in groups.items():
        data[name] = _summary(group, losses[name], slopes[name])
    if context.invariance.fine is not None:
        with float64(context.params, elements, context.data, context.examples) as (p, e, d, x):
            fine = by_group(jax.device_get(curves(p, e, d, indices, x)[0]))
        for name in groups:
            apart = separation(fine[name])
            data[name] |= {"separation_float64": apart, "largest_separation_float64": float(np.nanmax(apart))}
    return SectionResult(_html(data), _numbers(data), _checks(data), data)


def _summary(group: Symmetry, losses: np.ndarray, slopes: np.ndarray) -> dict[str, Any]:
    apart = separation(losses)
    return {
        "groups": {f.key: str(f.group) for f in group.factors},
        "loss": losses,
        "separation": apart,
        "separation_at_start": float(apart[0]),
        "largest_separation": float(np.nanmax(apart)),
        "diverged": int(np.sum(~np.isfinite(losses).all(0))),
        "gradient_norm_at_start": slopes,
        "isometric": bool(slopes.max() <= (1 + ISOMETRIC) * slopes.min()),
    }


def _checks(data: dict[str, Any]) -> list[Check]:
    compact, whole, dtype = data["compact"], data.get("whole"), data["dtype"]
    checks = []
    if "largest_separation_float64" in compact:
        checks.append(
            Check(
                "Models of a compact orbit train alike: their losses stay equal (float64)",
                compact["largest_separation_float64"],
                EQUAL,
            )
        )
    if whole is not None and not whole["isometric"]:
        bound = max(100 * whole["separation_at_start"], 1000 * rounding(dtype))
        # In 16 bits the losses differ too much from the start for this to say anything.
        if bound < VISIBLE:
            statement = f"Models of the whole orbit start equal and come apart ({dtype})"
            checks.append(Check(statement, whole["largest_separation"], bound, at_least=True))
    return checks


def _numbers(data: dict[str, Any]) -> list[Number]:
    compact, whole = data["compact"], data.get("whole")
    note = "largest difference of their losses, relative"
    if whole is not None:
        return [
            Number(
                "Equal models trained on",
                f"{number(compact['largest_separation'])} / {number(whole['largest_separation'])}",
                "largest difference of their losses: compact group / whole group",
            )
        ]
    return [Number("Equal models trained on", compact["largest_separation"], note)]


def _html(data: dict[str, Any]) -> list[Markup]:
    compact, whole = data["compact"], data.get("whole")
    html = [
        paragraph(
            f"{data['models']} models gθ of one orbit compute the same function. They are trained on from there, "
            "with the same batches and the same gradient descent. Their gradients are g⁻ᵀ∇L(θ), so a step takes gθ to "
            "gθ − ηg⁻ᵀ∇L(θ), and this is g(θ − η∇L(θ)) for every gradient only if gᵀg = 1: gradient descent "
            "commutes with permutations, signs and rotations, not with scalings or other matrices."
        )
    ]
    text = (
        "What should be seen: for the compact group one curve where there are "
        f"{data['models']}, apart by rounding only."
    )
    if whole is not None and whole["isometric"]:
        text += " The same for the whole group, which acts by isometries: its gradients keep their length."
    elif whole is not None:
        text += (
            " For the whole group equal losses at step 0 and different ones from the first step on: the gradients at "
            "equal functions differ in length, and so does the speed of learning."
        )
    html += [paragraph(text, "see"), figure(_picture(data), _caption(data))]
    head = ["orbit of", "groups", "|∇L| at the start", "apart at the start", "at most"]
    fine = "largest_separation_float64" in compact
    rows = []
    for name, part in (("compact group", compact), ("whole group", whole)):
        if part is not None:
            slopes = np.asarray(part["gradient_norm_at_start"])
            row = [name, _groups(part["groups"]), f"{number(slopes.min())} to {number(slopes.max())}"]
            row += [part["separation_at_start"], part["largest_separation"]]
            row += [part["largest_separation_float64"]] if fine else []
            rows.append([*row, part["diverged"]])
    html.append(table([*head, *(["at most, float64"] if fine else []), "diverged"], rows))
    if whole is None:
        html.append(
            paragraph(
                "The whole group is compact: it has no element under which models would come apart.", "note"
            )
        )
    return html


def _groups(groups: dict[str, str]) -> str:
    shown = list(groups.values())
    return " × ".join(shown[:3]) + (f" × … ({len(shown)})" if len(shown) > 3 else "")


def _caption(data: dict[str, Any]) -> str:
    text = (
        f"Loss on a fixed sample of training examples, {data['models']} models each, learning rate "
        f"{number(data['learning_rate'])}. Last: (largest − smallest loss) / mean loss"
    )
    text += "; dashed in float64" if "separation_float64" in data["compact"] else ""
    return text + ". What is below rounding, or exactly 0, is drawn at half a machine epsilon."


def _picture(data: dict[str, Any]) -> Markup:
    steps = data["steps"]
    names = [name for name in ("compact", "whole") if name in data]
    titles = {"compact": "Compact group", "whole": "Whole group"}
    colours = {"compact": SERIES[0], "whole": SERIES[2]}
    losses = np.concatenate([np.asarray(data[name]["loss"]).ravel() for name in names])
    losses = losses[np.isfinite(losses)]

    def paint(fig: Any, axes: Any) -> None:
        del fig
        for ax, name in zip(axes, names, strict=False):
            curves = np.asarray(data[name]["loss"])
            ax.plot(steps, curves[:, 1:], color=colours[name], lw=1.2, alpha=0.8)
            ax.plot(steps, curves[:, 0], color=INK, lw=1.2, ls=(0, (2, 2)), label="θ itself")
            ax.set_title(f"{titles[name]}, {curves.shape[1]} models")
            ax.set_xlabel("step")
            if losses.min() > 0:
                ax.set_yscale("log")
                ax.set_ylim(losses.min() / 1.15, min(losses.max(), 3 * curves[0, 0]) * 1.15)
                _plain_ticks(ax)
        axes[0].set_ylabel("loss")
        axes[0].legend(loc="upper right", labelcolor=INK)
        ax = axes[-1]
        for name in names:
            for key, dtype, style in (
                ("separation", data["dtype"], "-"),
                ("separation_float64", "float64", (0, (4, 2))),
            ):
                if key in data[name]:
                    apart = np.maximum(data[name][key], rounding(dtype) / 2)
                    ax.plot(steps, apart, color=colours[name], lw=1.3, ls=style)
        ax.set_title("Separation of the losses")
        ax.set_yscale("log")
        ax.set_xlabel("step")
        ax.minorticks_off()

    alt = "Loss curves of equal models: they coincide for the compact group only."
    return draw("orbit", alt, paint, columns=len(names) + 1, height=3.0)


def _plain_ticks(ax: Any) -> None:
    """Ticks 0.1, 0.2, 0.5, 1, … on a log axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())


SECTION = Section("orbit", "An orbit of equal models, trained on", 40, run)
