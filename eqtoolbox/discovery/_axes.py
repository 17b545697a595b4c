"""Layer-coupled families: an independent matrix on each axis of each leaf, so that a null vector ties them together."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.discovery._families import Family
from eqtoolbox.symmetry import Symmetry, check_symmetry, leaf_paths

Params = Any
Kind = Literal["full", "diagonal", "skew"]

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis of one leaf, the coefficients on it, and the subspace they act in (columns of ``span``, or all)."""

    leaf: int
    axis: int
    text: str
    width: int
    span: np.ndarray | None
    kind: Kind

    @property
    def count(self) -> int:
        w = self.width
        return {"full": w * w, "diagonal": w, "skew": w * (w - 1) // 2}[self.kind]

    def move(self, c: Array, x: Array) -> Array:
        """The matrix of the coefficients, applied to this axis of x."""
        x = jnp.moveaxis(x, self.axis, 0)
        flat = x.reshape(x.shape[0], -1)
        span = None if self.span is None else jnp.asarray(self.span, x.dtype)
        inner = flat if span is None else jnp.matmul(span.T, flat, precision=_HIGHEST)
        if self.kind == "diagonal":
            moved = c[:, None] * inner
        else:
            matrix = c.reshape(self.width, self.width) if self.kind == "full" else self._skew(c)
            moved = jnp.matmul(matrix, inner, precision=_HIGHEST)
        if span is not None:
            moved = jnp.matmul(span, moved, precision=_HIGHEST)
        return jnp.moveaxis(moved.reshape(x.shape), 0, self.axis)

    def _skew(self, c: Array) -> Array:
        rows, columns = np.triu_indices(self.width, 1)
        upper = jnp.zeros((self.width, self.width), c.dtype).at[rows, columns].set(c, unique_indices=True)
        return upper - upper.T

    def label(self, a: int) -> str:
        if self.kind == "diagonal":
            return f"{self.text} unit {self._unit(a)} scaled"
        if self.kind == "full":
            i, j = divmod(a, self.width)
            return f"{self.text} unit {self._unit(i)} by {self._unit(j)}"
        rows, columns = np.triu_indices(self.width, 1)
        return f"{self.text} units {self._unit(int(rows[a]))}, {self._unit(int(columns[a]))} rotated"

    def _unit(self, i: int) -> str:
        if self.span is None:
            return str(i)
        column = self.span[:, i]
        return str(int(np.argmax(column))) if np.count_nonzero(column) == 1 else f"u{i}"


def axis_family(
    params: Params,
    sym: Symmetry | None = None,
    *,
    kind: Kind = "full",
    units: int | None = None,
    rank: int | None = None,
    key: Array | None = None,
) -> Family:
    """Independent generators on the axes of the leaves: W ↦ W + ε (A_0 W + W A_1ᵀ + …), one matrix per axis.

    Symmetries of layered networks couple neighbouring leaves, A on the output axis of one kernel and -Aᵀ on the
    input axis of the next: these are null vectors of this family, of dimension Σ d² over the axes instead of p².
    Where that is still too many, ``kind="diagonal"`` has one generator per unit, ``units`` takes the full
    matrices on a sample of units of each space, and ``rank`` matrices U C Uᵀ on a random subspace of each space;
    U and the sample are the same on all axes of a space, so that what couples them stays in the family.

    Args:
      params: the parameters θ, or their shapes.
      sym: takes its labelled axes only, and its names of spaces; None takes every axis of every leaf, axes of one
        size counting as one space.
      kind: "full" matrices gl(d), "diagonal" ones, or "skew" ones o(d).
      units: the number of units sampled from each space; all when None.
      rank: the dimension of the random subspace; needs matrices of kind "full" or "skew".
      key: for ``units`` and ``rank``.

    Returns:
      A family. Scalar matrices on two axes of one leaf move it alike, so that some combinations vanish:
      ``null_space`` counts these apart, as trivial.

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: an unknown kind; both ``units`` and ``rank``; either without a key; ``rank`` of diagonal
        matrices; no axis.
    """
    if kind not in ("full", "diagonal", "skew"):
        raise ValueError(f"`kind` must be 'full', 'diagonal' or 'skew', got {kind!r}")
    if units is not None and rank is not None:
        raise ValueError(f"give `units` or `rank`, not both: got {units} and {rank}")
    if rank is not None and kind == "diagonal":
        raise ValueError("`rank` needs matrices of kind 'full' or 'skew', got kind 'diagonal'")
    for name, value in (("units", units), ("rank", rank)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be positive, got {value}")
        if value is not None and key is None:
            raise ValueError(f"`{name}` draws at random: it needs a key")
    span = _spans(units, rank, key)
    axes = []
    for leaf, axis, text, space, size in _axes_of(params, sym):
        chosen = span(space, size)
        width = size if chosen is None else chosen.shape[1]
        axes.append(_Axis(leaf, axis, text, width, chosen, kind))
    axes = [axis for axis in axes if axis.count]
    if not axes:
        raise ValueError("there is no axis to act on: the parameters are scalars, or all of size 1")
    ends = np.cumsum([axis.count for axis in axes]).tolist()
    starts = [0, *ends[:-1]]

    def field(c: Array, params: Params, data: Any) -> Params:
        del data
        leaves, treedef = jax.tree.flatten(params)
        moved = [jnp.zeros_like(leaf) for leaf in leaves]
        for axis, i, j in zip(axes, starts, ends, strict=True):
            x = leaves[axis.leaf]
            moved[axis.leaf] = moved[axis.leaf] + axis.move(c[i:j], x).astype(jnp.result_type(x))
        return jax.tree.unflatten(treedef, moved)

    def label(a: int) -> str:
        k = int(np.searchsorted(ends, a, side="right"))
        return axes[k].label(a - starts[k])

    size = f" on {units} units each" if units else f" of rank {rank}" if rank else ""
    return Family(f"{kind} matrices{size} on {len(axes)} axes", ends[-1], field, label)


def _axes_of(params: Params, sym: Symmetry | None) -> list[tuple[int, int, str, str, int]]:
    """(position of the leaf, axis, words, space, size) of each axis to act on."""
    paths, leaves = leaf_paths(params), jax.tree.leaves(params)
    found = []
    if sym is None:
        for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
            if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                found += [
                    (i, a, f"{path} axis {a}", f"size {size}", size) for a, size in enumerate(jnp.shape(leaf))
                ]
        return found
    check_symmetry(sym, "axis_family")
    moving = {space for factor in sym.factors for space in factor.spaces}
    for i, ((path, axes), leaf) in enumerate(zip(sym.atoms(params).items(), leaves, strict=True)):
        for a, (segments, size) in enumerate(zip(axes, jnp.shape(leaf), strict=False)):
            spaces = [atom.space for segment in segments for atom in segment if atom.space in moving]
            if spaces:
                found.append((i, a, f"{path} axis {a}", "·".join(map(str, spaces)), size))
    return found


def _spans(units: int | None, rank: int | None, key: Array | None) -> Callable[[str, int], np.ndarray | None]:
    """(space, size) -> the columns that generators act in, the same for each axis of a space."""
    if key is None:
        return lambda space, size: None

    def span(space: str, size: int) -> np.ndarray | None:
        count = units if units is not None else rank
        if count is None or count >= size:
            return None
        own = jax.random.fold_in(key, zlib.crc32(f"{space} {size}".encode()))
        if units is not None:
            chosen = np.sort(np.asarray(jax.random.permutation(own, size))[:count])
            return np.eye(size)[:, chosen]
        draw = np.asarray(jax.random.normal(own, (size, count), jnp.float32), np.float64)
        return np.linalg.qr(draw)[0]

    return span
