"""Checks of arguments: every message names the leaf or the argument, the rule and the value received."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def name_leaf(path: tuple) -> str:
    """The key path of a leaf as ``a/b/0``; ``.`` for a tree that is one leaf."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "."


def check_real(tree: Any, name: str) -> None:
    """Raises TypeError for a leaf that is not real floating point, ValueError for a tree without entries."""
    size = 0
    for path, leaf in jax.tree.leaves_with_path(jax.eval_shape(lambda t: t, tree)):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"leaf `{name_leaf(path)}` of `{name}` must be real floating point, got dtype {leaf.dtype}"
            )
        size += leaf.size
    if size == 0:
        raise ValueError(f"`{name}` must have at least one entry, got {jax.tree.structure(tree)}")


def check_like(tree: Any, like: Any, name: str, like_name: str) -> None:
    """Raises ValueError where ``tree`` and ``like`` differ in structure or in the shape of a leaf."""
    got, want = jax.tree.structure(tree), jax.tree.structure(like)
    if got != want:
        raise ValueError(f"`{name}` must have the structure of `{like_name}`: {want}, got {got}")
    pairs = zip(jax.tree.leaves_with_path(like), jax.tree.leaves(tree), strict=True)
    for (path, expected), leaf in pairs:
        if jnp.shape(leaf) != jnp.shape(expected):
            raise ValueError(
                f"leaf `{name_leaf(path)}` of `{name}` must have the shape {jnp.shape(expected)} it has in "
                f"`{like_name}`, got {jnp.shape(leaf)}"
            )


def check_integer(value: Any, name: str, low: int, high: int | None = None, why: str = "") -> int:
    """``value`` as an int within [low, high]; TypeError or ValueError otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, got {value!r}") from None
    if number < low or (high is not None and number > high):
        rule = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"`{name}` must be {rule}{why and ' (' + why + ')'}, got {number}")
    return number


def check_number(value: Any, name: str) -> None:
    """Raises TypeError when ``value`` is not one real number; traced ones pass."""
    kind: Any = getattr(value, "dtype", np.float64 if isinstance(value, numbers.Real) else bool)
    real = jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
    if isinstance(value, bool) or not real or jnp.ndim(value) > 0:  # pyright: ignore[reportArgumentType]
        raise TypeError(f"{name} must be a real number, got {value!r}")


def check_choice(value: str, name: str, choices: Collection[str]) -> None:
    """Raises ValueError when ``value`` is not one of ``choices``."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")


def broadcast_prefix(prefix: Any, tree: Any, name: str) -> Any:
    """``prefix`` with each leaf repeated over the part of ``tree`` it stands for; ValueError if it does not fit."""
    try:
        return jax.tree.broadcast(prefix, tree)
    except ValueError as error:
        raise ValueError(f"`{name}` must be a prefix of the parameters: {error}") from None


def leading_size(tree: Any, name: str) -> int:
    """The common size of the leading axis of all leaves of ``tree``; ValueError names the odd leaf."""
    leaves = jax.tree.leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"`{name}` must have at least one leaf, got {jax.tree.structure(tree)}")
    for path, leaf in leaves:
        if jnp.ndim(leaf) == 0:
            raise ValueError(f"leaf `{name_leaf(path)}` of `{name}` must have a leading axis, got a scalar")
    (first_path, first), *rest = leaves
    size = jnp.shape(first)[0]
    for path, leaf in rest:
        if jnp.shape(leaf)[0] != size:
            raise ValueError(
                f"leaf `{name_leaf(path)}` of `{name}` must have a leading axis of size {size} as leaf "
                f"`{name_leaf(first_path)}` has, got shape {jnp.shape(leaf)}"
            )
    if size == 0:
        raise ValueError(f"the leading axis of `{name}` must not be empty, got shape {jnp.shape(first)}")
    return size
