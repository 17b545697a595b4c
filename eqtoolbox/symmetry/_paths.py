"""Leaves of a parameter pytree by their key path, written ``layer/kernel``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import jax


def path_text(path: tuple) -> str:
    """A key path as text: ``encoder/Dense_0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
    """The paths, leaves and structure of a pytree."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return [path_text(path) for path, _ in pairs], [leaf for _, leaf in pairs], treedef


def locate(paths: list[str], wanted: Iterable[str]) -> dict[str, int]:
    """The position of each wanted path.

    A raw Flax NNX ``State`` ends its paths in ``/value``, its pure dict does not: both match.

    Raises:
      ValueError: a wanted path is missing; the message names the nearest.
    """
    position = {path: i for i, path in enumerate(paths)}
    found = {}
    for path in wanted:
        i = position.get(path, position.get(f"{path}/value"))
        if i is None:
            near = difflib.get_close_matches(path, paths, n=1, cutoff=0.0)
            hint = f"the nearest leaf is {near[0]!r}" if near else "the tree has no leaves"
            raise ValueError(f"the label of {path!r} matches no leaf of the parameters: {hint}")
        found[path] = i
    return found
