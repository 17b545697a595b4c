"""The search for shifts of parameters that no output sees."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from eqtoolbox.inference._affine_program import add_to, scaled
from eqtoolbox.inference._affine_shift import ADDED, Values, shifted, spread
from eqtoolbox.inference._affine_terms import (
    ONE,
    Combined,
    Entry,
    Factor,
    Out,
    Poly,
    Term,
    Unfit,
    all_labels,
    apart,
    collected,
    extent,
    fresh,
    full,
    matches,
    put_all,
)
from eqtoolbox.inference._jaxpr import Equation, Known

#: More terms, and more factors in one, than shifts that vanish have (3 and 5 in the models of the catalogue).
MAX_TERMS, MAX_SHIFT_FACTORS = 16, 12
#: Most leaves that one shift may be absorbed by.
MAX_ABSORBERS = 200


@dataclass(frozen=True)
class Candidate:
    """A shift of one leaf: free along some parts of its axes, constant along the others.

    Attributes:
      path: of the leaf.
      axes: for every axis its range (start, stop), and for each factor of it the size and whether the shift varies.
      weight: where the shift is divided by another parameter: its atom, and for each of its axes that of the leaf.
      across: the axis along which such a shift is otherwise constant.
      scaled: whether the shift is multiplied by the leaf itself.
    """

    path: str
    axes: tuple[tuple[int, int, tuple[tuple[int, bool], ...]], ...]
    weight: tuple[int, tuple[int, ...]] | None = None
    across: int | None = None
    scaled: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(n for _, _, parts in self.axes for n, varies in parts if varies)

    def within(self, other: Candidate) -> bool:
        """Whether another one, of the same leaf and weight, has all its directions."""
        if (self.path, self.weight) != (other.path, other.weight):
            return False
        for (a, b, mine), (c, d, others) in zip(self.axes, other.axes, strict=True):
            whole = all(v for _, v in others)
            if not (c <= a and b <= d) or ((a, b) != (c, d) and not whole):
                return False
            if whole or not any(v for _, v in mine):
                continue
            if [n for n, _ in mine] != [n for n, _ in others]:
                return False
            if any(v and not w for (_, v), (_, w) in zip(mine, others, strict=True)):
                return False
        return True


@dataclass
class Found:
    """A shift that no output sees.

    Attributes:
      candidate: the leaf it begins with.
      symbol: the atom of its coefficients.
      moves: what each leaf moves by, linear in the symbol.
      absorbed: pairs of a leaf and the operation at which it undoes the shift.
      killed: the operations behind which nothing is left of it.
    """

    candidate: Candidate
    symbol: int
    moves: dict[str, Poly]
    absorbed: list[tuple[str, Equation]]
    killed: list[Equation]


@dataclass
class Trace:
    """What a propagation met: the end of it, or what could absorb it; the cuts of the symbol's axes."""

    fitting: bool = False
    absorber: tuple[str, Poly, Equation] | None = None
    killed: list[Equation] = field(default_factory=list)
    stopped: str = ""
    cuts: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    splits: dict[int, set[tuple[int, ...]]] = field(default_factory=dict)


