"""Is an inferred symmetry all there is of its kind? Whatever the analysis refused has to change the function."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eqtoolbox.inference._analysis import Value
from eqtoolbox.inference._exact import Variable
from eqtoolbox.inference._solve import Space
from eqtoolbox.inference._spaces import segment_size
from eqtoolbox.linalg import numerical_rank, rank_from_singular_values

#: Units of a space that are mixed with each other: fewer than all where there are more than this.
UNITS = 3
#: Leaf axes up to which all their subsets are tried; above, single ones, all but one, and random ones.
ALL_SUBSETS = 4
RANDOM_SUBSETS = 8
#: Leaf axes named in a line.
LISTED = 4

Leaves = dict[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where the units of a space are on a leaf: a factor of a segment of an axis.

    Attributes:
      path: of the leaf.
      axis: of the leaf.
      start: of the segment on the axis.
      sizes: of the factors of the segment.
      factor: which of them.
    """

    path: str
    axis: int
    start: int
    sizes: tuple[int, ...]
    factor: int

    def mapped(self, leaf: np.ndarray, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The leaf with ``f`` applied to its block, the units in front."""
        whole = np.moveaxis(leaf, self.axis, 0)
        stop = self.start + int(np.prod(self.sizes))
        block = whole[self.start : stop].reshape(*self.sizes, *whole.shape[1:])
        moved = np.moveaxis(f(np.moveaxis(block, self.factor, 0)), 0, self.factor)
        out = whole.copy()
        out[self.start : stop] = moved.reshape(stop - self.start, *whole.shape[1:])
        return np.moveaxis(out, 0, self.axis)


def places(leaves: dict[str, Value]) -> dict[Variable, Place]:
    """The place of every variable of the analysis."""
    found = {}
    for path, value in leaves.items():
        for i, axis in enumerate(value.axes):
            start = 0
            for segment in axis:
                sizes = tuple(atom.size for atom in segment)
                for a, atom in enumerate(segment):
                    (variable,) = atom.q
                    found[variable] = Place(path, i, start, sizes, a)
                start += segment_size(segment)
    return found


@dataclass(frozen=True)
class Tangents:
    """Linear vector fields on the parameters: stacks of their values at points, shape (fields, p).

    Attributes:
      names: what each field does.
      values: one stack for each point.
    """

    names: list[str]
    values: list[np.ndarray]


def mixtures(space: Space, where: dict[Variable, Place], points: list[Leaves]) -> tuple[Tangents, Tangents]:
    """The fields that add one unit of a space to another on one leaf axis; and those known to be of another kind.

    Of another kind, and no matter of groups that act unit by unit, are shifts (one unit added to all) and scalings
    of whole leaves; they can only be made of these where the space has no more than ``UNITS`` units.
    """
    n = min(UNITS, space.size)
    fields: list[tuple[str, Place, np.ndarray]] = []
    known: list[tuple[str, Place, np.ndarray]] = []
    for path, variable in space.variables:
        place = where[variable]
        for u, v in itertools.product(range(n), repeat=2):
            matrix = np.zeros((space.size, space.size))
            matrix[u, v] = 1
            fields.append((f"unit {v} added to unit {u} on {path}[{place.axis}]", place, matrix))
        if n == space.size:
            shifts = [np.outer(np.ones(n), row) for row in np.eye(n)]
            known += [("", place, matrix) for matrix in (np.eye(n), *shifts)]
    return tuple(
        Tangents([name for name, _, _ in group], [_stack(group, point) for point in points])
        for group in (fields, known)
    )  # type: ignore[return-value]


def _stack(fields: list[tuple[str, Place, np.ndarray]], point: Leaves) -> np.ndarray:
    rows = []
    for _, place, matrix in fields:
        moved = place.mapped(point[place.path], lambda x, m=matrix: np.tensordot(m, x, 1))
        rows.append(np.concatenate([(moved if p == place.path else 0 * x).ravel() for p, x in point.items()]))
    return np.array(rows) if rows else np.zeros((0, sum(x.size for x in point.values())))


def invisible(images: list[np.ndarray]) -> np.ndarray:
    """An orthonormal basis of the combinations of fields whose images vanish at all points, rows."""
    matrix = np.concatenate(images, axis=1)  # (fields, outputs of all points)
    sizes = np.linalg.norm(matrix, axis=1)
    scale = np.where(sizes > 1e-12 * max(sizes.max(initial=0), 1e-300), sizes, 1)
    unit = matrix / scale[:, None]
    unit = np.pad(unit, ((0, 0), (0, max(0, len(unit) - unit.shape[1]))))
    u, s, _ = np.linalg.svd(unit, full_matrices=False)
    rank = int(rank_from_singular_values(s, shape=unit.shape).rank)
    return u[:, rank:].T / scale[None]


def beyond(fields: Tangents, combinations: np.ndarray, known: list[np.ndarray]) -> int:
    """How many of these combinations of fields are not in the span of known ones, at all points together."""
    if not len(combinations):
        return 0
    moving = np.concatenate([combinations @ v for v in fields.values], axis=1)
    span = np.concatenate(known, axis=1)
    return int(_rank(np.concatenate([span, moving])) - _rank(span))


def _rank(rows: np.ndarray) -> int:
    sizes = np.linalg.norm(rows, axis=1, keepdims=True)
    kept = rows[sizes[:, 0] > 1e-12 * max(sizes.max(initial=0), 1e-300)]
    return int(numerical_rank(kept / np.linalg.norm(kept, axis=1, keepdims=True)).rank) if len(kept) else 0


def refused(space: Space, where: dict[Variable, Place]) -> Iterator[tuple[str, Callable[[Leaves], Leaves]]]:
    """The flips and exchanges of units on some of the axes of a space that are not in its group."""
    names = [variable for _, variable in space.variables]
    signs = _span([parity & set(names) for parity in (*space.signs, *(p for _, p in space.step_signs))])
    for chosen in _subsets(names, space.node):
        text = axes_text(space, where, chosen)
        if chosen not in signs:
            yield f"a sign of one unit on {text}", _moving(chosen, where, _flip)
        if space.size > 1 and (space.pins or len(chosen) < len(names)):
            for i, j in {(0, 1), (0, space.size - 1)}:
                yield f"an exchange of units {i} and {j} on {text}", _moving(chosen, where, _exchange(i, j))


def axes_text(space: Space, where: dict[Variable, Place], chosen: frozenset[Variable] | None = None) -> str:
    """The first of the leaf axes of a space, or of those chosen, and how many more there are."""
    names = [f"{p}[{where[v].axis}]" for p, v in space.variables if chosen is None or v in chosen]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _moving(chosen: frozenset[Variable], where: dict[Variable, Place], f: Any) -> Callable[[Leaves], Leaves]:
    def moved(leaves: Leaves) -> Leaves:
        out = dict(leaves)
        for variable in chosen:
            place = where[variable]
            out[place.path] = place.mapped(out[place.path], f)
        return out

    return moved


def _flip(x: np.ndarray) -> np.ndarray:
    return np.concatenate([-x[:1], x[1:]])


def _exchange(i: int, j: int) -> Callable[[np.ndarray], np.ndarray]:
    def exchanged(x: np.ndarray) -> np.ndarray:
        order = np.arange(len(x))
        order[[i, j]] = j, i
        return x[order]

    return exchanged


def _subsets(names: list[Variable], seed: int) -> Iterator[frozenset[Variable]]:
    if len(names) <= ALL_SUBSETS:
        for size in range(1, len(names) + 1):
            yield from map(frozenset, itertools.combinations(names, size))
        return
    rng, everything = np.random.default_rng(seed), frozenset(names)
    some = [frozenset({v}) for v in names] + [everything - {v} for v in names] + [everything]
    some += [frozenset(v for v in names if rng.random() < 0.5) for _ in range(RANDOM_SUBSETS)]
    yield from dict.fromkeys(s for s in some if s)


def _span(parities: list[frozenset]) -> set[frozenset]:
    found = {frozenset()}
    for parity in parities:
        found |= {other ^ parity for other in found}
    return found
