"""A piece of a representation: copies of one irreducible, with the isometry that takes them out of a tensor.

A piece reads the last axes of an array, as many as its representation has, and leaves the axes before them
alone. It writes three kinds of axes in their place: *multiplicity* (copies of the irreducible), *family* (an
index over irreducibles that are alike but not equivalent, such as the characters of sign flips) and *shape*,
in which the group acts. The shape may be larger than the irreducible: the mean-free vectors stand for the
standard representation of S(n), the matrices without diagonal for a pair of units. No basis of p × p is formed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Label = tuple[Any, ...]  # of an irreducible: hashable; () is the trivial one


class Piece(NamedTuple):
    """Copies of one irreducible, or of each of a family, inside a tensor product.

    Attributes:
      label: of the irreducible; equal labels of one group mean equivalent ones, in the same coordinates.
      dimension: of the irreducible.
      mult: the shape of the multiplicity.
      family: the shape of the family.
      shape: that of the space in which the irreducible lives.
      encode: (..., *axes) -> (..., *mult, *family, *shape), the orthogonal projection.
      decode: its adjoint, isometric on the image of ``encode``.
      centred: axes of the shape along which the mean is still to be taken off what ``encode`` returns; it is done
        at the end, for all of them in one pass over the data (see ``finished``).
      summed: where ``encode`` only sums over its axes, the same on the axes before the last few, (x, few) -> y, so
        that a large array need not be transposed first; else None.
    """

    label: Label
    dimension: int
    mult: tuple[int, ...]
    family: tuple[int, ...]
    shape: tuple[int, ...]
    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    centred: tuple[int, ...] = ()
    summed: Callable[[Array, int], Array] | None = None


def same(x: Array) -> Array:
    """The array itself."""
    return x


def times(y: Array, constant: np.ndarray) -> Array:
    """The tensor product of an array with a constant one, whose axes come last."""
    tensor = jnp.asarray(constant, y.dtype).reshape((1,) * y.ndim + constant.shape)
    return y.reshape(y.shape + (1,) * constant.ndim) * tensor


#: The trivial representation on a tensor without axes.
UNIT = Piece((), 1, (), (), (), same, same)


def fixed(size: int) -> Piece:
    """An axis that is not acted on: ``size`` copies of the trivial irreducible."""
    return Piece((), 1, (size,), (), (), same, same)


def diagonal(size: int, tag: Label) -> Piece:
    """A fixed axis along which an operator is taken to be diagonal: a family instead of copies."""
    return Piece(tag, 1, (), (size,), (), same, same)


def selected(index: int, size: int) -> Piece:
    """One entry of a fixed axis."""

    def decode(y: Array) -> Array:
        return jnp.zeros((*y.shape, size), y.dtype).at[..., index].set(y)

    return Piece((), 1, (), (), (), lambda x: x[..., index], decode)


def regroup(x: Array, counts: Sequence[int], order: Sequence[int]) -> Array:
    """Reorders the last axes, taken in groups of ``counts`` axes."""
    lead = x.ndim - sum(counts)
    starts = [lead, *(lead + end for end in itertools.accumulate(counts))]
    axes = [starts[g] + i for g in order for i in range(counts[g])]
    return jnp.transpose(x, (*range(lead), *axes))


def outer(a: Piece, a_rank: int, b: Piece, b_rank: int, label: Label) -> Piece:
    """The tensor product of two pieces: reads the axes of ``a``, then those of ``b``."""
    if a is UNIT:
        return b._replace(label=label)
    if b is UNIT:
        return a._replace(label=label)
    ma, fa, sa, mb, fb, sb = map(len, (a.mult, a.family, a.shape, b.mult, b.family, b.shape))
    first, second = a.summed, b.summed

    def encode(x: Array) -> Array:
        if first is not None:
            return b.encode(first(x, b_rank))
        y = regroup(b.encode(x), (a_rank, mb, fb, sb), (1, 2, 3, 0))
        return regroup(a.encode(y), (mb, fb, sb, ma, fa, sa), (3, 0, 4, 1, 5, 2))

    def decode(y: Array) -> Array:
        x = a.decode(regroup(y, (ma, mb, fa, fb, sa, sb), (1, 3, 5, 0, 2, 4)))
        return b.decode(regroup(x, (mb, fb, sb, a_rank), (3, 0, 1, 2)))

    summed = None
    if first is not None and second is not None:
        summed = lambda x, few: first(second(x, few), few)  # noqa: E731
    return Piece(
        label,
        a.dimension * b.dimension,
        a.mult + b.mult,
        a.family + b.family,
        a.shape + b.shape,
        encode,
        decode,
        a.centred + tuple(len(a.shape) + i for i in b.centred),
        summed,
    )


def ones(n: int, dtype: Any) -> Array:
    """A column of ones, shape (n, 1), hidden from the compiler.

    A product with it sums rows as fast as memory is read. XLA would see through plain ones and make a reduction,
    which it fuses with what comes before: on a CPU many times slower, and less exact for long rows.
    """
    return jax.lax.optimization_barrier(jnp.ones((n, 1), dtype))


def mean(x: Array, axis: int) -> Array:
    """The mean along one axis, which stays with size 1."""
    n, axis = x.shape[axis], axis % x.ndim
    if axis == x.ndim - 1:
        return jnp.matmul(x, ones(n, x.dtype), precision="highest") / n
    rows = x.reshape(*x.shape[: axis + 1], math.prod(x.shape[axis + 1 :]))
    total = jnp.matmul(ones(n, x.dtype).mT, rows, precision="highest") / n
    return total.reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])


def centre(x: Array, axes: Sequence[int]) -> Array:
    """The array without its means along each of some axes.

    All means are taken from the array itself and their overlaps from these smaller arrays, so that the large one
    is written once: x - mean₁ - (mean₂ - mean₁₂) for two axes.
    """
    correction: list[Array] = []
    for axis in axes:
        own = mean(x, axis)
        for earlier in correction:
            own = own - mean(earlier, axis)
        correction.append(own)
    for part in correction:
        x = x - part
    return x


def finished(piece: Piece) -> Piece:
    """The piece with the means taken off in ``encode``."""
    if not piece.centred:
        return piece
    axes = [i - len(piece.shape) for i in piece.centred]
    return piece._replace(encode=lambda x: centre(piece.encode(x), axes), centred=())


def then(first: Piece, second: Piece) -> Piece:
    """``second`` on the family and shape of ``first``: a part of a tensor product that is not irreducible."""
    first = finished(first)
    return second._replace(
        mult=first.mult + second.mult,
        encode=lambda x: second.encode(first.encode(x)),
        decode=lambda y: first.decode(second.decode(y)),
        summed=None,
    )


def reordered(piece: Piece, counts: Sequence[int], order: Sequence[int]) -> Piece:
    """The same piece, reading its axes (in groups of ``counts``) in another order."""
    back = [order.index(g) for g in range(len(order))]
    moved = [counts[g] for g in order]
    return piece._replace(
        encode=lambda x: piece.encode(regroup(x, counts, order)),
        decode=lambda y: regroup(piece.decode(y), moved, back),
        summed=None,
    )


def combine(parts: Sequence[tuple[Any, list[Piece], int]]) -> list[Piece]:
    """The pieces of a direct product of groups, each acting on axes of its own.

    Args:
      parts: for each group a name, its pieces, and how many axes they read.

    Returns:
      Every combination; their labels hold pairs (name, label) of the groups that act.
    """
    whole, rank = [UNIT], 0
    for name, pieces, count in parts:
        whole = [
            outer(a, rank, b, count, (*a.label, (name, b.label)) if b.label else a.label)
            for a in whole
            for b in pieces
        ]
        rank += count
    return whole
