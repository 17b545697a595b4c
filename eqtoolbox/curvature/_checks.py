"""What trees and blocks are refused, with the name of the leaf or component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer


def real_leaves(tree: Any, what: str) -> list[tuple[str, Any]]:
    """The paths and leaves of a tree of real arrays.

    Raises:
      TypeError: naming the leaf that holds no real numbers.
    """
    pairs = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    leaves = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in pairs]
    for path, leaf in leaves:
        if isinstance(leaf, optax.MaskedNode) or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"leaf {path!r} of {what} must hold real numbers, got {leaf!r}")
    return leaves


def check_finite(values: Mapping[str, Array], what: str, tree: Any = None) -> None:
    """Checks that blocks are finite where they are known; values traced by jit, vmap or grad pass.

    Args:
      values: the blocks, small arrays in which every number that is not finite shows.
      what: they are, for messages.
      tree: what they were computed from.

    Raises:
      ValueError: naming the leaf of the tree, or else the component.
    """
    for name, value in values.items():
        if isinstance(value, Tracer) or bool(jnp.all(jnp.isfinite(value))):
            continue
        for path, leaf in real_leaves(tree, "the tree"):
            if not isinstance(leaf, Tracer) and (bad := int(jnp.sum(~jnp.isfinite(leaf)))):
                raise ValueError(f"leaf {path!r} must be finite, got {bad} numbers that are not")
        raise ValueError(f"{what} must be finite, got {name!r} = {np.asarray(value)}")
