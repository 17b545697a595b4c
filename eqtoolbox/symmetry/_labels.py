"""Axis labels: the grammar in which one says which space acts on which axis of a leaf, and how.

One string per leaf, read as einops and jaxtyping users read shapes::

    "_ hidden"                       a Dense kernel (in, out): columns indexed by the units of ``hidden``
    "hidden* _"                      the next kernel: rows transform with the inverse transpose (= hidden^-1)
    "h^2", "h^-1/2", "h^0"           a rational exponent; h^0 is permuted only
    "h{a:1,b:-2} _"                  one exponent per named scaling or sign of a monomial group
    "layers h{gain[layers]:1}"       a block of scalings, one for each index of the axis ``layers``
    "emb (heads dim)"                an axis that is a row-major product of spaces
    "_ (heads q + heads k* + 4)"     an axis that is a direct sum (concatenation) of such products
    "... h", "h ..."                 any number of fixed axes
    "_ _ | t^-1"                     after the bar: spaces of size 1 that act on the leaf as a whole
    ""                               a scalar that nothing acts on

``_`` is a fixed axis, a number a fixed axis of that size. A name without a group is a fixed axis too, named
for the reader (``height=8`` states its size).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from eqtoolbox.groups import Exponent, Term

_ONE = Exponent.of(1)


@dataclass(frozen=True)
class Atom:
    """One factor of an axis.

    Attributes:
      space: the name of a space, or None for an anonymous fixed factor.
      size: its size where the label states it, else None.
      exponent: how the space acts; of no meaning where no group acts on it.
    """

    space: str | None
    size: int | None = None
    exponent: Exponent = _ONE

    def __str__(self) -> str:
        if self.space is None:
            return "_" if self.size is None else str(self.size)
        size = "" if self.size is None else f"={self.size}"
        return f"{self.space}{size}{self.exponent}"


Segment = tuple[Atom, ...]  # a row-major product of atoms
AxisLabel = tuple[Segment, ...]  # a direct sum of segments


@dataclass(frozen=True)
class LeafLabel:
    """A parsed label.

    Attributes:
      axes: one entry per axis, a direct sum of products of atoms; None stands for ``...``.
      whole: the atoms after the bar, acting on the leaf as if it had further axes of size 1.
    """

    axes: tuple[AxisLabel | None, ...]
    whole: tuple[Atom, ...] = ()

    def __str__(self) -> str:
        text = " ".join("..." if axis is None else _axis_text(axis) for axis in self.axes)
        if self.whole:
            text = f"{text} | {' '.join(map(str, self.whole))}".strip()
        return text

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """Every atom, in order."""
        inner = [a for axis in self.axes if axis is not None for segment in axis for a in segment]
        return (*inner, *self.whole)

    def map_atoms(self, f) -> LeafLabel:
        """Applies ``f`` to every atom."""
        axes = tuple(
            None if axis is None else tuple(tuple(map(f, segment)) for segment in axis) for axis in self.axes
        )
        return LeafLabel(axes, tuple(map(f, self.whole)))


def _axis_text(axis: AxisLabel) -> str:
    if len(axis) == 1 and len(axis[0]) == 1:
        return str(axis[0][0])
    return "(" + " + ".join(" ".join(map(str, segment)) for segment in axis) + ")"


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<ellipsis>\.\.\.) | (?P<open>\() | (?P<close>\)) | (?P<plus>\+) | (?P<bar>\|)
    | (?: (?P<number>\d+)
        | (?P<name>[A-Za-z_]\w*)(?:=(?P<size>\d+))?
          (?:(?P<star>\*) | \^(?P<power>-?\d+(?:/\d+)?) | \{(?P<terms>[^{}]*)\})?
      )(?=[\s()+|]|$)
    )""",
    re.VERBOSE,
)
_TERM = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\[\s*(\w+)\s*\])?\s*:\s*(-?\d+(?:/\d+)?)\s*")


