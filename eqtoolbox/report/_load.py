"""The problem a report is about: the bundled one, or the user's file and data."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from eqtoolbox.problem import Batch, Problem
from eqtoolbox.report._config import Config
from eqtoolbox.report._digits import digits_description, digits_problem
from eqtoolbox.report._errors import ReportError, blame

#: The names an .npz may use: inputs, targets, test inputs, test targets.
NAMES = (("x", "y", "x_test", "y_test"), ("inputs", "targets", "inputs_test", "targets_test"))


class Source(NamedTuple):
    """A problem and where it came from.

    Attributes:
      problem: with training examples and a symmetry.
      description: of the data, in one sentence.
      file: the user's Python file, or None.
    """

    problem: Problem
    description: str
    file: Path | None = None


def load(config: Config) -> Source:
    """Loads what the options name.

    Raises:
      ReportError: a file, function, array or type is missing or wrong.
    """
    if config.model is None:
        return Source(digits_problem(config.activation or "relu"), digits_description())
    file, problem = load_problem(config.model)
    description = f"The training examples that {config.model} came with."
    if config.data is not None:
        train, test = load_npz(config.data)
        with blame(f"the data in {config.data} cannot be used"):
            problem = problem.with_data(train, test)
        description = f"The arrays of {config.data}."
    if problem.train is None:
        raise ReportError(f"{config.model} comes without training examples: name an .npz file by --data")
    return Source(problem, description, file)


def load_problem(target: str) -> tuple[Path, Problem]:
    """Runs the user's file and its function.

    Args:
      target: ``path/to/file.py:function``.

    Returns:
      The file and the problem.

    Raises:
      ReportError: the file or function is missing, fails, or returns something else than a ``Problem``.
    """
    path, colon, function = target.rpartition(":")
    if not colon or not function.isidentifier() or not path.endswith(".py"):
        raise ReportError(f"the model must be given as file.py:function, got {target!r}")
    file = Path(path).resolve()
    if not file.is_file():
        raise ReportError(f"there is no file {path!r}")
    module = _import(file)
    make = getattr(module, function, None)
    if make is None:
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ReportError(f"{path} has no function {function!r}; it has {', '.join(public) or 'none'}")
    if not callable(make):
        raise ReportError(f"{target} must be a function that returns an eqtoolbox.Problem, got {make!r}")
    with blame(f"{function}() of {path} fails", source=file):
        problem = make()
    if not isinstance(problem, Problem):
        raise ReportError(
            f"{function}() of {path} must return an eqtoolbox.Problem, got {type(problem).__name__}"
        )
    return file, problem


def _import(file: Path) -> ModuleType:
    """Runs a file as a module of its own; modules beside it can be imported by it."""
    name = f"_eqtoolbox_report_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ReportError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(file.parent))
    try:
        with blame(f"importing {file.name} fails", source=file):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module


def load_npz(path: Path) -> tuple[Batch, Batch | None]:
    """Reads training and perhaps test examples.

    Floating-point arrays are read as float32, integers as int32 unless they are smaller.

    Args:
      path: an .npz with ``x`` and ``y`` (``y`` may be missing where the loss needs no targets), and
        perhaps ``x_test`` and ``y_test``; or the same as ``inputs`` and ``targets``.

    Returns:
      Training examples, and test examples or None.

    Raises:
      ReportError: the file is missing or is no .npz, or an array is missing, unknown or not numeric.
    """
    if not path.is_file():
        raise ReportError(f"there is no file {str(path)!r}")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ReportError(f"{path} holds one array: save several by numpy.savez(path, x=..., y=...)")
        with archive:
            arrays = {name: _numeric(path, name, archive[name]) for name in archive}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ReportError(f"{path} cannot be read as an .npz of numeric arrays: {error}") from error
    for names in NAMES:
        if names[0] in arrays:
            break
    else:
        raise ReportError(f"{path} must have arrays x and y, or inputs and targets; it has {_list(arrays)}")
    unknown = sorted(set(arrays) - set(names))
    if unknown:
        raise ReportError(f"{path} has {_list(unknown)}, but only {', '.join(names)} are used")
    x, y, x_test, y_test = (arrays.get(name) for name in names)
    if y_test is not None and x_test is None:
        raise ReportError(f"{path} has {names[3]} without {names[2]}")
    if x_test is not None and (y is None) != (y_test is None):
        raise ReportError(f"{path} has targets for only one of {names[0]} and {names[2]}")
    return Batch(x, y), None if x_test is None else Batch(x_test, y_test)


def _numeric(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    kind = array.dtype.kind
    if kind not in "fiub":
        raise ReportError(f"{path}: {name} must be an array of real numbers, got dtype {array.dtype}")
    if kind == "f":
        return array.astype(np.float32)
    if array.dtype.itemsize < 4:
        return array
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise ReportError(f"{path}: {name} has integers that do not fit int32")
    return array.astype(np.int32)


def _list(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
