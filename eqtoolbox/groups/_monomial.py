"""Monomial groups: permutations together with scalings and signs of each unit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._base import Slot, UnitGroup, all_true, cartesian, checked_size
from eqtoolbox.groups._discrete import Permutation, SignFlip, invert_permutation, is_odd, is_permutation
from eqtoolbox.groups._exponent import Exponent, Term
from eqtoolbox.groups._isotypic import Isotypic, permutation_components, vector_component
from eqtoolbox.groups._scaling import is_scale, sample_scale

_NAME = re.compile(r"([A-Za-z_]\w*)(?:\[(\d+)\])?")


class MonomialElement(NamedTuple):
    """An element: ``new[i] = Π_k scale[k, i]**q_k · Π_l sign[l, i]**q_l · old[perm[i]]``.

    Attributes:
      perm: index vector, shape (n,).
      scale: positive factors, shape (r, n).
      sign: +1 or -1, int8, shape (s, n).
    """

    perm: Array
    scale: Array
    sign: Array


class Rows(NamedTuple):
    """The part of a weight that reads one block of rows of ``scale`` or ``sign``.

    Attributes:
      signed: whether it reads ``sign`` rather than ``scale``.
      start: first row.
      count: rows of the block, one per index of the axis named ``index``; 1 without one.
      index: the name of that axis, or None.
      power: the exponent.
    """

    signed: bool
    start: int
    count: int
    index: str | None
    power: Fraction


@dataclass(frozen=True, init=False)
class Monomial(UnitGroup):
    """S(n) ⋉ (R₊^r × Z₂^s)^n: one permutation of n units, r positive scalings and s signs of each unit.

    Every scaling and sign has a name, and an axis has one exponent per name: ``"h{a:1,b:-2}"``; names left
    out have exponent 0, ``"h"`` has 1 for all, ``"h^0"`` is permuted only. Signs read the parity of their
    exponent. A name shared by a scaling and a sign is one generator of R* = R₊ × Z₂. A name with a count,
    ``"gain[3]"``, is a block of scalings indexed by another axis of the leaf (layers stacked by a scan that
    share one permutation): ``"layers h{gain[layers]:1}"``.

    The permutation and signs are sampled uniformly, the scalings as exp(u), u uniform in [-log 2, log 2]. An
    algebra vector holds the logarithms of the scalings, shape (r, n); its random entries are normal with
    standard deviation 1/2.

    >>> from eqtoolbox import groups
    >>> print(groups.Monomial(5, scales=1), groups.Monomial(5, scales=["a", "gain[3]"], signs=["a"]))
    S(5)⋉R₊^5 S(5)⋉(R₊^4×Z₂)^5

    Attributes:
      n: the number of units.
      scales: names of the scalings; given as a number, they are called a, b, c, ….
      signs: names of the signs; likewise.

    Raises:
      ValueError: n is not a positive integer, or a name is not an identifier or occurs twice.
    """

    n: int
    scales: tuple[str, ...]
    signs: tuple[str, ...]

    def __init__(self, n: int, scales: int | Sequence[str] = 0, signs: int | Sequence[str] = 0):
        object.__setattr__(self, "n", checked_size(n, "Monomial"))
        object.__setattr__(self, "scales", _names(scales, "scales"))
        object.__setattr__(self, "signs", _names(signs, "signs"))

    @cached_property
    def _blocks(self) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
        """For scales and signs: name -> (first row, count)."""
        return _layout(self.scales), _layout(self.signs)

    @property
    def num_scales(self) -> int:
        """Scalings per unit, r."""
        return sum(count for _, count in self._blocks[0].values())

    @property
    def num_signs(self) -> int:
        """Signs per unit, s."""
        return sum(count for _, count in self._blocks[1].values())

    @property
    def dimension(self) -> int:
        return self.num_scales * self.n

    @property
    def order(self) -> int | None:
        return None if self.num_scales else math.factorial(self.n) * 2 ** (self.num_signs * self.n)

    def compact(self) -> Monomial:
        return Monomial(self.n, 0, self.signs)

    def compact_exponent(self, space: int, exponent: Exponent) -> Exponent:
        if exponent.uniform is not None:
            return exponent
        kept = tuple(term for term in exponent.terms if term.name in self._blocks[1])
        return Exponent(kept) if kept else Exponent.of(0)

    def weight(self, space: int, exponent: Exponent) -> tuple[Rows, ...]:
        power = exponent.uniform
        if power is not None:
            names = dict.fromkeys([*self._blocks[0], *self._blocks[1]])
            terms = [Term(name, power) for name in names] if power else []
        else:
            terms = exponent.terms
        return tuple(r for term in terms for r in self._rows(term) if self._matters(r))

    def _rows(self, term: Term) -> list[Rows]:
        found = [
            (signed, *blocks[term.name]) for signed, blocks in enumerate(self._blocks) if term.name in blocks
        ]
        if not found:
            known = ", ".join(dict.fromkeys(self.scales + self.signs)) or "none"
            raise ValueError(f"{self} has no scaling or sign named {term.name!r}; it has: {known}")
        rows = []
        for signed, start, count in found:
            if isinstance(term.index, int):
                if not 0 <= term.index < count:
                    raise ValueError(f"{self}: {term.name!r} has {count} copies, got index {term.index}")
                rows.append(Rows(bool(signed), start + term.index, 1, None, term.power))
            elif term.index is None and count > 1 and term.power:
                raise ValueError(
                    f"{self}: {term.name!r} has {count} copies; name the axis that indexes them, "
                    f"{term.name}[axis]:{term.power}, or one copy, {term.name}[0]:{term.power}"
                )
            else:
                rows.append(Rows(bool(signed), start, count, term.index, term.power))
        return rows

    def _matters(self, rows: Rows) -> bool:
        return is_odd(self, rows.power) if rows.signed else bool(rows.power)

    def dual(self, space: int, weight: tuple[Rows, ...]) -> tuple[Rows, ...]:
        return tuple(r._replace(power=-r.power) for r in weight)

    def fixes_constants(self, space: int, weight: tuple[Rows, ...]) -> bool:
        return not weight

    def identity(self, dtype: DTypeLike | None = None) -> MonomialElement:
        return MonomialElement(
            jnp.arange(self.n),
            jnp.ones((self.num_scales, self.n), _arrays.float_dtype(dtype)),
            jnp.ones((self.num_signs, self.n), jnp.int8),
        )

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> MonomialElement:
        perm_key, scale_key, sign_key = jax.random.split(key, 3)
        return MonomialElement(
            jax.random.permutation(perm_key, self.n),
            sample_scale(scale_key, (self.num_scales, self.n), dtype),
            jax.random.rademacher(sign_key, (self.num_signs, self.n), jnp.int8),
        )

    def compose(self, a: MonomialElement, b: MonomialElement) -> MonomialElement:
        perm, scale, sign = (_arrays.permute(a.perm, leaf, leaf.ndim - 1) for leaf in b)
        return MonomialElement(perm, a.scale * scale, a.sign * sign)

    def inverse(self, g: MonomialElement) -> MonomialElement:
        perm = invert_permutation(g.perm)
        return MonomialElement(perm, 1 / _arrays.permute(perm, g.scale, 1), _arrays.permute(perm, g.sign, 1))

    def _contains(self, g: MonomialElement, tolerance: float) -> Array:
        return all_true(is_permutation(g.perm), is_scale(g.scale), jnp.abs(g.sign) == 1)

    def _act(self, g: MonomialElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            x = _arrays.permute(g.perm, x, slot.axis)
            factors = [_place(_factor(g, rows), rows, slot, x) for rows in slot.weight]
            if factors:
                x = _arrays.multiply(math.prod(factors[1:], start=factors[0]), x)
        return x

    def permutation(self, g: MonomialElement) -> Array:
        return g.perm

    def algebra_zero(self, dtype: DTypeLike | None = None) -> Array:
        return jnp.zeros((self.num_scales, self.n), _arrays.float_dtype(dtype))

    def algebra_sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        return 0.5 * jax.random.normal(key, (self.num_scales, self.n), _arrays.float_dtype(dtype))

    def exp(self, xi: Array) -> MonomialElement:
        return self.identity()._replace(scale=jnp.exp(xi))

    def log(self, g: MonomialElement) -> Array:
        if not self.num_scales:
            return super().log(g)
        connected = all_true(g.perm == jnp.arange(self.n), g.sign == 1)
        return jnp.where(connected, jnp.log(g.scale), jnp.nan)

    def _tangent(self, xi: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        moved = [(slot, rows) for slot in slots for rows in slot.weight if not rows.signed]
        if not moved:
            return jnp.zeros_like(x)
        rate = jnp.zeros((1,) * x.ndim, xi.dtype)
        for slot, rows in moved:
            rate = rate + float(rows.power) * _place(_read(xi, rows), rows, slot, x)
        return _arrays.multiply(rate, x)

    def _isotypic(self, weight: tuple[Rows, ...]) -> tuple[Isotypic, ...]:
        """S(n)'s trivial and standard pieces for an axis that is permuted only, else one irreducible.

        An axis with a block of scalings is one representation for each index of the block, all irreducible.
        """
        return (vector_component(self.n),) if weight else permutation_components(self.n)

    def _elements(self) -> MonomialElement:
        perms = Permutation(self.n).elements()
        signs = SignFlip(self.num_signs * self.n).elements() if self.num_signs else jnp.ones((1, 0), jnp.int8)
        perms, signs = cartesian([perms, signs], [perms.shape[0], signs.shape[0]])
        count = perms.shape[0]
        return MonomialElement(
            perms, jnp.ones((count, 0, self.n)), signs.reshape(count, self.num_signs, self.n)
        )

    def __str__(self) -> str:
        r, s = self.num_scales, self.num_signs
        if r == 0 and s <= 1:
            return f"{'SB'[s]}({self.n})"
        if r == s and self.scales == self.signs:
            torus = _power("R*", r)
        else:
            torus = "×".join(_power(g, k) for g, k in (("R₊", r), ("Z₂", s)) if k)
        torus = torus if torus in ("R₊", "R*") else f"({torus})"
        return torus if self.n == 1 else f"S({self.n})⋉{torus}^{self.n}"


def SignedPermutation(n: int) -> Monomial:
    """The hyperoctahedral group B(n) = S(n) ⋉ Z₂^n, as a monomial group with one sign called ``a``."""
    return Monomial(n, scales=0, signs=1)


def _read(array: Array, rows: Rows) -> Array:
    """The rows a weight reads: (n,), or (count, n) when an axis indexes them."""
    block = jax.lax.slice_in_dim(array, rows.start, rows.start + rows.count)
    return jax.lax.squeeze(block, (0,)) if rows.index is None else block


def _factor(g: MonomialElement, rows: Rows) -> Array:
    """What a weight multiplies by: signs, or scalings to its power."""
    return _read(g.sign, rows) if rows.signed else _arrays.power(_read(g.scale, rows), rows.power)


def _place(factor: Array, rows: Rows, slot: Slot, x: Array) -> Array:
    """Broadcasts a factor of shape (n,) or (count, n) to the axes of ``x`` it belongs to."""
    if rows.index is None:
        return _arrays.along(factor, slot.axis, x.ndim)
    axis = dict(slot.index).get(rows.index)
    if axis is None:
        raise ValueError(
            f"a block of scalings is indexed by the axis {rows.index!r}, which is not among the axes"
        )
    if x.shape[axis] != rows.count:
        raise ValueError(
            f"axis {rows.index!r} has size {x.shape[axis]}, but it indexes a block of {rows.count} scalings"
        )
    factor = factor if axis < slot.axis else factor.T
    return jax.lax.expand_dims(factor, [a for a in range(x.ndim) if a not in (axis, slot.axis)])


def _names(names: int | Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(names, int):
        if names < 0:
            raise ValueError(f"Monomial: {what} must not be negative, got {names}")
        return tuple(_letter(i) for i in range(names))
    names = (names,) if isinstance(names, str) else tuple(names)
    bare = []
    for name in names:
        match = _NAME.fullmatch(name)
        if not match or match[2] == "0":
            raise ValueError(f"Monomial: {what} are names such as 'a' or 'gain[3]', got {name!r}")
        bare.append(match[1])
    if len(set(bare)) < len(bare):
        raise ValueError(f"Monomial: the names of the {what} must differ, got {names}")
    return names


def _letter(i: int) -> str:
    """The i-th of a, b, …, z, aa, ab and so on."""
    letters = ""
    i += 1
    while i:
        i, r = divmod(i - 1, 26)
        letters = chr(ord("a") + r) + letters
    return letters


def _layout(names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    blocks, start = {}, 0
    for name in names:
        match = _NAME.fullmatch(name)
        assert match is not None
        count = int(match[2] or 1)
        blocks[match[1]] = (start, count)
        start += count
    return blocks


def _power(group: str, k: int) -> str:
    return group if k == 1 else f"{group}^{k}"
