"""The notebooks run, and each is the image of the script it is paired with."""

import pathlib
import runpy

import jax
import matplotlib.pyplot
import pytest

COLABS = pathlib.Path(__file__).parents[2] / "colabs"
SCRIPTS = sorted(COLABS.glob("*.py"))


def test_every_notebook_has_its_script():
    assert SCRIPTS
    assert sorted(COLABS.glob("*.ipynb")) == [p.with_suffix(".ipynb") for p in SCRIPTS]


@pytest.fixture
def as_a_user_has_it(tmp_path, monkeypatch):
    """JAX's own settings, an empty folder, no windows; what a notebook sets or draws is gone afterwards."""
    monkeypatch.setenv("EQTOOLBOX_SMOKE", "1")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    x64 = jax.config.jax_enable_x64
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield
    jax.config.update("jax_enable_x64", x64)
    matplotlib.pyplot.close("all")


@pytest.mark.usefixtures("as_a_user_has_it")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_runs(script):
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_notebook_is_the_image_of_the_script(script):
    jupytext = pytest.importorskip("jupytext")

    def cells(path):
        return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]

    assert cells(script.with_suffix(".ipynb")) == cells(script)
