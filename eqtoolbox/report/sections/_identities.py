"""What the symmetry says about gradient and Hessian: both sides, at initialisation and after training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from markupsafe import Markup

from eqtoolbox.identities import discrete, first_order, second_order
from eqtoolbox.linalg import float64
from eqtoolbox.pages import number, paragraph, table
from eqtoolbox.problem import Batch
from eqtoolbox.report._context import Context, Params
from eqtoolbox.report._loss import closed_over, has_real_outputs
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.symmetry import Symmetry
from eqtoolbox.testing import TOLERANCES

#: Factors that are looked at one by one; those beyond are in "all together" only.
FACTORS = 8
PROBES = 2


def run(context: Context) -> SectionResult:
    """Measures the identities in the finest precision there is."""
    if not has_real_outputs(context.problem, context.params, context.examples):
        text = "The outputs are not real numbers: derivatives with respect to them are not defined."
        return SectionResult([paragraph(text)], data={"dtype": None})
    sym, control = context.symmetry, context.control
    fine = context.invariance.fine is not None
    dtype = "float64" if fine else context.invariance.dtype
    names, directions = _directions(context)
    moves = None
    if sym.is_discrete:
        alike = {"right": sym} if control is None else {"right": sym, "wrong": control.symmetry}
        moves = {name: context.elements(s, 1, "identities") for name, s in alike.items()}
        moves = jax.tree.map(lambda x: x[0], moves)
    measure = jax.jit(_measurement(context))
    points = {"start": context.params, "end": context.training.params}
    found = {}
    for name, params in points.items():
        if fine:
            with float64(params, context.examples, directions) as trees:
                found[name] = jax.device_get(measure(*trees, moves))
        else:
            found[name] = jax.device_get(measure(params, context.examples, directions, moves))
    data = {
        "dtype": dtype,
        "contrast": _differ(context, directions),
        "discrete": sym.is_discrete,
        "directions": names,
        **found,
    }
    return SectionResult(_html(context, data), _numbers(data), _checks(data), data)


def _directions(context: Context) -> tuple[list[str], Any]:
    """A stack of algebra vectors: a random one of each factor, and one of all factors together; None if discrete."""
    sym = context.symmetry
    if sym.is_discrete:
        return ["a random element"], None
    rng = np.random.default_rng(context.config.seed)
    whole = jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), sym.zero_algebra())
    keys = list(whole)[:FACTORS]
    rows = [
        {k: jax.tree.map(lambda v, on=k == key: v * on, part) for k, part in whole.items()} for key in keys
    ]
    rows = [*rows, whole] if len(whole) > 1 else rows
    names = [*keys, "all together"] if len(whole) > 1 else keys
    return names, jax.tree.map(lambda *parts: np.stack(parts), *rows)


def _differ(context: Context, directions: Any) -> bool:
    """Whether the wrong symmetry has other generators than the right one: it may differ by its discrete part only."""
    if context.control is None or directions is None:
        return context.control is not None
    last = jax.tree.map(lambda v: v[-1], directions)
    right, wrong = (
        jax.tree.leaves(sym.generator(last, context.training.params))
        for sym in (context.symmetry, context.control.symmetry)
    )
    return any(not np.array_equal(a, b) for a, b in zip(right, wrong, strict=True))


def _measurement(context: Context) -> Any:
    """(params, examples, directions, elements) -> residuals of the identities, of the wrong symmetry's too."""
    problem, sym, control = context.problem, context.symmetry, context.control

    def measure(params: Params, examples: Batch, directions: Any, elements: Any) -> dict[str, Any]:
        model, output_loss = closed_over(problem, examples)

        def moved(sym: Symmetry, g: Any) -> dict[str, Array]:
            rng = np.random.default_rng(0)
            probes = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(PROBES, *p.shape)), p.dtype), params)
            both = discrete(sym, g, model, output_loss, params, directions=probes)
            return {"first": both.first.residual[None], "second": jnp.max(both.second.residual)[None]}

        if sym.is_discrete:
            found = moved(sym, elements["right"])
            if control is not None:
                found["wrong"] = moved(control.symmetry, elements["wrong"])["second"][0]
            return found
        found = {
            "first": first_order(sym, model, output_loss, params, directions=directions).residual,
            "second": second_order(sym, model, output_loss, params, directions=directions).residual,
        }
        if control is not None:
            last = jax.tree.map(lambda v: v[-1], directions)
            found["wrong"] = second_order(
                control.symmetry, model, output_loss, params, directions=last
            ).residual
        return found

    return measure


