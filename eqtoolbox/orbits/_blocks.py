"""The blocks of two parameter pytrees on which a group acts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import Group, Slot
from eqtoolbox.symmetry import Symmetry, cut

Slots = tuple[Slot, ...]


class Pair(NamedTuple):
    """A block of the parameters that are moved, what it should become, and where a group acts on it.

    Attributes:
      moved: an array.
      wanted: one of the same shape.
      slots: of one group.
    """

    moved: Array
    wanted: Array
    slots: Slots


class Layout(NamedTuple):
    """Which factors act on which blocks of a parameter pytree.

    Attributes:
      slots: for each block that some factor acts on: the slots of each such factor, by its number.
      uses: for each factor the numbers of its blocks.
    """

    slots: tuple[dict[int, Slots], ...]
    uses: tuple[tuple[int, ...], ...]


def layout_of(sym: Symmetry, params: Any) -> Layout:
    """The layout for parameters of these shapes."""
    number = {factor: i for i, factor in enumerate(sym.factors)}
    slots = tuple(
        {number[factor]: s for factor, s in block.job}
        for plan in sym.plans(params).values()
        for block in plan.blocks
        if block.job
    )
    uses = tuple(tuple(b for b, each in enumerate(slots) if f in each) for f in range(len(sym.factors)))
    return Layout(slots, uses)


def blocks_of(sym: Symmetry, params: Any) -> list[Array]:
    """The blocks that some factor acts on, in the order of ``layout_of`` and in at least float32."""
    found = []
    for plan, leaf in zip(sym.plans(params).values(), jax.tree.leaves(params), strict=True):
        if any(block.job for block in plan.blocks):
            leaf = jnp.asarray(leaf)
            parts = cut(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), plan)
            found += [part for part, block in zip(parts, plan.blocks, strict=True) if block.job]
    return found


def act_on(group: Group, g: Any, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs after ``g`` has moved them."""
    return [pair._replace(moved=group.act_slots(g, pair.moved, pair.slots)) for pair in pairs]


def gain(before: Sequence[Pair], after: Sequence[Pair]) -> Array:
    """By how much the squared distance to what is wanted became less; exactly 0 where nothing moved."""
    parts = [
        jnp.sum((x.moved - y.moved) * (x.moved + y.moved - 2 * x.wanted))
        for x, y in zip(before, after, strict=True)
    ]
    return sum(parts[1:], parts[0])


def squared_distance(pairs: Sequence[Pair]) -> Array:
    """The sum of squares of what is still missing."""
    parts = [jnp.sum((pair.moved - pair.wanted) ** 2) for pair in pairs]
    return sum(parts[1:], parts[0])


def unit_rows(x: Array, axis: int) -> Array:
    """One row per unit of an axis: shape (n, everything else)."""
    return jnp.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def outer(a: Array, b: Array) -> Array:
    """The products a bᵀ of rows, to full precision."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
