"""Oᵀ of a reflection that is a group element, read off the action of the element on each axis."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import Group, Slot
from eqtoolbox.linalg import linear_transpose
from eqtoolbox.mirror._concrete import concretely
from eqtoolbox.symmetry import Factor, Plan, Symmetry, cut

Params = Any
Job = tuple[tuple[Factor, tuple[Slot, ...]], ...]

#: How far an element may be from an orthogonal involution, in float64.
TOLERANCE = 1e-6


class Axis(NamedTuple):
    """Axes of a block that one reflection acts on together, as one axis of the product of their sizes.

    Attributes:
      axes: the axes of the block.
      support: the entries of the product axis that the reflection moves, an index vector of length k.
      minus: orthonormal rows, (r, k), that it turns round.
      plus: orthonormal rows, (k - r, k), that it keeps.
    """

    axes: tuple[int, ...]
    support: np.ndarray
    minus: np.ndarray
    plus: np.ndarray


Blocks = tuple[tuple[Axis, ...], ...]


@dataclass(frozen=True)
class Frozen:
    """A group element as a hashable value.

    Attributes:
      treedef: its structure.
      leaves: (dtype, shape, bytes) of each array.
    """

    treedef: Any
    leaves: tuple[tuple[str, tuple[int, ...], bytes], ...]

    @staticmethod
    def of(element: Any) -> Frozen:
        """Freezes a pytree of concrete arrays."""
        leaves, treedef = jax.tree.flatten(jax.tree.map(np.asarray, element))
        return Frozen(treedef, tuple((x.dtype.str, x.shape, x.tobytes()) for x in leaves))

    def thaw(self) -> Any:
        """The pytree of NumPy arrays."""
        arrays = [np.frombuffer(data, dtype).reshape(shape) for dtype, shape, data in self.leaves]
        return jax.tree.unflatten(self.treedef, arrays)


@dataclass(frozen=True)
class ElementSubspace:
    """The subspace that an element of a symmetry turns round: an orthogonal involution on the parameters.

    Attributes:
      sym: the symmetry.
      frozen: the element.
    """

    sym: Symmetry
    frozen: Frozen

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.sym, self.frozen))

    def __hash__(self) -> int:
        return self._hash

    @property
    def element(self) -> Any:
        """The element g of the symmetry, with R = act(g, ·)."""
        return self.frozen.thaw()

    def order(self, directions: None, params: Params) -> dict[str, Any]:
        """Oᵀθ by leaf path; a tuple of arrays where several blocks or axes of a leaf move."""
        leaves = _leaves(params)
        return {path: _order(leaves[path], *parts) for path, parts in self._recipe(leaves).items()}

    def lift(self, directions: None, z: dict[str, Any], params: Params) -> Params:
        """O z, zero on the leaves that do not move."""
        leaves = _leaves(params)
        lifted = {path: _lift(z[path], leaves[path], *parts) for path, parts in self._recipe(leaves).items()}

        def leaf(path: tuple, x: Any) -> Array:
            name = _text(path)
            return lifted[name] if name in lifted else jnp.zeros(jnp.shape(x), jnp.result_type(x))

        return jax.tree_util.tree_map_with_path(leaf, params)

    def _recipe(self, leaves: dict[str, Any]) -> dict[str, tuple[Plan, Blocks]]:
        return _recipe(self, tuple((path, jnp.shape(x)) for path, x in leaves.items()))


def _text(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _leaves(params: Params) -> dict[str, Any]:
    return {_text(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _working_dtype(x: Any) -> Any:
    return jnp.promote_types(jnp.result_type(x), jnp.float32)


# Coordinates of one leaf.


def _order(leaf: Any, plan: Plan, blocks: Blocks) -> Any:
    """Oᵀ of a leaf: an array, or a tuple of them."""
    x = jnp.asarray(leaf).astype(_working_dtype(leaf))
    pieces = [p for block, axes in zip(cut(x, plan), blocks, strict=True) for p in _pieces(block, axes)]
    return pieces[0] if len(pieces) == 1 else tuple(pieces)


def _lift(z: Any, leaf: Any, plan: Plan, blocks: Blocks) -> Array:
    """The transpose of ``_order``."""
    like = jax.ShapeDtypeStruct(jnp.shape(leaf), _working_dtype(leaf))
    z = jax.tree.map(lambda x: jnp.asarray(x).astype(like.dtype), z)
    return linear_transpose(lambda x: _order(x, plan, blocks), like, leaf)(z)[0]


def _pieces(block: Array, moved: tuple[Axis, ...]) -> list[Array]:
    """The part of a block in each product of eigenspaces in which an odd number of axes is turned round."""
    if not moved:
        return []
    used = [a for axis in moved for a in axis.axes]
    rest = [a for a in range(block.ndim) if a not in used]
    sizes = [math.prod(block.shape[a] for a in axis.axes) for axis in moved]
    x = jnp.transpose(block, used + rest).reshape(*sizes, *(block.shape[a] for a in rest))
    pieces = []
    for signs in itertools.product((True, False), repeat=len(moved)):
        if sum(signs) % 2 == 0:
            continue
        part = x
        for i, (axis, turned) in enumerate(zip(moved, signs, strict=True)):
            part = _eigenspace(part, i, axis, turned)
        pieces.append(part.reshape(tuple(s for i, s in enumerate(part.shape) if s != 1 or i >= len(moved))))
    return [p for p in pieces if p.size]


def _eigenspace(x: Array, i: int, axis: Axis, turned: bool) -> Array:
    """The coordinates of axis i in the eigenspace -1 (``turned``) or 1."""
    moved = jnp.take(x, axis.support, axis=i)
    rows = jnp.asarray(axis.minus if turned else axis.plus, x.dtype)
    moved = jnp.moveaxis(jnp.tensordot(rows, moved, axes=(1, i), precision=jax.lax.Precision.HIGHEST), 0, i)
    if turned:
        return moved
    others = np.setdiff1d(np.arange(x.shape[i]), axis.support)
    return jnp.concatenate([moved, jnp.take(x, others, axis=i)], axis=i)


# What moves, found by acting.


@functools.lru_cache(maxsize=4096)
def _recipe(
    subspace: ElementSubspace, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> dict[str, tuple[Plan, Blocks]]:
    """For each leaf that moves its plan, and for each of its blocks the axes that do."""
    return concretely(_act_on_axes, subspace, shapes)


def _act_on_axes(
    subspace: ElementSubspace, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> dict[str, tuple[Plan, Blocks]]:
    sym, element = subspace.sym, subspace.element
    structs = {path: jax.ShapeDtypeStruct(shape, np.float64) for path, shape in shapes}
    result = {}
    for path, plan in sym.plans(structs).items():
        blocks = tuple(_moved_axes(path, block.shape, block.job, element) for block in plan.blocks)
        if any(blocks):
            result[path] = plan, blocks
    return result


def _moved_axes(path: str, shape: tuple[int, ...], job: Job, element: dict[str, Any]) -> tuple[Axis, ...]:
    """The families of axes of a block that the element moves."""
    found = []
    for factor, slots in job:
        for family in _families(slots):
            axis = _axis(path, shape, factor.group, element[factor.key], family)
            if axis is not None:
                found.append(axis)
    return tuple(found)


def _families(slots: tuple[Slot, ...]) -> list[tuple[Slot, ...]]:
    """Slots in groups that share an axis, as an inner space does that of the copies it depends on."""
    families: list[tuple[set[int], list[Slot]]] = []
    for slot in slots:
        axes = {slot.axis, *(a for _, a in slot.index), *(() if slot.parent is None else (slot.parent,))}
        members = [slot]
        for family in [f for f in families if f[0] & axes]:
            families.remove(family)
            axes, members = axes | family[0], family[1] + members
        families.append((axes, members))
    return [tuple(members) for _, members in families]


def _axis(path: str, shape: tuple[int, ...], group: Group, part: Any, slots: tuple[Slot, ...]) -> Axis | None:
    """The matrix of a part of an element on the axes of these slots, cut into its eigenspaces."""
    axes = sorted({a for s in slots for a in (s.axis, s.parent, *(i for _, i in s.index)) if a is not None})
    place = {a: i for i, a in enumerate(axes)}
    slots = tuple(
        s._replace(
            axis=place[s.axis],
            parent=None if s.parent is None else place[s.parent],
            index=tuple((name, place[a]) for name, a in s.index),
        )
        for s in slots
    )
    sizes = tuple(shape[a] for a in axes)
    size = math.prod(sizes)

    def act(columns: np.ndarray) -> np.ndarray:
        x = jnp.asarray(columns.reshape(*sizes, -1))
        return np.asarray(group.act_slots(part, x, slots)).reshape(size, -1)

    probe = np.random.default_rng(0).uniform(1, 2, (size, 1))
    (support,) = np.nonzero((act(probe) != probe)[:, 0])
    if not support.size:
        return None
    unit = np.zeros((size, support.size))
    unit[support, np.arange(support.size)] = 1
    matrix = act(unit)[support]
    asymmetry = np.abs(matrix - matrix.T).max()
    defect = np.abs(matrix @ matrix - np.eye(support.size)).max()
    if max(asymmetry, defect) > TOLERANCE:
        raise ValueError(
            f"leaf {path!r}: a mirror must be an orthogonal involution, got an element of {group} that is not "
            f"symmetric by {asymmetry:.1e} and whose square is not the identity by {defect:.1e}"
        )
    minus, plus = _eigenspaces((matrix + matrix.T) / 2)
    return Axis(tuple(axes), support, minus, plus) if len(minus) else None


def _eigenspaces(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal rows of the eigenspaces -1 and 1 of a symmetric involution."""
    if np.array_equal(matrix, np.diag(np.diagonal(matrix))):
        unit = np.eye(len(matrix))
        return unit[np.diagonal(matrix) < 0], unit[np.diagonal(matrix) > 0]
    values, vectors = np.linalg.eigh(matrix)
    vectors = vectors * np.where(vectors[np.abs(vectors).argmax(0), range(len(values))] < 0, -1, 1)
    return vectors[:, values < 0].T, vectors[:, values > 0].T