class Search:
    """The search in one program."""

    def __init__(self, values: Values, moving: Sequence[str]) -> None:
        self.values, self.algebra = values, values.algebra
        self.moving = list(moving)
        self.variable = {path: i for i, path in enumerate(values.paths)}
        self.atom = {p: self.algebra.known["leaf", p] for p in values.paths}
        self.by_atom = {a: p for p, a in self.atom.items()}
        self.stopped: dict[str, str] = {}
        self.others: dict[int, bool] = {}

    def run(self) -> list[Found]:
        found: list[Found] = []
        weights = self._weights()
        for path in self.moving:
            shape = self.values.shapes[self.variable[path]]
            splits: dict[int, tuple[int, ...]] = {}
            cuts: dict[int, set[tuple[int, int]]] = {}
            mine = self._among(self._grid(path, shape, splits, cuts), splits, cuts)
            if splits or cuts:
                finer = self._among(self._grid(path, shape, splits, cuts), {}, {}, tuple(mine))
                mine = [f for f in mine if not any(f.candidate.within(g.candidate) for g in finer)] + finer
                mine = [f for f in mine if not _made_up(f.candidate, mine, cuts)]
            for weight, across in sorted(weights.get(path, ())):
                mine += self._among(self._weighted(path, shape, weight, across), {}, {})
            found += mine
        return _distinct(found)

    def _among(
        self,
        candidates: Iterator[Candidate],
        splits: dict[int, tuple[int, ...]],
        cuts: dict[int, set[tuple[int, int]]],
        before: Sequence[Found] = (),
    ) -> list[Found]:
        found: list[Found] = []
        for candidate in candidates:
            larger = [f for f in (*before, *found) if candidate.within(f.candidate)]
            if any(not f.absorbed or f.candidate == candidate or self._otherwise(f) for f in larger):
                continue
            known = {path for f in larger for path, _ in f.absorbed}
            result = self.follow(candidate, known, splits, cuts)
            if result is not None:
                found.append(result)
        return found

    def _otherwise(self, found: Found) -> bool:
        """Whether other leaves could absorb the same shift: then those are redundant among themselves."""
        if id(found) not in self.others:
            self.others[id(found)] = self.follow(found.candidate, {p for p, _ in found.absorbed}) is not None
        return self.others[id(found)]

    # Candidates.

    def _grid(self, path, shape, splits, cuts) -> Iterator[Candidate]:
        """All candidates of a leaf, larger ones first; of parts of axes behind those of whole ones."""
        parts = [splits.get(k, (n,)) if n > 1 else () for k, n in enumerate(shape)]
        ranges = [(0, n) for n in shape]
        yield from self._subsets(path, ranges, parts)
        for axis, found in sorted(cuts.items()):
            if axis in splits:
                continue
            points = sorted({0, shape[axis], *(point for part in found for point in part)})
            for start, stop in sorted({*found, *itertools.pairwise(points)}):
                inside = [(start, stop) if k == axis else r for k, r in enumerate(ranges)]
                sizes = [
                    (stop - start,) if k == axis and stop - start > 1 else p for k, p in enumerate(parts)
                ]
                sizes = [() if k == axis and stop - start == 1 else p for k, p in enumerate(sizes)]
                yield from self._subsets(path, inside, sizes)

    def _subsets(self, path, ranges, parts, across=None, weight=None) -> Iterator[Candidate]:
        places = [(k, j) for k, sizes in enumerate(parts) for j in range(len(sizes)) if k != across]
        for count in range(len(places), -1, -1):
            for kept in itertools.combinations(places, count):
                axes = tuple(
                    (*ranges[k], tuple((n, (k, j) in kept) for j, n in enumerate(sizes)))
                    for k, sizes in enumerate(parts)
                )
                yield Candidate(path, axes, weight, across)

    def _weighted(self, path, shape, weight, across) -> Iterator[Candidate]:
        parts = [(n,) if n > 1 else () for n in shape]
        yield from self._subsets(path, [(0, n) for n in shape], parts, across, weight)

    def gains(self) -> list[str]:
        """Leaves that multiply what other leaves read."""
        found = {gain for pairs in self._weights().values() for (gain, _), _ in pairs}
        return [p for p in self.values.paths if self.atom[p] in found]

    def _weights(self) -> dict[str, set[tuple[tuple[int, tuple[int, ...]], int]]]:
        """Leaves that multiply what carries a gain: the gain, where its axes are the leaf's, and the shared axis."""
        found: dict[str, set[tuple[tuple[int, tuple[int, ...]], int]]] = {}
        for eqn in self.values.equations:
            if eqn.name != "dot_general":
                continue
            for term in self.algebra.forms[eqn.outputs[0]]:
                for atom, entries, power in term[0]:
                    if atom not in self.by_atom or power != 1 or self.by_atom[atom] not in self.moving:
                        continue
                    for axis, entry in enumerate(entries):
                        if entry[0] != 0 or len(entry[1]) != 1:
                            continue
                        for gain, own in self._gains(term[0], entry, atom):
                            places = self._places(gain, own, entry, atom, entries, axis)
                            if places is not None:
                                found.setdefault(self.by_atom[atom], set()).add(((gain, places), axis))
        return found

    def _places(self, gain: int, own, shared: Entry, leaf: int, entries, axis: int) -> tuple[int, ...] | None:
        """For each axis of a gain the axis of the leaf that it shares: the summed one, or the step of a scan."""
        places = []
        for k, entry in enumerate(own):
            if entry == shared:
                places.append(axis)
                continue
            same = [
                j
                for j, e in enumerate(entries)
                if e == entry and not e[1] and self._size(leaf, j) == self._size(gain, k)
            ]
            if not same:
                return None
            places.append(same[0])
        return tuple(places)

    def _size(self, atom: int, axis: int) -> int:
        return self.algebra.atoms[atom].shape[axis]

    def _gains(
        self, factors: frozenset[Factor], shared: Entry, reader: int
    ) -> list[tuple[int, tuple[Entry, ...]]]:
        """Leaves that multiply along an entry, in a product or in a sum inside of it, as (leaf, entries)."""
        gains = []
        for atom, entries, power in factors:
            if power != 1 or atom == reader or shared not in entries:
                continue
            if atom in self.by_atom:
                gains.append((atom, entries))
            elif atom in self.algebra.parts:
                axis = entries.index(shared)
                for inner, out in self.algebra.parts[atom]:
                    if self.algebra.has_data(inner):
                        gains += [
                            (i, tuple(shared if e == out[axis] else e for e in es))
                            for i, es, p in inner
                            if i in self.by_atom and p == 1 and out[axis] in es
                        ]
        return gains

    # Following one shift.

    def follow(self, candidate: Candidate, without: set[str], splits=None, cuts=None) -> Found | None:
        """The candidate as it is, or with leaves that absorb it, none of them in ``without``; or None."""
        symbol = self.algebra.atom(candidate.shape, False, frozenset(), "symbol", candidate)
        moves = {candidate.path: self._start(candidate, symbol)}
        without, absorbed = {candidate.path, *without}, []
        trace = self.propagate(moves, without, symbol, through=True)
        if trace.fitting:
            return Found(candidate, symbol, moves, [], trace.killed)
        self.stopped.setdefault(candidate.path, trace.stopped)
        _note(candidate, trace, splits, cuts)
        while trace.absorber is not None and len(absorbed) < MAX_ABSORBERS:
            path, move, eqn = trace.absorber
            total = dict(moves.get(path, {}))
            add_to(total, move)
            moves = {**moves, path: total}
            absorbed.append((path, eqn))
            trace = self.propagate(moves, without, symbol)
            if trace.fitting:
                return Found(candidate, symbol, moves, absorbed, trace.killed)
        return None

    def _start(self, candidate: Candidate, symbol: int) -> Poly:
        own: list[Entry] = []
        out: list[Entry] = []
        for start, _, parts in candidate.axes:
            labels = [(fresh(n), varies) for n, varies in parts]
            out.append((start, tuple(x for x, _ in labels)))
            own += [(0, (x,)) for x, varies in labels if varies]
        factors: list[Factor] = [(symbol, tuple(own), ONE)]
        if candidate.weight is not None:
            gain, places = candidate.weight
            factors.append((gain, tuple(out[k] for k in places), -ONE))
        if candidate.scaled:
            factors.append((self.atom[candidate.path], tuple(out), ONE))
        return self.algebra.normal(ONE, factors, tuple(out))

    def propagate(
        self, moves: dict[str, Poly], without: set[str], symbol: int, *, through: bool = False
    ) -> Trace:
        """Follows moves of leaves through the program until they vanish, cannot go on or can be absorbed.

        Leaves ``without`` do not absorb. It goes on ``through`` what could be absorbed, if it is to, and notes the
        first leaf that could.
        """
        values, trace = self.values, Trace()
        shifts: dict[int, Poly] = {self.variable[p]: move for p, move in moves.items() if move}
        waiting = sorted({k for v in shifts for k in values.readers.get(v, ())})
        queued = set(waiting)
        while waiting:
            k = heapq.heappop(waiting)
            eqn = values.equations[k]
            inputs = [{} if isinstance(v, Known) else shifts.get(v, {}) for v in eqn.inputs]
            if not any(inputs):
                continue
            try:
                outputs = shifted(values, eqn, inputs)
                if any(len(s) > MAX_TERMS or any(len(t[0]) > MAX_SHIFT_FACTORS for t in s) for s in outputs):
                    raise Unfit("too many terms")
            except Unfit as reason:
                trace.stopped = f"{eqn.name} {eqn.source}: {reason}"
                return trace
            for s in outputs:
                self._watch(s, symbol, trace)
            if not any(outputs):
                trace.killed.append(eqn)
                continue
            if trace.absorber is None:
                trace.absorber = self._absorber(eqn, outputs, moves, without)
                if trace.absorber is not None and not through:
                    return trace
            for v, s in zip(eqn.outputs, outputs, strict=True):
                if s:
                    shifts[v] = s
                    for reader in values.readers.get(v, ()):
                        if reader not in queued:
                            queued.add(reader)
                            heapq.heappush(waiting, reader)
        reached = [v for v in values.outputs if not isinstance(v, Known) and shifts.get(v)]
        trace.fitting = not reached
        trace.stopped = "it reaches an output" if reached else ""
        return trace

    def _watch(self, poly: Poly, symbol: int, trace: Trace) -> None:
        """Notes how operations cut the axes of the symbol."""
        for factors, _ in poly:
            for atom, entries, _ in factors:
                if atom != symbol:
                    continue
                for axis, entry in enumerate(entries):
                    size = self.algebra.atoms[symbol].shape[axis]
                    if entry[0] == "at":
                        continue
                    if entry[0] or extent(entry[1]) != size:
                        trace.cuts.setdefault(axis, set()).add((entry[0], entry[0] + extent(entry[1])))
                    elif len(entry[1]) > 1:
                        trace.splits.setdefault(axis, set()).add(tuple(n for _, n in entry[1]))

    # Absorption.

    def _absorber(
        self, eqn: Equation, outputs: list[Poly], moves: dict[str, Poly], without: set[str]
    ) -> tuple[str, Poly, Equation] | None:
        """A leaf that can undo the shift of an output, and the move that does."""
        if len(outputs) != 1:
            return None
        forms: list[Poly] = []
        if eqn.name in ADDED:
            for i in range(2):
                v, shape = eqn.inputs[i], eqn.input_shapes[i]
                if not isinstance(v, Known):
                    for part in self._summands(v):
                        form = spread(self.algebra, part, shape, eqn.output_shapes[0])
                        forms.append(scaled(form, -1 if eqn.name == "sub" and i else 1))
        else:
            forms.append(self.algebra.forms[eqn.outputs[0]])
        for form in forms:
            for term, c in form.items():
                for atom in [
                    i for i, _, p in sorted(term[0], key=lambda f: f[0]) if i in self.by_atom and p == 1
                ]:
                    path = self.by_atom[atom]
                    if path not in self.moving or path in without:
                        continue
                    if sum(path in self.algebra.atoms[i].leaves for i, _, _ in term[0]) > 1:
                        continue
                    move = self._solve(outputs[0], term, c, atom, moves, eqn.output_shapes[0])
                    if move and (path not in moves or _disjoint(move, moves[path])):
                        return path, move, eqn
        return None

    def _summands(self, variable: int) -> list[Poly]:
        """A value, or what it is the sum of if it is read here only."""
        form = self.algebra.forms[variable]
        atom = self.algebra.known.get(("value", variable))
        if atom not in self.algebra.parts or len(self.values.readers[variable]) != 1:
            return [form]
        eqn = self.values.equations[self.values.made[variable]]
        found: list[Poly] = []
        for i, (v, shape) in enumerate(zip(eqn.inputs, eqn.input_shapes, strict=True)):
            if not isinstance(v, Known):
                for part in self._summands(v):
                    whole = spread(self.algebra, part, shape, eqn.output_shapes[0])
                    found.append(scaled(whole, -1 if eqn.name == "sub" and i else 1))
        return found

    def _solve(
        self, shift: Poly, term: Term, c: Fraction, leaf: int, moves: dict[str, Poly], shape: Sequence[int]
    ) -> Poly | None:
        """The move of a leaf by which a product, linear in it, becomes minus the shift."""
        total: Poly = {}
        bare = {self.atom[p] for p in moves} - {leaf}
        try:
            for other, d in shift.items():
                one = self._solve_term(other, term, leaf, shape)
                if one is None or any(i in bare for i, _, _ in one[0]):
                    return None
                add_to(total, self.algebra.normal(-d / c, *one))
        except Unfit:
            return None
        return total

    def _solve_term(
        self, shift: Term, term: Term, leaf: int, shape: Sequence[int]
    ) -> tuple[list[Factor], Out] | None:
        a = self.algebra
        first, second = apart(shift), apart(term)
        (own,) = [es for i, es, _ in second[0] if i == leaf]
        direct = {x for e in own if e[0] != "at" for x in e[1]}
        for k, n in enumerate(shape):
            if extent(first[1][k][1]) != n and not (second[1][k][1] and set(second[1][k][1]) <= direct):
                return None
        both = Combined(first, second)
        for k, n in enumerate(shape):
            both.join(k, k, n)
        target, pattern = collected(both.sides[0][0]), both.sides[1][0]
        free = set(all_labels(both.out(1)))
        (own,) = [es for i, es, _ in pattern if i == leaf]
        mine = {x for e in own if e[0] != "at" for x in e[1]}
        rest = [f for f in pattern if f[0] != leaf]
        hard = [f for f in rest if a.has_data([f]) or not set(all_labels(f[1])) <= mine]
        soft = [f for f in rest if f not in hard]
        bound = {x for _, es, _ in pattern for x in all_labels(es)} - free
        for mapping, left in matches(hard, target, {x: x for x in free}, bound):
            if not bound <= set(mapping):
                continue
            renamed = {x: (0, (y,)) for x, y in mapping.items()}
            kept = [(i, es, p) for (i, es), p in left.items()]
            kept += [(i, es, -p) for i, es, p in put_all(soft, renamed)]
            kept = [(i, es, p) for (i, es), p in collected(kept).items()]
            allowed = {mapping[x] for x in mine}
            taken = (free | {mapping[x] for x in bound}) - allowed
            if a.has_data(kept) or any(_looks_up(f) for f in kept):
                continue
            if any(set(all_labels(es)) & taken for _, es, _ in kept):
                continue
            out = []
            for n, entry in zip(a.atoms[leaf].shape, own, strict=True):
                here = (0, ()) if entry[0] == "at" else (entry[0], tuple(mapping[x] for x in entry[1]))
                out.append(full(n) if entry[0] == "at" else here)
            labels = list(all_labels(out))
            if len(labels) != len(set(labels)):
                continue
            return kept, tuple(out)
        return None


