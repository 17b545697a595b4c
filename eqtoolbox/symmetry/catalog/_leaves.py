"""Collecting labels for the leaves of a parameter tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from eqtoolbox.groups import Group
from eqtoolbox.symmetry._paths import flatten, locate
from eqtoolbox.symmetry._symmetry import Symmetry


class Leaves:
    """The leaves below a prefix, and the labels given to them so far."""

    def __init__(self, params: Any, prefix: str = ""):
        self.params = params
        self.prefix = prefix.strip("/")
        paths, leaves, _ = flatten(params)
        self._paths = paths
        self._shapes = [jnp.shape(leaf) for leaf in leaves]
        self.axes: dict[str, str] = {}

    def full(self, path: str) -> str:
        """The path from the root."""
        return "/".join(part for part in (self.prefix, path.strip("/")) if part)

    def has(self, path: str) -> bool:
        """Whether there is a leaf of that path."""
        full = self.full(path)
        return full in self._paths or f"{full}/value" in self._paths

    def shape(self, path: str, *ranks: int) -> tuple[int, ...]:
        """The shape of a leaf; its rank must be one of ``ranks`` where they are given.

        Raises:
          ValueError: there is no such leaf, or its rank is another.
        """
        full = self.full(path)
        shape = self._shapes[locate(self._paths, [full])[full]]
        if ranks and len(shape) not in ranks:
            expected = " or ".join(map(str, ranks))
            raise ValueError(f"leaf {full!r} must have {expected} axes, got shape {shape}")
        return shape

    def label(self, path: str, text: str) -> None:
        """Labels a leaf."""
        self.axes[self.full(path)] = text

    def label_if(self, path: str, text: str) -> None:
        """Labels a leaf that need not exist, such as a bias."""
        if self.has(path):
            self.label(path, text)

    def symmetry(self, groups: Mapping[str | tuple[str, ...], Group]) -> Symmetry:
        """The symmetry of the labels, checked against the shapes."""
        result = Symmetry(self.axes, groups)
        result.check(self.params)
        return result


def check_names(name: str, values: Sequence[str], least: int) -> tuple[str, ...]:
    """Layers as a tuple of paths.

    Raises:
      TypeError: one string is given for the sequence.
      ValueError: there are too few, or one occurs twice.
    """
    if isinstance(values, str):
        raise TypeError(f"`{name}` must be a sequence of paths, got the string {values!r}")
    values = tuple(values)
    if len(values) < least or len(set(values)) < len(values):
        raise ValueError(f"`{name}` must be at least {least} different paths, got {values}")
    return values
