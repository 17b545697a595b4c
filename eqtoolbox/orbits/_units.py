"""The best permutation, scalings and signs of units: a sum over units of problems in one number each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import (
    Group,
    Monomial,
    MonomialElement,
    Permutation,
    PositiveScaling,
    Scaling,
    SignFlip,
    Slot,
)
from eqtoolbox.linalg import fori_loop
from eqtoolbox.orbits._assignment import assignment
from eqtoolbox.orbits._blocks import Pair, outer, unit_rows

#: Scalings are kept within e to plus or minus this, about 10^4: a unit that is dead would have none.
LIMIT = 9.0
#: Newton steps for every pair of units, and for the pairs that are chosen.
COARSE_STEPS, STEPS = 4, 12

Part = tuple[Array, Array, float, bool]  # the coefficients A and B, the power, whether the sign changes A


class Units(NamedTuple):
    """What a group can do to units.

    Attributes:
      permutes: whether it permutes them.
      scales: the number of scalings, r.
      signs: the number of signs, s.
      together: whether all units have the same scaling.
      knobs: pairs (number of a scaling or None, number of a sign or None), chosen jointly.
    """

    permutes: bool
    scales: int
    signs: int
    together: bool
    knobs: tuple[tuple[int | None, int | None], ...]


class Term(NamedTuple):
    """A part of the squared distance that one factor multiplies: Σ ‖σ e^{q·u} b - a‖².

    Attributes:
      inner: the products a·b, shape (n, n) with the wanted unit first, or (n,).
      square: ‖b‖², of a shape that broadcasts to it.
      powers: q, one for each scaling.
      odd: for each sign whether σ changes with it.
    """

    inner: Array
    square: Array
    powers: tuple[float, ...]
    odd: tuple[bool, ...]


def units_of(group: Group) -> Units | None:
    """What a group can do to units; None if it is not one that moves units as a whole."""
    match group:
        case Permutation():
            return Units(True, 0, 0, False, ())
        case SignFlip():
            return Units(False, 0, 1, False, ((None, 0),))
        case PositiveScaling():
            return Units(False, 1, 0, isinstance(group, Scaling), ((0, None),))
        case Monomial():
            scales, signs = _rows(group.scales), _rows(group.signs)
            names = dict.fromkeys([*scales, *signs])
            knobs = tuple((scales.get(name), signs.get(name)) for name in names)
            return Units(True, group.num_scales, group.num_signs, False, knobs)
    return None


def _rows(names: tuple[str, ...]) -> dict[str, int]:
    """The rows of the scalings or signs of a monomial group by name: a block ``gain[3]`` has three."""
    counts = [(name.split("[")[0], int(name.split("[")[1][:-1]) if "[" in name else 1) for name in names]
    rows = [f"{name}[{i}]" for name, count in counts for i in range(count)]
    return {name: row for row, name in enumerate(rows)}


def unit_terms(group: Group, spec: Units, pairs: Sequence[Pair]) -> list[Term]:
    """The terms of the squared distance, one for each slot and value of an index."""
    terms = []
    for pair in pairs:
        for slot in pair.slots:
            for a, b, powers, odd in _split(group, spec, pair, slot):
                if spec.permutes:
                    inner = outer(a, b)
                    square = jnp.sum(b**2, 1)[None, :]
                else:
                    inner, square = jnp.sum(a * b, 1), jnp.sum(b**2, 1)
                    if spec.together:
                        inner, square = jnp.sum(inner)[None], jnp.sum(square)[None]
                terms.append(Term(inner, square, powers, odd))
    return terms


def _split(
    group: Group, spec: Units, pair: Pair, slot: Slot
) -> Iterator[tuple[Array, Array, tuple[float, ...], tuple[bool, ...]]]:
    """The rows of units that share powers and signs, with these."""
    wanted, moved = pair.wanted, pair.moved
    if not isinstance(group, Monomial):
        powers = (float(slot.weight),) if spec.scales else ()
        odd = (bool(slot.weight),) if spec.signs else ()
        yield unit_rows(wanted, slot.axis), unit_rows(moved, slot.axis), powers, odd
        return
    axes = dict(slot.index)
    names = list(dict.fromkeys(rows.index for rows in slot.weight if rows.index is not None))
    for values in itertools.product(*(range(moved.shape[axes[name]]) for name in names)):
        at = dict(zip(names, values, strict=True))
        powers, odd = [0.0] * spec.scales, [False] * spec.signs
        for rows in slot.weight:
            row = rows.start + at.get(rows.index, 0)
            if rows.signed:
                odd[row] = True
            else:
                powers[row] += float(rows.power)
        a, b = wanted, moved
        for name, value in at.items():
            a, b = (jax.lax.dynamic_slice_in_dim(x, value, 1, axes[name]) for x in (a, b))
        yield unit_rows(a, slot.axis), unit_rows(b, slot.axis), tuple(powers), tuple(odd)


def solve_units(
    spec: Units, terms: Sequence[Term], n: int, spent: Array | None = None
) -> tuple[Array, Array, Array]:
    """The permutation p, the logarithms u of the scalings and the signs that minimise the sum of the terms.

    For every pair of units the best scalings and signs are found, one after the other; then the assignment
    of units is solved. With one scaling or sign in each term, as in a network of layers, that is exact but
    for the choice among local minima in one number.

    Args:
      spec: what can be chosen.
      terms: as ``unit_terms`` makes them.
      n: the number of units.
      spent: logarithms of scalings that b has already had, shape (r, n), kept within ``LIMIT`` in all.

    Returns:
      p of shape (n,), u of shape (r, n or 1) and signs of shape (s, n), for the units as they are wanted.
    """
    dtype = jnp.result_type(*(t.inner for t in terms))
    shape = jnp.broadcast_shapes(*(t.inner.shape for t in terms))
    if not spec.knobs:
        # As published: the squares are the same for every assignment.
        p = assignment(_total([t.inner for t in terms])) if spec.permutes else jnp.arange(n)
        return p, jnp.zeros((0, n), dtype), jnp.ones((0, n), jnp.int8)
    terms = _merged(terms)
    taken = None if spent is None else spent[:, None, :] if spec.permutes else spent
    u, signs = _knobs(spec, terms, shape, dtype, taken, COARSE_STEPS if spec.permutes else STEPS)
    p = jnp.arange(n)
    if spec.permutes:
        p = assignment(_total([_score(t, u, signs) for t in terms]))
        take = lambda x: jnp.take_along_axis(jnp.broadcast_to(x, shape), p[:, None], 1)[:, 0]  # noqa: E731
        chosen = [t._replace(inner=take(t.inner), square=take(t.square)) for t in terms]
        taken = None if spent is None else spent[:, p]
        u, signs = _knobs(spec, chosen, (n,), dtype, taken, STEPS)
    count = 1 if spec.together else n
    return (
        p,
        jnp.stack(u) if u else jnp.zeros((0, count), dtype),
        (jnp.stack(signs) if signs else jnp.ones((0, count), dtype)).astype(jnp.int8),
    )


def _knobs(
    spec: Units, terms: Sequence[Term], shape: tuple[int, ...], dtype: Any, spent: Array | None, steps: int
) -> tuple[list[Array], list[Array]]:
    """The best logarithms of scalings, and signs, one after the other, elementwise."""
    u = [jnp.zeros(shape, dtype)] * spec.scales
    signs = [jnp.ones(shape, dtype)] * spec.signs
    mixed = any(np.count_nonzero(t.powers) + sum(t.odd) > 1 for t in terms)
    for _ in range(2 if mixed and len(spec.knobs) > 1 else 1):
        for scale, sign in spec.knobs:
            powered = [scale is not None and t.powers[scale] != 0 for t in terms]
            flipped = [sign is not None and t.odd[sign] for t in terms]
            used = [t for t, a, b in zip(terms, powered, flipped, strict=True) if a or b]
            if not used:
                continue
            parts = [_part(t, u, signs, scale, sign) for t in used]
            taken = None if spent is None or scale is None else spent[scale]
            new_u, new_sign = _best(parts, any(powered), any(flipped), shape, dtype, taken, steps)
            if scale is not None:
                u[scale] = new_u
            if sign is not None:
                signs[sign] = new_sign
    return u, signs


def _total(parts: Sequence[Array]) -> Array:
    return sum(parts[1:], parts[0])


def unit_element(group: Group, p: Array, u: Array, signs: Array) -> Any:
    """The element of a group with this permutation, logarithms of scalings and signs."""
    match group:
        case Permutation():
            return p
        case SignFlip():
            return signs[0]
        case PositiveScaling():
            return jnp.exp(u[0])
        case Monomial():
            return MonomialElement(p, jnp.exp(u), signs)
    raise TypeError(f"{group} does not move units as a whole")


def _merged(terms: Sequence[Term]) -> list[Term]:
    """The terms with the same powers and signs added up."""
    kinds: dict[Any, list[Term]] = {}
    for term in terms:
        kinds.setdefault((term.powers, term.odd), []).append(term)
    return [
        Term(sum(t.inner for t in same), sum(t.square for t in same), powers, odd)  # pyright: ignore[reportArgumentType]
        for (powers, odd), same in kinds.items()
    ]


def _factor(
    term: Term, u: Sequence[Array], signs: Sequence[Array], skip: tuple[int | None, int | None]
) -> Any:
    """What the term is multiplied by, but for the scaling and the sign left out: (size, sign)."""
    rate = [q * u[k] for k, q in enumerate(term.powers) if q and k != skip[0]]
    sign = [signs[k] for k, odd in enumerate(term.odd) if odd and k != skip[1]]
    return (jnp.exp(sum(rate)) if rate else 1.0), (math.prod(sign[1:], start=sign[0]) if sign else 1.0)


def _part(term: Term, u, signs, scale: int | None, sign: int | None) -> Part:
    """The coefficients (A, B, q, odd) of B e^{2qv} - 2 τ A e^{qv} in one scaling v and one sign τ."""
    size, known = _factor(term, u, signs, (scale, sign))
    power = term.powers[scale] if scale is not None else 0.0
    odd = term.odd[sign] if sign is not None else False
    return size * known * term.inner, size**2 * term.square, power, odd


def _score(term: Term, u: Sequence[Array], signs: Sequence[Array]) -> Array:
    """Minus half of what the term contributes."""
    size, sign = _factor(term, u, signs, (None, None))
    return size * sign * term.inner - size**2 * term.square / 2


def _best(
    parts: Sequence[Part], scaled: bool, signed: bool, shape, dtype, spent: Array | None, steps: int
) -> tuple[Array, Array]:
    """The scaling and the sign that minimise the sum of the parts, elementwise."""
    zero, one = jnp.zeros(shape, dtype), jnp.ones(shape, dtype)
    low, high = -LIMIT * one, LIMIT * one
    if spent is not None:
        low, high = low - spent, high - spent
    best_v, best_tau, best = zero, one, _value(parts, 1.0, one)[0]
    for tau in (1.0, -1.0) if signed else (1.0,):
        v, found = zero, _value(parts, tau, one)[0]
        if scaled:
            v, found = _scaling(parts, tau, zero, found, low, high, steps)
        better = found < best
        best_v, best = jnp.where(better, v, best_v), jnp.where(better, found, best)
        best_tau = jnp.where(better, tau, best_tau)
    return best_v, best_tau


def _value(parts: Sequence[Part], tau: float, x: Array) -> tuple[Array, Array, Array]:
    """Σ B x^{2q} - 2 A x^q, half its derivative by log x, and half the second, at x = e^v."""
    value, slope, bend = jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros_like(x)
    for a, b, q, odd in parts:
        e = jnp.ones_like(x) if q == 0 else x ** (int(q) if q == int(q) else q)
        a = tau * a if odd else a
        value = value + e * (b * e - 2 * a)
        slope = slope + q * e * (b * e - a)
        bend = bend + q**2 * e * (2 * b * e - a)
    return value, slope, bend


def _scaling(
    parts: Sequence[Part], tau: float, v: Array, best: Array, low: Array, high: Array, steps: int
) -> tuple[Array, Array]:
    """The best scaling for one sign, and its value: Newton's method from the best of a few starts."""
    active = [(tau * a if odd else a, b, q) for a, b, q, odd in parts if q]
    # Where each part alone is smallest, and where the growing and the shrinking parts balance.
    starts = [
        jnp.where((a > 0) & (b > 0), jnp.log(jnp.where(a > 0, a, 1) / jnp.where(b > 0, b, 1)) / q, 0.0)
        for a, b, q in active
    ]
    if len(active) > 1:
        up = [(b, q) for _, b, q in active if q > 0]
        down = [(b, q) for _, b, q in active if q < 0]
        mean = _total(starts) / len(starts)
        if up and down:
            (b, q), (c, p) = up[0], down[0]
            ratio = jnp.log(jnp.where(c > 0, c, 1) / jnp.where(b > 0, b, 1))
            starts.append(jnp.where((b > 0) & (c > 0), ratio / (2 * (q - p)), 0.0))
        starts.append(mean)
    for start in starts:
        start = jnp.clip(jnp.broadcast_to(start, v.shape), low, high)
        found = _value(parts, tau, jnp.exp(start))[0]
        v, best = jnp.where(found < best, start, v), jnp.minimum(found, best)
    _, slope, bend = _value(parts, tau, jnp.exp(v))

    def newton(_: int, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        v, best, slope, bend = state
        step = jnp.where(bend > 0, slope / jnp.where(bend > 0, bend, 1), jnp.sign(slope) * 0.1)
        new = jnp.clip(v - jnp.clip(step, -1, 1), low, high)
        found, new_slope, new_bend = _value(parts, tau, jnp.exp(new))
        # Near the minimum the values no longer tell, but the steps still do.
        closer = (found < best) | ((jnp.abs(step) < 1e-2) & (bend > 0))
        return (
            jnp.where(closer, new, v),
            jnp.where(closer, jnp.minimum(found, best), best),
            jnp.where(closer, new_slope, slope / 2),
            jnp.where(closer, new_bend, bend),
        )

    return fori_loop(0, steps, newton, (v, best, slope, bend))[:2]
