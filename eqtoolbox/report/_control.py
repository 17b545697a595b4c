"""A symmetry that is wrong on purpose, so that the report shows what its tests look like when they fail."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.problem import Problem
from eqtoolbox.report._check import training_inputs
from eqtoolbox.symmetry import Symmetry
from eqtoolbox.testing import TOLERANCES, invariance_errors

#: Leaves that are tried.
CANDIDATES = 4


class Control(NamedTuple):
    """A wrong symmetry.

    Attributes:
      symmetry: the right one but for one leaf, which it leaves alone.
      leaf: the path of that leaf.
      error: the largest relative change of the outputs under one of its elements.
    """

    symmetry: Symmetry
    leaf: str
    error: float


def find_control(problem: Problem, params: Any, dtype: str, key: Array) -> Control | None:
    """Takes one leaf away from the problem's symmetry, a large one, so that it is none any more.

    Args:
      problem: with its symmetry.
      params: the parameters θ.
      dtype: the coarsest the model computes in.
      key: a typed key.

    Returns:
      The control, or None if each leaf that was tried can be spared.
    """
    sym = problem.symmetry
    assert sym is not None
    pairs, _ = jax.tree_util.tree_flatten_with_path(params)
    sizes = {jax.tree_util.keystr(p, simple=True, separator="/"): jnp.size(leaf) for p, leaf in pairs}
    labels = sorted(sym.axes, key=lambda path: (-sizes.get(path, 0), path))
    tried = 0
    for leaf in labels:
        wrong = _without(sym, leaf)
        if wrong is None or tried == CANDIDATES:
            continue
        tried += 1
        errors = invariance_errors(wrong, problem.apply, params, training_inputs(problem), key=key)
        if not errors[""].error <= TOLERANCES[dtype]:
            return Control(wrong, leaf, errors[""].error)
    return None


def _without(sym: Symmetry, leaf: str) -> Symmetry | None:
    """The symmetry with one label less; None where a space would then act on nothing."""
    axes = {path: label for path, label in sym.axes.items() if path != leaf}
    used = {atom.space for path, label in sym.labels if path != leaf for atom in label.atoms}
    if not all(space in used for factor in sym.factors for space in factor.spaces):
        return None
    return Symmetry(axes, sym.groups)
