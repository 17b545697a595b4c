"""`ReportError`: what is wrong with the user's model, data or options, in one message."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path


class ReportError(Exception):
    """The report cannot be made from what was given; the message says why. Not a bug of the library."""


@contextlib.contextmanager
def blame(what: str, hint: str = "", source: Path | None = None) -> Iterator[None]:
    """Turns any exception of the user's code into a ``ReportError`` that says what failed, and where.

    Args:
      what: the start of the message, such as ``"apply(params, inputs) fails"``.
      hint: put at the end.
      source: the user's file; the deepest line of it in the traceback is named.

    Raises:
      ReportError: from any ``Exception`` (or a ``sys.exit``) inside the block.
    """
    try:
        yield
    except ReportError:
        raise
    except (Exception, SystemExit) as error:
        place = _place(error, source)
        text = str(error).strip() or "no message"
        raise ReportError(f"{what}{place}: {type(error).__name__}: {text}{hint}") from error


def _place(error: BaseException, source: Path | None) -> str:
    if source is None:
        return ""
    if isinstance(error, SyntaxError) and error.filename == str(source):
        return f" ({source.name}, line {error.lineno})"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(source)
    ]
    return f" ({source.name}, line {lines[-1]})" if lines else ""
