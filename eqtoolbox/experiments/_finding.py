"""`Finding`: a statement that an experiment decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from eqtoolbox.pages import number

Verdict = Literal["verified", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """A statement, what was measured, and what follows.

    Attributes:
      statement: what is claimed, in words.
      measured: a number or a short text.
      expected: what it is compared with, in words: "at most 1e-5".
      verdict: "verified", "refuted" or "inconclusive".
      claims: ids of the ledger of claims, ``tests/claims.toml``.
      anticipated: the verdict that is right; "refuted" where a paper's claim is known to be false as printed.
    """

    statement: str
    measured: float | int | str
    expected: str
    verdict: Verdict
    claims: tuple[str, ...] = ()
    anticipated: Verdict = "verified"

    @property
    def as_anticipated(self) -> bool:
        """Whether the verdict is the right one."""
        return self.verdict == self.anticipated


def at_most(
    statement: str,
    measured: float,
    bound: float,
    *,
    claims: tuple[str, ...] = (),
    error: float = 0.0,
    anticipated: Verdict = "verified",
) -> Finding:
    """A finding that holds if a number is at most a bound.

    Args:
      statement: what is claimed.
      measured: the number.
      bound: the bound.
      claims: ids of the ledger.
      error: standard error of ``measured``; within two of the bound the verdict is "inconclusive", as it is for NaN.
      anticipated: the verdict that is right.
    """
    return _decide(statement, measured, bound, 1.0, "at most", claims, error, anticipated)


def at_least(
    statement: str,
    measured: float,
    bound: float,
    *,
    claims: tuple[str, ...] = (),
    error: float = 0.0,
    anticipated: Verdict = "verified",
) -> Finding:
    """A finding that holds if a number is at least a bound; see ``at_most``."""
    return _decide(statement, measured, bound, -1.0, "at least", claims, error, anticipated)


def _decide(
    statement: str,
    measured: float,
    bound: float,
    sign: float,
    words: str,
    claims: tuple[str, ...],
    error: float,
    anticipated: Verdict,
) -> Finding:
    measured, bound = _scalar(measured), _scalar(bound)
    excess = sign * (measured - bound)
    verdict: Verdict = "inconclusive"
    if excess + 2 * error <= 0:
        verdict = "verified"
    elif excess - 2 * error > 0:
        verdict = "refuted"
    return Finding(statement, measured, f"{words} {number(bound)}", verdict, claims, anticipated)


def _scalar(x: Any) -> float | int:
    return x if isinstance(x, int) else int(x) if hasattr(x, "dtype") and x.dtype.kind in "iu" else float(x)
