"""The sharpness of a homogeneous model and the lower bound that its outputs give."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from markupsafe import Markup

from eqtoolbox import zoo
from eqtoolbox.identities import homogeneous, hvp_along
from eqtoolbox.linalg import float64, tree_vdot
from eqtoolbox.pages import INK, MUTED, SERIES, draw, figure, number, paragraph
from eqtoolbox.problem import Batch
from eqtoolbox.report._check import training_inputs
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._homogeneity import Degree, find_degree
from eqtoolbox.report._loss import closed_over, has_real_outputs
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.report._spectrum import spectra
from eqtoolbox.testing import TOLERANCES

#: The largest Ritz value may be this much below the largest eigenvalue, relative to it.
SLACK = 1e-2


def run(context: Context) -> SectionResult:
    """Finds out whether the model is homogeneous, and measures sharpness and bound along training."""
    found = _degree(context)
    if found is None:
        text = (
            "The outputs are not a homogeneous function of the parameters: no leaf weights w and degree m were found "
            "with f(e^{wλ}θ) = e^{mλ} f(θ). So there is no bound on the sharpness to show here. Networks with ReLU or "
            "linear units are homogeneous, with biases too."
        )
        return SectionResult([paragraph(text)], data={"degree": None})
    bound = _bounds(context, found)
    seen = spectra(context)
    data = {
        "degree": found.degree,
        "weights": _by_path(found),
        "homogeneity_error": found.error,
        "steps": seen.steps,
        "sharpness": seen.sharpness,
        "bound": bound,
    }
    checks = [
        Check(
            f"The sharpness is not below its bound, at {len(bound)} points of training (least difference, relative)",
            float(
                np.min(
                    (seen.sharpness - bound) / np.maximum(np.abs(seen.sharpness), np.finfo(np.float32).tiny)
                )
            ),
            -SLACK - TOLERANCES[context.invariance.dtype],
            at_least=True,
        ),
    ]
    note = (
        f"after training; at least {number(float(bound[-1]))} by homogeneity of degree {number(found.degree)}"
    )
    numbers = [Number("Sharpness", float(seen.sharpness[-1]), note)]
    return SectionResult(_html(context, found, data), numbers, checks, data)


def _degree(context: Context) -> Degree | None:
    problem = context.problem
    if not has_real_outputs(problem, context.params, context.examples):
        return None
    inputs = training_inputs(problem)
    params = zoo.perturb(context.key("homogeneity"), context.params)
    if context.invariance.fine is None:
        return find_degree(lambda p: problem.apply(p, inputs), params, context.invariance.dtype)
    with float64(params, inputs) as (p, x):
        return find_degree(lambda q: problem.apply(q, x), p, "float64")


def _bounds(context: Context, found: Degree) -> np.ndarray:
    """⟨wθ,∇²L wθ⟩ / ‖wθ‖² at the snapshots, by first derivatives of the model."""
    eq = homogeneous(found.degree, found.weights)

    @jax.jit
    def bound(params: Params, examples: Batch) -> Any:
        model, output_loss = closed_over(context.problem, examples)
        image = hvp_along(eq, model, output_loss, params, direction=jnp.float32(1))
        radial = jax.tree.map(lambda w, x: (w * x).astype(x.dtype), found.weights, params)
        return tree_vdot(radial, image) / tree_vdot(radial, radial)

    return np.array([float(bound(params, context.examples)) for _, params in context.training.snapshots])


def _by_path(found: Degree) -> dict[str, float]:
    pairs, _ = jax.tree_util.tree_flatten_with_path(found.weights)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): w for path, w in pairs}


def _html(context: Context, found: Degree, data: dict[str, Any]) -> list[Markup]:
    other = {path: w for path, w in data["weights"].items() if w != 1}
    weights = "with weight 1 for every leaf"
    if other:
        listed = ", ".join(f"{number(w)} for {path}" for path, w in list(other.items())[:6])
        listed += " and others" if len(other) > 6 else ""
        weights = f"with weights w of {listed}, and 1 for the other leaves"
        weights += " (those of weight 0 stay as they are)" if 0 in other.values() else ""
    return [
        paragraph(
            f"This model is homogeneous: f(e^(wλ)θ) = e^(mλ) f(θ) with m = {number(found.degree)}, {weights} (found "
            f"and tested numerically, error {number(found.error)}). So the curvature of the loss along wθ is known "
            "without second derivatives of the model, ⟨wθ,∇²L wθ⟩ = m²∇²ℓ[f,f] + m²⟨∇ℓ,f⟩ − ⟨∇L,w²θ⟩, and the "
            "sharpness, the largest eigenvalue of the Hessian, is at least this over ‖wθ‖²."
        ),
        paragraph(
            "What should be seen: the sharpness above the bound at every step. How far above says how much curvature "
            "there is besides that of scaling the outputs; a bound below zero says nothing and is not drawn.",
            "see",
        ),
        figure(
            _picture(context, data),
            f"The largest Ritz value of the Hessian on {context.examples.size} training examples and the lower bound "
            "on the same examples. Dashed: 2/η, beyond which gradient descent by the full batch is "
            "unstable along the sharpest direction.",
        ),
    ]


def _picture(context: Context, data: dict[str, Any]) -> Markup:
    def paint(fig: Any, axes: Any) -> None:
        (ax,) = axes
        steps, rate = data["steps"], context.config.learning_rate
        ax.axhline(2 / rate, color=MUTED, lw=0.9, ls=(0, (4, 3)), label=f"2/η for η = {rate:g}")
        ax.plot(steps, data["sharpness"], "o-", ms=3.5, lw=1.2, color=SERIES[0], label="sharpness")
        bound = np.where(data["bound"] > 0, data["bound"], np.nan)
        ax.plot(steps, bound, "o-", ms=3.5, lw=1.2, color=SERIES[2], label="lower bound")
        ax.set_yscale("log")
        ax.set_xlabel("step")
        ax.set_ylabel("curvature")
        ax.minorticks_off()
        fig.legend(loc="outside lower center", ncols=3, labelcolor=INK)

    return draw(
        "sharpness", "Sharpness and its lower bound along training, on a log scale.", paint, height=3.0
    )


SECTION = Section("sharpness", "Sharpness and its lower bound", 28, run)
