"""What a section of the report is, and how sections are found.

A section is one file in ``eqtoolbox/report/sections`` that defines ``SECTION``; nothing else has to be changed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from eqtoolbox.report._train import Probe

if TYPE_CHECKING:
    from eqtoolbox.report._context import Context


@dataclass(frozen=True)
class Number:
    """A number of the summary.

    Attributes:
      label: what it is, in a few words.
      value: a number or a short text.
      note: what to compare it with.
    """

    label: str
    value: float | int | str
    note: str = ""


@dataclass(frozen=True)
class Check:
    """A statement that a number decides.

    Attributes:
      statement: what is claimed.
      value: what was measured.
      bound: what it is compared with.
      at_least: whether ``value`` must be at least ``bound``; by default at most.
    """

    statement: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the statement holds; never for NaN."""
        return bool(self.value >= self.bound if self.at_least else self.value <= self.bound)


@dataclass(frozen=True)
class SectionResult:
    """What a section found.

    Attributes:
      html: paragraphs, figures and tables in order, see ``eqtoolbox.pages``.
      numbers: for the summary at the top.
      checks: statements, decided.
      data: everything measured, for the JSON: dicts, lists, numbers, arrays and texts.
    """

    html: Sequence[Markup]
    numbers: Sequence[Number] = ()
    checks: Sequence[Check] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
      name: its key in the JSON and its anchor in the page.
      title: its heading.
      order: sections are sorted by it.
      run: context -> result.
      probe: context -> what it wants to record at every step of the training run, or None.
    """

    name: str
    title: str
    order: int
    run: Callable[[Context], SectionResult]
    probe: Callable[[Context], Probe | None] | None = None


def all_sections() -> tuple[Section, ...]:
    """All sections, in order: the ``SECTION`` of every module of ``eqtoolbox.report.sections``.

    Raises:
      ValueError: two of them have the same name.
    """
    from eqtoolbox.report import sections as package

    modules = (
        importlib.import_module(f"{package.__name__}.{m.name}")
        for m in pkgutil.iter_modules(package.__path__)
    )
    found = sorted((module.SECTION for module in modules), key=lambda s: (s.order, s.name))
    names = [s.name for s in found]
    if len(set(names)) < len(names):
        raise ValueError(f"the names of the sections must differ, got {names}")
    return tuple(found)
