"""A progress bar, on terminals only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console


class Progress(NamedTuple):
    """How work is announced.

    Attributes:
      describe: told what is done now.
      expect: told how many training steps follow.
      advance: told how many of them were done.
    """

    describe: Callable[[str], None] = lambda text: None
    expect: Callable[[int], None] = lambda steps: None
    advance: Callable[[int], None] = lambda steps: None


#: Announces nothing.
SILENT = Progress()


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """A bar that disappears at the end; nothing where there is no terminal.

    Args:
      console: of rich; standard error when None.
    """
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True) if console is None else console
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        yield Progress(
            describe=lambda text: bar.update(task, description=text, total=None, completed=0),
            expect=lambda steps: bar.update(task, total=steps, completed=0),
            advance=lambda steps: bar.advance(task, steps),
        )


@contextmanager
def progress_lines(every: float = 10.0) -> Iterator[Progress]:
    """``progress_bar`` on a terminal; elsewhere what is done now, as lines on standard error.

    Args:
      every: seconds between lines, at least.
    """
    if sys.stderr.isatty():
        with progress_bar() as progress:
            yield progress
        return
    last = -every

    def describe(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    yield Progress(describe=describe)
