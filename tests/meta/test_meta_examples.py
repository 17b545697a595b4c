"""The examples of every docstring and of the README run, and every public name is documented."""

import doctest
import importlib
import pathlib
import pkgutil
import subprocess
import sys
import types

import code_blocks
import jax
import pytest

import eqtoolbox

ROOT = pathlib.Path(__file__).parents[2]
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(eqtoolbox.__path__, "eqtoolbox.")
    if not m.ispkg or ">>>" in (importlib.import_module(m.name).__doc__ or "")
    if m.name != "eqtoolbox.__main__"
)
PUBLIC = [
    "eqtoolbox",
    *(
        f"eqtoolbox.{room}"
        for room in (
            "curvature",
            "discovery",
            "ensemble",
            "groups",
            "identities",
            "inference",
            "linalg",
            "mirror",
            "noether",
            "orbits",
            "symmetry",
            "symmetry.catalog",
            "zoo",
        )
    ),
]


def examples(name):
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(name), name) if test.examples]


@pytest.mark.parametrize("name", [name for name in MODULES if examples(name)])
def test_examples_of_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_examples_of_the_readme():
    readme = ROOT / "README.md"
    blocks = code_blocks.blocks(readme)
    assert blocks
    output = "".join(code_blocks.run(readme, block, {"__name__": "__main__"}) for block in blocks)
    assert "symmetry of dimension 49" in output


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_and_are_documented(name):
    module = importlib.import_module(name)
    for public in module.__all__:
        assert getattr(module, public).__doc__, public


def test_at_most_20_names_at_the_top_beside_the_rooms():
    names = [name for name in eqtoolbox.__all__ if not isinstance(getattr(eqtoolbox, name), types.ModuleType)]
    assert len(names) <= 20
    assert set(eqtoolbox.__all__) <= set(dir(eqtoolbox))
    with pytest.raises(AttributeError, match="no attribute 'teleportation'"):
        eqtoolbox.teleportation  # noqa: B018


def test_import_starts_no_backend():
    # A user's own settings of devices must still have an effect after the import.
    code = "from eqtoolbox import *; import jax._src.xla_bridge as b; assert not b.backends_are_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert jax.devices()