@lru_cache(maxsize=4096)
def parse(text: str) -> LeafLabel:
    """Parses a label.

    Args:
      text: a string of the grammar above.

    Returns:
      The label; ``str`` of it gives the canonical spelling.

    Raises:
      TypeError: it is not a string.
      ValueError: the text is not in the grammar; the message points at the place.
    """
    if not isinstance(text, str):
        raise TypeError(f"a label must be a string, got {text!r}")
    axes: list[AxisLabel | None] = []
    whole: list[Atom] = []
    group: list[list[Atom]] | None = None  # the segments of an open parenthesis
    after_bar = False
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise _error(text, position, "cannot be read")
        if match["open"]:
            if group is not None or after_bar:
                raise _error(text, match.start(), "a parenthesis cannot stand inside another or after '|'")
            group = [[]]
        elif match["close"]:
            if group is None or not all(group):
                raise _error(text, match.start(), "no product of spaces before this ')'")
            axes.append(tuple(tuple(segment) for segment in group))
            group = None
        elif match["plus"]:
            if group is None or not group[-1]:
                raise _error(text, match.start(), "'+' joins products inside parentheses")
            group.append([])
        elif match["bar"]:
            if group is not None or after_bar:
                raise _error(text, match.start(), "'|' stands once, after the axes")
            after_bar = True
        elif match["ellipsis"]:
            if group is not None or after_bar or None in axes:
                raise _error(text, match.start(), "'...' stands once, for whole axes")
            axes.append(None)
        else:
            atom = _atom(text, match)
            if after_bar:
                if atom.space is None:
                    raise _error(text, match.start(), "only spaces can act on the leaf as a whole")
                whole.append(atom)
            elif group is not None:
                group[-1].append(atom)
            else:
                axes.append(((atom,),))
        position = match.end()
    if group is not None:
        raise _error(text, len(text), "')' is missing")
    return LeafLabel(tuple(axes), tuple(whole))


def _atom(text: str, match: re.Match) -> Atom:
    if match["number"]:
        size = int(match["number"])
        if size < 1:
            raise _error(text, match.start(), "a size must be positive")
        return Atom(None, size)
    name = match["name"]
    if name == "_":
        if match["star"] or match["power"] or match["terms"] or match["size"]:
            raise _error(text, match.start(), "'_' is a fixed axis: it has no size and no exponent")
        return Atom(None)
    exponent = _ONE
    if match["star"]:
        exponent = Exponent.of(-1)
    elif match["power"]:
        exponent = Exponent.of(_fraction(text, match, match["power"]))
    elif match["terms"] is not None:
        exponent = _terms(text, match)
    size = int(match["size"]) if match["size"] else None
    if size == 0:
        raise _error(text, match.start(), "a size must be positive")
    return Atom(name, size, exponent)


def _terms(text: str, match: re.Match) -> Exponent:
    terms: list[Term] = []
    for part in match["terms"].split(","):
        found = _TERM.fullmatch(part)
        if found is None:
            raise _error(text, match.start(), f"cannot read the exponent {part!r}, expected name:number")
        name, index, power = found.groups()
        index = int(index) if index is not None and index.isdecimal() else index
        if any((name, index) == (t.name, t.index) for t in terms):
            raise _error(text, match.start(), f"{part.strip()!r} gives a second exponent to one name")
        terms.append(Term(name, _fraction(text, match, power), index))
    return Exponent(tuple(terms))


def _fraction(text: str, match: re.Match, power: str) -> Fraction:
    try:
        return Fraction(power)
    except ZeroDivisionError:
        raise _error(text, match.start(), f"the exponent {power!r} divides by zero") from None


def _error(text: str, position: int, rule: str) -> ValueError:
    while position < len(text) and text[position].isspace():
        position += 1
    return ValueError(f"label {text!r}: {rule} (at position {position}: {text[position:]!r})")
