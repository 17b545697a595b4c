"""Passes over a program until nothing new is found."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqtoolbox.inference import _rules_control, _rules_elementwise, _rules_linear, _rules_shape
from eqtoolbox.inference._analysis import RULES, Analysis, Value
from eqtoolbox.inference._jaxpr import trace
from eqtoolbox.symmetry import leaf_paths

#: More passes than any program should need: every pass but the last finds something new.
MAX_PASSES = 100
#: The modules that declare the rules of primitives.
RULE_MODULES = (_rules_elementwise, _rules_shape, _rules_linear, _rules_control)


def frozen_leaves(paths: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The leaves that glob patterns name.

    Raises:
      TypeError: one string in place of several patterns.
      ValueError: a pattern matches no leaf.
    """
    if isinstance(patterns, str):
        raise TypeError(f"`frozen` must be a sequence of patterns, got the string {patterns!r}")
    found: set[str] = set()
    for pattern in patterns:
        matched = fnmatch.filter(paths, pattern)
        if not matched:
            raise ValueError(
                f"the pattern {pattern!r} of `frozen` matches none of the leaves {', '.join(paths)}"
            )
        found |= set(matched)
    return found


def is_concrete(*trees: Any) -> bool:
    """Whether there are arrays in place of shapes."""
    return all(isinstance(x, (jax.Array, np.ndarray, float)) for x in jax.tree.leaves(trees))


def settled(
    apply: Callable[..., Any],
    params: Any,
    inputs: tuple[Any, ...],
    frozen: Set[str] = frozenset(),
    negligible: float = 0.0,
) -> tuple[Analysis, dict[str, Value]]:
    """The last pass over the program, which found no new space, merge, cut or pin."""
    program = trace(apply, params, *inputs)
    paths, leaves = leaf_paths(params), jax.tree.leaves(params)
    analysis = Analysis(RULES, negligible)
    for _ in range(MAX_PASSES):
        analysis.clear()
        values = {}
        for path, leaf in zip(paths, leaves, strict=True):
            still = path in frozen
            analysis.reason = f"{path} is frozen" if still else f"{path} holds {jnp.result_type(leaf)}"
            values[path] = analysis.leaf(path, tuple(jnp.shape(leaf)))
            analysis.note(values[path])
            if still or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                analysis.pin(values[path], analysis.reason)
        shapes = program.shapes[len(paths) :]
        data = [analysis.blank(tuple(shape), ("input", i), "an input") for i, shape in enumerate(shapes)]
        results = analysis.run(program, [*values.values(), *data])
        analysis.reason = "an output"
        for value in results:
            analysis.pin(value, "an output")
        if not analysis.spaces.changed:
            return analysis, values
    raise RuntimeError(f"the analysis did not settle in {MAX_PASSES} passes: please report the function")