def _made_up(candidate: Candidate, found: Sequence[Found], cuts: dict[int, set[tuple[int, int]]]) -> bool:
    """Whether a candidate is the sum of others over the parts of an axis."""
    others = [f for f in found if f.candidate != candidate and not candidate.within(f.candidate)]
    for axis, ends in cuts.items():
        start, stop, parts = candidate.axes[axis]
        points = sorted({start, stop, *(point for part in ends for point in part if start < point < stop)})
        pieces = []
        for low, high in itertools.pairwise(points):
            part = (low, high, ((high - low, any(v for _, v in parts)),) if high - low > 1 else ())
            pieces.append(
                replace(candidate, axes=(*candidate.axes[:axis], part, *candidate.axes[axis + 1 :]))
            )
        if len(pieces) > 1 and all(any(piece.within(f.candidate) for f in others) for piece in pieces):
            return True
    return False


def _looks_up(factor: Factor) -> bool:
    return any(e[0] == "at" for e in factor[1])


def _disjoint(a: Poly, b: Poly) -> bool:
    """Whether two moves of a leaf are of different entries."""
    for _, x in a:
        for _, y in b:
            if not any(_apart(e, f) for e, f in zip(x, y, strict=True)):
                return False
    return True


def _apart(e: Entry, f: Entry) -> bool:
    return e[0] + extent(e[1]) <= f[0] or f[0] + extent(f[1]) <= e[0]


def _note(candidate: Candidate, trace: Trace, splits, cuts) -> None:
    """Takes cuts of the symbol's axes over to the leaf's, where the symbol has them whole."""
    if splits is None or cuts is None:
        return
    places = [k for k, (_, _, parts) in enumerate(candidate.axes) for _, varies in parts if varies]
    for i, found in trace.splits.items():
        if len(candidate.axes[places[i]][2]) == 1:
            finest = max(found, key=len)
            if len(finest) > len(splits.get(places[i], ())):
                splits[places[i]] = finest
    for i, found in trace.cuts.items():
        if len(candidate.axes[places[i]][2]) == 1:
            cuts.setdefault(places[i], set()).update(found)


def _distinct(found: list[Found]) -> list[Found]:
    """Without those that move the same leaves in as many directions as one before: absorbed the other way round."""
    kept: list[Found] = []
    seen: set[tuple[frozenset[str], int]] = set()
    for f in found:
        key = (frozenset(f.moves), math.prod(f.candidate.shape))
        if f.absorbed and f.candidate.weight is None and key in seen:
            continue
        if f.absorbed and f.candidate.weight is None:
            seen.add(key)
        kept.append(f)
    return kept
