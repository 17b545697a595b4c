"""Exact linear algebra over the rationals and over F2, on sparse rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

Variable = Any  # hashable: a tuple whose first entry is a path or "aux"
Form = dict[Variable, Fraction]  # variable -> coefficient, none of them 0
Parity = frozenset[Variable]  # the variables with coefficient 1


def add(a: Form, b: Form, factor: Fraction | int = 1) -> Form:
    """The form a + factor * b."""
    total = dict(a)
    for variable, value in b.items():
        new = total.pop(variable, Fraction(0)) + factor * value
        if new:
            total[variable] = new
    return total


def scaled(a: Form, factor: Fraction | int) -> Form:
    """The form factor * a."""
    return {variable: factor * value for variable, value in a.items()} if factor else {}


def solutions(rows: Iterable[Form], variables: Sequence[Variable]) -> list[Form]:
    """A basis of the solutions of ``rows = 0``, restricted to ``variables``, in reduced echelon form.

    Other variables of the rows are projected out.
    """
    pivots: dict[Variable, Form] = {}
    for row in rows:
        row = _reduced(row, pivots)
        if not row:
            continue
        lead = next((v for v in row if v not in set(variables)), next(iter(row)))
        row = scaled(row, 1 / row[lead])
        for other, old in pivots.items():
            if lead in old:
                pivots[other] = add(old, row, -old[lead])
        pivots[lead] = row
    every = list(dict.fromkeys([*variables, *(v for row in pivots.values() for v in row)]))
    basis = []
    for free in (v for v in every if v not in pivots):
        vector = {free: Fraction(1)}
        for lead, row in pivots.items():
            if free in row:
                vector[lead] = -row[free]
        kept = {v: vector[v] for v in variables if v in vector}
        if kept:
            basis.append(kept)
    return echelon(basis, variables)


def _reduced(row: Form, pivots: dict[Variable, Form]) -> Form:
    for variable in list(row):
        if variable in pivots and variable in row:
            row = add(row, pivots[variable], -row[variable])
    return row


def echelon(vectors: Iterable[Form], order: Sequence[Variable]) -> list[Form]:
    """The reduced echelon basis of a span, with leading entries 1 in the order of the variables."""
    rank = {v: i for i, v in enumerate(order)}
    basis: list[tuple[Variable, Form]] = []
    for vector in vectors:
        for lead, row in basis:
            if lead in vector:
                vector = add(vector, row, -vector[lead])
        if not vector:
            continue
        lead = min(vector, key=rank.__getitem__)
        vector = scaled(vector, 1 / vector[lead])
        basis = [(other, add(row, vector, -row[lead]) if lead in row else row) for other, row in basis]
        basis.append((lead, vector))
    return [row for _, row in sorted(basis, key=lambda pair: rank[pair[0]])]


def in_span(vector: Form, basis: Sequence[Form]) -> bool:
    """Whether a vector is a combination of others."""
    order = list(dict.fromkeys(v for row in [*basis, vector] for v in row))
    return len(echelon([*basis, vector], order)) == len(echelon(basis, order))


def parity_solutions(rows: Iterable[Parity], variables: Sequence[Variable]) -> list[Parity]:
    """A basis of the solutions of ``rows = 0`` over F2, restricted to ``variables``, in reduced echelon form."""
    wanted = set(variables)
    pivots: dict[Variable, Parity] = {}
    for row in rows:
        for variable in list(row):
            if variable in pivots and variable in row:
                row = row ^ pivots[variable]
        if not row:
            continue
        lead = next((v for v in row if v not in wanted), next(iter(row)))
        for other, old in pivots.items():
            if lead in old:
                pivots[other] = old ^ row
        pivots[lead] = row
    every = list(dict.fromkeys([*variables, *(v for row in pivots.values() for v in sorted(row, key=repr))]))
    basis = []
    for free in (v for v in every if v not in pivots):
        vector = frozenset({free} | {lead for lead, row in pivots.items() if free in row}) & wanted
        if vector:
            basis.append(vector)
    return parity_echelon(basis, variables)


def parity_echelon(vectors: Iterable[Parity], order: Sequence[Variable]) -> list[Parity]:
    """The reduced echelon basis of a span over F2."""
    rank = {v: i for i, v in enumerate(order)}
    basis: list[tuple[Variable, Parity]] = []
    for vector in vectors:
        for lead, row in basis:
            if lead in vector:
                vector = vector ^ row
        if not vector:
            continue
        lead = min(vector, key=rank.__getitem__)
        basis = [(other, row ^ vector if lead in row else row) for other, row in basis]
        basis.append((lead, vector))
    return [row for _, row in sorted(basis, key=lambda pair: rank[pair[0]])]
