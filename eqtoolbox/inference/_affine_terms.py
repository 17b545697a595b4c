"""Sums of products of arrays with named axes, in a normal form: what a shift of parameters does to a value.

A term is a coefficient times a product of factors, each an array (an *atom*) raised to a power and indexed by labels,
summed over the labels that the result does not have. An entry says how an axis is indexed: ``(offset, labels)`` reads
``offset + (l1, l2, ...)`` in row-major order, ``("at", atom, entries)`` looks the position up in an array of integers.
The axes of the result are entries too: outside of an entry's range the term is zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

Label = tuple[int, int]
Entry = tuple[Any, ...]
Factor = tuple[int, tuple[Entry, ...], Fraction]
Out = tuple[Entry, ...]
Term = tuple[frozenset[Factor], Out]
Poly = dict[Term, Fraction]

_NUMBERS = itertools.count(-1, -1)
ONE = Fraction(1)


class Unfit(Exception):
    """What happened to a shift that no term expresses, or that reached where it must not."""


def fresh(size: int) -> Label:
    """A label used nowhere else."""
    return (next(_NUMBERS), size)


def full(size: int) -> Entry:
    """An axis of its own."""
    return (0, (fresh(size),)) if size != 1 else (0, ())


def extent(labels: Iterable[Label]) -> int:
    return math.prod(label[1] for label in labels)


def labels_of(entry: Entry) -> Iterator[Label]:
    if entry[0] == "at":
        for inner in entry[2]:
            yield from labels_of(inner)
    else:
        yield from entry[1]


def all_labels(entries: Iterable[Entry]) -> Iterator[Label]:
    for entry in entries:
        yield from labels_of(entry)


Map = dict[Label, tuple[int, tuple[Label, ...]]]


def put(entry: Entry, mapping: Map) -> Entry:
    """The entry with labels replaced by ranges of others."""
    if entry[0] == "at":
        return ("at", entry[1], tuple(put(e, mapping) for e in entry[2]))
    offset, labels = entry
    new: list[Label] = []
    inner = extent(labels)
    for label in labels:
        inner //= label[1]
        if label not in mapping:
            new.append(label)
            continue
        start, parts = mapping[label]
        if start or extent(parts) != label[1]:
            if new:
                raise Unfit("a part of an axis that is the inner one of a product")
            offset += start * inner
        new.extend(parts)
    return (offset, tuple(new))


def put_all(factors: Iterable[Factor], mapping: Map) -> list[Factor]:
    return [(atom, tuple(put(e, mapping) for e in entries), p) for atom, entries, p in factors]


def apart(term: Term) -> tuple[list[Factor], Out]:
    """The term with labels used nowhere else."""
    factors, out = term
    labels = set(all_labels(out)) | {x for _, entries, _ in factors for x in all_labels(entries)}
    mapping: Map = {x: (0, (fresh(x[1]),)) for x in labels}
    return put_all(factors, mapping), tuple(put(e, mapping) for e in out)


def refine(a: tuple[Label, ...], b: tuple[Label, ...]) -> tuple[Map, Map]:
    """Replacements after which two products of labels, of one size, are the same product."""
    if [x[1] for x in a] == [y[1] for y in b]:
        return {}, {y: (0, (x,)) for x, y in zip(a, b, strict=True) if x != y}
    to_a: dict[Label, list[Label]] = {x: [] for x in a}
    to_b: dict[Label, list[Label]] = {x: [] for x in b}
    left, right = [(x, x[1]) for x in a if x[1] != 1], [(x, x[1]) for x in b if x[1] != 1]
    while left and right:
        (x, m), (y, n) = left[0], right[0]
        if m % n and n % m:
            raise Unfit("a reshape across axes")
        size = min(m, n)
        common = fresh(size)
        to_a[x].append(common)
        to_b[y].append(common)
        left[:1] = [(x, m // size)] if m > size else []
        right[:1] = [(y, n // size)] if n > size else []
    return {x: (0, tuple(v)) for x, v in to_a.items()}, {x: (0, tuple(v)) for x, v in to_b.items()}


def unify(a: Entry, b: Entry, size: int) -> tuple[Map, Map, Entry]:
    """Replacements after which two entries of results on one axis are the same; that entry."""
    if a[0] == "at" or b[0] == "at":
        raise Unfit("an axis that is looked up")
    na, nb = extent(a[1]), extent(b[1])
    if na == nb and a[0] == b[0]:
        to_a, to_b = refine(a[1], b[1])
        return to_a, to_b, put(a, to_a)
    if na == size and a[0] == 0:
        to_b, to_a, entry = unify(b, a, size)
        return to_a, to_b, entry
    if nb != size or b[0] != 0:
        raise Unfit("two different parts of an axis")
    # b is whole: its outermost label takes the range of a.
    outer, *rest = b[1]
    inner = extent(rest)
    if a[0] % inner or na % inner:
        raise Unfit("a part of an axis across a product")
    if not rest:
        return {}, {outer: a}, a
    head = fresh(na // inner)
    to_a, to_b = refine(a[1], (head, *rest))
    to_b[outer] = (a[0] // inner, to_b.pop(head, (0, (head,)))[1])
    return to_a, to_b, put(a, to_a)


class Combined:
    """Two terms on their way to one product: replacements so far are applied to both."""

    def __init__(
        self, a: tuple[Sequence[Factor], Sequence[Entry]], b: tuple[Sequence[Factor], Sequence[Entry]]
    ) -> None:
        self.sides = [(list(a[0]), list(a[1])), (list(b[0]), list(b[1]))]

    def join(self, i: int, j: int, size: int) -> None:
        """Makes axis i of the first and axis j of the second the same."""
        to_a, to_b, _ = unify(self.sides[0][1][i], self.sides[1][1][j], size)
        for k, mapping in enumerate((to_a, to_b)):
            if not mapping:
                continue
            factors, out = self.sides[k]
            self.sides[k] = (put_all(factors, mapping), [put(e, mapping) for e in out])

    @property
    def factors(self) -> list[Factor]:
        return self.sides[0][0] + self.sides[1][0]

    def out(self, side: int) -> list[Entry]:
        return self.sides[side][1]


def collected(factors: Iterable[Factor]) -> dict[tuple[int, tuple[Entry, ...]], Fraction]:
    """Factors by what they are, with their powers added."""
    powers: dict[tuple[int, tuple[Entry, ...]], Fraction] = {}
    for atom, entries, power in factors:
        powers[atom, entries] = powers.get((atom, entries), Fraction(0)) + power
    return {key: power for key, power in powers.items() if power}


def merged(factors: Sequence[Factor], out: Out) -> tuple[list[Factor], Out]:
    """Labels that only ever occur side by side, as one."""
    entries = list(_direct([*(e for _, es, _ in factors for e in es), *out]))
    pairs = {pair for e in entries for pair in itertools.pairwise(e[1])}
    for p, q in pairs:
        if p != q and all(_together(e[1], p, q) for e in entries):
            one = fresh(p[1] * q[1])
            mapping: Map = {p: (0, (one,)), q: (0, ())}

            def joined(entry: Entry, mapping: Map = mapping, p: Label = p, q: Label = q) -> Entry:
                if entry[0] == "at":
                    return ("at", entry[1], tuple(joined(e) for e in entry[2]))
                kept = tuple(mapping[x][1][0] if x == p else x for x in entry[1] if x != q)
                return (entry[0], kept)

            new = [(atom, tuple(joined(e) for e in es), power) for atom, es, power in factors]
            return merged(new, tuple(joined(e) for e in out))
    return list(factors), out


def _direct(entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        if entry[0] == "at":
            yield from _direct(entry[2])
        else:
            yield entry


def _together(labels: tuple[Label, ...], p: Label, q: Label) -> bool:
    places = [i for i, x in enumerate(labels) if x == p]
    behind = [i for i, x in enumerate(labels) if x == q]
    return [i + 1 for i in places] == behind


def numbered(factors: Sequence[Factor], out: Out) -> Term:
    """Labels numbered: those of the result in order, then the others by where they occur."""
    names: dict[Label, Label] = {}
    for label in all_labels(out):
        names.setdefault(label, (len(names), label[1]))
    bound = {x for _, es, _ in factors for x in all_labels(es)} - set(names)
    if len(bound) == 1:
        (label,) = bound
        names[label] = (len(names), label[1])
    elif bound:
        colour: dict[Label, int] = {x: hash(("free", *y)) for x, y in names.items()}
        colour |= {x: hash(("bound", x[1])) for x in bound}
        for _ in range(2):
            seen: dict[Label, list[int]] = {x: [] for x in bound}
            for atom, es, power in factors:
                whole = hash((atom, power, tuple(_coloured(e, colour) for e in es)))
                for place, x in enumerate(all_labels(es)):
                    if x in bound:
                        seen[x].append(hash((whole, place)))
            colour |= {x: hash((colour[x], *sorted(found))) for x, found in seen.items()}
        for label in sorted(bound, key=colour.__getitem__):
            names[label] = (len(names), label[1])
    mapping: Map = {x: (0, (y,)) for x, y in names.items()}
    return frozenset(put_all(factors, mapping)), tuple(put(e, mapping) for e in out)


def _coloured(entry: Entry, colour: dict[Label, int]) -> int:
    if entry[0] == "at":
        return hash(("at", entry[1], tuple(_coloured(e, colour) for e in entry[2])))
    return hash((entry[0], tuple(colour[x] for x in entry[1])))


def matches(
    pattern: Sequence[Factor],
    target: dict[tuple[int, tuple[Entry, ...]], Fraction],
    mapping: dict[Label, Label],
    open_labels: set[Label],
) -> Iterator[tuple[dict[Label, Label], dict[tuple[int, tuple[Entry, ...]], Fraction]]]:
    """Ways to find all factors of a pattern in a product, naming its open labels; with what is left over."""
    if not pattern:
        yield mapping, target
        return
    atom, entries, power = pattern[0]
    for (other, others), have in target.items():
        if other != atom or have * power <= 0 or abs(have) < abs(power):
            continue
        found = dict(mapping)
        if not all(_same(e, o, found, open_labels) for e, o in zip(entries, others, strict=True)):
            continue
        left = dict(target)
        left[other, others] = have - power
        if not left[other, others]:
            del left[other, others]
        yield from matches(pattern[1:], left, found, open_labels)


def _same(entry: Entry, other: Entry, found: dict[Label, Label], open_labels: set[Label]) -> bool:
    if entry[0] == "at" or other[0] == "at":
        if entry[0] != other[0] or entry[1] != other[1]:
            return False
        return all(_same(e, o, found, open_labels) for e, o in zip(entry[2], other[2], strict=True))
    if entry[0] != other[0] or len(entry[1]) != len(other[1]):
        return False
    for x, y in zip(entry[1], other[1], strict=True):
        if x in found:
            if found[x] != y:
                return False
        elif x not in open_labels or x[1] != y[1] or y in found.values():
            return False
        else:
            found[x] = y
    return True
