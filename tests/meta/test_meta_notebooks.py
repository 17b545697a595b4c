"""The notebooks run, and each is the image of the script it is paired with."""

import os
import pathlib
import subprocess
import sys

import pytest

COLABS = pathlib.Path(__file__).parents[2] / "colabs"
SCRIPTS = sorted(COLABS.glob("*.py"))


def test_every_notebook_has_its_script():
    assert SCRIPTS
    assert sorted(COLABS.glob("*.ipynb")) == [p.with_suffix(".ipynb") for p in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_runs(script, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "Agg", "JAX_PLATFORMS": "cpu", "EQTOOLBOX_SMOKE": "1"}
    command = [sys.executable, "-W", "error", str(script)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_is_the_image_of_the_script(script):
    jupytext = pytest.importorskip("jupytext")

    def cells(path):
        return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]

    assert cells(script.with_suffix(".ipynb")) == cells(script)
