"""The element of a group that brings some blocks nearest to others, for every group there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import (
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    Product,
    Slot,
    Stabiliser,
    UnitGroup,
    Wreath,
    WreathElement,
)
from eqtoolbox.linalg import fori_loop
from eqtoolbox.orbits._blocks import Pair, act_on, gain
from eqtoolbox.orbits._matrices import general, orthogonal, permutation_matrix
from eqtoolbox.orbits._refine import refine
from eqtoolbox.orbits._units import Term, Units, solve_units, unit_element, unit_terms, units_of

ROUNDS = 3


def match(group: Group, pairs: Sequence[Pair], permute: bool, spent: Array | None = None) -> Any:
    """An element that brings the blocks near to what is wanted; the nearest where a closed form is known.

    Nothing guarantees that it is better than the identity: the caller compares.

    Args:
      group: any group.
      pairs: blocks with slots of that group, at least one.
      permute: only permutes units, heads and coordinates.
      spent: see ``solve_units``.
    """
    dtype = jnp.result_type(*(pair.moved for pair in pairs))
    identity = group.identity(dtype)
    found = _match(group, pairs, permute, spent, identity)
    return jax.tree.map(lambda x, y: x.astype(y.dtype), found, identity)


def _match(group: Group, pairs: Sequence[Pair], permute: bool, spent: Array | None, identity: Any) -> Any:
    spec = units_of(group)
    if spec is not None:
        return _match_units(group, spec, pairs, permute, spent, identity)
    match group:
        case Wreath():
            return _match_wreath(group, pairs, permute, identity)
        case Product():
            return _match_product(group, pairs, permute, identity)
        case GeneralLinear(n) | Orthogonal(n) if permute:
            return permutation_matrix(n, pairs)
        case Stabiliser(vector=None) if permute:
            return permutation_matrix(group.n, pairs)
        case Orthogonal():
            return orthogonal(group, pairs)
        case Stabiliser(is_orthogonal=True) if not permute:
            return orthogonal(group, pairs)
        case GeneralLinear() if all(len(pair.slots) == 1 for pair in pairs):
            return general(group, pairs)
    if permute or not group.dimension:
        return identity
    return refine(group, identity, pairs)


def _match_units(
    group: Group, spec: Units, pairs: Sequence[Pair], permute: bool, spent: Array | None, identity: Any
) -> Any:
    if permute:
        if not spec.permutes:
            return identity
        n = group.sizes[0]
        plain = Units(True, 0, 0, False, ())
        bare = [p._replace(slots=tuple(s._replace(weight=None, index=()) for s in p.slots)) for p in pairs]
        p, _, _ = solve_units(plain, unit_terms(Permutation(n), plain, bare), n)
        return p if isinstance(group, Permutation) else identity._replace(perm=p)
    return unit_element(group, *solve_units(spec, unit_terms(group, spec, pairs), group.sizes[0], spent))


def _match_product(group: Product, pairs: Sequence[Pair], permute: bool, identity: tuple) -> tuple:
    """One factor after the other, first from blocks that no other open factor acts on, then all again."""
    shares = [
        {i: slots for i, slots in enumerate(_product_slots(group, pair.slots)) if slots} for pair in pairs
    ]
    now, g = [pair.moved for pair in pairs], list(identity)
    for i, blocks in forward_order([set(share) for share in shares], len(group.groups)):
        now, g = _move(group, pairs, shares, permute, i, now, g, blocks)
    if not any(len(share) > 1 for share in shares):
        return tuple(g)

    def again(_: int, state: tuple[list[Array], list[Any]]) -> tuple[list[Array], list[Any]]:
        for i in range(len(group.groups)):
            state = _move(group, pairs, shares, permute, i, *state)
        return state

    return tuple(fori_loop(0, ROUNDS, again, (now, g))[1])


def _move(
    group: Product,
    pairs: Sequence[Pair],
    shares: list[dict[int, tuple[Slot, ...]]],
    permute: bool,
    i: int,
    now: list[Array],
    g: list[Any],
    blocks: list[int] | None = None,
) -> tuple[list[Array], list[Any]]:
    """Takes the best element of one factor on some blocks; on all of them, only if it is better than none."""
    uses = [b for b, share in enumerate(shares) if i in share]
    if not uses:
        return now, g
    own = {b: pairs[b]._replace(moved=now[b], slots=shares[b][i]) for b in uses}
    factor, before = group.groups[i], list(own.values())
    h = match(factor, before if blocks is None else [own[b] for b in blocks], permute)
    after = act_on(factor, h, before)
    if blocks is None:
        better = gain(before, after) > 0
        h = jax.tree.map(lambda x, y: jnp.where(better, x, y), h, factor.identity(before[0].moved.dtype))
        after = [
            a._replace(moved=jnp.where(better, a.moved, b.moved)) for a, b in zip(after, before, strict=True)
        ]
    moved = dict(zip(uses, after, strict=True))
    new = factor.compose(h, g[i])
    return (
        [moved[b].moved if b in moved else x for b, x in enumerate(now)],
        [new if k == i else x for k, x in enumerate(g)],
    )


def _product_slots(group: Product, slots: tuple[Slot, ...]) -> list[tuple[Slot, ...]]:
    """The slots of each factor, numbered within it."""
    shares: list[list[Slot]] = [[] for _ in group.groups]
    for slot in slots:
        i, space = group.locate(slot.space)
        shares[i].append(slot._replace(space=space))
    return [tuple(share) for share in shares]


def forward_order(users: Sequence[set[int]], count: int) -> Iterator[tuple[int, list[int]]]:
    """An order in which each factor is matched on blocks that no factor still open acts on too.

    Args:
      users: for each block the factors that act on it.
      count: the number of factors.

    Yields:
      Factors, each once, with the blocks to match it on: those that it alone, of the open ones, acts on; all
      of its blocks where there are none such.
    """
    open_ = {f for f in range(count) if any(f in u for u in users)}
    while open_:
        clear = {f: [b for b, u in enumerate(users) if f in u and not (u & open_) - {f}] for f in open_}
        chosen = max(sorted(open_), key=lambda f: len(clear[f]))
        yield chosen, clear[chosen] or [b for b, u in enumerate(users) if chosen in u]
        open_.remove(chosen)


def _match_wreath(
    group: Wreath, pairs: Sequence[Pair], permute: bool, identity: WreathElement
) -> WreathElement:
    """The best inner element for every pair of copies (all of them, where copies are permuted), then the copies.

    A leaf that carries the outer space on several axes is looked at from each axis with the others as they are.
    """
    outer_group, n = group.outer, group.copies
    permutes = isinstance(outer_group, (Permutation, Monomial))
    families = [
        (outer, _inner_pair(pair, outer, inner))
        for pair in pairs
        for outer, inner in group._families(pair.slots)
    ]
    inside = [pair for _, pair in families if pair.slots]

    def each(moved: list[Array], wanted: list[Array]) -> tuple[Any, list[tuple[Array, Array]]]:
        """The inner element between two copies, and products and squares of every family after it."""
        local = [p._replace(moved=m, wanted=w) for (_, p), m, w in zip(families, moved, wanted, strict=True)]
        used = [p for p in local if p.slots]
        h = match(group.inner, used, permute) if used else group.inner.identity(moved[0].dtype)
        after = [act_on(group.inner, h, [p])[0] if p.slots else p for p in local]
        return h, [(jnp.sum(p.wanted * p.moved), jnp.sum(p.moved**2)) for p in after]

    moved, wanted = [p.moved for _, p in families], [p.wanted for _, p in families]
    if permutes:
        inner, numbers = jax.vmap(lambda w: jax.vmap(lambda m: each(m, w))(moved))(wanted)
    else:
        inner, numbers = jax.vmap(each)(moved, wanted)
    spec = units_of(outer_group)
    if spec is None:
        return WreathElement(identity.outer, inner if inside else identity.inner)
    if permute:
        spec = spec._replace(scales=0, signs=0, knobs=())
    terms = []
    for (outer, _), (product, square) in zip(families, numbers, strict=True):
        powers, odd = _outer_weight(outer_group, spec, outer, permute)
        # Half the squares go into the score of pairs: copies are no longer equal after the inner element.
        terms.append(Term(product, square, powers, odd))
    if not spec.knobs:
        terms = [Term(sum(t.inner - t.square / 2 for t in terms), terms[0].square, (), ())]  # pyright: ignore[reportArgumentType]
    p, u, signs = solve_units(spec, terms, n)
    if permutes:
        rows = jnp.arange(n)
        inner = jax.tree.map(lambda x: x[rows, p], inner)
    if permute:
        top = p if isinstance(outer_group, Permutation) else identity.outer
        if isinstance(outer_group, Monomial):
            top = identity.outer._replace(perm=p)
    else:
        top = unit_element(outer_group, p, u, signs)
    return WreathElement(top, inner if inside else identity.inner)


def _outer_weight(
    group: UnitGroup, spec: Units, slot: Slot, permute: bool
) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    if permute or not (spec.scales or spec.signs):
        return (), ()
    powers, odd = [0.0] * spec.scales, [False] * spec.signs
    if isinstance(group, Monomial):
        for rows in slot.weight:
            if rows.signed:
                odd[rows.start] = True
            else:
                powers[rows.start] += float(rows.power)
    elif spec.scales:
        powers[0] = float(slot.weight)
    else:
        odd[0] = bool(slot.weight)
    return tuple(powers), tuple(odd)


def _inner_pair(pair: Pair, outer: Slot, inner: tuple[Slot, ...]) -> Pair:
    """The pair with the outer axis in front, and slots as one copy has them."""

    def place(axis: int | None) -> int | None:
        return None if axis is None or axis == outer.axis else axis - (axis > outer.axis)

    slots = tuple(
        Slot(
            slot.space - 1,
            slot.axis - (slot.axis > outer.axis),
            slot.weight,
            place(slot.parent),
            tuple((name, axis - (axis > outer.axis)) for name, axis in slot.index),
        )
        for slot in inner
    )
    return Pair(jnp.moveaxis(pair.moved, outer.axis, 0), jnp.moveaxis(pair.wanted, outer.axis, 0), slots)
