"""Passes over a program until nothing new is found."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import jax
import jax.numpy as jnp

from eqtoolbox.inference import _rules_control, _rules_elementwise, _rules_linear, _rules_shape
from eqtoolbox.inference._analysis import RULES, Analysis, Value
from eqtoolbox.inference._jaxpr import trace
from eqtoolbox.symmetry import leaf_paths

#: More passes than any program should need: every pass but the last finds something new.
MAX_PASSES = 100
#: The modules that declare the rules of primitives.
RULE_MODULES = (_rules_elementwise, _rules_shape, _rules_linear, _rules_control)


def settled(
    apply: Callable[..., Any], params: Any, inputs: tuple[Any, ...], frozen: Set[str]
) -> tuple[Analysis, dict[str, Value]]:
    """The last pass over the program, which found no new space, merge, cut or pin."""
    program = trace(apply, params, *inputs)
    paths, leaves = leaf_paths(params), jax.tree.leaves(params)
    analysis = Analysis(RULES)
    for _ in range(MAX_PASSES):
        analysis.clear()
        values = {}
        for path, leaf in zip(paths, leaves, strict=True):
            analysis.reason = f"{path} is frozen"
            values[path] = analysis.leaf(path, tuple(jnp.shape(leaf)))
            analysis.note(values[path])
            if path in frozen or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
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
