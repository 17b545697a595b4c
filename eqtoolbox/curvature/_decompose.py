"""The pieces of a block of a leaf: which irreducibles of a compact group act on it, and how often."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from eqtoolbox.curvature._piece import (
    UNIT,
    Label,
    Piece,
    combine,
    outer,
    reordered,
    same,
    selected,
    then,
    times,
)
from eqtoolbox.curvature._units import (
    induced_squared,
    induced_standard,
    over_units,
    standard_squared,
    units_squared,
    vector_squared,
)
from eqtoolbox.groups import (
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    Product,
    SignFlip,
    Slot,
    Stabiliser,
    Trivial,
    Wreath,
)

VECTOR: Label = ("vector",)
Reading = tuple[list[Piece], tuple[int, ...]]  # pieces, and the axes of the block they read, in order


def decompose(group: Group, slots: tuple[Slot, ...], shape: tuple[int, ...]) -> Reading:
    """The pieces of the axes of an array on which a compact group acts.

    Args:
      group: a group of the kinds that ``compact()`` returns.
      slots: on which axes, and with which weights.
      shape: of the array.

    Returns:
      The pieces and the axes that they read: those of the slots, and the ones that index blocks of signs.

    Raises:
      ValueError: the group is not known here, or a space is on more than two axes.
    """
    if isinstance(group, Product):
        shares: dict[int, tuple[Slot, ...]] = {}
        for slot in slots:
            i, space = group.locate(slot.space)
            shares[i] = (*shares.get(i, ()), slot._replace(space=space))
        parts = [(i, decompose(group.groups[i], shares[i], shape)) for i in sorted(shares)]
        return combine([(i, pieces, len(axes)) for i, (pieces, axes) in parts]), _joined(parts)
    families = _families(group, slots)
    indexed = {axis for slot in slots for axis in _sign_axes(group, slot)}
    if not indexed:
        return _families_product(group, families, shape, {})
    order: tuple[int, ...] = ()
    whole: list[Piece] = []
    for chosen in itertools.product(*(range(shape[axis]) for axis in sorted(indexed))):
        entry = dict(zip(sorted(indexed), chosen, strict=True))
        pieces, axes = _families_product(group, families, shape, entry)
        for axis, i in entry.items():
            pieces = [outer(selected(i, shape[axis]), 1, p, len(axes), p.label) for p in pieces]
            axes = (axis, *axes)
        whole, order = whole + pieces, axes
    return whole, order


def _joined(parts: Sequence[tuple[int, Reading]]) -> tuple[int, ...]:
    return tuple(axis for _, (_, axes) in parts for axis in axes)


def _families(group: Group, slots: tuple[Slot, ...]) -> list[tuple[Slot, tuple[Slot, ...]]]:
    """Each slot of the space of units with the slots inside these units."""
    if not isinstance(group, Wreath):
        return [(slot, ()) for slot in slots]
    families: list[tuple[Slot, tuple[Slot, ...]]] = []
    for head in (s for s in slots if s.space == 0):
        reached, inside = {head.axis}, []
        for slot in sorted((s for s in slots if s.space), key=lambda s: s.space):
            if slot.parent in reached:
                reached.add(slot.axis)
                inside.append(slot)
        families.append((head, tuple(inside)))
    return families


def _families_product(group: Group, families, shape: tuple[int, ...], entry: dict[int, int]) -> Reading:
    """The pieces of one family of slots, or of two of them on the same space."""
    readings = [_family(group, head, inside, shape, entry) for head, inside in families]
    if len(readings) == 1:
        return readings[0]
    if len(readings) > 2:
        axes = tuple(head.axis for head, _ in families)
        raise ValueError(
            f"{group} acts on the {len(readings)} axes {axes} of a block of shape {shape}: its pieces are known "
            "for at most two"
        )
    (first, left), (second, right) = readings
    pieces = [p for a in first for b in second for p in _tensor(group, a, len(left), b, len(right))]
    return pieces, left + right


def _family(
    group: Group, head: Slot, inside: tuple[Slot, ...], shape: tuple[int, ...], entry: dict[int, int]
) -> Reading:
    """The pieces of one axis of units with the axes inside these units."""
    n, axis = shape[head.axis], head.axis
    if isinstance(group, Orthogonal):
        return [Piece(VECTOR, n, (), (), (n,), same, same)], (axis,)
    if isinstance(group, Stabiliser) and group.is_orthogonal:
        return _stabiliser(group), (axis,)
    units = group.outer if isinstance(group, Wreath) else group
    if not isinstance(units, (Permutation, Monomial, SignFlip, Trivial)):
        raise ValueError(f"{group} has no pieces known here: give a compact symmetry")
    inner: Reading = ([UNIT], ())
    if inside:
        assert isinstance(group, Wreath)
        lowered = tuple(_lowered(slot) for slot in inside)
        inner = decompose(group.inner, lowered, shape)
    signs, permutes = _signs(units, head, entry), isinstance(units, (Permutation, Monomial))
    pieces = [p for q in inner[0] for p in over_units(q, len(inner[1]), signs, n, permutes)]
    return pieces, (axis, *inner[1])


def _lowered(slot: Slot) -> Slot:
    """A slot of an inner space, numbered within the inner group."""
    return slot._replace(space=slot.space - 1)


def _signs(units: Group, slot: Slot, entry: dict[int, int]) -> frozenset[int]:
    """The signs of a group of units that act on a slot, at one entry of the axes that index blocks of them."""
    if isinstance(units, SignFlip):
        return frozenset({0}) if slot.weight else frozenset()
    if not isinstance(units, Monomial):
        return frozenset()
    axes = dict(slot.index)
    odd: frozenset[int] = frozenset()
    for rows in slot.weight:
        if rows.signed:
            shift = entry[axes[rows.index]] if rows.index is not None else 0
            odd ^= {rows.start + shift}
    return odd


def _sign_axes(group: Group, slot: Slot) -> list[int]:
    """The axes that index a block of signs acting on a slot."""
    units = group.outer if isinstance(group, Wreath) and slot.space == 0 else group
    if not isinstance(units, Monomial):
        return []
    axes = dict(slot.index)
    return [axes[rows.index] for rows in slot.weight if rows.signed and rows.index is not None]


def _stabiliser(group: Stabiliser) -> list[Piece]:
    """The line of the fixed vector, and from n = 2 on its complement."""
    v = group.fixed / np.linalg.norm(group.fixed)

    def along(x):
        return jnp.tensordot(x, jnp.asarray(v, x.dtype), 1, precision="highest")

    def back(y):
        return times(y, v)

    line = UNIT._replace(encode=along, decode=back)
    if group.n == 1:
        return [line]
    return [line, Piece(VECTOR, group.n - 1, (), (), (group.n,), lambda x: x - back(along(x)), same)]


def _tensor(group: Group, a: Piece, a_rank: int, b: Piece, b_rank: int) -> list[Piece]:
    """The pieces of the product of two pieces of one group; reads the axes of ``a``, then those of ``b``."""
    both = outer(a, a_rank, b, b_rank, (*a.label, *b.label))
    if not a.label or not b.label:
        return [both]
    return [then(both, part) for part in product_pieces(group, a, b)]


def _inside(piece: Piece, label: Label) -> Piece:
    """The irreducible of one unit in an irreducible of many."""
    if piece.label[0] == "units":
        return Piece(label, piece.dimension, (), (), piece.shape, same, same)
    n, *shape = piece.shape
    return Piece(label, piece.dimension // n, (), (), tuple(shape), same, same)


def product_pieces(group: Group, a: Piece, b: Piece) -> list[Piece]:
    """The pieces of a product of two irreducibles of one group.

    Reads (*family of a, *family of b, *shape of a, *shape of b).

    Raises:
      ValueError: the product is not known here.
    """
    kinds = a.label[:1] + b.label[:1]
    inner = group.inner if isinstance(group, Wreath) else None

    def inside(left: Label, right: Label) -> list[Piece]:
        x, y = _inside(a, left), _inside(b, right)
        if not left or not right:
            return [Piece(left or right, x.dimension * y.dimension, (), (), x.shape + y.shape, same, same)]
        assert inner is not None
        return product_pieces(inner, x, y)

    if kinds == ("units", "units") and len(a.family) == len(b.family) == 1:
        return units_squared(a, b, inside)
    if not a.family and not b.family:
        if kinds == ("vector", "vector"):
            projector = np.eye(a.shape[0])
            if isinstance(group, Stabiliser):
                v = group.fixed / np.linalg.norm(group.fixed)
                projector = projector - np.outer(v, v)
            return vector_squared(projector, round(np.trace(projector)))
        if kinds == ("standard", "standard"):
            return standard_squared(a.shape[0])
        if kinds == ("induced", "induced"):
            return induced_squared(a, b, inside)
        if kinds == ("induced", "standard"):
            return induced_standard(a)
        if kinds == ("standard", "induced"):
            order = (1, 0)
            return [reordered(p, (1, len(b.shape)), order) for p in induced_standard(b)]
    raise ValueError(
        f"{group} acts twice on one block, as {a.label} and as {b.label}: their product is not known here"
    )
