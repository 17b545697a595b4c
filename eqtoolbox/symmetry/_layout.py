"""From a label and a shape to the slots on which groups act."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import Group, Slot
from eqtoolbox.symmetry._labels import Atom, AxisLabel, LeafLabel, Segment


@dataclass(frozen=True)
class Factor:
    """A group and the spaces it acts on, one name per space of the group."""

    spaces: tuple[str, ...]
    group: Group

    @property
    def key(self) -> str:
        """The key of its part of an element: the names of its spaces, separated by blanks."""
        return " ".join(self.spaces)


class Place(NamedTuple):
    """An atom with a known size on an axis of its own.

    Attributes:
      atom: the atom.
      size: its size.
      origin: the axis of the leaf it is part of (-1 after the bar).
    """

    atom: Atom
    size: int
    origin: int


Job = tuple[tuple[Factor, tuple[Slot, ...]], ...]  # the factors that act on a block, and where


class SpaceOf(NamedTuple):
    """Where a name leads: the factor, and the number of the space in its group."""

    factor: Factor
    space: int


def space_table(factors: tuple[Factor, ...]) -> dict[str, SpaceOf]:
    """The factor of each space; a space that several factors share as fixed leads to the first."""
    table: dict[str, SpaceOf] = {}
    for factor in factors:
        for i, name in enumerate(factor.spaces):
            table.setdefault(name, SpaceOf(factor, i))
    return table


def resolve(path: str, label: LeafLabel, shape: tuple[int, ...], table: Mapping[str, SpaceOf]):
    """Gives every atom of a label its size.

    Args:
      path: the path of the leaf, for messages.
      label: its label.
      shape: its shape.
      table: the spaces on which groups act.

    Returns:
      For each axis of the leaf a tuple of segments, each a tuple of atoms that state their sizes.

    Raises:
      ValueError: the label does not fit the shape; the message shows both.
    """
    axes = label.axes
    if None in axes:
        i = axes.index(None)
        missing = len(shape) - (len(axes) - 1)
        if missing < 0:
            raise _misfit(path, label, shape, f"the label needs at least {len(axes) - 1} axes")
        axes = (*axes[:i], *((((Atom(None),),),) * missing), *axes[i + 1 :])
    if len(axes) != len(shape):
        raise _misfit(path, label, shape, f"the label has {len(axes)} axes, the leaf {len(shape)}")
    return tuple(
        _resolve_axis(path, label, shape, axis, i, table) for i, axis in enumerate(axes) if axis is not None
    )


def _resolve_axis(path, label, shape, axis: AxisLabel, position: int, table) -> tuple[Segment, ...]:
    segments, unknown, known = [], [], 0
    indices = {t.index for atom in label.atoms for t in atom.exponent.terms if isinstance(t.index, str)}
    for segment in axis:
        atoms = _merge_free(tuple(_with_size(atom, table) for atom in segment), indices)
        free = [i for i, atom in enumerate(atoms) if atom.size is None]
        size = math.prod(atom.size or 1 for atom in atoms)
        if free:
            unknown.append((len(segments), free, size))
        else:
            known += size
        segments.append(atoms)
    length = shape[position]
    if len(unknown) > 1 or any(len(free) > 1 for _, free, _ in unknown):
        raise _misfit(
            path, label, shape, f"axis {position} has several fixed factors of unknown size: state them"
        )
    if not unknown:
        if known != length:
            raise _misfit(path, label, shape, f"axis {position} must have size {known}")
        return tuple(segments)
    ((where, (i,), size),) = unknown
    rest = length - known
    if rest < size or rest % size:
        raise _misfit(path, label, shape, f"axis {position} cannot be {known} + a multiple of {size}")
    atoms = list(segments[where])
    atoms[i] = Atom(atoms[i].space, rest // size, atoms[i].exponent)
    segments[where] = tuple(atoms)
    return tuple(segments)


def size_of(atom: Atom, table: Mapping[str, SpaceOf]) -> int | None:
    """The size of an atom: that of its space where a group acts, else the one its label states."""
    if atom.space is None or atom.space not in table:
        return atom.size
    factor, space = table[atom.space]
    return factor.group.axis_size(space, factor.group.weight(space, atom.exponent))


def _with_size(atom: Atom, table: Mapping[str, SpaceOf]) -> Atom:
    return Atom(atom.space, size_of(atom, table), atom.exponent)


def _merge_free(atoms: Segment, indices: set[str]) -> Segment:
    """Joins neighbouring fixed factors of unknown size that index nothing: only their product matters."""

    def free(atom: Atom) -> bool:
        return atom.size is None and atom.space not in indices

    merged: list[Atom] = []
    for atom in atoms:
        if free(atom) and merged and free(merged[-1]):
            merged[-1] = Atom(None)
        else:
            merged.append(atom)
    return tuple(merged)


def _misfit(path: str, label: LeafLabel, shape: tuple[int, ...], rule: str) -> ValueError:
    return ValueError(f"leaf {path!r} has shape {shape}, which does not fit its label {str(label)!r}: {rule}")


class Block(NamedTuple):
    """A part of a leaf on which groups act as a tensor product, with one axis per atom.

    Attributes:
      shape: the sizes of the atoms.
      names: their spaces; None for a fixed axis without a name.
      job: the factors that act on it, and where.
    """

    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    job: Job


class Plan(NamedTuple):
    """How a label and a shape are acted on.

    Attributes:
      axes: the sizes of the parts of each axis, several where it is a direct sum.
      blocks: the blocks, those of the last axis fastest.
      mixes: whether the entries are multiplied or added to, not only moved.
      real: a group that does so with real numbers, or None.
    """

    axes: tuple[tuple[int, ...], ...]
    blocks: tuple[Block, ...]
    mixes: bool
    real: Group | None


def make_plan(
    path: str,
    label: LeafLabel,
    shape: tuple[int, ...],
    factors: tuple[Factor, ...],
    table: Mapping[str, SpaceOf],
    dual: bool,
) -> Plan:
    """Works out which factors act on which axes of each block of a leaf.

    Args:
      path: the path of the leaf, for messages.
      label: its label.
      shape: its shape.
      factors: the factors of the symmetry.
      table: their spaces.
      dual: whether the leaf is a gradient.

    Raises:
      ValueError: as for ``resolve`` and ``slots_of``.
    """
    axes = resolve(path, label, shape, table)
    acting = [f for f in factors if any(a.space in f.spaces for a in label.atoms)]
    work = []
    for places in blocks(axes, label.whole):
        pairs = ((f, slots_of(f, places, dual)) for f in acting)
        job = tuple((f, slots) for f, slots in pairs if slots)
        work.append(Block(tuple(p.size for p in places), tuple(p.atom.space for p in places), job))
    mixing = [f.group for block in work for f, slots in block.job if any(s.weight for s in slots)]
    sizes = tuple(tuple(math.prod(a.size or 1 for a in part) for part in parts) for parts in axes)
    real = next((group for group in mixing if group.order is None), None)
    return Plan(sizes, tuple(work), bool(mixing), real)


def act_on_leaf(x: Array, plan: Plan, act: Callable[[Array, Job], Array]) -> Array:
    """Calls ``act`` on each block of a leaf.

    Args:
      x: the leaf.
      plan: its plan.
      act: maps (block, job) to a block of the same shape.

    Returns:
      The leaf with each block replaced.
    """
    parts = [act(part, block.job) for part, block in zip(cut(x, plan), plan.blocks, strict=True)]
    return join_blocks(parts, plan)


def cut(x: Array, plan: Plan) -> list[Array]:
    """The blocks of a leaf, each with one axis per atom."""
    parts = [x]
    for axis, sizes in enumerate(plan.axes):
        if len(sizes) > 1:
            ends = list(itertools.accumulate(sizes))[:-1]
            parts = [piece for part in parts for piece in jnp.split(part, ends, axis)]
    return [part.reshape(block.shape) for part, block in zip(parts, plan.blocks, strict=True)]


def join_blocks(parts: list[Array], plan: Plan) -> Array:
    """The leaf with these blocks: undoes ``cut``."""
    shapes = itertools.product(*plan.axes)
    whole = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    for axis in reversed(range(len(plan.axes))):
        count = len(plan.axes[axis])
        if count > 1:
            rows = range(0, len(whole), count)
            whole = [jnp.concatenate(whole[i : i + count], axis) for i in rows]
    return whole[0]


def block_places(axes: tuple[tuple[Segment, ...], ...], whole: tuple[Atom, ...]) -> tuple[Place, ...]:
    """The places of a block: axes with a single segment each."""
    inner = [Place(atom, atom.size or 1, i) for i, (segment,) in enumerate(axes) for atom in segment]
    return (*inner, *(Place(atom, 1, -1) for atom in whole))


def blocks(axes: tuple[tuple[Segment, ...], ...], whole: tuple[Atom, ...]) -> list[tuple[Place, ...]]:
    """The places of every block of a leaf."""
    for axis, segments in enumerate(axes):
        if len(segments) > 1:
            return [
                places
                for segment in segments
                for places in blocks((*axes[:axis], (segment,), *axes[axis + 1 :]), whole)
            ]
    return [block_places(axes, whole)]


def slots_of(factor: Factor, places: tuple[Place, ...], dual: bool = False) -> tuple[Slot, ...]:
    """The slots of a factor in a block.

    Raises:
      ValueError: a space has no representation with that exponent, or the axis it depends on is missing.
    """
    group = factor.group
    slots = []
    for axis, place in enumerate(places):
        if place.atom.space not in factor.spaces:
            continue
        space = factor.spaces.index(place.atom.space)
        weight = group.weight(space, place.atom.exponent)
        if dual:
            weight = group.dual(space, weight)
        parent = group.parents[space]
        parent_axis = None if parent is None else _parent_axis(factor, parent, axis, places)
        slots.append(Slot(space, axis, weight, parent_axis, _index_axes(place.atom, places)))
    return tuple(slots)


def _parent_axis(factor: Factor, parent: int, axis: int, places: tuple[Place, ...]) -> int:
    """The axis of the space that the space on ``axis`` depends on: in the same leaf axis, or the only one."""
    name = factor.spaces[parent]
    candidates = [i for i, p in enumerate(places) if p.atom.space == name]
    near = [i for i in candidates if places[i].origin == places[axis].origin]
    chosen = near if near else candidates
    if len(chosen) != 1:
        found = "is missing" if not chosen else "occurs several times"
        raise ValueError(
            f"{places[axis].atom.space} depends on the space {name!r}, which {found} on this leaf"
        )
    return chosen[0]


def _index_axes(atom: Atom, places: tuple[Place, ...]) -> tuple[tuple[str, int], ...]:
    pairs = []
    for name in dict.fromkeys(t.index for t in atom.exponent.terms if isinstance(t.index, str)):
        axes = [i for i, p in enumerate(places) if p.atom.space == name]
        if len(axes) != 1:
            found = "is missing" if not axes else "occurs several times"
            raise ValueError(f"{atom.space} is indexed by the axis {name!r}, which {found} on this leaf")
        pairs.append((name, axes[0]))
    return tuple(pairs)


def check_block(factors: tuple[Factor, ...], places: tuple[Place, ...]) -> None:
    """Checks that the factors act on a block at all, and that their actions commute.

    Raises:
      ValueError: a wrong exponent, a missing axis, or two actions that do not commute.
    """
    slots = [(factor, slot) for factor in factors for slot in slots_of(factor, places)]
    for factor, slot in slots:
        for name, axis in slot.index:
            acting = [f for f, s in slots if s.axis == axis]
            if any(not f.group.is_still(f.spaces.index(name)) for f in acting):
                raise ValueError(
                    f"the axis {name!r} indexes scalings and must be fixed, but a group acts on it"
                )
        if not factor.group.adds_constant(slot.space, slot.weight):
            continue
        for other, there in slots:
            if there.axis != slot.axis and not other.group.fixes_constants(there.space, there.weight):
                raise ValueError(
                    f"{factor.group} on {factor.key!r} adds the same vector along the axis of {other.key!r}, "
                    f"but {other.group} does not fix constant vectors: the two do not commute"
                )
