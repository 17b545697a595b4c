"""The examples of every module of the room."""

import doctest
import importlib
import pkgutil

import pytest

import eqtoolbox.linalg as la

MODULES = [m.name for m in pkgutil.iter_modules(la.__path__)]
WITH_EXAMPLES = {
    "_eigenpairs",
    "_lanczos",
    "_moments",
    "_operators",
    "_per_example",
    "_rank",
    "_spectrum",
    "_trace",
    "_tree",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    result = doctest.testmod(importlib.import_module(f"eqtoolbox.linalg.{name}"))
    assert result.failed == 0
    assert (result.attempted > 0) == (name in WITH_EXAMPLES)


def test_all_names_exist_and_are_documented():
    assert sorted(la.__all__) == list(la.__all__)
    for name in la.__all__:
        assert getattr(la, name).__doc__, name
