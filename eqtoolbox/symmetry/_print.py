"""The table that ``print(symmetry)`` shows."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eqtoolbox.symmetry._symmetry import Symmetry


def touches(symmetry: Symmetry, space: str) -> list[str]:
    """The leaf axes a space is on, with its exponents: ``Dense_1/kernel[0]*``."""
    found = []
    for path, label in symmetry.labels:
        for position, axis in enumerate(label.axes):
            atoms = [a for segment in axis or () for a in segment if a.space == space]
            found += [f"{path}[{_index(label, position)}]{a.exponent}" for a in atoms]
        found += [f"{path}{a.exponent}" for a in label.whole if a.space == space]
    return found


def table(symmetry: Symmetry) -> str:
    """One row per space: its group, size, dimension, and the leaf axes it acts on."""
    rows = [("space", "group", "size", "dim", "acts on")]
    for factor in symmetry.factors:
        for i, space in enumerate(factor.spaces):
            first = i == 0
            rows.append(
                (
                    space,
                    str(factor.group) if first else "″",
                    str(factor.group.sizes[i]),
                    str(factor.group.dimension) if first else "",
                    ", ".join(touches(symmetry, space)),
                )
            )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    size = f"of dimension {symmetry.dimension}" if symmetry.dimension else _finite(symmetry)
    return "\n".join([f"symmetry {size}", *(line.rstrip() for line in lines)])


def _finite(symmetry: Symmetry) -> str:
    if symmetry.order is None:
        return "of dimension 0"
    return f"with {count_text(symmetry.order)} element{'s' if symmetry.order > 1 else ''}"


def _index(label, position: int) -> int:
    """The axis number; counted from the end behind an ellipsis."""
    if None in label.axes and position > label.axes.index(None):
        return position - len(label.axes)
    return position


def count_text(number: int | None) -> str:
    """The number of elements of a group; None stands for infinitely many, large ones read 1.2e+345."""
    if number is None:
        return "infinitely many"
    if number < 10**9:
        return str(number)
    return f"{Decimal(number):.1e}"
