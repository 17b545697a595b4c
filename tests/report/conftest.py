"""One small report of the bundled model, made by the command line, that several tests read."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from eqtoolbox import cli


class Made(NamedTuple):
    code: int
    out: Path
    html: str
    data: dict
    stdout: str
    stderr: str


def _no_constant(name):
    raise ValueError(f"not strict JSON: {name}")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """``eqtoolbox report`` with 32 steps and 3 models of an orbit."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("made") / "new" / "report"
    stdout, stderr = io.StringIO(), io.StringIO()
    argv = ["report", "--steps", "32", "--models", "3", "--batch-size", "64", "--out", str(out)]
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        code = cli.main(argv)
    assert code == 0, stderr.getvalue()
    text = (out / "report.json").read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=_no_constant)
    html = (out / "report.html").read_text(encoding="utf-8")
    return Made(code, out, html, data, stdout.getvalue(), stderr.getvalue())
