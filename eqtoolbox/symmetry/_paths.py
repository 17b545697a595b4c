"""Leaves of a parameter pytree by their key path, written ``layer/kernel``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def path_text(path: tuple) -> str:
    """A key path as text: ``encoder/Dense_0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
    """The paths, leaves and structure of a pytree; an ``optax.MaskedNode`` counts as a leaf."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )
    return [path_text(path) for path, _ in pairs], [leaf for _, leaf in pairs], treedef


def leaf_paths(tree: Any) -> list[str]:
    """The paths of the leaves of a pytree, as labels name them."""
    return flatten(tree)[0]


def join(prefix: str, path: str) -> str:
    """The path of a leaf of a subtree."""
    return "/".join(part for part in (prefix, path) if part)


def locate(paths: list[str], wanted: Iterable[str]) -> dict[str, int]:
    """The position of each wanted path.

    A raw Flax NNX ``State`` ends its paths in ``/value``, its pure dict does not: labels of one fit the other.

    Raises:
      ValueError: a wanted path is missing; the message names the nearest.
    """
    position = {path: i for i, path in enumerate(paths)}
    found = {}
    for path in wanted:
        names = (path, f"{path}/value", path.removesuffix("/value"))
        i = next((position[name] for name in names if name in position), None)
        if i is None:
            near = difflib.get_close_matches(path, paths, n=1, cutoff=0.0)
            hint = f"the nearest leaf is {near[0]!r}" if near else "the tree has no leaves"
            raise ValueError(f"the label of {path!r} matches no leaf of the parameters: {hint}")
        found[path] = i
    return found


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf holds real or complex numbers, not integers or keys."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def common_dtype(tree: Any) -> Any:
    """The common real dtype of a tree, at least float32, or None: that of its algebra vectors."""
    dtypes = [jnp.result_type(x) for x in jax.tree.leaves(tree)]
    floats = [d for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    return jnp.result_type(jnp.float32, *floats) if floats else None


def replace_moving(leaves: list[Any], params: Any) -> Any:
    """A tree like ``params`` with ``leaves`` in place of its moving leaves and zeros in place of the others."""
    given = iter(leaves)
    return jax.tree.map(lambda p: next(given) if is_inexact(p) else jnp.zeros_like(p), params)


def moving_leaves(tree: Any, params: Any, what: str) -> list[Any]:
    """The leaves of a tree like ``params`` where those of ``params`` are not integers or keys.

    Raises:
      ValueError: ``tree``, described by ``what``, has other leaves or shapes than ``params``.
    """
    paths, like, _ = flatten(params)
    _, leaves, _ = flatten(tree)
    if len(leaves) != len(like):
        raise ValueError(f"{what} must have the {len(like)} leaves of the parameters, got {len(leaves)}")
    chosen = []
    for path, leaf, p in zip(paths, leaves, like, strict=True):
        if isinstance(p, optax.MaskedNode) or not is_inexact(p):
            continue
        if isinstance(leaf, optax.MaskedNode) or jnp.shape(leaf) != jnp.shape(p):
            raise ValueError(f"leaf {path!r} of {what} must have shape {jnp.shape(p)}, got {leaf!r}")
        chosen.append(leaf)
    return chosen
