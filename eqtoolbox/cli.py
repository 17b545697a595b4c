"""The console command ``eqtoolbox``.

Exit codes: 0 done; 2 something given is wrong, with one message on standard error and nothing written; 1 a bug of
the library, with its traceback; 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from eqtoolbox.report import Config, ReportError

DONE, BUG, WRONG, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Doctor:
    """Says what eqtoolbox runs on: versions, devices, 64-bit mode, the bundled data."""


Command = (
    Annotated[Config, tyro.conf.subcommand("report", prefix_name=False)]
    | Annotated[Doctor, tyro.conf.subcommand("doctor", prefix_name=False)]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments; those of the process when None.

    Returns:
      The exit code.
    """
    try:
        command = tyro.cli(
            Command,  # pyright: ignore[reportArgumentType]
            prog="eqtoolbox",
            description="Symmetries of neural-network parameters.",
            args=argv,
        )
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE if stop.code is None else WRONG
    try:
        return doctor() if isinstance(command, Doctor) else report(command)
    except ReportError as error:
        print(f"eqtoolbox: error: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("eqtoolbox: interrupted, nothing was written", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return BUG


def report(config: Config) -> int:
    """``eqtoolbox report``: trains, writes report.html and report.json, prints a summary.

    Raises:
      ReportError: something given is wrong; nothing was written.
    """
    from eqtoolbox.pages import progress_bar
    from eqtoolbox.report import check_target, make_report, print_summary, write

    config.check()
    check_target(config.out)
    with progress_bar() as progress:
        made = make_report(config, progress=progress)
    write({"report.html": made.to_html(), "report.json": made.to_json()}, config.out)
    print_summary(made, config.out)
    return DONE


def doctor() -> int:
    """``eqtoolbox doctor``: prints what there is; 2 if something needed is missing or broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from eqtoolbox.report import examine

    table = Table("what", "found", box=None, pad_edge=False)
    findings = examine()
    for finding in findings:
        style = "green" if finding.good else "bold red"
        table.add_row(Text(finding.what), Text(finding.found, style=style))
    console = Console()
    console.print(table)
    broken = [f.what for f in findings if not f.good]
    console.print(Text(f"broken: {', '.join(broken)}" if broken else "all is well"))
    return WRONG if broken else DONE


if __name__ == "__main__":
    sys.exit(main())
