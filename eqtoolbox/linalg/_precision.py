"""Working in float64 for a while, and how coarse a computation is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BY_COARSENESS = ("bfloat16", "float16", "float32", "float64")


def to_float64(tree: Any) -> Any:
    """Casts every floating-point leaf to float64; inside ``jax.enable_x64(True)`` only."""

    def cast(x: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(x), jnp.floating)
        return jnp.asarray(np.asarray(x).astype(np.float64)) if floating else x

    return jax.tree.map(cast, tree)


@contextmanager
def float64(*trees: Any) -> Iterator[tuple[Any, ...]]:
    """Turns on 64-bit mode and gives the trees in float64.

    >>> import jax.numpy as jnp
    >>> with float64(jnp.ones(2)) as (x,):
    ...     print(x.dtype)
    float64
    """
    with jax.enable_x64(True):
        yield tuple(to_float64(tree) for tree in trees)


def coarsest_dtype(*trees: Any) -> str:
    """The name of the coarsest floating-point dtype among the leaves (arrays or their shapes)."""
    names = {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(trees)}
    return next((name for name in _BY_COARSENESS if name in names), "float64")


def rounding(dtype: str) -> float:
    """The machine epsilon of a dtype."""
    return float(jnp.finfo(dtype).eps)
