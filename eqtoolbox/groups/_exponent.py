"""Exponents: how strongly, and through which generator, a space acts on one axis of a leaf.

The label grammar writes them after the name of a space: ``h`` (1), ``h*`` (-1), ``h^-2``, ``h^1/2``,
``h{a:1,b:-2}`` (one per named scaling) and ``h{gain[layers]:1}`` (a block of scalings, one per index of
the axis called ``layers``). This module only holds what was written; a group gives it its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Term:
    """One entry of an exponent: ``name[index]: power``.

    Attributes:
      name: the scaling or sign it speaks of; empty for every one of the group.
      power: the rational power.
      index: which copy of a block of scalings: an integer, the name of an axis of the same leaf, or None.
    """

    name: str
    power: Fraction
    index: str | int | None = None

    def __str__(self) -> str:
        index = "" if self.index is None else f"[{self.index}]"
        return f"{self.name}{index}:{self.power}"


@dataclass(frozen=True)
class Exponent:
    """A tuple of terms; see the module docstring for how it is written."""

    terms: tuple[Term, ...]

    @staticmethod
    def of(value: Exponent | int | float | str | Fraction | Iterable[Term] = 1) -> Exponent:
        """Reads an exponent from a number (the same for every generator) or terms."""
        if isinstance(value, Exponent):
            return value
        if isinstance(value, (int, float, str, Fraction)):
            return Exponent((Term("", Fraction(value)),))
        return Exponent(tuple(value))

    @property
    def uniform(self) -> Fraction | None:
        """The power when it is the same for every generator, else None."""
        if len(self.terms) == 1 and not self.terms[0].name:
            return self.terms[0].power
        return None

    def __str__(self) -> str:
        power = self.uniform
        if power is None:
            return "{" + ",".join(map(str, self.terms)) + "}"
        return {Fraction(1): "", Fraction(-1): "*"}.get(power, f"^{power}")
