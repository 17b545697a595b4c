"""The progress bar of a report, on terminals only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Progress(NamedTuple):
    """How work is announced.

    Attributes:
      describe: told what is done now.
      advance: told how many training steps were done.
    """

    describe: Callable[[str], None] = lambda text: None
    advance: Callable[[int], None] = lambda steps: None


@contextmanager
def progress_bar(total: int) -> Iterator[Progress]:
    """A bar on standard error that disappears at the end; nothing where that is no terminal.

    Args:
      total: the training steps there will be.
    """
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=total)
        yield Progress(
            lambda text: bar.update(task, description=text), lambda steps: bar.advance(task, steps)
        )
