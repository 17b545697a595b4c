"""The tables that ``eqtoolbox compare`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eqtoolbox.pages import number
from eqtoolbox.report._compare import ABSENT, CheckDifference, Comparison, Difference

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

#: Rows of what else was measured that are printed without --all.
SHOWN = 12


def change_text(change: float | None) -> str:
    """A relative change: ``+12.3 %``, ``−0.5 %``, ``×31`` for more than twice as much, nothing where there is none.

    >>> change_text(0.123), change_text(-0.005), change_text(30.0), change_text(0.0), change_text(None)
    ('+12.3 %', '−0.5 %', '×31', '=', '')
    """
    if change is None:
        return ""
    if change == 0:
        return "="
    if change > 1:
        return f"×{number(1 + change)}"
    return f"{'−' if change < 0 else '+'}{number(100 * abs(change))} %"


def print_comparison(
    found: Comparison, paths: tuple[Path, Path], *, everything: bool = False, console: Console | None = None
) -> None:
    """Prints what differs.

    Args:
      found: the comparison.
      paths: where the reports are.
      everything: also what is equal, and all that was measured.
      console: of rich; standard output when None.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console() if console is None else console
    for letter, name, path in zip("AB", found.names, paths, strict=True):
        line = Text(f"{letter}  ", style="bold").append(name).append(f"  {path}", style="dim")
        console.print(line, soft_wrap=True)
    _print_rows(console, "Settings", found.settings)
    _print_rows(console, "Numbers", [d for d in found.summary if everything or found.differs(d)])
    _print_checks(console, [c for c in found.checks if everything or found.differs(c)])
    shown = found.measured if everything else found.measured[:SHOWN]
    _print_rows(console, "Measured besides", shown)
    if len(shown) < len(found.measured):
        left = len(found.measured) - len(shown)
        console.print(Text(f"and {left} more: --all prints them, --json has them", style="dim"))
    console.print()
    console.print(Text(verdict(found), style="bold red" if found.worse else "bold green"))


def verdict(found: Comparison) -> str:
    """The comparison in one line."""
    tolerance = f"{number(100 * found.tolerance)} %"
    if found.equal:
        return f"no differences: {len(found.checks)} checks and all numbers agree within {tolerance}"
    better = sum(c.better for c in found.checks)
    numbers = sum(map(found.differs, (*found.summary, *found.checks))) + len(found.measured)
    return (
        f"checks: {len(found.worse)} worse, {better} better, {len(found.checks) - len(found.worse) - better} as "
        f"before; {len(found.settings)} settings differ, and {numbers} numbers by more than {tolerance}"
    )


def _print_rows(console: Console, title: str, rows: Sequence[Difference]) -> None:
    if not rows:
        return
    table = _table(title)
    for d in rows:
        table.add_row(_text(d.name), _text(shown(d.before)), _text(shown(d.after)), change_text(d.change))
    console.print(table)


def _print_checks(console: Console, rows: Sequence[CheckDifference]) -> None:
    if not rows:
        return
    table = _table("Checks", "verdict")
    marks = {True: "✓", False: "✗", None: "absent"}
    for c in rows:
        style = "bold red" if c.worse else "green" if c.better else ""
        before, after = (marks[p] for p in c.passed)
        mark = after if before == after else f"{before} → {after}"
        values = (_text(shown(c.before)), _text(shown(c.after)))
        table.add_row(_text(c.statement, style), *values, change_text(c.change), _text(mark, style))
    console.print(table)


def _table(title: str, *more: str) -> Table:
    from rich import box
    from rich.table import Column, Table

    columns = (Column(title, ratio=3, overflow="fold"), Column("A", ratio=1), Column("B", ratio=1))
    change = Column("change", justify="right", no_wrap=True)
    return Table(*columns, change, *more, box=box.SIMPLE_HEAD, pad_edge=False)


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=style)


def shown(value: Any) -> str:
    """A value in a cell: numbers short, lists by their shape.

    >>> shown(3.2e-7), shown([[1, 2], [3, 4]]), shown(True), shown(None)
    ('3.2×10⁻⁷', '2 × 2 numbers', 'yes', '–')
    """
    if value is ABSENT:
        return "absent"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        try:
            shape = np.shape(value)
        except ValueError:
            shape = (len(value),)
        flat = all(isinstance(v, str) for v in value) and sum(map(len, value)) < 60
        return ", ".join(value) if flat else f"{' × '.join(map(str, shape))} numbers"
    if isinstance(value, dict):
        return f"{len(value)} entries"
    return number(value)
