"""What a report is made of: the options of ``eqtoolbox report``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from eqtoolbox.report._errors import ReportError


@dataclass(frozen=True)
class Config:
    """Trains a model and writes its symmetry report: report.html, report.json, a summary.

    Without a model it trains a small Flax MLP on the digits bundled with scikit-learn.
    $ eqtoolbox report
    $ eqtoolbox report my_model.py:make --data my.npz --out reports/mine

    Exit codes:
    0 all checks pass
    1 the report is written, and a check in it fails
    2 something given is wrong, and nothing is written
    130 interrupted, and nothing is written
    """

    model: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE.py:FUNCTION]", help_behavior_hint="")
    ] = None
    """Your own model, as path/to/file.py:function; the function takes no arguments and returns an
    eqtoolbox.Problem. Its symmetry is inferred if it does not state one."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz", help_behavior_hint="")] = None
    """Its data, an .npz file with arrays x and y (or inputs and targets), and optionally x_test and y_test."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("report")
    """The folder to write to. Other files in it are left alone."""
    activation: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: relu)")] = (
        None
    )
    """Activation of the bundled MLP: relu, tanh, gelu, identity, …"""
    steps: int = 600
    """Training steps."""
    batch_size: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 128, or all if there are fewer)"),
    ] = None
    """Examples of a step."""
    learning_rate: float = 0.05
    """Step size of the gradient descent."""
    models: int = 8
    """Models of an orbit that are trained on."""
    seed: int = 0
    """Of the initial parameters, the batches and the group elements."""

    def check(self) -> None:
        """Checks the numbers.

        Raises:
          ReportError: names the option, the rule and the value.
        """
        for name, least in (("steps", 1), ("models", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ReportError(f"{flag(name)} must be at least {least}, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ReportError(f"--seed must be below 2³², got {self.seed}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ReportError(f"--batch-size must be at least 1, got {self.batch_size}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ReportError(f"--learning-rate must be a positive number, got {self.learning_rate}")
        if self.model is None and self.data is not None:
            raise ReportError(
                f"--data {self.data} needs a model: eqtoolbox report my_model.py:make --data {self.data}"
            )
        if self.model is not None and self.activation is not None:
            raise ReportError("--activation is for the bundled MLP only: your own model has its activation")


def flag(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.replace("_", "-")
