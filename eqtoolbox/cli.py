"""The console command ``eqtoolbox``.

Exit codes: 0 done, and everything holds; 1 everything is written, but a check of the report or a verdict of an
experiment is not as expected, or a check is worse in the second of two reports, or there is a bug of the library, with
its traceback; 2 something given is wrong, with one message on standard error and nothing written; 130 interrupted; 143
an ensemble was stopped by SIGTERM.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from eqtoolbox.ensemble import EnsembleConfig, EnsembleError, Stopped
from eqtoolbox.experiments import ExperimentError, Reproduce
from eqtoolbox.report import Config, ReportError

DONE, FAILED, BUG, WRONG, INTERRUPTED, STOPPED = 0, 1, 1, 2, 130, 143


@dataclass(frozen=True)
class Compare:
    """Says what differs between two reports: settings, numbers, checks.

    $ eqtoolbox compare before/report.json after/report.json
    $ eqtoolbox compare before after --json

    Exit codes:
    0 no check is worse in the second; with --strict, nothing differs
    1 a check that passed fails or is gone; with --strict, something differs
    2 a file is missing, damaged, of another kind or of a later version
    """

    before: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="A", metavar="A", help_behavior_hint="")]
    """The first report.json, or the folder it is in."""
    after: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="B", metavar="B", help_behavior_hint="")]
    """The second."""
    tolerance: float = 0.01
    """Relative changes of numbers up to it are not differences."""
    every: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(name="all", help_behavior_hint="")] = (
        False
    )
    """Prints also what is equal, and all that was measured."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Prints JSON, with all of it."""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Any difference makes the exit code 1."""

    def check(self) -> None:
        """Checks the options.

        Raises:
          ReportError: names the option, the rule and the value.
        """
        if not self.tolerance >= 0:
            raise ReportError(f"--tolerance must be at least 0, got {self.tolerance}")


@dataclass(frozen=True)
class Doctor:
    """Says what eqtoolbox runs on, and what is missing.

    Versions, devices, 64-bit arithmetic, the bundled data, and the optional parts.

    Exit codes:
    0 all that is needed is there
    2 something needed is missing or broken
    """


_COMMANDS = {
    "report": Config,
    "compare": Compare,
    "reproduce": Reproduce,
    "ensemble": EnsembleConfig,
    "doctor": Doctor,
}


def _parse(argv: Sequence[str]) -> Any:
    """The command that the arguments name, with its options."""
    listed = not argv or argv[0] in ("-h", "--help")  # then one line for each command
    choices: Any = None
    for name, kind in _COMMANDS.items():
        summary = (kind.__doc__ or "").partition("\n")[0] if listed else None
        one = Annotated[kind, tyro.conf.subcommand(name, prefix_name=False, description=summary)]
        choices = one if choices is None else choices | one
    return tyro.cli(
        choices,
        prog="eqtoolbox",
        description="Symmetries of neural-network parameters.\n\n`eqtoolbox COMMAND --help` says more of a command.",
        args=argv,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments; those of the process when None.

    Returns:
      The exit code.
    """
    try:
        argv = sys.argv[1:] if argv is None else argv
        if list(argv) == ["--version"]:
            print(f"eqtoolbox {importlib.metadata.version('eqtoolbox')}")
            return DONE
        command = _parse(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE if stop.code is None else WRONG
    try:
        if isinstance(command, Config):
            return report(command)
        if isinstance(command, EnsembleConfig):
            return ensemble(command)
        if isinstance(command, Compare):
            return compare(command)
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
    _require_device(ReportError)
    with progress_bar() as progress:
        made = make_report(config, progress=progress)
    write({"report.html": made.to_html(), "report.json": made.to_json()}, config.out)
    print_summary(made, config.out)
    return FAILED if made.failed else DONE


def compare(command: Compare) -> int:
    """``eqtoolbox compare``: prints what differs; 1 if a check is worse, or with --strict if anything differs.

    Raises:
      ReportError: one of the files is not a report.
    """
    import json

    from eqtoolbox.report import compare, load_report, print_comparison

    command.check()
    paths = command.before, command.after
    found = compare(*map(load_report, paths), tolerance=command.tolerance)
    if command.json:
        print(json.dumps({"paths": [str(p) for p in paths]} | found.to_data(), indent=1, ensure_ascii=False))
    else:
        print_comparison(found, paths, everything=command.every)
    return FAILED if found.worse or (command.strict and not found.equal) else DONE


def reproduce(command: Reproduce) -> int:
    """``eqtoolbox reproduce``: runs experiments; 1 if a verdict is not the expected one or an experiment fails.

    Raises:
      ExperimentError: something given is wrong.
    """
    from eqtoolbox.experiments import reproduce

    if not command.show:
        _require_device(ExperimentError)
    return DONE if reproduce(command) else FAILED


def _require_device(kind: type[Exception]) -> None:
    """Raises ``kind`` where JAX has no device, as with $JAX_PLATFORMS=cuda on a machine without one."""
    import jax

    try:
        jax.devices()
    except Exception as error:
        text = str(error).partition("\n")[0] or type(error).__name__
        wanted = os.environ.get("JAX_PLATFORMS")
        where = f" with JAX_PLATFORMS={wanted}" if wanted else ""
        raise kind(f"JAX has no device to run on{where}: {text}") from error


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
        style = "green" if finding.good else "bold red" if finding.needed else "yellow"
        table.add_row(Text(finding.what), Text(finding.found, style=style))
    console = Console()
    console.print(table)
    broken = [f.what for f in findings if not f.good and f.needed]
    without = [f.what.removeprefix("optional: ") for f in findings if not f.good and not f.needed]
    rest = f"; without the optional {', '.join(without)}" if without else ""
    console.print(Text(f"broken: {', '.join(broken)}" if broken else f"all is well{rest}"))
    return WRONG if broken else DONE


if __name__ == "__main__":
    sys.exit(main())
