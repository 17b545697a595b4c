"""Models of one orbit, equal as functions, trained on with the same batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from markupsafe import Markup

from eqtoolbox.linalg import tree_norm
from eqtoolbox.problem import Batch, Problem
from eqtoolbox.report._blocks import figure, number, paragraph, table
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._figures import INK, SERIES, canvas, svg
from eqtoolbox.report._precision import float64
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._train import descend, take
from eqtoolbox.symmetry import Symmetry, sample_orbit

#: Points of a loss curve, and the largest number of steps that are trained.
POINTS = 50
STEPS = 300
#: Models trained in float64 are equal if their losses agree to this.
EQUAL = 1e-9


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
            params, state, _ = descend(problem, optimizer, *carry, take(data, rows))
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
    groups = {"compact": sym.compact()}
    if not sym.is_compact:
        groups["whole"] = sym
    starts = {name: _orbit(group, context, count, name) for name, group in groups.items()}
    every = max(1, min(len(context.indices), STEPS) // POINTS)
    points = min(len(context.indices), STEPS) // every
    indices = context.indices[: points * every].reshape(points, every, -1)

    @jax.jit
    def curves(starts: Params, data: Batch, indices: Array, examples: Batch) -> tuple[Array, Array]:
        gradients = jax.vmap(jax.grad(context.problem.batch_loss), (0, None))(starts, examples)
        losses = loss_curves(context.problem, context.optimizer, starts, data, indices, examples)
        return losses, jax.vmap(tree_norm)(gradients)

    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *starts.values())
    losses, slopes = jax.device_get(curves(together, context.data, indices, context.examples))
    context.advance(points * every)
    data: dict[str, Any] = {
        "models": count,
        "steps": (np.arange(points + 1) * every).tolist(),
        "learning_rate": context.config.learning_rate,
        "dtype": dtype,
    }
    for i, (name, group) in enumerate(groups.items()):
        mine = slice(i * count, (i + 1) * count)
        data[name] = _summary(group, losses[:, mine], slopes[mine])
    if context.invariance.fine is not None:
        with float64(together, context.data, context.examples) as (p, d, e):
            fine = jax.device_get(curves(p, d, indices, e)[0])
        for i, name in enumerate(groups):
            apart = separation(fine[:, i * count : (i + 1) * count])
            data[name] |= {"separation_float64": apart, "largest_separation_float64": float(apart.max())}
    return SectionResult(_html(context, data), _numbers(data), _checks(data), data)


def _orbit(group: Symmetry, context: Context, count: int, name: str) -> Params:
    """θ_0 and ``count - 1`` random points of its orbit."""
    rest = sample_orbit(group, context.params, count - 1, key=context.key(f"orbit, {name}"))
    return jax.tree.map(lambda p, q: jnp.concatenate([p[None], q]), context.params, rest)


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
    if whole is not None:
        checks.append(
            Check(
                f"Models of the whole orbit start equal and come apart ({dtype})",
                whole["largest_separation"],
                100 * whole["separation_at_start"],
                at_least=True,
            )
        )
    return checks


def _numbers(data: dict[str, Any]) -> list[Number]:
    compact, whole = data["compact"], data.get("whole")
    note = "permuted or rotated copies, largest difference of their losses"
    if whole is not None:
        return [
            Number(
                "Equal models trained on",
                f"{number(compact['largest_separation'])} / {number(whole['largest_separation'])}",
                "largest difference of their losses: compact group / whole group",
            )
        ]
    return [Number("Equal models trained on", compact["largest_separation"], note)]


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    compact, whole = data["compact"], data.get("whole")
    html = [
        paragraph(
            f"{data['models']} models g₁θ, …, g_Kθ of one orbit compute the same function. They are trained on from "
            "there with the same batches and the same gradient descent. Their gradients are g⁻ᵀ∇L(θ), so a step takes "
            "gθ to gθ − ηg⁻ᵀ∇L(θ), and this is g(θ − η∇L(θ)) for every gradient only if gᵀg = 1: gradient "
            "descent commutes with permutations, signs and rotations, and not with scalings."
        )
    ]
    text = (
        "What should be seen: for the compact group one curve where there are "
        f"{data['models']}, apart by rounding only, which training amplifies slowly."
    )
    if whole is not None:
        text += (
            " For the whole group equal losses at step 0 and different ones from the first step on: how a function "
            "is parametrised decides how fast it learns."
        )
    html += [paragraph(text, "see"), figure(_draw(data), _caption(data))]
    rows = []
    for name, label in (("compact", "compact"), ("whole", "whole")):
        part = data.get(name)
        if part is not None:
            slopes = np.asarray(part["gradient_norm_at_start"])
            rows.append(
                [
                    label,
                    _groups(part["groups"]),
                    f"{number(slopes.min(), 3)} – {number(slopes.max(), 3)}",
                    part["separation_at_start"],
                    part["largest_separation"],
                    part.get("largest_separation_float64"),
                    part["diverged"],
                ]
            )
    head = ["orbit of", "groups", "|∇L| at the start", "apart at the start", "apart at most"]
    html.append(table([*head, "apart at most, float64", "diverged"], rows))
    if whole is None:
        html.append(
            paragraph("The whole group is compact: there is no scaling under which models would separate.", "note")
        )
    return html


def _groups(groups: dict[str, str]) -> str:
    shown = list(groups.values())
    return " × ".join(shown[:3]) + (f" × … ({len(shown)})" if len(shown) > 3 else "")


def _caption(data: dict[str, Any]) -> str:
    text = f"Loss on a fixed sample of training examples, {data['models']} models, η = {number(data['learning_rate'])}."
    return text + " Last: (largest − smallest loss) / mean loss; dashed in float64."


def _draw(data: dict[str, Any]) -> Markup:
    steps, whole = data["steps"], data.get("whole")
    names = ["compact", "whole"] if whole else ["compact"]
    titles = {"compact": "Compact group", "whole": "Whole group"}
    colours = {"compact": SERIES[0], "whole": SERIES[2]}
    fig, axes = canvas(len(names) + 1, height=3.1)
    for ax, name in zip(axes, names, strict=False):
        curves = np.asarray(data[name]["loss"])
        for k in range(1, curves.shape[1]):
            ax.plot(steps, curves[:, k], color=colours[name], lw=1.1, alpha=0.75)
        ax.plot(steps, curves[:, 0], color=INK, lw=1.1, ls=(0, (2, 2)), label="θ itself")
        ax.set_title(titles[name])
        ax.set_xlabel("step")
        ax.set_ylim(0, 1.05 * np.nanmax(np.asarray(data["compact"]["loss"])))
    axes[0].set_ylabel("loss")
    axes[0].legend(loc="upper right", labelcolor=INK)
    ax = axes[-1]
    for name in names:
        ax.plot(steps, data[name]["separation"], color=colours[name], label=titles[name].lower())
        if "separation_float64" in data[name]:
            ax.plot(steps, data[name]["separation_float64"], color=colours[name], lw=1.1, ls=(0, (4, 2)))
    ax.set_title("Separation of the losses")
    ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.minorticks_off()
    return svg(fig, "orbit", "Loss curves of equal models: they coincide for the compact group only.")


SECTION = Section("orbit", "An orbit of equal models, trained on", 40, run)
