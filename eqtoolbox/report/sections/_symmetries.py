"""Which symmetries the model has, how large they are, and how exactly they hold."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from markupsafe import Markup, escape

from eqtoolbox.inference import Explanation, explained
from eqtoolbox.linalg import float64, numerical_rank
from eqtoolbox.pages import number, paragraph, table
from eqtoolbox.report._check import EXAMPLES, Errors
from eqtoolbox.report._context import Context
from eqtoolbox.report._section import Check, Number, Section, SectionResult
from eqtoolbox.symmetry import Factor, Symmetry, generator_matrix
from eqtoolbox.testing import FLOAT64_TOLERANCE, TOLERANCES

#: Largest cost, dimension² × parameters, at which the rank of the generators is found.
RANK_LIMIT = 2 * 10**10
LEAVES_SHOWN = 6


def run(context: Context) -> SectionResult:
    """Measures invariance, dimensions and ranks."""
    sym, invariance, control = context.symmetry, context.invariance, context.control
    parameters = sum(x.size for x in jax.tree.leaves(context.params))
    ranks = _ranks(sym, context.training.params, parameters)
    coarse, fine = invariance.errors, invariance.fine
    data = {
        "symmetry": json.loads(sym.to_json()),
        "parameters": parameters,
        "dimension": sym.dimension,
        "order": None if sym.order is None else str(sym.order),
        "orbit_dimension": ranks.get(""),
        "dtype": invariance.dtype,
        "invariance_error": _errors(coarse),
        "invariance_error_float64": None if fine is None else _errors(fine),
        "factors": [_factor_data(f, sym, ranks.get(f.key), coarse, fine) for f in sym.factors],
        "explanation": None if (found := explained(sym)) is None else _explanation_data(found),
        "control": None
        if control is None
        else {"leaf_left_out": control.leaf, "invariance_error": control.error},
    }
    checks = [
        Check(
            f"Outputs do not change under random elements ({invariance.dtype})",
            coarse[""].error,
            TOLERANCES[invariance.dtype],
        )
    ]
    if fine is not None:
        checks.append(
            Check(
                "In float64 what is left of the change shrinks with the rounding",
                fine[""].error,
                FLOAT64_TOLERANCE,
            )
        )
    if control is not None:
        checks.append(
            Check(
                f"A wrong symmetry, which leaves {control.leaf} alone, is caught",
                control.error,
                TOLERANCES[invariance.dtype],
                at_least=True,
            )
        )
    return SectionResult(_html(context, data), _numbers(context, data), checks, data)


def _ranks(sym: Symmetry, params: Any, parameters: int) -> dict[str, int | None]:
    """The rank of the generators in all (keyed ``""``) and of each factor; None where it costs too much."""
    if sym.is_discrete:
        return {"": 0, **{f.key: 0 for f in sym.factors}}

    def matrix(part: Symmetry, params: Any) -> np.ndarray | None:
        if part.dimension**2 * parameters > RANK_LIMIT:
            return None
        return np.asarray(jax.jit(lambda p: generator_matrix(part, p))(params))

    with float64(params) as (p,):
        rows = matrix(sym, p)
        if rows is None:
            parts = {f.key: matrix(sym.restrict(*f.spaces), p) for f in sym.factors if f.group.dimension}
        else:
            parts = _blocks(sym, rows)
    ranks = {key: None if x is None else int(numerical_rank(x).rank) for key, x in parts.items()}
    whole = None if rows is None else int(numerical_rank(rows).rank)
    return {"": whole, **{f.key: ranks.get(f.key, 0) for f in sym.factors}}


def _blocks(sym: Symmetry, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of each factor's generators, which are in the order of a flattened algebra vector."""
    zero = sym.zero_algebra()
    keys = [path[0].key for path, _ in jax.tree_util.tree_flatten_with_path(zero)[0]]
    sizes = [leaf.size for leaf in jax.tree.leaves(zero)]
    owner = np.repeat(keys, sizes)
    return {key: rows[owner == key] for key in zero}


def _errors(errors: Errors) -> dict[str, Any]:
    return {
        part or "all": {"error": e.error, "leaf": e.leaf, "index": list(e.index)}
        for part, e in errors.items()
    }


def _leaves(factor: Factor, sym: Symmetry) -> list[str]:
    """The leaves a factor acts on, with their labels."""
    return [
        f"{path}  {label}"
        for path, label in sym.labels
        if any(atom.space in factor.spaces for atom in label.atoms)
    ]


def _factor_data(
    factor: Factor, sym: Symmetry, rank: int | None, coarse: Errors, fine: Errors | None
) -> dict[str, Any]:
    return {
        "spaces": list(factor.spaces),
        "group": str(factor.group),
        "sizes": list(factor.group.sizes),
        "dimension": factor.group.dimension,
        "orbit_dimension": rank,
        "compact": factor.group.is_compact,
        "leaves": _leaves(factor, sym),
        "invariance_error": coarse[factor.key].error,
        "invariance_error_float64": None if fine is None else fine[factor.key].error,
    }


