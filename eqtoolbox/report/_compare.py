"""What differs between two reports: settings, numbers of the summary, checks, and everything measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eqtoolbox.pages import plain

#: Name and version of the layout of ``Comparison.to_data``.
COMPARISON_FORMAT, COMPARISON_VERSION = "eqtoolbox-comparison", 1

#: Differences of these say nothing about a model.
_UNIMPORTANT = ("out",)


class Absent:
    """In place of what one of the reports does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()


class Difference(NamedTuple):
    """One thing in two reports.

    Attributes:
      name: what it is; for something measured its path, ``gradient/orbit_part/largest``.
      before: in the first report, or ``ABSENT``.
      after: in the second, or ``ABSENT``.
      change: (after − before) / |before| for numbers, |after − before| / |before| for arrays of one shape; else None.
    """

    name: str
    before: Any
    after: Any
    change: float | None


class CheckDifference(NamedTuple):
    """A check in two reports.

    Attributes:
      section: where it is.
      statement: as in the second report, or the first if it is not in the second.
      before: the value in the first, or ``ABSENT``.
      after: in the second.
      change: relative.
      passed: in the first and in the second; None where it is absent.
    """

    section: str
    statement: str
    before: Any
    after: Any
    change: float | None
    passed: tuple[bool | None, bool | None]

    @property
    def worse(self) -> bool:
        """It passed, and fails or is gone; or it is new and fails."""
        return (self.passed[1] is False and self.passed[0] is not False) or self.passed == (True, None)

    @property
    def better(self) -> bool:
        """It did not pass, and does."""
        return self.passed[1] is True and self.passed[0] is False


@dataclass(frozen=True)
class Comparison:
    """What differs between two reports.

    Attributes:
      names: of the two problems.
      tolerance: relative changes up to it are not differences.
      settings: options, versions, device and data that differ.
      summary: all numbers of the summary, and of the training.
      checks: all checks.
      measured: what else was measured and differs, the largest change first.
    """

    names: tuple[str, str]
    tolerance: float
    settings: tuple[Difference, ...]
    summary: tuple[Difference, ...]
    checks: tuple[CheckDifference, ...]
    measured: tuple[Difference, ...]

    @property
    def worse(self) -> tuple[CheckDifference, ...]:
        """The checks that got worse."""
        return tuple(check for check in self.checks if check.worse)

    @property
    def equal(self) -> bool:
        """Nothing differs by more than the tolerance."""
        changed = any(self.differs(d) for d in (*self.summary, *self.checks))
        return not (self.settings or self.measured or changed)

    def differs(self, d: Difference | CheckDifference) -> bool:
        """Whether it counts as a difference."""
        if isinstance(d, CheckDifference) and d.passed[0] != d.passed[1]:
            return True
        return _differs(d.before, d.after, d.change, self.tolerance)

    def to_data(self) -> dict[str, Any]:
        """All of it for JSON; what is not there or not finite is null."""

        def row(d: Difference | CheckDifference) -> dict[str, Any]:
            found = {k: None if v is ABSENT else v for k, v in d._asdict().items()}
            if isinstance(d, CheckDifference):
                found |= {"worse": d.worse, "better": d.better}
            return found | {"differs": self.differs(d)}

        parts = {k: [row(d) for d in getattr(self, k)] for k in ("settings", "summary", "checks", "measured")}
        head = {"format": COMPARISON_FORMAT, "format_version": COMPARISON_VERSION, "names": self.names}
        verdict = {"tolerance": self.tolerance, "worse": len(self.worse), "equal": self.equal}
        return plain(head | verdict | parts)


