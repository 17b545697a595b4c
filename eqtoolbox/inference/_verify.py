"""Do random elements of a symmetry leave the outputs alone?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from eqtoolbox.inference._points import change, near
from eqtoolbox.linalg import coarsest_dtype
from eqtoolbox.symmetry import Symmetry

#: Relative change of the outputs within rounding, by the coarsest floating dtype of parameters, inputs and outputs.
TOLERANCES = {"float64": 1e-8, "float32": 5e-3, "bfloat16": 0.5, "float16": 0.1}


def verify(sym: Symmetry, apply: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> None:
    """Raises RuntimeError if random elements change the outputs, in the dtypes given."""
    tolerance = TOLERANCES[coarsest_dtype(params, inputs)]
    changed = random_change(sym, apply)
    for seed in range(2):
        worst = float(changed(jax.random.key(seed), params, inputs))
        if worst > tolerance:
            raise RuntimeError(
                f"the inferred symmetry changes the outputs by {worst:.1e}, more than {tolerance:.0e}: this is a "
                f"mistake of eqtoolbox, please report the function. What was inferred:\n{sym}"
            )


def random_change(sym: Symmetry, apply: Callable[..., Any]) -> Callable[[Array, Any, tuple[Any, ...]], Array]:
    """How much a random element changes the outputs at random parameters near those given."""

    @jax.jit
    def pair(key: Array, params: Any) -> tuple[Any, Any]:
        shaken, element = jax.random.split(key)
        point = near(shaken, params)
        return point, sym.act(sym.sample(element), point)

    outputs = jax.jit(lambda params, inputs: apply(params, *inputs))

    def changed(key: Array, params: Any, inputs: tuple[Any, ...]) -> Array:
        one, other = pair(key, params)
        return change(outputs(one, inputs), outputs(other, inputs))

    return changed
