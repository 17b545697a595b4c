"""The isotypic components of a parameter pytree."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.curvature._decompose import decompose
from eqtoolbox.curvature._piece import Label, Piece, combine, diagonal, finished, fixed, regroup
from eqtoolbox.groups import Trivial
from eqtoolbox.symmetry import Block, Symmetry


@dataclass(frozen=True)
class Member:
    """The copies of an irreducible that one block of a leaf holds.

    Attributes:
      path: of the leaf.
      block: the number of the block in the leaf.
      axes: the axes of the block in the order in which ``piece`` reads them.
      piece: the copies.
      start: their first row in the block of the component.
    """

    path: str
    block: int
    axes: tuple[int, ...]
    piece: Piece
    start: int

    @property
    def count(self) -> int:
        """The number of copies."""
        return math.prod(self.piece.mult)

    def encode(self, x: Array) -> Array:
        """The coordinates (*family, count, *shape) in a block of a leaf."""
        y = self.piece.encode(jnp.transpose(x, self.axes))
        m, f, s = len(self.piece.mult), len(self.piece.family), len(self.piece.shape)
        y = regroup(y, (m, f, s), (1, 0, 2))
        return y.reshape(*self.piece.family, self.count, *self.piece.shape)

    def decode(self, y: Array) -> Array:
        """The adjoint of ``encode``."""
        m, f, s = len(self.piece.mult), len(self.piece.family), len(self.piece.shape)
        y = y.reshape(*self.piece.family, *self.piece.mult, *self.piece.shape)
        x = self.piece.decode(regroup(y, (f, m, s), (1, 0, 2)))
        back = [self.axes.index(i) for i in range(len(self.axes))]
        return jnp.transpose(x, back)


@dataclass(frozen=True)
class Component:
    """An isotypic component: every copy of one irreducible, or of each of a family.

    Attributes:
      name: its key in blocks: what acts on it, such as ``"h1"``, or ``"trivial"``.
      label: of the irreducible.
      dimension: of the irreducible, d.
      family: the shape of the family; () for a single irreducible.
      shape: of the space in which coordinates are written; larger than d where it is not minimal.
      multiplicity: the number of copies, m.
      members: where they are.
    """

    name: str
    label: Label
    dimension: int
    family: tuple[int, ...]
    shape: tuple[int, ...]
    multiplicity: int
    members: tuple[Member, ...]

    @property
    def entries(self) -> int:
        """Entries of its blocks."""
        return math.prod(self.family) * self.multiplicity**2

    @property
    def is_invariant(self) -> bool:
        """Whether the symmetry leaves its vectors alone."""
        return all(label[0] == "along" for _, label in self.label)

    @property
    def size(self) -> int:
        """The dimension of the component in parameter space."""
        return math.prod(self.family) * self.multiplicity * self.dimension

    def project(self, coordinates: Array) -> Array:
        """What lies in the irreducible, of arrays (*family, m, D): all of it where coordinates are minimal."""
        if math.prod(self.shape) == self.dimension:
            return coordinates
        axis = len(self.family)
        rows = coordinates.reshape(*self.family, self.multiplicity, *self.shape)
        parts = [jax.lax.slice_in_dim(rows, m.start, m.start + m.count, axis=axis) for m in self.members]
        inside = [m.encode(m.decode(part)) for m, part in zip(self.members, parts, strict=True)]
        return jnp.concatenate(inside, axis=axis).reshape(coordinates.shape)


def find_components(
    sym: Symmetry, shapes: dict[str, tuple[int, ...]], named: Iterable[str], above: int | None
) -> tuple[Component, ...]:
    """The isotypic components of leaves with these shapes, trivial first, then by name.

    Raises:
      ValueError: naming the leaf, as for ``Commutant``.
    """
    found: dict[Label, list[Member]] = {}
    rows: dict[Label, int] = {}
    structs = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    plans, wanted = sym.plans(structs), set(named)
    moving = {
        name for factor in sym.factors for name in factor.spaces if not isinstance(factor.group, Trivial)
    }
    seen: set[str] = set()
    along: dict[str, tuple[str, int]] = {}
    for path, plan in plans.items():
        for number, block in enumerate(plan.blocks):
            seen |= {name for name in block.names if name is not None}
            try:
                pieces, axes = _block_pieces(path, number, block, wanted - moving, above)
            except ValueError as error:
                raise ValueError(f"leaf {path!r}: {error}") from None
            _check_sizes(path, block, pieces, along)
            for piece in pieces:
                start = rows.get(piece.label, 0)
                member = Member(path, number, axes, finished(piece), start)
                rows[piece.label] = start + member.count
                found.setdefault(piece.label, []).append(member)
    for name in sorted(wanted):
        if name in moving or name not in seen:
            why = "a group acts on it" if name in moving else "no label has a fixed axis of that name"
            raise ValueError(f"operators cannot be diagonal along {name!r}: {why}")
    components = []
    for label, members in found.items():
        piece = members[0].piece
        components.append(
            Component(
                _name(label),
                label,
                piece.dimension,
                piece.family,
                piece.shape,
                rows[label],
                tuple(members),
            )
        )
    return tuple(sorted(components, key=lambda c: (bool(c.label), c.name)))


def _check_sizes(path: str, block: Block, pieces: list[Piece], along: dict[str, tuple[str, int]]) -> None:
    """Checks that an axis along which operators are diagonal has one size on all leaves; notes where it was met.

    Raises:
      ValueError: naming the axis, the leaves and the sizes.
    """
    taken = {label[1] for piece in pieces for _, label in piece.label if label[0] == "along"}
    for size, name in zip(block.shape, block.names, strict=True):
        if name is None or name not in taken:
            continue
        first, expected = along.setdefault(name, (path, size))
        if size != expected:
            raise ValueError(
                f"operators cannot be diagonal along {name!r}: it has size {expected} on leaf {first!r} and size "
                f"{size} on leaf {path!r}"
            )


def _block_pieces(
    path: str, number: int, block: Block, named: set[str], above: int | None
) -> tuple[list[Piece], tuple[int, ...]]:
    """The pieces of a block, and its axes in the order in which they are read."""
    parts: list[tuple[Any, list[Piece], int]] = []
    order: tuple[int, ...] = ()
    for factor, slots in block.job:
        if isinstance(factor.group, Trivial):
            continue
        pieces, axes = decompose(factor.group, slots, block.shape)
        parts.append((factor.key, pieces, len(axes)))
        order += axes
    apart: list[tuple[Label, Piece, int]] = []
    for axis, (size, name) in enumerate(zip(block.shape, block.names, strict=True)):
        if axis in order:
            continue
        if name in named or (above is not None and size > above):
            place = name or f"{path}[{f'{number}, ' if number else ''}{axis}]"
            tag = ("along", place, sum(tag[1] == place for tag, _, _ in apart))
            apart.append((tag, diagonal(size, tag), axis))
        else:
            parts.append((None, [fixed(size)], 1))
            order += (axis,)
    for tag, piece, axis in sorted(apart, key=lambda entry: entry[0]):
        parts.append((tag, [piece], 1))
        order += (axis,)
    return combine(parts), order


def _name(label: Label) -> str:
    """A readable name of the irreducible of a direct product: the spaces on which it is not trivial."""
    return " · ".join(_part(*pair) for pair in label) or "trivial"


def _part(name: Any, label: Label) -> str:
    if label[0] == "along":
        _, place, repeat = label
        return f"each {place}" + (f" ({repeat + 1})" if repeat else "")
    return f"{name}: {_irreducible(label)}"


def _irreducible(label: Label) -> str:
    """What kind of irreducible it is, in words."""
    match label:
        case ("induced" | "units", signs, inner):
            marks = "signed" + "".join(f" {i}" for i in sorted(signs) if signs != {0}) if signs else ""
            return " ".join(filter(None, (marks, f"inner {_irreducible(inner)}" if inner else "")))
        case (str(kind), *rest):
            return " ".join([kind, *(f"({_irreducible(r)})" for r in rest)])
    return " × ".join(f"{_irreducible(inner)} {i}" for i, inner in label)
