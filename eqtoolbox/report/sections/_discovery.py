"""What symmetry there is that the labels do not express."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from markupsafe import Markup

from eqtoolbox.discovery import Family, NullSpace, audit, axis_family, readable_basis
from eqtoolbox.pages import paragraph, table
from eqtoolbox.report._context import Context
from eqtoolbox.report._loss import has_real_outputs
from eqtoolbox.report._section import Check, Number, Section, SectionResult

#: Most generators of the family, and most parameters at which the level set is measured.
GENERATORS, LEVEL_SET = 128, 100
#: Inputs that give the scale of those drawn.
EXAMPLES = 32
SHOWN = 8
#: The least gap at which a dimension counts.
GAP = 1e3

_SENSES = {"functional": "all inputs"}


def run(context: Context) -> SectionResult:
    """Looks for one-parameter symmetries of single units, by numbers alone."""
    problem = context.problem
    if not has_real_outputs(problem, context.params, context.examples):
        return SectionResult(
            [paragraph("The outputs are not real numbers: they have no derivatives to look at.", "note")]
        )
    family = _family(context)
    sample = jax.tree.map(lambda a: a[:EXAMPLES], context.examples)
    every = audit(
        problem.apply,
        context.params,
        sample.inputs,
        known=context.symmetry,
        key=context.key("discovery"),
        family=family,
        dense_limit=LEVEL_SET,
    )
    new = every.found.vectors if every.novelty is None else every.novelty.directions
    data = {
        "family": family.name,
        "generators": family.dimension,
        "examples": sample.size,
        "parameters": every.parameters,
        "level_set": every.level_set,
        "orbit": every.orbit,
        "unexplained": every.unexplained,
        "functional": _data(every.found, new),
    }
    return SectionResult(_html(data), _numbers(data), _checks(data), data)


def _family(context: Context) -> Family:
    """One generator per unit of every axis; those of some units where these are too many."""
    family = axis_family(context.params, kind="diagonal")
    units = GENERATORS
    while family.dimension > GENERATORS and units > 1:
        units = units * 2 // 3
        family = axis_family(
            context.params, kind="diagonal", units=units, key=context.key("discovery, units")
        )
    return family


def _data(found: NullSpace, new: np.ndarray) -> dict[str, Any]:
    return {
        "found": found.dimension,
        "trivial": found.trivial,
        "new": len(new),
        "gap": found.gap,
        "ambiguous": found.ambiguous,
        "held_out": found.held_out,
        "examples_of_new": [_words(found.family, v) for v in readable_basis(new)[:SHOWN]],
    }


def _words(family: Family, v: np.ndarray) -> str:
    order = np.argsort(-np.abs(v), kind="stable")
    order = order[np.abs(v[order]) > 1e-6]
    text = "; ".join(f"{v[a]:+.2f} · {family.label(int(a))}" for a in order[:3])
    return text + (f"; … ({len(order)} terms)" if len(order) > 3 else "")


def _numbers(data: dict[str, Any]) -> list[Number]:
    own = data["functional"]
    note = f"of {own['found']} found by numbers alone"
    return [Number("Symmetries that the labels do not express", own["new"], note)]


def _checks(data: dict[str, Any]) -> list[Check]:
    return [
        Check(
            f"Between symmetries and other generators there is a gap, on {words}",
            data[name]["gap"],
            GAP,
            at_least=True,
        )
        for name, words in _SENSES.items()
    ]


def _html(data: dict[str, Any]) -> list[Markup]:
    html = [
        paragraph(
            "The symmetry above was stated, or inferred from the program. Here one is looked for in numbers, with no "
            f"labels: {data['generators']} generators that scale one unit of one axis of one leaf each (where there "
            "are too many, those of some units), and all "
            "combinations of them that leave the outputs alone to first order at parameters drawn at random: the null "
            "space of the equations ⟨∇f, A_a θ⟩ = 0, in float64."
        ),
        paragraph(
            "What should be seen: a gap of many orders of magnitude between symmetries and the rest, and nothing new: "
            "all that is found lies in the algebra of the known symmetry.",
            "see",
        ),
    ]
    rows = [
        [words, data[name]["found"], data[name]["new"], data[name]["gap"], data[name]["held_out"]]
        for name, words in _SENSES.items()
    ]
    html.append(
        table(["outputs unchanged on", "symmetries", "new", "gap", "residual on other equations"], rows)
    )
    for name, words in _SENSES.items():
        listed = data[name]["examples_of_new"]
        if listed:
            more = data[name]["new"] - len(listed)
            rest = [["…", f"and {more} more"]] if more > 0 else []
            html.append(paragraph(f"New on {words}:"))
            html.append(
                table(["", "generator"], [[str(i + 1), text] for i, text in enumerate(listed)] + rest)
            )
    level = data
    if level["level_set"] is not None:
        html.append(
            paragraph(
                f"The parameters of the same outputs form a set of dimension {level['level_set']} near θ; the known "
                f"orbit has dimension {level['orbit']}, so that {level['unexplained']} are unexplained."
            )
        )
    else:
        html.append(
            paragraph(
                f"The dimension of the whole level set takes a matrix of {level['parameters']}² numbers: it is "
                f"measured up to {LEVEL_SET} parameters.",
                "note",
            )
        )
    return html


SECTION = Section("discovery", "Symmetry that the labels do not express", 60, run)
