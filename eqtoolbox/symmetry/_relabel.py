"""Labels made from labels: spaces turned into fixed axes, two labels of one leaf joined."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from eqtoolbox.groups import Exponent, Term
from eqtoolbox.symmetry._labels import Atom, AxisLabel, LeafLabel
from eqtoolbox.symmetry._layout import SpaceOf, size_of

_FREE: AxisLabel = ((Atom(None),),)


def fix_spaces(label: LeafLabel, keep: Collection[str], table: Mapping[str, SpaceOf]) -> LeafLabel:
    """Turns every space of ``table`` but those in ``keep`` into a fixed axis of its name and size.

    Homogeneous coordinates, which have one entry more than their space, lose the name.
    """

    def fix(atom: Atom) -> Atom:
        if atom.space is None or atom.space in keep or atom.space not in table:
            return atom
        size = size_of(atom, table)
        factor, space = table[atom.space]
        return Atom(atom.space if size == factor.group.sizes[space] else None, size)

    fixed = label.map_atoms(fix)
    return LeafLabel(fixed.axes, tuple(a for a in fixed.whole if a.space in keep))


def drop_terms(label: LeafLabel, table: Mapping[str, SpaceOf]) -> LeafLabel:
    """Drops the exponents of named scalings that the groups of ``table`` do not have."""

    def known(atom: Atom, term: Term) -> bool:
        factor, space = table[atom.space or ""]
        try:
            factor.group.weight(space, Exponent((term,)))
        except ValueError:
            return False
        return True

    def drop(atom: Atom) -> Atom:
        if atom.space not in table or atom.exponent.uniform is not None:
            return atom
        terms = tuple(term for term in atom.exponent.terms if known(atom, term))
        return Atom(atom.space, atom.size, Exponent(terms) if terms else Exponent.of(0))

    return label.map_atoms(drop)


def merge(
    path: str, a: LeafLabel, spaces_a: Collection[str], b: LeafLabel, spaces_b: Collection[str]
) -> LeafLabel:
    """Joins two labels of one leaf, on each axis taking the one on which a group acts.

    Args:
      path: the path of the leaf, for messages.
      a: a label.
      spaces_a: the spaces on which groups act in ``a``.
      b: another label.
      spaces_b: the spaces on which groups act in ``b``.

    Raises:
      ValueError: the ranks differ, groups of both act on one axis, or it has two fixed names or sizes.
    """
    if len(a.axes) != len(b.axes):
        raise ValueError(f"leaf {path!r} has labels of different ranks: {str(a)!r} and {str(b)!r}")
    axes = []
    for x, y in zip(a.axes, b.axes, strict=True):
        if x == y or (x is not None and _says_less(y, spaces_b, than=x, spaces=spaces_a)):
            axes.append(x)
        elif y is not None and _says_less(x, spaces_a, than=y, spaces=spaces_b):
            axes.append(y)
        else:
            raise ValueError(
                f"leaf {path!r} has two labels that disagree on an axis: {str(a)!r} and {str(b)!r}"
            )
    return LeafLabel(tuple(axes), a.whole + b.whole)


def _says_less(
    axis: AxisLabel | None, spaces_here: Collection[str], *, than: AxisLabel, spaces: Collection[str]
) -> bool:
    """Whether no group acts on ``axis``, and it names nothing or a group acts on the other."""
    if axis is None or _acted(axis, spaces_here):
        return False
    return axis == _FREE or _acted(than, spaces)


def _acted(axis: AxisLabel, spaces: Collection[str]) -> bool:
    return any(atom.space in spaces for segment in axis for atom in segment)
