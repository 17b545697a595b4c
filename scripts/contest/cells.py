"""Results as they come: one line of JSON for each finished run, so that a contest that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple


class Trial(NamedTuple):
    """What distinguishes a run of one entrant on one task.

    Attributes:
      steps: length of training.
      schedule: name of the schedule.
      rate: learning rate at the start.
      extra: the entrant's second number, such as a damping; 0 where there is none.
      seed: of data, parameters and batches.
    """

    steps: int
    schedule: str
    rate: float
    extra: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.steps}|{self.schedule}|{self.rate:.6g}|{self.extra:.6g}|{self.seed}"


class Cells:
    """The finished runs of one entrant on one task.

    Attributes:
      path: a file of JSON lines; the first holds the settings, of which the name has a digest: runs of other settings
        are in files of their own.
    """

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        text = json.dumps({"settings": settings}, default=str)
        self.path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.jsonl"
        self._found, self._broken = {}, False
        if self.path.exists():
            lines = self.path.read_text()
            self._broken = not lines.endswith("\n")  # by a run that was killed as it wrote
            parsed = [_parsed(line) for line in lines.splitlines()[1:]]
            self._found = {cell["key"]: cell for cell in parsed if cell and "key" in cell}
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text + "\n")

    def get(self, trial: Trial) -> dict[str, Any] | None:
        """A finished run, or None."""
        return self._found.get(trial.key)

    def put(self, trial: Trial, record: dict[str, Any]) -> dict[str, Any]:
        """Keeps a run."""
        cell = {"key": trial.key, **trial._asdict(), **record}
        with self.path.open("a") as file:
            file.write("\n" * self._broken + json.dumps(cell) + "\n")
        self._broken = False
        self._found[trial.key] = cell
        return cell

    def all(self) -> list[dict[str, Any]]:
        """All finished runs."""
        return list(self._found.values())


def _parsed(line: str) -> Any:
    """A line, or None where a killed run left half of one."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
