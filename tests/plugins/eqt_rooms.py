"""Prints how long the tests of each room (folder under `tests/`) took, with xdist added over its workers."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

import pytest


def room(nodeid: str) -> str:
    """The folder of a test: `groups` for `tests/groups/test_x.py::test_y`, `.` right under `tests/`."""
    folders = PurePosixPath(nodeid.split("::", 1)[0]).parent.parts
    return folders[1] if len(folders) > 1 else "."


class RoomTimes:
    """Adds up the set-up, call and tear-down times of the tests of each room."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = room(report.nodeid)
        self.seconds[name] += report.duration
        self.tests[name] += report.when == "call"

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if not self.seconds:
            return
        terminalreporter.section("minutes per room, added over workers")
        for name, seconds in self.seconds.most_common():
            terminalreporter.write_line(f"{seconds / 60:7.2f} min  {self.tests[name]:5d} tests  {name}")
        terminalreporter.write_line(
            f"{self.seconds.total() / 60:7.2f} min  {self.tests.total():5d} tests  in all"
        )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(RoomTimes(), "eqt-rooms")
