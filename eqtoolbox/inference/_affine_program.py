"""A program without calls or loops, and every value of it as a product of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import jax.numpy as jnp

from eqtoolbox.inference._affine_terms import (
    ONE,
    Combined,
    Entry,
    Factor,
    Label,
    Out,
    Poly,
    Term,
    Unfit,
    all_labels,
    apart,
    collected,
    full,
    labels_of,
    matches,
    merged,
    numbered,
)
from eqtoolbox.inference._jaxpr import Equation, Known, Program, subprograms
from eqtoolbox.inference._rules_control import CALLS, HELD

#: Longest product that a value is written as; a longer one is an atom.
MAX_FACTORS = 10
#: Most steps of a scan, and most operations in them, that are written out.
MAX_STEPS, MAX_UNROLLED = 64, 20_000
#: How often sums are opened in search of one that vanishes.
MAX_DEPTH = 3


@dataclass(frozen=True)
class Atom:
    """A factor of terms.

    Attributes:
      shape: of the array.
      data: whether it depends on the inputs of the model.
      leaves: the parameters that it depends on.
      kind: "leaf", "value" (of the program), "term" or "symbol".
      source: path of the leaf, variable, the term, or name of the symbol.
    """

    shape: tuple[int, ...]
    data: bool
    leaves: frozenset[str]
    kind: str
    source: Any


def flatten(program: Program) -> tuple[list[Equation], dict[Any, Any], list[Any]]:
    """The operations with calls and short scans written out; constants by variable; the outputs.

    Variables are numbers, those of the inputs the first.
    """
    equations: list[Equation] = []
    constants: dict[Any, Any] = {}
    count = [0]

    def name() -> int:
        count[0] += 1
        return count[0] - 1

    def emit(equation: Equation, inputs: Sequence[Any], source: str) -> list[int]:
        outputs = [name() for _ in equation.outputs]
        equations.append(
            replace(equation, inputs=tuple(inputs), outputs=tuple(outputs), source=equation.source or source)
        )
        return outputs

    def run(program: Program, inputs: Sequence[Any], source: str) -> list[Any]:
        env: dict[Any, Any] = {}
        for variable, array in program.constants:
            env[variable] = name()
            constants[env[variable]] = array
        env |= dict(zip(program.inputs, inputs, strict=True))

        def read(v: Any) -> Any:
            return v if isinstance(v, Known) else env[v]

        for equation in program.equations:
            values = [read(v) for v in equation.inputs]
            place = equation.source or source
            results = None
            if equation.name in CALLS:
                inner = subprograms(equation, HELD)
                if len(inner) == 1 and len(inner[0].inputs) == len(values):
                    results = run(inner[0], values, place)
            elif equation.name == "scan":
                results = unroll(equation, values, place)
            env |= dict(zip(equation.outputs, results or emit(equation, values, source), strict=True))
        return [read(v) for v in program.outputs]

    def unroll(equation: Equation, values: list[Any], source: str) -> list[Any] | None:
        (body,) = subprograms(equation, ("jaxpr",))
        length = equation.options["length"]
        if not 0 < length <= MAX_STEPS or length * len(body.equations) > MAX_UNROLLED:
            return None
        over = sum(a != b for a, b in zip(equation.input_shapes, body.shapes, strict=True))
        carries = sum(a == b for a, b in zip(equation.output_shapes, body.output_shapes, strict=True))
        consts = len(values) - carries - over
        fixed, carry, rows = values[:consts], values[consts : consts + carries], values[consts + carries :]
        stacked: list[list[Any]] = [[] for _ in body.output_shapes[carries:]]
        steps = range(length)
        order = list(reversed(steps)) if equation.options.get("reverse") else list(steps)
        for step in order:
            taken = []
            for row, shape in zip(rows, equation.input_shapes[consts + carries :], strict=True):
                eqn = replace(
                    equation,
                    name="take_step",
                    outputs=(None,),
                    input_shapes=(shape,),
                    output_shapes=(shape[1:],),
                    output_dtypes=(None,),
                    options={"index": step},
                    bind=lambda x, step=step: x[step],
                )
                taken += emit(eqn, [row], source)
            results = run(body, [*fixed, *carry, *taken], source)
            carry = results[:carries]
            for column, value in zip(stacked, results[carries:], strict=True):
                column.append(value)
        outputs = list(carry)
        for i, column in enumerate(stacked):
            shape = equation.output_shapes[carries + i]
            eqn = replace(
                equation,
                name="stack_steps",
                outputs=(None,),
                input_shapes=(shape[1:],) * length,
                output_shapes=(shape,),
                output_dtypes=(equation.output_dtypes[carries + i],),
                options={},
                bind=lambda *x: jnp.stack(x),
            )
            ordered = [column[order.index(step)] for step in steps]
            outputs += emit(eqn, ordered, source)
        return outputs

    results = run(program, [name() for _ in program.inputs], "")
    return equations, constants, results


class Algebra:
    """The atoms of a program, and the arithmetic of terms in them.

    Attributes:
      atoms: by number.
      forms: for every variable its value as a polynomial: a single term, or none where it is zero.
      numbers: variables that are one known number everywhere.
      parts: what a sum of two values is, multiplied out once.
      sums: the products that atoms of kind "term" are.
      vanishing: pairs of a sum and an axis along which it adds up to nothing.
      open: the same up to factors, and terms without data.
    """

    def __init__(self) -> None:
        self.atoms: list[Atom] = []
        self.known: dict[Any, int] = {}
        self.parts: dict[int, Poly] = {}
        self.sums: dict[int, tuple[Fraction, Term]] = {}
        self.forms: dict[int, Poly] = {}
        self.numbers: dict[int, float] = {}
        self.vanishing: set[tuple[int, int]] = set()
        self.open: set[tuple[int, int]] = set()

    def atom(self, shape: Sequence[int], data: bool, leaves: frozenset[str], kind: str, source: Any) -> int:
        """The number of an atom, a new one unless it is known."""
        if (kind, source) not in self.known:
            self.known[kind, source] = len(self.atoms)
            self.atoms.append(Atom(tuple(shape), data, leaves, kind, source))
        return self.known[kind, source]

    def plain(self, number: int) -> Poly:
        """An atom by itself."""
        out = tuple(full(n) for n in self.atoms[number].shape)
        return {numbered([(number, out, ONE)], out): ONE}

    def constant(self, value: Fraction, shape: Sequence[int]) -> Poly:
        """One number everywhere."""
        return {numbered([], tuple(full(n) for n in shape)): value} if value else {}

    def has_data(self, factors: Sequence[Factor] | frozenset[Factor]) -> bool:
        return any(self.atoms[i].data or _looked_up(entries) for i, entries, _ in factors)

    def leaves(self, factors: Sequence[Factor] | frozenset[Factor]) -> frozenset[str]:
        return frozenset().union(*(self.atoms[i].leaves for i, _, _ in factors))

    # Arithmetic.

    def normal(
        self,
        coefficient: Fraction,
        factors: Sequence[Factor],
        out: Out,
        summed: Sequence[Any] = (),
        depth: int = 0,
    ) -> Poly:
        """A product summed over all labels that its result does not have, in the normal form.

        ``summed`` are labels whose sum counts even where no factor has them.
        """
        powers = collected(factors)
        used = {x for _, entries in powers for x in all_labels(entries)}
        for label in summed:
            if label not in used:
                coefficient *= label[1]
        free = set(all_labels(out))
        for label in (
            {x for _, entries, _ in factors for x in all_labels(entries)} - used - free - set(summed)
        ):
            coefficient *= label[1]
        coefficient, powers = self._without_quotients(coefficient, powers, free)
        term = numbered(*merged([(i, e, p) for (i, e), p in powers.items()], out))
        if not coefficient:
            return {}
        return scaled(self._opened(term, depth), coefficient)

    def _without_quotients(self, coefficient: Fraction, powers: dict, free: set) -> tuple[Fraction, dict]:
        """Cancels a sum against its reciprocal."""
        for (atom, entries), power in list(powers.items()):
            if power > -1 or atom not in self.sums:
                continue
            scale, (inner, out) = self.sums[atom]
            inner, out = apart((inner, out))
            mapping: dict = {}
            if any(e[0] == "at" or e[0] or len(e[1]) != len(o[1]) for e, o in zip(entries, out, strict=True)):
                continue
            for e, o in zip(entries, out, strict=True):
                mapping |= dict(zip(o[1], e[1], strict=True))
            bound = {x for _, es, _ in inner for x in all_labels(es)} - set(mapping)
            for found, left in matches(inner, powers, mapping, bound):
                summed = {found[x] for x in bound}
                if summed & free or any(summed & set(all_labels(es)) for _, es in left):
                    continue
                left = collected([*((i, e, p) for (i, e), p in left.items()), (atom, entries, ONE)])
                return self._without_quotients(coefficient / scale, left, free)
        return coefficient, powers

    def learn(self, atom: int) -> None:
        """Notes along which axes a sum of two values adds up to nothing, or does up to terms without data."""
        shape, parts = self.atoms[atom].shape, self.parts[atom]
        for axis, n in enumerate(shape):
            constant = [self._is_constant(term, axis) for term in parts]
            if n == 1 or not self.atoms[atom].data:
                continue
            if any(constant) and not all(constant):
                total: Poly = {}
                for term, c in parts.items():
                    factors, out = apart(term)
                    gone = list(labels_of(out[axis]))
                    add_to(total, self.normal(c, factors, (*out[:axis], *out[axis + 1 :]), gone))
                if not total:
                    self.vanishing.add((atom, axis))
            if all(self._vanishes(f, out[axis]) for f, out in parts if self.has_data(f)):
                self.open.add((atom, axis))

    def _is_constant(self, term: Term, axis: int) -> bool:
        factors, out = term
        used = {x for _, entries, _ in factors for x in all_labels(entries)}
        return not used & set(out[axis][1])

    def _vanishes(self, factors: frozenset[Factor], entry: Entry) -> bool:
        """Whether a product has a factor that adds up to nothing along an axis."""
        return any(
            power == 1 and e == entry and ((atom, axis) in self.vanishing or (atom, axis) in self.open)
            for atom, entries, power in factors
            for axis, e in enumerate(entries)
        )

    def _opened(self, term: Term, depth: int) -> Poly:
        """The term, or what is left of it where a factor adds up to nothing along a label that is summed."""
        factors, out = term
        free: set[Label] | None = None
        for factor in factors:
            atom, entries, power = factor
            if power != 1 or atom not in self.parts:
                continue
            for axis, entry in enumerate(entries):
                known = (atom, axis)
                if known not in self.vanishing and known not in self.open:
                    continue
                free = set(all_labels(out)) if free is None else free
                if entry[0] != 0 or len(entry[1]) != 1 or entry[1][0] in free:
                    continue
                label = entry[1][0]
                others = [x for f in factors if f is not factor for x in all_labels(f[1])]
                others += [x for k, e in enumerate(entries) if k != axis for x in all_labels((e,))]
                if known in self.vanishing and label not in others:
                    return {}
                if known in self.open and depth < MAX_DEPTH:
                    found = self._open(term, factor, depth)
                    if found is not None:
                        return found
        return {term: ONE}

    def _open(self, term: Term, factor: Factor, depth: int) -> Poly | None:
        """The term with a sum inside multiplied out, where that leaves nothing that depends on data."""
        factors, out = term
        atom, entries, _ = factor
        result: Poly = {}
        try:
            for part, c in self.parts[atom].items():
                both = Combined((list(factors - {factor}), [*entries, *out]), apart(part))
                for k, n in enumerate(self.atoms[atom].shape):
                    both.join(k, k, n)
                axes, tail = both.out(0)[: len(entries)], tuple(both.out(0)[len(entries) :])
                summed = set(all_labels(axes)) - set(all_labels(tail))
                add_to(result, self.normal(c, both.factors, tail, list(summed), depth + 1))
        except Unfit:
            return None
        return None if any(self.has_data(t[0]) for t in result) else result

    def product(
        self, a: Poly, b: Poly, joined: Sequence[tuple[int, int, int]], out: Sequence[tuple[int, int]]
    ) -> Poly:
        """The product of two polynomials.

        Args:
          a: the first.
          b: the second.
          joined: triples (axis of a, axis of b, size) that are the same.
          out: the axes of the result as pairs (0 or 1 for a or b, axis); joined axes that are not in it are summed.
        """
        result: Poly = {}
        for s, c in a.items():
            for t, d in b.items():
                both = Combined((list(s[0]), s[1]), apart(t))
                for i, j, size in joined:
                    both.join(i, j, size)
                axes = tuple(both.out(side)[axis] for side, axis in out)
                kept = set(all_labels(axes))
                every = dict.fromkeys([*all_labels(both.out(0)), *all_labels(both.out(1))])
                add_to(result, self.normal(c * d, both.factors, axes, [x for x in every if x not in kept]))
        return result

    def power(self, form: Poly, exponent: Fraction) -> Poly | None:
        """A power of a single product, or None where it is no product."""
        if not form:
            return {} if exponent > 0 else None
        ((term, c),) = form.items()
        factors, out = apart(term)
        closed = self.closed(factors, set(all_labels(out)))
        if exponent.denominator != 1:
            if c != 1 or any(p != 1 for _, _, p in closed) or len(closed) != 1:
                return None
        elif exponent < 0 and c == 0:
            return None
        scale = c**exponent.numerator if exponent.denominator == 1 else ONE
        return self.normal(scale, [(i, es, p * exponent) for i, es, p in closed], out)

    def closed(self, factors: list[Factor], free: set) -> list[Factor]:
        """The factors with sums over bound labels as atoms of their own."""
        groups: list[tuple[set, list[Factor]]] = []
        kept: list[Factor] = []
        for factor in factors:
            bound = set(all_labels(factor[1])) - free
            if not bound:
                kept.append(factor)
                continue
            near = [g for g in groups if g[0] & bound]
            groups = [g for g in groups if not g[0] & bound]
            groups.append((bound.union(*(g[0] for g in near)), [factor, *(f for g in near for f in g[1])]))
        for _, group in groups:
            labels = [x for x in dict.fromkeys(x for _, es, _ in group for x in all_labels(es)) if x in free]
            labels.sort()
            term = numbered(group, tuple((0, (x,)) for x in labels))
            atom = self.atom([x[1] for x in labels], self.has_data(group), self.leaves(group), "term", term)
            self.sums[atom] = (ONE, term)
            kept.append((atom, tuple((0, (x,)) for x in labels), ONE))
        return kept


def _looked_up(entries: Sequence[Any]) -> bool:
    return any(e[0] == "at" for e in entries)


def add_to(total: Poly, other: Poly, factor: Fraction | int = 1) -> None:
    """Adds ``factor`` times a polynomial, in place."""
    for term, c in other.items():
        new = total.pop(term, Fraction(0)) + factor * c
        if new:
            total[term] = new


def scaled(poly: Poly, factor: Fraction | int) -> Poly:
    return {term: c * factor for term, c in poly.items()} if factor else {}


def as_fraction(value: float, eps: float) -> Fraction:
    """A simple fraction within rounding of a number, or the number itself."""
    exact = Fraction(value)
    near = exact.limit_denominator(1 << 16)
    return near if abs(near - exact) <= 2 * eps * abs(exact) else exact
