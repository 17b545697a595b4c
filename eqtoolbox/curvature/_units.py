"""Pieces of groups that permute units, or leave them in place, while something acts inside each unit.

Such a group is a wreath product inner ≀ outer; B(n) is Z₂ ≀ S(n), and S(n) has nothing inside. Where the outer
group permutes, a nontrivial irreducible of one unit induces an irreducible of all of them; where it does not,
every unit has an irreducible of its own, and these form a family.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.curvature._piece import (
    UNIT,
    Label,
    Piece,
    centre,
    finished,
    fixed,
    mean,
    outer,
    regroup,
    same,
    times,
)

STANDARD: Label = ("standard",)


def permuted(n: int) -> list[Piece]:
    """The permutation representation of S(n): trivial and, from n = 2 on, standard (the mean-free vectors)."""
    root = math.sqrt(n)

    def summed(x: Array, few: int) -> Array:
        return jnp.squeeze(mean(x, -1 - few), -1 - few) * root

    trivial = UNIT._replace(
        encode=lambda x: summed(x, 0),
        decode=lambda y: jnp.broadcast_to(y[..., None] / root, (*y.shape, n)),
        summed=summed,
    )
    return [trivial, Piece(STANDARD, n - 1, (), (), (n,), same, same, centred=(0,))][: 1 if n == 1 else 2]


def _centred(x: Array) -> Array:
    return centre(x, (-1,))


def over_units(inner: Piece, rank: int, signs: frozenset[int], n: int, permutes: bool) -> list[Piece]:
    """What n copies of a piece of one unit are under the wreath product; reads the axis of units first.

    Args:
      inner: a piece of one unit, reading ``rank`` axes.
      rank: the number of its axes.
      signs: the signs of the outer group that act on the units.
      n: the number of units.
      permutes: whether the outer group permutes the units.
    """
    m, f, s = map(len, (inner.mult, inner.family, inner.shape))
    inner = inner if not inner.label and not signs else finished(inner)
    if not inner.label and not signs:
        return [outer(p, 1, inner, rank, p.label) for p in (permuted(n) if permutes else [fixed(n)])]
    order = (1, 2, 0, 3) if permutes else (1, 0, 2, 3)
    back = [order.index(g) for g in range(4)]
    counts = (1, m, f, s)
    return [
        Piece(
            ("induced" if permutes else "units", signs, inner.label),
            n * inner.dimension if permutes else inner.dimension,
            inner.mult,
            inner.family if permutes else (n, *inner.family),
            (n, *inner.shape) if permutes else inner.shape,
            lambda x: regroup(inner.encode(x), counts, order),
            lambda y: inner.decode(regroup(y, [counts[g] for g in order], back)),
        )
    ]


def standard_squared(n: int) -> list[Piece]:
    """Standard ⊗ standard of S(n): matrices (n, n) whose rows and columns are mean-free.

    One trivial piece; from n = 3 on a standard one, read off the diagonal, and the antisymmetric matrices; from
    n = 4 on the rest of the symmetric ones.
    """
    pieces = [_trace(np.eye(n) - 1 / n, n - 1)]
    if n > 2:
        scale = math.sqrt(n / (n - 2))
        pieces.append(
            Piece(
                STANDARD,
                n - 1,
                (),
                (),
                (n,),
                lambda x: scale * _centred(jnp.diagonal(x, axis1=-2, axis2=-1)),
                lambda y: scale * _centred(_centred(_on_diagonal(y)).mT).mT,
            )
        )
        pieces.append(_antisymmetric(n, (n - 1) * (n - 2) // 2))
    if n > 3:
        pieces.append(_symmetric_rest(n, n * (n - 3) // 2, pieces[:2]))
    return pieces


def vector_squared(projector: np.ndarray, dimension: int) -> list[Piece]:
    """Vector ⊗ vector of the orthogonal group of a subspace: trace, antisymmetric and traceless symmetric."""
    n = len(projector)
    trace = _trace(projector, dimension)
    if dimension == 1:
        return [trace]
    return [
        trace,
        _antisymmetric(n, dimension * (dimension - 1) // 2),
        _symmetric_rest(n, dimension * (dimension + 1) // 2 - 1, [trace]),
    ]


def _trace(projector: np.ndarray, dimension: int) -> Piece:
    unit = projector / math.sqrt(dimension)

    def encode(x: Array) -> Array:
        return jnp.trace(x, axis1=-2, axis2=-1) / math.sqrt(dimension)

    return UNIT._replace(encode=encode, decode=lambda y: times(y, unit))


def _antisymmetric(n: int, dimension: int) -> Piece:
    return Piece(("antisymmetric",), dimension, (), (), (n, n), lambda x: (x - x.mT) / 2, same)


def _symmetric_rest(n: int, dimension: int, others: list[Piece]) -> Piece:
    def encode(x: Array) -> Array:
        whole = (x + x.mT) / 2
        return whole - sum(p.decode(p.encode(x)) for p in others)

    return Piece(("symmetric",), dimension, (), (), (n, n), encode, same)


Inner = Callable[[Label, Label], list[Piece]]  # the pieces of a product of two irreducibles of one unit


def induced_squared(a: Piece, b: Piece, inner: Inner) -> list[Piece]:
    """Induced ⊗ induced: reads (n, *in a, n, *in b).

    The units on the diagonal carry the product of the two inner irreducibles; two different units carry one each:
    one irreducible, or two (symmetric and antisymmetric under exchange) where they are the same.
    """
    n, ra, rb = a.shape[0], len(a.shape) - 1, len(b.shape) - 1
    (_, signs, _), (_, other, _) = a.label, b.label
    pieces = []
    for q in inner(a.label[2], b.label[2]):
        for p in over_units(q, ra + rb, signs ^ other, n, True):
            pieces.append(
                p._replace(
                    encode=lambda x, p=p: p.encode(_diagonal(x, ra, rb)),
                    decode=lambda y, p=p: _from_diagonal(p.decode(y), ra, rb),
                    summed=None,
                )
            )
    if n == 1:
        return pieces
    size = a.dimension * b.dimension // n**2 * n * (n - 1)

    def off(x: Array) -> Array:
        mask = (1 - np.eye(n)).reshape(n, *(1,) * ra, n, *(1,) * rb)
        return x * jnp.asarray(mask, x.dtype).reshape((1,) * (x.ndim - mask.ndim) + mask.shape)

    def swap(x: Array) -> Array:
        return regroup(x, (1 + ra, 1 + rb), (1, 0))

    if a.label != b.label:
        return [*pieces, _ordered(a, b, size, off)]
    shape = a.shape + b.shape
    for name, sign in (("exchange +", 1), ("exchange -", -1)):
        label = (name, a.label)

        def encode(x: Array, sign: int = sign) -> Array:
            return off(x + sign * swap(x)) / 2

        pieces.append(Piece(label, size // 2, (), (), shape, encode, same))
    return pieces


def induced_standard(a: Piece) -> list[Piece]:
    """Induced ⊗ standard: reads (n, *in a, n), mean-free along the last axis."""
    n, ra = a.shape[0], len(a.shape) - 1
    scale = math.sqrt(n / (n - 1))

    def encode(x: Array) -> Array:
        return scale * _diagonal(x, ra, 0)

    def decode(y: Array) -> Array:
        return _centred(scale * _from_diagonal(y, ra, 0))

    pieces = [a._replace(mult=(), family=(), encode=encode, decode=decode)]
    if n > 2:
        pieces.append(
            Piece(
                ("with another unit", a.label),
                a.dimension * (n - 2),
                (),
                (),
                (*a.shape, n),
                lambda x: x - decode(encode(x)),
                same,
            )
        )
    return pieces


def units_squared(a: Piece, b: Piece, inner: Inner) -> list[Piece]:
    """Units ⊗ units, none of them permuted: reads (n, n, *in a, *in b)."""
    n, ra, rb = a.family[0], len(a.shape), len(b.shape)
    (_, signs, _), (_, other, _) = a.label, b.label
    counts, apart = (1, 1, ra, rb), (0, 2, 1, 3)
    pieces = []
    for q in inner(a.label[2], b.label[2]):
        for p in over_units(q, ra + rb, signs ^ other, n, False):
            pieces.append(
                p._replace(
                    encode=lambda x, p=p: p.encode(_diagonal(regroup(x, counts, apart), ra, rb)),
                    decode=lambda y, p=p: regroup(
                        _from_diagonal(p.decode(y), ra, rb), (1, ra, 1, rb), (0, 2, 1, 3)
                    ),
                    summed=None,
                )
            )
    if n == 1:
        return pieces
    size = a.dimension * b.dimension

    def swap(x: Array) -> Array:
        return regroup(x, counts, (1, 0, 3, 2))

    if a.label != b.label:
        i, j = np.nonzero(~np.eye(n, dtype=bool))
        head = (slice(None),) * (ra + rb)

        def pick(x: Array) -> Array:
            return x[(..., i, j, *head)]

        def place(y: Array) -> Array:
            lead = y.ndim - 1 - ra - rb
            zeros = jnp.zeros((*y.shape[:lead], n, n, *y.shape[lead + 1 :]), y.dtype)
            return zeros.at[(..., i, j, *head)].set(y)

        swapped = repr(a.label) > repr(b.label)
        first, second = (b, a) if swapped else (a, b)
        return [
            *pieces,
            Piece(
                ("pair", first.label, second.label),
                size,
                (),
                (len(i),),
                first.shape + second.shape,
                (lambda x: pick(regroup(x, counts, (1, 0, 3, 2)))) if swapped else pick,
                (lambda y: regroup(place(y), (1, 1, rb, ra), (1, 0, 3, 2))) if swapped else place,
            ),
        ]
    i, j = np.triu_indices(n, 1)
    head = (slice(None),) * (ra + rb)

    def encode(x: Array) -> Array:
        return jnp.stack([x[(..., i, j, *head)], swap(x)[(..., i, j, *head)]], -2 - ra - rb)

    def decode(y: Array) -> Array:
        lead = y.ndim - 2 - ra - rb
        upper, lower = jnp.take(y, 0, axis=lead), jnp.take(y, 1, axis=lead)
        zeros = jnp.zeros((*y.shape[:lead], n, n, *y.shape[lead + 2 :]), y.dtype)
        at = (..., i, j, *head)
        return zeros.at[at].set(upper) + swap(zeros.at[at].set(lower))

    return [*pieces, Piece(("pair", a.label), size, (2,), (len(i),), a.shape + b.shape, encode, decode)]


def _ordered(a: Piece, b: Piece, dimension: int, encode: Callable[[Array], Array]) -> Piece:
    """Two different units with different irreducibles: reads (n, *in a, n, *in b), in whatever order."""
    if repr(a.label) <= repr(b.label):
        return Piece(("pair", a.label, b.label), dimension, (), (), a.shape + b.shape, encode, same)
    ra, rb = len(a.shape), len(b.shape)
    return Piece(
        ("pair", b.label, a.label),
        dimension,
        (),
        (),
        b.shape + a.shape,
        lambda x: regroup(encode(x), (ra, rb), (1, 0)),
        lambda y: regroup(y, (rb, ra), (1, 0)),
    )


def _diagonal(x: Array, ra: int, rb: int) -> Array:
    """The entries (..., n, *a, *b) of an array (..., n, *a, n, *b) at equal units."""
    y = regroup(x, (1, ra, 1, rb), (1, 3, 0, 2))
    return regroup(jnp.diagonal(y, axis1=-2, axis2=-1), (ra + rb, 1), (1, 0))


def _from_diagonal(d: Array, ra: int, rb: int) -> Array:
    """The array with these entries at equal units and zeros elsewhere."""
    y = _on_diagonal(regroup(d, (1, ra + rb), (1, 0)))
    return regroup(y, (ra, rb, 1, 1), (2, 0, 3, 1))


def _on_diagonal(d: Array) -> Array:
    """Diagonal matrices (..., n, n) from their diagonals (..., n)."""
    n = d.shape[-1]
    return d[..., None] * jnp.eye(n, dtype=d.dtype).reshape((1,) * (d.ndim - 1) + (n, n))
