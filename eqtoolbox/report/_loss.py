"""The problem as the identities take it: model and output loss with the data closed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.problem import Batch, Problem


def closed_over(problem: Problem, batch: Batch) -> tuple[Callable[[Any], Any], Callable[[Any], Array]]:
    """``model(params) -> outputs`` and ``output_loss(outputs) -> scalar`` on some examples."""
    return (
        lambda params: problem.apply(params, batch.inputs),
        lambda outputs: problem.output_loss(outputs, batch.targets),
    )


def has_real_outputs(problem: Problem, params: Any, batch: Batch) -> bool:
    """Whether all outputs are real floating-point numbers, as derivatives with respect to them need."""
    outputs = jax.eval_shape(problem.apply, params, batch.inputs)
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(outputs))