def _numbers(context: Context, data: dict[str, Any]) -> list[Number]:
    sym, rank = context.symmetry, data["orbit_dimension"]
    groups = " × ".join(str(f.group) for f in sym.factors[:3])
    groups += f" × … ({len(sym.factors)} groups)" if len(sym.factors) > 3 else ""
    size = "discrete group"
    if sym.dimension:
        size = f"dimension {sym.dimension}, orbits of dimension {number(rank)}"
    numbers = [Number("Symmetry group", groups, f"{size}, in {data['parameters']} parameters")]
    error = context.invariance.errors[""].error
    fine = context.invariance.fine
    note = f"in {context.invariance.dtype}"
    if fine is not None and context.invariance.dtype != "float64":
        note += f"; {number(fine[''].error)} in float64"
    numbers.append(Number("Largest change of the outputs", error, note))
    return numbers


def _html(context: Context, data: dict[str, Any]) -> list[Markup]:
    sym, control, dtype = context.symmetry, context.control, data["dtype"]
    html = [
        paragraph(
            "A symmetry moves the parameters and leaves the function of the network alone. Each row is one group: "
            "the units it acts on, its dimension, and the leaves it moves, with their axis labels (a name marks "
            "the axis that moves with the group, * the inverse transpose, _ an axis that stays). The error is the "
            f"largest change of the outputs under 5 random elements on {min(EXAMPLES, context.data.size)} inputs, "
            "relative to the largest output."
        ),
        paragraph(
            "What should be seen: errors at the level of rounding, which shrink by eight or nine orders of "
            "magnitude from float32 to float64. A symmetry that holds only approximately keeps its error.",
            "see",
        ),
    ]
    head = ["space", "group", "units", "dimension", "orbit", "acts on", f"error, {dtype}", "error, float64"]
    rows = [
        [
            ", ".join(f["spaces"]),
            f["group"],
            " × ".join(map(str, f["sizes"])),
            f["dimension"],
            _unknown(f["orbit_dimension"]),
            _leaf_list(f["leaves"]),
            f["invariance_error"],
            f["invariance_error_float64"],
        ]
        for f in data["factors"]
    ]
    fine = context.invariance.fine
    rows.append(
        [
            Markup("<b>all together</b>"),
            "",
            "",
            sym.dimension,
            _unknown(data["orbit_dimension"]),
            f"{len(sym.labels)} leaves",
            context.invariance.errors[""].error,
            None if fine is None else fine[""].error,
        ]
    )
    if control is not None:
        rows.append(
            [
                Markup("<i>a wrong one, for contrast</i>"),
                "",
                "",
                control.symmetry.dimension,
                "",
                Markup("as above, without <code>{}</code>").format(control.leaf),
                control.error,
                "",
            ]
        )
    html.append(table(head, rows))
    html.append(paragraph(_dimension_text(data), "note"))
    if data["explanation"] is not None:
        html += _explanation_html(data["explanation"])
    return html


def _explanation_data(found: Explanation) -> dict[str, Any]:
    return {
        "spaces": [
            {"name": s.name, "group": s.group, "inside": s.inside, "lost": list(s.lost), "pinned": s.pinned}
            for s in found.spaces
        ],
        "pinned": [{"size": s.size, "reason": s.pinned, "leaves": list(s.leaves)} for s in found.pinned],
        "orbit_dimension": found.orbit_dimension,
        "unknown": [list(pair) for pair in found.unknown],
        "untouched": list(found.untouched),
    }


def _explanation_html(data: dict[str, Any]) -> list[Markup]:
    """What was read off the program: why no group is larger."""
    html = [
        paragraph(
            "The symmetry was read off the program of the model. What took a larger group away, and where (the "
            "line of the operation, and after the arrow the line of your code that leads there):"
        )
    ]
    spaces = [
        [s["name"], s["group"] + (f", one for each {s['inside']}" if s["inside"] else ""), _lines(s["lost"])]
        for s in data["spaces"]
    ]
    html.append(table(["space", "group", "lost to"], spaces))
    still = [[f"{p['size']} units", p["reason"], _lines(p["leaves"][:LEAVES_SHOWN])] for p in data["pinned"]]
    if still:
        html.append(table(["no group acts on", "because of", "leaf axes"], still))
    if data["unknown"]:
        operations = ", ".join(f"{name} at {place}" for name, place in data["unknown"])
        html.append(paragraph(f"Operations without a rule, which pin what they touch: {operations}.", "note"))
    return html


def _lines(texts: list[str]) -> Markup:
    return Markup("<br>").join(texts)


def _leaf_list(leaves: list[str]) -> Markup:
    shown = Markup("<br>").join(
        Markup("{} <code>{}</code>").format(*leaf.split("  ", 1)) for leaf in leaves[:LEAVES_SHOWN]
    )
    more = len(leaves) - LEAVES_SHOWN
    return shown + (escape(f" and {more} more") if more > 0 else Markup(""))


def _unknown(rank: int | None) -> int | str:
    return "not computed" if rank is None else rank


def _dimension_text(data: dict[str, Any]) -> str:
    dimension, rank = data["dimension"], data["orbit_dimension"]
    if not dimension:
        return (
            "The group is discrete: equal models are isolated points, and there are no directions along which "
            "the loss is flat for this reason."
        )
    if rank is None:
        return "The generators are too many for their rank to be found here; restrict the symmetry to see it."
    if rank == dimension:
        return (
            f"The orbit of the trained parameters has the dimension of the group, {dimension}: no generator leaves "
            f"them in place, and the loss is exactly flat in {rank} directions."
        )
    return (
        f"The group has dimension {dimension}, the orbit of the trained parameters {rank}: {dimension - rank} "
        "combinations of generators leave them in place (their stabiliser)."
    )


SECTION = Section("symmetries", "The symmetries", 10, run)
