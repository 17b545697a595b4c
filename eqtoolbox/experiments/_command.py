"""``eqtoolbox reproduce``: experiments by name, or all of them."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eqtoolbox.experiments._errors import ExperimentError
from eqtoolbox.experiments._experiment import Experiment, all_experiments, find_experiments
from eqtoolbox.experiments._page import MARKS, index_page, verdict_text
from eqtoolbox.experiments._run import Outcome, run_experiment
from eqtoolbox.pages import number, progress_bar, write_bytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column


@dataclass(frozen=True)
class Reproduce:
    """Runs experiments that decide claims of the papers, and writes their results and figures.

    Each has a folder of its own; --all puts them on one page, index.html.
    A run that was stopped goes on where it was.
    $ eqtoolbox reproduce --list
    $ eqtoolbox reproduce charge-drift alignment
    $ eqtoolbox reproduce --all --full --out results

    Exit codes:
    0 every verdict is the expected one; of a claim known to be false that is refuted
    1 one is not, or an experiment failed
    2 something given is wrong
    130 interrupted; the same command goes on
    """

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="")
    ] = ()
    """The experiments, by the names of --list."""
    show: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(name="list", help_behavior_hint="")] = (
        False
    )
    """Only lists the experiments, with their claims and how long they take."""
    every: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(name="all", help_behavior_hint="")] = (
        False
    )
    """Runs all of them, and writes index.html."""
    full: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Full size: minutes or hours instead of seconds."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("results")
    """The folder to write to. Other files in it are left alone."""
    force: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")] = False
    """Runs again what is already there."""

    @property
    def size(self) -> str:
        """``"quick"`` or ``"full"``."""
        return "full" if self.full else "quick"

    def chosen(self) -> list[Experiment]:
        """The experiments to run.

        Raises:
          ExperimentError: there is none of a name, or nothing was chosen.
        """
        if self.every and self.names:
            raise ExperimentError(f"either --all or names, got --all and {', '.join(self.names)}")
        if not (self.every or self.names):
            raise ExperimentError("name an experiment, or run all by --all; --list shows what there is")
        return list(all_experiments().values()) if self.every else find_experiments(self.names)


def reproduce(command: Reproduce, console: Console | None = None) -> bool:
    """Runs what the command asks for and prints what was found.

    Args:
      command: the options.
      console: of rich; standard output when None.

    Returns:
      Whether every verdict is the expected one and no experiment failed.

    Raises:
      ExperimentError: something given is wrong.
    """
    from rich.console import Console

    console = Console() if console is None else console
    if command.show and (command.names or command.every):
        raise ExperimentError("--list takes no names and no --all: it lists all experiments")
    if command.show:
        _list(console)
        return True
    chosen = command.chosen()
    outcomes: dict[str, Outcome | None] = {}
    for experiment in chosen:
        outcomes[experiment.name] = outcome = _run(experiment, command)
        if outcome is not None:
            _print_outcome(outcome, console)
    finished = [outcome for outcome in outcomes.values() if outcome is not None]
    if len(chosen) > 1:
        _print_summary(outcomes, console)
    if command.every:
        page = command.out / "index.html"
        write_bytes(page, index_page(finished, command.size).encode())
        console.print(str(page), soft_wrap=True, highlight=False)
    return len(finished) == len(chosen) and all(outcome.as_anticipated for outcome in finished)


def _run(experiment: Experiment, command: Reproduce) -> Outcome | None:
    """The outcome; None if it failed among several, whose other experiments are still run."""
    config = experiment.full if command.full else experiment.quick
    try:
        with progress_bar() as progress:
            return run_experiment(experiment, config, out=command.out, force=command.force, progress=progress)
    except ExperimentError:
        raise
    except Exception:
        if len(command.names) == 1:
            raise
        traceback.print_exc()
        return None


def _name_column() -> Column:
    """A column of names, which are to be copied: they are not cut."""
    from rich.table import Column

    return Column("experiment", no_wrap=True)


def _list(console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(_name_column(), "", "claims", "quick", "full", box=box.SIMPLE, pad_edge=False)
    for e in all_experiments().values():
        times = (f"{60 * t:.0f} s" if t < 1 else f"{t:.0f} min" for t in e.cost)
        table.add_row(Text(e.name, style="bold"), e.title, ", ".join(e.claim_ids), *times)
    console.print(table)


def _print_outcome(outcome: Outcome, console: Console) -> None:
    from rich.text import Text

    console.print(Text(outcome.experiment.title, style="bold"))
    for finding in outcome.findings:
        style = "green" if finding.as_anticipated else "bold red"
        line = Text(f"{verdict_text(finding)}: ", style=style)
        line.append(f"{finding.statement}: {number(finding.measured)}", style="default not bold")
        line.append(f" ({finding.expected})", style="dim not bold")
        console.print(line)
    console.print(Text(str(outcome.folder), style="dim"), soft_wrap=True)
    console.print()


def _print_summary(outcomes: dict[str, Outcome | None], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(_name_column(), *MARKS.values(), "", "seconds", box=box.SIMPLE, pad_edge=False)
    for name, outcome in outcomes.items():
        if outcome is None:
            table.add_row(name, "", "", "", Text("failed", style="bold red"), "")
            continue
        counts = [sum(f.verdict == verdict for f in outcome.findings) for verdict in MARKS]
        good = outcome.as_anticipated
        mark = Text("as expected", style="green") if good else Text("not as expected", style="bold red")
        table.add_row(name, *(str(c) if c else "" for c in counts), mark, f"{outcome.facts['seconds']:.0f}")
    console.print(table)
