"""Spaces as a union-find structure with refinements, and axes as direct sums of products of atoms.

Nodes, merges, refinements and pins only ever accumulate, so the analysis can be repeated until nothing new is
found. A node is refined when an axis turns out to be a product (a reshape to heads) or a direct sum (a concat).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from eqtoolbox.inference._exact import Form, Parity


@dataclass(frozen=True)
class Atom:
    """A factor of an axis.

    Attributes:
      node: the space, by number; None for an axis along which the value is constant.
      size: number of units.
      q: exponent of a positive scaling of the units, a form in the variables of leaf axes.
      f: the same for signs.
      quad: whether the value is a product of two vectors of this space, unit by unit.
    """

    node: int | None
    size: int
    q: Form = field(default_factory=dict)
    f: Parity = frozenset()
    quad: bool = False


Segment = tuple[Atom, ...]
Axis = tuple[Segment, ...]


def axis_size(axis: Axis) -> int:
    """The number of entries."""
    return sum(segment_size(segment) for segment in axis)


def segment_size(segment: Segment) -> int:
    """The number of entries."""
    return math.prod(atom.size for atom in segment)


def wild(size: int) -> Axis:
    """An axis along which the value is constant."""
    return ((Atom(None, size),),) if size != 1 else ((),)


@dataclass
class Node:
    """A space: what is known of it so far."""

    size: int
    parent: int
    pins: list[str] = field(default_factory=list)
    iso: int = 2
    lost: list[str] = field(default_factory=list)
    refinement: tuple[str, tuple[int, ...]] | None = None


class Spaces:
    """All nodes. ``changed`` says whether anything was merged, pinned or refined since it was last cleared."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.changed = False
        self.refinements = 0

    def new(self, size: int) -> int:
        self.nodes.append(Node(size, len(self.nodes)))
        return len(self.nodes) - 1

    def root(self, node: int) -> int:
        while self.nodes[node].parent != node:
            self.nodes[node].parent = self.nodes[self.nodes[node].parent].parent
            node = self.nodes[node].parent
        return node

    def __getitem__(self, node: int) -> Node:
        return self.nodes[self.root(node)]

    # Facts.

    def pin(self, node: int | None, reason: str) -> None:
        """Says that no permutation of this space leaves the function unchanged."""
        if node is None:
            return
        own = self[node]
        if own.refinement:
            for child in own.refinement[1]:
                self.pin(child, reason)
        elif not own.pins:
            own.pins.append(reason)
            self.changed = True

    def lower(self, node: int | None, level: int, reason: str) -> None:
        """Says that the space has at most this level of isotropy: 2 linear, 1 fixing the ones vector, 0 none."""
        if node is None:
            return
        own = self[node]
        if own.refinement:
            # A matrix group of a product or sum acts on its factors, but each of them keeps what it has.
            for child in own.refinement[1]:
                self.lower(child, level, reason)
        elif own.iso > level:
            own.iso = level
            own.lost.append(reason)
            self.changed = True

    def merge(self, a: int, b: int) -> None:
        """Says that two spaces are one."""
        a, b = self.root(a), self.root(b)
        if a == b:
            return
        x, y = self.nodes[a], self.nodes[b]
        self.changed = True
        if x.refinement and y.refinement:
            self._merge_refined(a, b)
            return
        if y.refinement:
            a, b, x, y = b, a, y, x
        y.parent = a
        for pin in y.pins:
            self.pin(a, pin)
        if y.iso < (2 if x.refinement else x.iso):
            self.lower(a, y.iso, y.lost[-1] if y.lost else "")

    def _merge_refined(self, a: int, b: int) -> None:
        (kind, children), (other, those) = self.nodes[a].refinement, self.nodes[b].refinement  # type: ignore[misc]
        self.nodes[b].parent = a
        if kind == other:
            left = self._as_axis(kind, children)
            right = self._as_axis(other, those)
            if self.align(left, right, "a space cut in two ways") is not None:
                return
        for child in (*children, *those):
            self.pin(child, "a space cut in two ways")

    def _as_axis(self, kind: str, children: tuple[int, ...]) -> Axis:
        atoms = [Atom(c, self[c].size) for c in children]
        return (tuple(atoms),) if kind == "prod" else tuple((atom,) for atom in atoms)

    def refine(self, node: int, kind: str, sizes: tuple[int, ...]) -> None:
        """Cuts a space into a product or a direct sum of new ones, which inherit what is known of it."""
        root = self.root(node)
        own = self.nodes[root]
        children = tuple(self.new(size) for size in sizes)
        own.refinement = (kind, children)
        self.refinements += 1
        self.changed = True
        for child in children:
            self.nodes[child].pins = list(own.pins)
            self.nodes[child].iso = own.iso
            self.nodes[child].lost = list(own.lost)

    # Axes.

    def normal(self, axis: Axis) -> Axis:
        """An axis in terms of spaces that are not refined."""
        out: list[Segment] = []
        for segment in axis:
            parts: list[Segment] = [()]
            for atom in segment:
                choices = self._expand(atom)
                if len(choices) > 1 and any(parts):
                    # A direct sum inside a product is not one of intervals: take the outer entries one by one.
                    for outer in (a for part in parts for a in part):
                        self.pin(outer.node, "a space whose inner factor is a direct sum")
                        self.lower(outer.node, 0, "a space whose inner factor is a direct sum")
                    count = segment_size(parts[0]) if len(parts) == 1 else sum(map(segment_size, parts))
                    parts = [tuple(choice) for _ in range(count) for choice in choices]
                else:
                    parts = [(*part, *choice) for part in parts for choice in choices]
            out += parts
        return tuple(out)

    def lost(self, axis: Axis) -> list[Atom]:
        """The atoms of an axis that are not in its normal form: they multiply a direct sum."""
        return [
            outer
            for segment in axis
            for i, atom in enumerate(segment)
            if len(self._expand(atom)) > 1
            for outer in segment[:i]
        ]

    def _expand(self, atom: Atom) -> list[list[Atom]]:
        """The segments that an atom is, each a list of atoms."""
        if atom.size == 1:
            return [[]]
        if atom.node is None or self[atom.node].refinement is None:
            return [[replace(atom, node=None if atom.node is None else self.root(atom.node))]]
        kind, children = self[atom.node].refinement  # type: ignore[misc]
        inner = [self._expand(replace(atom, node=c, size=self[c].size)) for c in children]
        if kind == "sum":
            return [segment for part in inner for segment in part]
        whole: list[list[Atom]] = [[]]
        for part in inner:
            whole = [[*left, *right] for left in whole for right in part]
        return whole

    def pin_axis(self, axis: Axis, reason: str) -> None:
        """Pins every space of an axis."""
        for segment in axis:
            for atom in segment:
                self.pin(atom.node, reason)
                self.lower(atom.node, 0, reason)

    def align(self, a: Axis, b: Axis, reason: str) -> list[tuple[tuple[Atom, Atom], ...]] | None:
        """Makes two axes of one size equal: the pairs of atoms, segment by segment; None if that cannot be."""
        if axis_size(a) != axis_size(b):
            raise ValueError(f"cannot align axes of sizes {axis_size(a)} and {axis_size(b)}: {reason}")
        while True:
            count = self.refinements
            pairs = self._align_sums(list(self.normal(a)), list(self.normal(b)))
            if self.refinements == count:
                return pairs

    def _align_sums(self, left: list[Segment], right: list[Segment]):
        """The pairs, or None after a refinement or where there is no way."""
        pairs: list[tuple[tuple[Atom, Atom], ...]] = []
        while left and right:
            x, y = left.pop(0), right.pop(0)
            n, m = segment_size(x), segment_size(y)
            if n != m:
                long, short = (x, m) if n > m else (y, n)
                parts = self._cut(long, short)
                if parts is None:
                    return None
                head, rest = parts
                x, y = (head, y) if n > m else (x, head)
                (left if n > m else right).insert(0, rest)
            product = self._align_products(x, y)
            if product is None:
                return None
            pairs.append(product)
        return pairs

    def _cut(self, segment: Segment, size: int) -> tuple[Segment, Segment] | None:
        """The first ``size`` entries of a segment and the rest; None after refining, or where it cannot be cut."""
        if not segment:
            return None
        head, inner = segment[0], segment[1:]
        first, odd = divmod(size, segment_size(inner))
        if odd:
            return None
        if head.node is not None:
            self.refine(head.node, "sum", (first, head.size - first))
            return None
        return (replace(head, size=first), *inner), (replace(head, size=head.size - first), *inner)

    def _align_products(self, a: Segment, b: Segment) -> tuple[tuple[Atom, Atom], ...] | None:
        left, right = list(a), list(b)
        pairs: list[tuple[Atom, Atom]] = []
        while left and right:
            x, y = left.pop(0), right.pop(0)
            if x.size != y.size:
                (big, small), pile = ((x, y), left) if x.size > y.size else ((y, x), right)
                if big.size % small.size:
                    return None
                parts = self._factor(big, small.size)
                if parts is None:
                    return None
                pile.insert(0, parts[1])
                x, y = (parts[0], y) if big is x else (x, parts[0])
            if x.node is not None and y.node is not None:
                count = self.refinements
                self.merge(x.node, y.node)
                if self.refinements != count or self[x.node].refinement:
                    return None
            pairs.append((x, y))
        return tuple(pairs)

    def _factor(self, atom: Atom, outer: int) -> tuple[Atom, Atom] | None:
        """An atom without a space as a product; an atom with one is refined, and None returned."""
        if atom.node is None:
            return replace(atom, size=outer), replace(atom, size=atom.size // outer)
        self.refine(atom.node, "prod", (outer, atom.size // outer))
        return None

    # Reshapes.

    def factors(self, segment: Segment, sizes: tuple[int, ...]) -> list[Segment] | None:
        """A segment cut into consecutive products of these sizes; None after refining, or where there is no way."""
        atoms, out = list(segment), []
        for size in sizes:
            part: list[Atom] = []
            while segment_size(tuple(part)) < size:
                if not atoms:
                    return None
                atom = atoms.pop(0)
                left, odd = divmod(size, segment_size(tuple(part)))
                if odd or left == 1:
                    return None
                if atom.size > left:
                    if atom.size % left:
                        return None
                    pieces = self._factor(atom, left)
                    if pieces is None:
                        return None
                    atom, rest = pieces
                    atoms.insert(0, rest)
                part.append(atom)
            if segment_size(tuple(part)) != size:
                return None
            out.append(tuple(part))
        return None if atoms else out
