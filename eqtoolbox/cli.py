"""The console command ``eqtoolbox``.

Exit codes: 0 done, and everything holds; 1 everything is written, but a check of the report or a verdict of an
experiment is not as expected, or there is a bug of the library, with its traceback; 2 something given is wrong, with
one message on standard error and nothing written; 130 interrupted; 143 an ensemble was stopped by SIGTERM.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from eqtoolbox.ensemble import EnsembleConfig, EnsembleError, Stopped
from eqtoolbox.experiments import ExperimentError, Reproduce
from eqtoolbox.report import Config, ReportError

DONE, FAILED, BUG, WRONG, INTERRUPTED, STOPPED = 0, 1, 1, 2, 130, 143


@dataclass(frozen=True)
class Doctor:
    """Says what eqtoolbox runs on: versions, devices, 64-bit mode, the bundled data."""


Command = (
    Annotated[Config, tyro.conf.subcommand("report", prefix_name=False)]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce", prefix_name=False)]
    | Annotated[EnsembleConfig, tyro.conf.subcommand("ensemble", prefix_name=False)]
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
        if isinstance(command, Config):
            return report(command)
        if isinstance(command, EnsembleConfig):
            return ensemble(command)
        return reproduce(command) if isinstance(command, Reproduce) else doctor()
    except (ReportError, ExperimentError, EnsembleError) as error:
        print(f"eqtoolbox: error: {error}", file=sys.stderr)
        return WRONG
    except Stopped as stop:
        print(f"eqtoolbox: {stop}: the same command goes on", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        goes_on = isinstance(command, (Reproduce, EnsembleConfig))
        left = "the same command goes on" if goes_on else "nothing was written"
        print(f"eqtoolbox: interrupted, {left}", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return BUG


def report(config: Config) -> int:
    """``eqtoolbox report``: trains, writes report.html and report.json, prints a summary; 1 if a check fails.

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
    return FAILED if made.failed else DONE


def reproduce(command: Reproduce) -> int:
    """``eqtoolbox reproduce``: runs experiments; 1 if a verdict is not the expected one or an experiment fails.

    Raises:
      ExperimentError: something given is wrong.
    """
    from eqtoolbox.experiments import reproduce

    return DONE if reproduce(command) else FAILED


def ensemble(config: EnsembleConfig) -> int:
    """``eqtoolbox ensemble``: trains and averages, once for each preset.

    Raises:
      EnsembleError: something given or found is wrong.
      ReportError: the user's file is.
      Stopped: by SIGTERM, with everything saved.
    """
    import jax

    from eqtoolbox.ensemble import connect, leave, run_ensemble
    from eqtoolbox.pages import SILENT, progress_lines
    from eqtoolbox.report import load_problem

    runs = config.runs()
    connect(config)
    try:
        problem = None if config.model is None else load_problem(config.model)[1]
        with progress_lines() if jax.process_index() == 0 else contextlib.nullcontext(SILENT) as progress:
            for run in runs:
                out = run_ensemble(run, problem, progress=progress)
                if jax.process_index() == 0:
                    print(out)
    except EnsembleError as error:
        if jax.process_count() > 1:
            print(f"eqtoolbox: error: {error}", file=sys.stderr)
            leave(WRONG)
        raise
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
