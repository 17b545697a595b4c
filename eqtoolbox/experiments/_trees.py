"""Reading pieces of earlier runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eqtoolbox import pages
from eqtoolbox.experiments._errors import ExperimentError


def load_tree(path: Path) -> Any:
    """The tree of a file written by ``pages.save_tree``, with NumPy arrays.

    Raises:
      ExperimentError: the file is damaged.
    """
    try:
        return pages.load_tree(path)
    except pages.DamagedError as error:
        raise ExperimentError(f"{error}: delete it, or run again with --force") from error
