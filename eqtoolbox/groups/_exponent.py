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
    """How a space acts on an axis: one power for every generator, or one per named generator.

    >>> str(Exponent.of(-1)), str(Exponent.of("1/2")), str(Exponent.of([Term("a", Fraction(1))]))
    ('*', '^1/2', '{a:1}')

    Attributes:
      terms: one term without a name, or any number of terms with names, no two for the same generators.
    """

    terms: tuple[Term, ...]

    def __post_init__(self):
        names = [(term.name, term.index) for term in self.terms]
        if len(set(names)) < len(names):
            raise ValueError(f"the exponent {self} gives two powers to one name")
        if len(names) != 1 and any(not name for name, _ in names):
            raise ValueError(f"the exponent {self} mixes a power for all generators with named ones")

    @staticmethod
    def of(value: Exponent | int | float | str | Fraction | Iterable[Term] = 1) -> Exponent:
        """Reads an exponent.

        Args:
          value: an exponent, a rational number or its text (the same for every generator; a float is read
            as it prints, so 0.1 is 1/10), or terms.

        Raises:
          ValueError: it is not a finite number, or two terms are for one generator.
          TypeError: it is neither a number nor terms.
        """
        if isinstance(value, Exponent):
            return value
        if isinstance(value, (int, float, str, Fraction)):
            try:
                power = Fraction(str(value) if isinstance(value, float) else value)
            except (ValueError, ZeroDivisionError):
                raise ValueError(f"an exponent must be a finite rational number, got {value!r}") from None
            return Exponent((Term("", power),))
        terms = tuple(value) if isinstance(value, Iterable) else (value,)
        if not all(isinstance(term, Term) for term in terms):
            raise TypeError(f"an exponent is a number or a sequence of Term, got {value!r}")
        return Exponent(tuple(Term(term.name, Fraction(term.power), term.index) for term in terms))

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
