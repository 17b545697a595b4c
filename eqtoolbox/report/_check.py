"""Checks a problem before any work is done on it: does it run, is it finite, is the symmetry one?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.inference import explain, infer_symmetry
from eqtoolbox.linalg import coarsest_dtype, float64
from eqtoolbox.problem import Batch, Problem
from eqtoolbox.report._config import Config
from eqtoolbox.report._errors import ReportError, blame
from eqtoolbox.symmetry import Symmetry
from eqtoolbox.testing import FLOAT64_TOLERANCE, TOLERANCES, Discrepancy, invariance_errors

#: Examples that invariance is measured on.
EXAMPLES = 64

Errors = dict[str, Discrepancy]


class Invariance(NamedTuple):
    """How much outputs change under random elements.

    Attributes:
      dtype: the coarsest dtype the model computes in.
      errors: in that dtype; keyed by space, and ``""`` for all together.
      fine: in float64, or None where the model casts to something coarser.
    """

    dtype: str
    errors: Errors
    fine: Errors | None


def check_problem(problem: Problem, config: Config, key: Array, file: Path | None = None) -> Any:
    """Runs every function of the problem once.

    Args:
      problem: with training examples.
      config: gives the batch size.
      key: a typed key, for ``init``.
      file: the user's file, named in messages.

    Returns:
      The initial parameters θ.

    Raises:
      ReportError: says which function fails on what, or what is not finite.
    """
    train = problem.train
    assert train is not None
    if config.batch_size is not None and config.batch_size > train.size:
        raise ReportError(
            f"--batch-size is {config.batch_size}, but there are {train.size} training examples"
        )
    with blame("init(key) fails", source=file):
        params = jax.tree.map(jnp.asarray, problem.init(key))
    _check_params(params)
    if problem.symmetry is not None:
        with blame("problem.symmetry does not fit the parameters"):
            problem.symmetry.check(params)
    for name, batch in (("training", train), ("test", problem.test)):
        if batch is not None:
            _check_batch(problem, params, name, _first(batch, EXAMPLES), file)
    _check_gradient(problem, params, _first(train, EXAMPLES), file)
    return params


def find_symmetry(problem: Problem, params: Any, file: Path | None = None) -> Symmetry:
    """The symmetry of a problem that does not state one, inferred from its model.

    Args:
      problem: with training examples.
      params: its parameters.
      file: the user's file, named in messages.

    Raises:
      ReportError: the model cannot be traced, or no symmetry is found.
    """
    assert problem.train is not None
    with blame("inferring the symmetry of apply fails", source=file):
        sym = infer_symmetry(problem.apply, params, _first(problem.train, EXAMPLES).inputs)
    if not sym.factors:
        why = "\n".join(f"unknown operation {name} at {place}" for name, place in explain(sym).unknown)
        raise ReportError(
            f"no symmetry was found in the problem {problem.name!r}; if it has one, give it, "
            f"Problem(..., symmetry=eqtoolbox.Symmetry(axes, groups)){': ' if why else ''}{why}"
        )
    return sym


def _check_params(params: Any) -> None:
    pairs, _ = jax.tree_util.tree_flatten_with_path(params)
    if not pairs:
        raise ReportError("init(key) returns no arrays")
    for path, leaf in pairs:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ReportError(f"init(key): {name} must be of real floating-point numbers, got {leaf.dtype}")
        if _bad(leaf):
            raise ReportError(f"init(key): {name} has {_bad(leaf)} entries that are NaN or infinite")


def _check_batch(problem: Problem, params: Any, name: str, batch: Batch, file: Path | None) -> None:
    shapes = f"; {name} inputs are {_shapes(batch.inputs)}, parameters {_shapes(params)}"
    with blame(f"apply(params, inputs) fails on the {name} examples", shapes, file):
        outputs = jax.jit(problem.apply)(params, batch.inputs)
    pairs, _ = jax.tree_util.tree_flatten_with_path(outputs)
    if not pairs:
        raise ReportError(f"apply(params, inputs) must return arrays, got {outputs!r}")
    for path, leaf in pairs:
        if _bad(leaf):
            where = jax.tree_util.keystr(path, simple=True, separator="/") or "the outputs"
            raise ReportError(
                f"apply(params, inputs) on the {name} examples: {where} has {_bad(leaf)} entries that are "
                "NaN or infinite"
            )
    shapes = f"; outputs are {_shapes(outputs)}, {name} targets {_shapes(batch.targets)}"
    with blame(f"output_loss(outputs, targets) fails on the {name} examples", shapes, file):
        loss = jax.jit(problem.output_loss)(outputs, batch.targets)
    if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise ReportError(f"output_loss(outputs, targets) must return one real number, got {_shapes(loss)}")
    if _bad(loss):
        raise ReportError(f"output_loss(outputs, targets) is {float(loss)} on the {name} examples{shapes}")
    if problem.metric is not None:
        with blame(f"metric(outputs, targets) fails on the {name} examples", source=file):
            value = problem.metric(outputs, batch.targets)
            if jnp.shape(value) != ():
                raise TypeError(f"it must return one number, got {_shapes(value)}")


def _check_gradient(problem: Problem, params: Any, batch: Batch, file: Path | None) -> None:
    with blame("the gradient of the loss fails", source=file):
        gradient = jax.jit(jax.grad(problem.batch_loss))(params, batch)
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
        if _bad(leaf):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ReportError(
                f"the gradient of the loss has {_bad(leaf)} entries at {where} that are not finite"
            )


def measure_invariance(sym: Symmetry, problem: Problem, params: Any, key: Array) -> Invariance:
    """The change of the outputs under random elements, in the model's own precision and in float64.

    Args:
      sym: a symmetry, or something that claims to be one.
      problem: the model and its training inputs.
      params: the parameters θ.
      key: a typed key.
    """
    inputs = training_inputs(problem)
    dtype = coarsest_dtype(params, jax.eval_shape(problem.apply, params, inputs))
    errors = invariance_errors(sym, problem.apply, params, inputs, key=key)
    with float64(params, inputs) as (p, x):
        exact = coarsest_dtype(jax.eval_shape(problem.apply, p, x)) == "float64"
        fine = invariance_errors(sym, problem.apply, p, x, key=key) if exact else None
    return Invariance(dtype, errors, fine)


def require_invariance(found: Invariance) -> None:
    """Checks that a measured change is rounding.

    Raises:
      ReportError: it is not a symmetry; says by how much, and under which spaces.
    """
    bound = TOLERANCES[found.dtype]
    for dtype, errors, limit in (
        (found.dtype, found.errors, bound),
        ("float64", found.fine, FLOAT64_TOLERANCE),
    ):
        if errors is not None and not errors[""].error <= limit:
            spaces = "".join(f"\n  {part}: {error}" for part, error in errors.items() if part)
            raise ReportError(
                "problem.symmetry is not a symmetry of apply: under random elements the outputs change by "
                f"{errors['']} in {dtype}, more than {limit:.0e}. Each group alone:{spaces}"
            )


def training_inputs(problem: Problem) -> Any:
    """The inputs that invariance is measured on: the first ``EXAMPLES``."""
    assert problem.train is not None
    return _first(problem.train, EXAMPLES).inputs


def _first(batch: Batch, count: int) -> Batch:
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[:count]), batch)


def _bad(leaf: Any) -> int:
    """How many entries are NaN or infinite."""
    array = np.asarray(leaf)
    inexact = jnp.issubdtype(array.dtype, jnp.inexact)
    return int(np.sum(~np.isfinite(array.astype(np.float64)))) if inexact else 0


def _shapes(tree: Any) -> str:
    """Shapes by leaf: ``(64, 10)`` or ``Dense_0/kernel (64, 32), …``."""
    parts = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        parts.append(f"{name} {jnp.shape(leaf)}".strip())
    more = f", and {len(parts) - 8} more" if len(parts) > 8 else ""
    return ", ".join(parts[:8]) + more or "none"