def _largest(data: dict[str, Any], kind: str) -> float:
    return max(float(np.max(data[point][kind])) for point in ("start", "end"))


def _checks(data: dict[str, Any]) -> list[Check]:
    dtype = data["dtype"]
    bound, when = TOLERANCES[dtype], f"at initialisation and after training ({dtype})"
    first, second = "∇L·X = 0 along every space", "∇²L·X is what first derivatives say"
    if data["discrete"]:
        first, second = "gᵀ∇L(gθ) = ∇L(θ)", "gᵀ∇²L(gθ)g = ∇²L(θ)"
    checks = [
        Check(f"{first}, {when}", _largest(data, "first"), bound),
        Check(f"{second}, {when}", _largest(data, "second"), bound),
    ]
    if "wrong" in data["start"] and data["contrast"]:
        found = _largest(data, "wrong")
        checks.append(
            Check("A wrong symmetry violates the second-order identity", found, bound, at_least=True)
        )
    return checks


def _numbers(data: dict[str, Any]) -> list[Number]:
    note = f"at initialisation and after training, in {data['dtype']}"
    if "wrong" in data["start"]:
        note += f"; {number(_largest(data, 'wrong'))} for a wrong symmetry"
    return [Number("Residual of the second-order identity", _largest(data, "second"), note)]


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    control = context.control
    if data["discrete"]:
        about = (
            "A group element g says that gradient and Hessian move with the parameters: gᵀ∇L(gθ) = ∇L(θ) and "
            "gᵀ∇²L(gθ)g = ∇²L(θ). Both sides are products with the true Hessian, along random directions. This group "
            "is discrete: it has no generators, and no identity at a single point."
        )
    else:
        about = (
            "Differentiating the invariance of the loss twice gives, for every generator X and at every θ, ∇L·X = 0 "
            "and ∇²L·X = −(∂X)ᵀ∇L: the Hessian along the orbit is known from the gradient. The left side below is a "
            "product with the true Hessian, the right side uses first derivatives only. Residuals are relative to the "
            "sizes of all terms; each row is a random direction of one space."
        )
    html = [paragraph(about)]
    text = "What should be seen: residuals at the level of rounding, before and after training alike."
    text += (
        f" The wrong symmetry, which leaves {control.leaf} alone, fails by orders of magnitude."
        if control
        else ""
    )
    html.append(paragraph(text, "see"))
    html.append(table(["direction", "identity", "at initialisation", "after training"], _rows(data)))
    return html


def _rows(data: dict[str, Any]) -> list[list[Any]]:
    points = (data["start"], data["end"])
    texts = {"first": "∇L·X = 0", "second": "∇²L·X = −(∂X)ᵀ∇L"}
    if data["discrete"]:
        texts = {"first": "gᵀ∇L(gθ) = ∇L(θ)", "second": "gᵀ∇²L(gθ)g = ∇²L(θ)"}
    rows = []
    for i, name in enumerate(data["directions"]):
        for order, text in texts.items():
            rows.append([name, text, *(float(point[order][i]) for point in points)])
    if "wrong" in points[0]:
        values = [float(point["wrong"]) for point in points]
        rows.append([Markup("<i>a wrong symmetry</i>"), texts["second"], *values])
    return rows


SECTION = Section("identities", "Gradient and Hessian identities", 25, run)
