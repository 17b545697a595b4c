"""The summary that ``eqtoolbox report`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eqtoolbox.pages import number
from eqtoolbox.report._report import Report

if TYPE_CHECKING:
    from rich.console import Console


def print_summary(report: Report, out: Path, console: Console | None = None) -> None:
    """Prints the summary numbers, the checks and where the files are.

    Args:
      report: the report.
      out: the folder it was written to.
      console: of rich; standard output when None.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if console is None else console
    console.print(Text(f"Symmetry report: {report.name}", style="bold"))
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for n in report.numbers:
        table.add_row(Text(n.label), Text(number(n.value), style="bold"), Text(n.note, style="dim"))
    console.print(table)
    for check in report.checks:
        mark, style = ("✓", "green") if check.passed else ("✗", "bold red")
        relation = "at least" if check.at_least else "at most"
        line = Text(f"{mark} ", style=style)
        line.append(f"{check.statement}: {number(check.value)}", style="" if check.passed else "bold red")
        line.append(f" ({relation} {number(check.bound)})", style="dim")
        console.print(line)
    console.print()
    console.print(Text(f"{report.verdict}, {report.seconds:.0f} s", style="bold"))
    for name in ("report.html", "report.json"):
        console.print(Text(str(out / name)), soft_wrap=True)
