"""Results as they come: one line of JSON for each finished run, so that a contest that was stopped goes on."""

from __future__ import annotations

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
      path: a file of JSON lines; the first holds the entrant's settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self._found = path, {}
        settings = json.loads(json.dumps(settings, default=str))
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and _parsed(lines[0]) == {"settings": settings}:
            parsed = [_parsed(line) for line in lines[1:]]
            self._found = {cell["key"]: cell for cell in parsed if cell and "key" in cell}
        else:
            if lines:  # another optimizer under the same name
                path.rename(path.with_suffix(".old"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"settings": settings}) + "\n")

    def get(self, trial: Trial) -> dict[str, Any] | None:
        """A finished run, or None."""
        return self._found.get(trial.key)

    def put(self, trial: Trial, record: dict[str, Any]) -> dict[str, Any]:
        """Keeps a run."""
        cell = {"key": trial.key, **trial._asdict(), **record}
        with self.path.open("a") as file:
            file.write(json.dumps(cell) + "\n")
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
