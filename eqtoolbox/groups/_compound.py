"""Groups made of groups: direct products on several spaces, and wreath products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups._base import Element, Group, Isotypic, Slot, Vector, Weight, all_true, cartesian
from eqtoolbox.groups._discrete import Permutation, SignFlip, Trivial
from eqtoolbox.groups._exponent import Exponent
from eqtoolbox.groups._monomial import Monomial
from eqtoolbox.groups._scaling import PositiveScaling


@dataclass(frozen=True, init=False)
class Product(Group):
    """The direct product of groups, each on its own spaces. An element is the tuple of their elements.

    ``Wreath(Product(GeneralLinear(k), GeneralLinear(v)), Permutation(h))`` on the spaces (heads, qk, vo) is
    the symmetry of multi-head attention: each head has two linear groups, and both are permuted together.
    """

    groups: tuple[Group, ...]

    def __init__(self, *groups: Group):
        if not groups or not all(isinstance(g, Group) for g in groups):
            raise TypeError(f"Product: every factor must be a group, got {groups!r}")
        object.__setattr__(self, "groups", groups)

    @property
    def sizes(self) -> tuple[int, ...]:
        return sum((g.sizes for g in self.groups), ())

    @property
    def dimension(self) -> int:
        return sum(g.dimension for g in self.groups)

    @property
    def order(self) -> int | None:
        orders = [g.order for g in self.groups]
        return None if None in orders else math.prod(o for o in orders if o is not None)

    @property
    def is_compact(self) -> bool:
        return all(g.is_compact for g in self.groups)

    @property
    def is_linear(self) -> bool:
        return all(g.is_linear for g in self.groups)

    @property
    def parents(self) -> tuple[int | None, ...]:
        parents = []
        for g in self.groups:
            start = len(parents)
            parents += [None if p is None else p + start for p in g.parents]
        return tuple(parents)

    def locate(self, space: int) -> tuple[int, int]:
        """The factor a space belongs to, and its number there."""
        for i, g in enumerate(self.groups):
            if space < len(g.sizes):
                return i, space
            space -= len(g.sizes)
        raise IndexError(f"{self} has no space number {space}")

    def _share(self, slots: tuple[Slot, ...]) -> list[tuple[Slot, ...]]:
        """The slots of each factor, spaces numbered within it."""
        shares: list[list[Slot]] = [[] for _ in self.groups]
        for slot in slots:
            i, space = self.locate(slot.space)
            shares[i].append(slot._replace(space=space))
        return [tuple(s) for s in shares]

    def compact(self) -> Product:
        return Product(*(g.compact() for g in self.groups))

    def axis_size(self, space: int, weight: Weight) -> int:
        i, space = self.locate(space)
        return self.groups[i].axis_size(space, weight)

    def weight(self, space: int, exponent: Exponent) -> Weight:
        i, space = self.locate(space)
        return self.groups[i].weight(space, exponent)

    def dual(self, space: int, weight: Weight) -> Weight:
        i, space = self.locate(space)
        return self.groups[i].dual(space, weight)

    def is_still(self, space: int) -> bool:
        i, space = self.locate(space)
        return self.groups[i].is_still(space)

    def adds_constant(self, space: int, weight: Weight) -> bool:
        i, space = self.locate(space)
        return self.groups[i].adds_constant(space, weight)

    def fixes_constants(self, space: int, weight: Weight) -> bool:
        i, space = self.locate(space)
        return self.groups[i].fixes_constants(space, weight)

    def identity(self, dtype=None) -> tuple:
        return tuple(g.identity(dtype) for g in self.groups)

    def sample(self, key: Array, dtype=None) -> tuple:
        keys = jax.random.split(key, len(self.groups))
        return tuple(g.sample(k, dtype) for g, k in zip(self.groups, keys, strict=True))

    def compose(self, a: tuple, b: tuple) -> tuple:
        return tuple(g.compose(x, y) for g, x, y in zip(self.groups, a, b, strict=True))

    def inverse(self, g: tuple) -> tuple:
        return tuple(group.inverse(x) for group, x in zip(self.groups, g, strict=True))

    def contains(self, g: tuple, tolerance: float = 1e-5) -> Array:
        return all_true(*(h.contains(x, tolerance) for h, x in zip(self.groups, g, strict=True)))

    def act_slots(self, g: tuple, x: Array, slots: tuple[Slot, ...]) -> Array:
        for group, element, share in zip(self.groups, g, self._share(slots), strict=True):
            if share:
                x = group.act_slots(element, x, share)
        return x

    def algebra_zero(self, dtype=None) -> tuple:
        return tuple(g.algebra_zero(dtype) for g in self.groups)

    def algebra_sample(self, key: Array, dtype=None) -> tuple:
        keys = jax.random.split(key, len(self.groups))
        return tuple(g.algebra_sample(k, dtype) for g, k in zip(self.groups, keys, strict=True))

    def exp(self, xi: tuple) -> tuple:
        return tuple(g.exp(x) for g, x in zip(self.groups, xi, strict=True))

    def log(self, g: tuple) -> tuple:
        if not self.dimension:
            return super().log(g)
        return _log_parts(self.groups, g)

    def tangent_slots(self, xi: tuple, x: Array, slots: tuple[Slot, ...]) -> Array:
        parts = [
            group.tangent_slots(vector, x, share)
            for group, vector, share in zip(self.groups, xi, self._share(slots), strict=True)
            if share
        ]
        return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(x)

    def isotypic(self, weight: Weight = None, space: int = 0) -> tuple[Isotypic, ...]:
        i, space = self.locate(space)
        weight = self.groups[i].weight(space, Exponent.of(1)) if weight is None else weight
        return self.groups[i].isotypic(weight, space)

    def _elements(self) -> tuple:
        return cartesian([g.elements() for g in self.groups])

    def __str__(self) -> str:
        return "×".join(map(str, self.groups))


class WreathElement(NamedTuple):
    """``new[i] = inner[i] · (outer · old)[i]``, i an index of the outer space.

    Attributes:
      outer: an element of the outer group.
      inner: an element of the inner group for each i, stacked along a leading axis. Also an algebra vector.
    """

    outer: Element
    inner: Element


@dataclass(frozen=True)
class Wreath(Group):
    """The wreath product inner ≀ outer: one inner element per unit of the outer space, which is permuted.

    It acts on the spaces (outer, *spaces of inner): ``Wreath(GeneralLinear(k), Permutation(h))`` on
    (heads, dim) is GL(k)^h ⋊ S(h). The outer group permutes its units and may scale or flip them too
    (``Monomial``); ``Trivial(h)`` gives the direct power inner^h. Products and wreath products may be inner.
    Every leaf axis of an inner space comes with an axis of the outer one on the same leaf.
    """

    inner: Group
    outer: Group

    def __post_init__(self):
        if not isinstance(self.inner, Group) or not self.inner.is_linear:
            raise TypeError(f"Wreath: the inner group must act linearly, got {self.inner!r}")
        if not isinstance(self.outer, (Trivial, Permutation, SignFlip, PositiveScaling, Monomial)):
            raise TypeError(
                "Wreath: the outer group must permute units (Permutation, Monomial, SignFlip, PositiveScaling "
                f"or Trivial), got {self.outer!r}"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        return (*self.outer.sizes, *self.inner.sizes)

    @property
    def parents(self) -> tuple[int | None, ...]:
        return (None, *(0 if p is None else p + 1 for p in self.inner.parents))

    @property
    def copies(self) -> int:
        """The number of inner elements."""
        return self.outer.n

    @property
    def dimension(self) -> int:
        return self.outer.dimension + self.copies * self.inner.dimension

    @property
    def order(self) -> int | None:
        if self.outer.order is None or self.inner.order is None:
            return None
        return self.outer.order * self.inner.order**self.copies

    @property
    def is_compact(self) -> bool:
        return self.outer.is_compact and self.inner.is_compact

    def compact(self) -> Wreath:
        return Wreath(self.inner.compact(), self.outer.compact())

    def axis_size(self, space: int, weight: Weight) -> int:
        return self.outer.axis_size(0, weight) if space == 0 else self.inner.axis_size(space - 1, weight)

    def weight(self, space: int, exponent: Exponent) -> Weight:
        return self.outer.weight(0, exponent) if space == 0 else self.inner.weight(space - 1, exponent)

    def dual(self, space: int, weight: Weight) -> Weight:
        return self.outer.dual(0, weight) if space == 0 else self.inner.dual(space - 1, weight)

    def is_still(self, space: int) -> bool:
        return self.outer.is_still(0) if space == 0 else self.inner.is_still(space - 1)

    def fixes_constants(self, space: int, weight: Weight) -> bool:
        group, space = (self.outer, 0) if space == 0 else (self.inner, space - 1)
        return group.fixes_constants(space, weight)

    def identity(self, dtype=None) -> WreathElement:
        inner = jax.tree.map(
            lambda a: jnp.broadcast_to(a, (self.copies, *a.shape)), self.inner.identity(dtype)
        )
        return WreathElement(self.outer.identity(dtype), inner)

    def sample(self, key: Array, dtype=None) -> WreathElement:
        outer, inner = jax.random.split(key)
        return WreathElement(
            self.outer.sample(outer, dtype), self._each(lambda k: self.inner.sample(k, dtype), inner)
        )

    def compose(self, a: WreathElement, b: WreathElement) -> WreathElement:
        moved = self._gather(b.inner, self.outer.permutation(a.outer))
        return WreathElement(
            self.outer.compose(a.outer, b.outer), jax.vmap(self.inner.compose)(a.inner, moved)
        )

    def inverse(self, g: WreathElement) -> WreathElement:
        outer = self.outer.inverse(g.outer)
        inner = self._gather(g.inner, self.outer.permutation(outer))
        return WreathElement(outer, jax.vmap(self.inner.inverse)(inner))

    def contains(self, g: WreathElement, tolerance: float = 1e-5) -> Array:
        if any(jnp.shape(a)[:1] != (self.copies,) for a in jax.tree.leaves(g.inner)):
            return jnp.asarray(False)
        inside = jax.vmap(lambda h: self.inner.contains(h, tolerance), axis_size=self.copies)(g.inner)
        return self.outer.contains(g.outer, tolerance) & jnp.all(inside)

    def act_slots(self, g: WreathElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot, inner in self._families(slots):
            x = self.outer.act_slots(g.outer, x, (slot,))
            if inner:
                x = self._over(self.inner.act_slots, g.inner, x, slot.axis, inner)
        return x

    def algebra_zero(self, dtype=None) -> WreathElement:
        inner = jax.tree.map(
            lambda a: jnp.zeros((self.copies, *a.shape), a.dtype), self.inner.algebra_zero(dtype)
        )
        return WreathElement(self.outer.algebra_zero(dtype), inner)

    def algebra_sample(self, key: Array, dtype=None) -> WreathElement:
        outer, inner = jax.random.split(key)
        return WreathElement(
            self.outer.algebra_sample(outer, dtype),
            self._each(lambda k: self.inner.algebra_sample(k, dtype), inner),
        )

    def exp(self, xi: WreathElement) -> WreathElement:
        inner = jax.vmap(self.inner.exp, axis_size=self.copies)(xi.inner)
        return WreathElement(self.outer.exp(xi.outer), inner)

    def log(self, g: WreathElement) -> WreathElement:
        if not self.dimension:
            return super().log(g)
        still = jnp.all(self.outer.permutation(g.outer) == jnp.arange(self.copies))

        def inner_log(h):
            return _log_parts((self.inner,), (h,))[0]

        outer, inner = _log_parts((self.outer,), (g.outer,))[0], jax.vmap(inner_log)(g.inner)
        return jax.tree.map(lambda a: jnp.where(still, a, jnp.nan), WreathElement(outer, inner))

    def tangent_slots(self, xi: WreathElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        total = jnp.zeros_like(x)
        for slot, inner in self._families(slots):
            total = total + self.outer.tangent_slots(xi.outer, x, (slot,))
            if inner:
                total = total + self._over(self.inner.tangent_slots, xi.inner, x, slot.axis, inner)
        return total

    def isotypic(self, weight: Weight = None, space: int = 0) -> tuple[Isotypic, ...]:
        """The pieces of the outer space's own representation, or of that of an inner space.

        Args:
          weight: for space 0 the outer weight; for an inner space a pair (outer weight, inner weight).
            None for the representation of exponent 1 (of the inner space; the outer one only permutes).
          space: which space. An inner one is read on the product axis (outer, …, space), row-major.
        """
        if space == 0:
            weight = self.outer.weight(0, Exponent.of(1)) if weight is None else weight
            return self.outer.isotypic(weight)
        if weight is None:
            weight = self.outer.weight(0, Exponent.of(0)), None
        outer, inner = weight
        if inner is None and not isinstance(self.inner, (Product, Wreath)):
            inner = self.inner.weight(space - 1, Exponent.of(1))
        pieces = []
        for small in self.inner.isotypic(inner, space - 1):
            if small.name == "trivial":
                pieces += [_tensor(large, small) for large in self.outer.isotypic(outer)]
            elif isinstance(self.outer, (Permutation, Monomial)):
                pieces.append(_induced(self.copies, small))
            else:
                pieces += [_induced(self.copies, small, i) for i in range(self.copies)]
        return tuple(pieces)

    def _elements(self) -> WreathElement:
        stacked = self.inner.elements()
        count = self.inner.order or 1
        index = jnp.indices((count,) * self.copies).reshape(self.copies, -1).T
        inner = jax.tree.map(lambda a: a[index], stacked)
        outer, rows = cartesian([self.outer.elements(), jnp.arange(index.shape[0])])
        return WreathElement(outer, jax.tree.map(lambda a: a[rows], inner))

    def _each(self, draw, key: Array) -> Element:
        return jax.vmap(draw)(jax.random.split(key, self.copies))

    @staticmethod
    def _gather(stacked: Element, index: Array) -> Element:
        return jax.tree.map(lambda a: a[index], stacked)

    @staticmethod
    def _families(slots: tuple[Slot, ...]) -> list[tuple[Slot, tuple[Slot, ...]]]:
        """Each slot of the outer space with the slots of inner spaces that depend on it."""
        families = []
        for outer in (s for s in slots if s.space == 0):
            axes, inner = {outer.axis}, []
            for slot in sorted((s for s in slots if s.space), key=lambda s: s.space):
                if slot.parent in axes:
                    axes.add(slot.axis)
                    inner.append(slot)
            families.append((outer, tuple(inner)))
        return families

    @staticmethod
    def _over(act, stacked: Element, x: Array, axis: int, slots: tuple[Slot, ...]) -> Array:
        """Maps an inner action over the outer axis, in whose absence the later axes move up by one."""

        def moved(a: int | None) -> int | None:
            return None if a is None or a == axis else a - (a > axis)

        inner = tuple(
            Slot(
                s.space - 1,
                s.axis - (s.axis > axis),
                s.weight,
                moved(s.parent),
                tuple((name, a - (a > axis)) for name, a in s.index),
            )
            for s in slots
        )
        return jax.vmap(lambda g, y: act(g, y, inner), in_axes=(0, axis), out_axes=axis)(stacked, x)

    def __str__(self) -> str:
        inner = f"({self.inner})" if isinstance(self.inner, (Product, Wreath)) else str(self.inner)
        if isinstance(self.outer, Trivial):
            return f"{inner}^{self.copies}"
        return f"{inner}≀{self.outer}"


def _log_parts(groups: tuple[Group, ...], elements: tuple) -> tuple:
    """Logarithms of several elements; NaN where a discrete one is not the identity."""
    connected = jnp.asarray(True)
    logs = []
    for group, g in zip(groups, elements, strict=True):
        if group.dimension:
            logs.append(group.log(g))
            continue
        logs.append(group.algebra_zero())
        same = jax.tree.map(lambda a, b: jnp.all(a == b), g, group.identity())
        connected = connected & all_true(*jax.tree.leaves(same))
    return tuple(jax.tree.map(lambda a: jnp.where(connected, a, jnp.nan), logs))


def _tensor(large: Isotypic, small: Isotypic) -> Isotypic:
    """An outer piece times a trivial inner one."""

    def rows():
        a, b = large.rows(), small.rows()
        product = np.einsum("mdh,pek->mpdehk", a, b)
        return product.reshape(large.multiplicity * small.multiplicity, large.dimension, -1)

    return Isotypic(large.name, large.dimension, large.multiplicity * small.multiplicity, rows)


def _induced(copies: int, small: Isotypic, only: int | None = None) -> Isotypic:
    """A nontrivial inner piece in every copy (irreducible when the copies are permuted), or in one."""

    def rows():
        eye = np.eye(copies) if only is None else np.eye(copies)[only][None]
        basis = np.einsum("hg,mdk->mhdgk", eye, small.rows())
        return basis.reshape(small.multiplicity, -1, basis.shape[-2] * basis.shape[-1])

    name = small.name if only is None else f"{small.name} in copy {only}"
    return Isotypic(name, small.dimension * (copies if only is None else 1), small.multiplicity, rows)