def compare(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float = 0.01) -> Comparison:
    """Compares two reports.

    Args:
      before: the first, from ``load_report``.
      after: the second.
      tolerance: relative changes up to it are not differences.
    """
    return Comparison(
        names=(before["problem"]["name"], after["problem"]["name"]),
        tolerance=tolerance,
        settings=tuple(d for d in _settings(before, after) if d.before != d.after),
        summary=tuple(_pairs(_numbers(before), _numbers(after))),
        checks=tuple(_checks(before, after)),
        measured=tuple(_measured(before, after, tolerance)),
    )


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    def collect(report: Mapping[str, Any]) -> dict[str, Any]:
        found = {k: v for k, v in report["config"].items() if k not in _UNIMPORTANT}
        found |= {f"problem: {k}": v for k, v in report["problem"].items()}
        return found | report["versions"] | {"device": report["device"]}

    return _pairs(collect(before), collect(after))


def _numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    training = {k: v for k, v in report["training"].items() if v is not None and k != "metric_name"}
    # The training's own line of the summary is named after its metric and repeats these.
    own = report["summary"][1:]
    return {f"training: {k.replace('_', ' ')}": v for k, v in training.items()} | {
        n["label"]: n.get("value") for n in own
    }


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys((*before, *after)):
        a, b = before.get(name, ABSENT), after.get(name, ABSENT)
        yield Difference(name, a, b, relative_change(a, b))


def _checks(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[CheckDifference]:
    for name in dict.fromkeys((*before["sections"], *after["sections"])):
        found = [_by_statement(report["sections"].get(name)) for report in (before, after)]
        for key in dict.fromkeys((*found[1], *found[0])):
            a, b = found[0].get(key), found[1].get(key)
            x, y = (ABSENT if c is None else c.get("value") for c in (a, b))
            passed = (None if a is None else a["passed"], None if b is None else b["passed"])
            statement = (b or a or {})["statement"]
            yield CheckDifference(name, statement, x, y, relative_change(x, y), passed)


def _by_statement(section: Mapping[str, Any] | None) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Checks by their statement without its numbers, such as the steps, and which of those with the same it is."""
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for check in section["checks"] if section else ():
        words = re.sub(r"\d[\d.,]*", "#", check["statement"])
        found[words, sum(words == other for other, _ in found)] = check
    return found


def _measured(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float) -> list[Difference]:
    def data(report: Mapping[str, Any]) -> dict[str, Any]:
        return {name: section["data"] for name, section in report["sections"].items()}

    found = [
        d for d in _walk("", data(before), data(after)) if _differs(d.before, d.after, d.change, tolerance)
    ]
    size = {d.name: math.inf if d.change is None else abs(d.change) for d in found}
    return sorted(found, key=lambda d: (-size[d.name], d.name))


def _walk(path: str, a: Any, b: Any) -> Iterator[Difference]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys((*a, *b)):
            yield from _walk(f"{path}/{key}" if path else key, a.get(key, ABSENT), b.get(key, ABSENT))
        return
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and _array(a) is None:
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _walk(f"{path}/{i}", x, y)
        return
    yield Difference(path, a, b, relative_change(a, b))


def _array(value: Any) -> np.ndarray | None:
    """A list of numbers, or of lists of them, as an array; null is NaN."""
    if isinstance(value, list):
        try:
            found = np.asarray(value)
            if found.dtype.kind in "iuf" or (found.dtype == object and _plain_numbers(value)):
                return found.astype(np.float64)
        except (ValueError, TypeError, OverflowError):
            return None
    return None


def _plain_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_plain_numbers, value))
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def relative_change(before: Any, after: Any) -> float | None:
    """(after − before) / |before|, for arrays of one shape the norm of the difference; None where there is none.

    >>> relative_change(2.0, 3.0), relative_change(0, 1), relative_change("a", 1), relative_change([3, 4], [3, 9])
    (0.5, None, None, 1.0)
    """
    if _number(before) and _number(after):
        if before == after:
            return 0.0
        return None if before == 0 else float((after - before) / abs(before))
    a, b = _array(before), _array(after)
    if a is None or b is None or a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return None
    moved, size = float(np.linalg.norm(np.nan_to_num(b - a))), float(np.linalg.norm(np.nan_to_num(a)))
    return 0.0 if moved == 0 else None if size == 0 else moved / size


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _differs(before: Any, after: Any, change: float | None, tolerance: float) -> bool:
    return bool(before != after) if change is None else abs(change) > tolerance
