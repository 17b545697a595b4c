"""Groups made of groups: direct products on several spaces, and wreath products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._base import (
    Element,
    Group,
    Slot,
    UnitGroup,
    Vector,
    Weight,
    all_true,
    cartesian,
)
from eqtoolbox.groups._discrete import Permutation, Trivial
from eqtoolbox.groups._exponent import Exponent
from eqtoolbox.groups._isotypic import Isotypic, in_copy, induced, tensor
from eqtoolbox.groups._monomial import Monomial


@dataclass(frozen=True, init=False)
class Product(Group):
    """The direct product of groups, each on its own spaces. An element is the tuple of their elements.

    ``Wreath(Product(GeneralLinear(k), GeneralLinear(v)), Permutation(h))`` on the spaces (heads, qk, vo) is
    the symmetry of multi-head attention: each head has two linear groups, and both are permuted together.
    The factors are sampled independently, elements and algebra vectors alike.

    Attributes:
      groups: the factors; the product acts on the spaces of the first, then those of the second, and so on.

    Raises:
      TypeError: no factor, or one that is not a group.
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
    def parents(self) -> tuple[int | None, ...]:
        parents = []
        for g in self.groups:
            start = len(parents)
            parents += [None if p is None else p + start for p in g.parents]
        return tuple(parents)

    @property
    def dimension(self) -> int:
        return sum(g.dimension for g in self.groups)

    @property
    def order(self) -> int | None:
        return _product_of([g.order for g in self.groups])

    @property
    def is_compact(self) -> bool:
        return all(g.is_compact for g in self.groups)

    @property
    def is_linear(self) -> bool:
        return all(g.is_linear for g in self.groups)

    def compact(self) -> Product:
        return Product(*(g.compact() for g in self.groups))

    def locate(self, space: int) -> tuple[int, int]:
        """The factor a space belongs to, and its number there.

        Raises:
          IndexError: there is no such space.
        """
        for i, g in enumerate(self.groups):
            if space < len(g.sizes):
                return i, space
            space -= len(g.sizes)
        raise IndexError(f"{self} has only {len(self.sizes)} spaces")

    def compact_exponent(self, space: int, exponent: Exponent) -> Exponent:
        i, space = self.locate(space)
        return self.groups[i].compact_exponent(space, exponent)

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

    def identity(self, dtype: DTypeLike | None = None) -> tuple:
        return tuple(g.identity(dtype) for g in self.groups)

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> tuple:
        keys = jax.random.split(key, len(self.groups))
        return tuple(g.sample(k, dtype) for g, k in zip(self.groups, keys, strict=True))

    def compose(self, a: tuple, b: tuple) -> tuple:
        return tuple(g.compose(x, y) for g, x, y in zip(self.groups, a, b, strict=True))

    def inverse(self, g: tuple) -> tuple:
        return tuple(group.inverse(x) for group, x in zip(self.groups, g, strict=True))

    def with_inverse(self, g: tuple) -> tuple:
        return tuple(group.with_inverse(x) for group, x in zip(self.groups, g, strict=True))

    def _contains(self, g: tuple, tolerance: float) -> Array:
        return all_true(*(h.contains(x, tolerance) for h, x in zip(self.groups, g, strict=True)))

    def _shares(self, parts: tuple, slots: tuple[Slot, ...]) -> list[tuple[Group, Element, tuple[Slot, ...]]]:
        """Each factor that has slots, with its part of an element and these slots, numbered within it."""
        shares: list[list[Slot]] = [[] for _ in self.groups]
        for slot in slots:
            i, space = self.locate(slot.space)
            shares[i].append(slot._replace(space=space))
        return [(g, p, tuple(s)) for g, p, s in zip(self.groups, parts, shares, strict=True) if s]

    def _act(self, g: tuple, x: Array, slots: tuple[Slot, ...]) -> Array:
        for group, part, share in self._shares(g, slots):
            x = group._act(part, x, share)
        return x

    def algebra_zero(self, dtype: DTypeLike | None = None) -> tuple:
        return tuple(g.algebra_zero(dtype) for g in self.groups)

    def algebra_sample(self, key: Array, dtype: DTypeLike | None = None) -> tuple:
        keys = jax.random.split(key, len(self.groups))
        return tuple(g.algebra_sample(k, dtype) for g, k in zip(self.groups, keys, strict=True))

    def exp(self, xi: tuple) -> tuple:
        return tuple(g.exp(x) for g, x in zip(self.groups, xi, strict=True))

    def log(self, g: tuple) -> tuple:
        if not self.dimension:
            return super().log(g)
        return _log_parts(self.groups, g)

    def _tangent(self, xi: tuple, x: Array, slots: tuple[Slot, ...]) -> Array:
        total = jnp.zeros_like(x)
        for group, part, share in self._shares(xi, slots):
            total = total + group._tangent(part, x, share)
        return total

    def isotypic(self, weight: Weight = None, space: int = 0) -> tuple[Isotypic, ...]:
        """The components of the factor the space belongs to, as that factor gives them."""
        i, space = self.locate(space)
        return self.groups[i].isotypic(weight, space)

    def _elements(self) -> tuple:
        parts = [g.elements() for g in self.groups]
        return cartesian(parts, [g.order or 1 for g in self.groups])

    def __str__(self) -> str:
        return "×".join(f"({g})" if isinstance(g, Product) else str(g) for g in self.groups)


class WreathElement(NamedTuple):
    """An element, ``new[i] = inner[i] · (outer · old)[i]`` for i in the outer space; or an algebra vector.

    Attributes:
      outer: an element of the outer group.
      inner: an element of the inner group for each i, stacked along a leading axis.
    """

    outer: Element
    inner: Element


@dataclass(frozen=True)
class Wreath(Group):
    """The wreath product inner ≀ outer: one inner element per unit of the outer space, which is permuted.

    It acts on the spaces (outer, *spaces of inner): ``Wreath(GeneralLinear(k), Permutation(h))`` on
    (heads, dim) is GL(k)^h ⋊ S(h). The outer group permutes its units and may scale or flip them too
    (``Monomial``); ``Trivial(h)`` gives the direct power inner^h. Products and wreath products may be inner.
    Every leaf axis of an inner space comes with an axis of the outer one on the same leaf. The outer element
    and the inner ones are sampled independently, elements and algebra vectors alike.

    Attributes:
      inner: the group of each copy; it acts linearly.
      outer: the group of the copies.

    Raises:
      TypeError: the inner group does not act linearly, or the outer one does not act unit by unit.
    """

    inner: Group
    outer: UnitGroup

    def __post_init__(self):
        if not isinstance(self.inner, Group) or not self.inner.is_linear:
            raise TypeError(f"Wreath: the inner group must act linearly, got {self.inner!r}")
        if not isinstance(self.outer, UnitGroup):
            raise TypeError(
                "Wreath: the outer group must act unit by unit (Permutation, Monomial, SignFlip, "
                f"PositiveScaling, Scaling or Trivial), got {self.outer!r}"
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
        return _product_of([self.outer.order, *[self.inner.order] * self.copies])

    @property
    def is_compact(self) -> bool:
        return self.outer.is_compact and self.inner.is_compact

    def compact(self) -> Wreath:
        return Wreath(self.inner.compact(), self.outer.compact())

    def compact_exponent(self, space: int, exponent: Exponent) -> Exponent:
        group, space = self._of(space)
        return group.compact_exponent(space, exponent)

    def _of(self, space: int) -> tuple[Group, int]:
        """The group of a space, and the number of the space there."""
        return (self.outer, 0) if space == 0 else (self.inner, space - 1)

    def axis_size(self, space: int, weight: Weight) -> int:
        group, space = self._of(space)
        return group.axis_size(space, weight)

    def weight(self, space: int, exponent: Exponent) -> Weight:
        group, space = self._of(space)
        return group.weight(space, exponent)

    def dual(self, space: int, weight: Weight) -> Weight:
        group, space = self._of(space)
        return group.dual(space, weight)

    def is_still(self, space: int) -> bool:
        group, space = self._of(space)
        return group.is_still(space)

    def fixes_constants(self, space: int, weight: Weight) -> bool:
        group, space = self._of(space)
        return group.fixes_constants(space, weight)

    def _each(self, f: Callable[..., Element]) -> Callable[..., Element]:
        """Maps a function of one copy over the copies, also where an element has no arrays."""
        return jax.vmap(f, axis_size=self.copies)

    def _stack(self, element: Element) -> Element:
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (self.copies, *a.shape)), element)

    def _permuted(self, inner: Element, outer: Element) -> Element:
        """The inner elements in the order in which an outer element puts the copies."""
        index = self.outer.permutation(outer)
        return jax.tree.map(lambda a: _arrays.permute(index, a, 0), inner)

    def identity(self, dtype: DTypeLike | None = None) -> WreathElement:
        return WreathElement(self.outer.identity(dtype), self._stack(self.inner.identity(dtype)))

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> WreathElement:
        outer, inner = jax.random.split(key)
        keys = jax.random.split(inner, self.copies)
        return WreathElement(
            self.outer.sample(outer, dtype), self._each(lambda k: self.inner.sample(k, dtype))(keys)
        )

    def compose(self, a: WreathElement, b: WreathElement) -> WreathElement:
        inner = self._each(self.inner.compose)(a.inner, self._permuted(b.inner, a.outer))
        return WreathElement(self.outer.compose(a.outer, b.outer), inner)

    def inverse(self, g: WreathElement) -> WreathElement:
        outer = self.outer.inverse(g.outer)
        return WreathElement(outer, self._each(self.inner.inverse)(self._permuted(g.inner, outer)))

    def with_inverse(self, g: WreathElement) -> WreathElement:
        return WreathElement(self.outer.with_inverse(g.outer), self._each(self.inner.with_inverse)(g.inner))

    def _contains(self, g: WreathElement, tolerance: float) -> Array:
        inside = self._each(lambda h: self.inner.contains(h, tolerance))(g.inner)
        return all_true(self.outer.contains(g.outer, tolerance), inside)

    def _act(self, g: WreathElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot, inner in self._families(slots):
            x = self.outer._act(g.outer, x, (slot,))
            if inner:
                x = self._over(self.inner._act, g.inner, x, slot.axis, inner)
        return x

    def algebra_zero(self, dtype: DTypeLike | None = None) -> WreathElement:
        return WreathElement(self.outer.algebra_zero(dtype), self._stack(self.inner.algebra_zero(dtype)))

    def algebra_sample(self, key: Array, dtype: DTypeLike | None = None) -> WreathElement:
        outer, inner = jax.random.split(key)
        keys = jax.random.split(inner, self.copies)
        return WreathElement(
            self.outer.algebra_sample(outer, dtype),
            self._each(lambda k: self.inner.algebra_sample(k, dtype))(keys),
        )

    def exp(self, xi: WreathElement) -> WreathElement:
        return WreathElement(self.outer.exp(xi.outer), self._each(self.inner.exp)(xi.inner))

    def log(self, g: WreathElement) -> WreathElement:
        if not self.dimension:
            return super().log(g)
        still = jnp.all(self.outer.permutation(g.outer) == jnp.arange(self.copies))
        (outer,) = _log_parts((self.outer,), (g.outer,))
        inner = self._each(lambda h: _log_parts((self.inner,), (h,))[0])(g.inner)
        return _nan_unless(still, WreathElement(outer, inner))

    def _tangent(self, xi: WreathElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        total = jnp.zeros_like(x)
        for slot, inner in self._families(slots):
            total = total + self.outer._tangent(xi.outer, x, (slot,))
            if inner:
                total = total + self._over(self.inner._tangent, xi.inner, x, slot.axis, inner)
        return total

    def isotypic(self, weight: Weight = None, space: int = 0) -> tuple[Isotypic, ...]:
        """The components of the outer space's own representation, or of that of an inner space.

        Args:
          weight: for space 0 the outer weight; for an inner space a pair (outer weight, inner weight), in
            turn a pair for the inner space of an inner wreath product. None stands for exponent 1 of the
            space itself, while the spaces it depends on are only permuted.
          space: which space. An inner one is read on the product axis (outer, …, space), row-major.

        Returns:
          The components. Several inner spaces on one leaf are one tensor product; this is the axis of one.

        Raises:
          TypeError: as for the inner and the outer group.
          ValueError: the weight of an inner space is not a pair.
        """
        if space == 0:
            return self.outer.isotypic(weight)
        if weight is None:
            weight = (self.outer.weight(0, Exponent.of(0)), None)
        if not (isinstance(weight, tuple) and len(weight) == 2):
            raise ValueError(f"{self}: the weight of an inner space is a pair (outer, inner), got {weight!r}")
        outer, inner = weight
        pieces: list[Isotypic] = []
        for small in self.inner.isotypic(inner, space - 1):
            if small.name == "trivial":
                pieces += [tensor(large, small) for large in self.outer.isotypic(outer)]
            elif isinstance(self.outer, (Permutation, Monomial)):
                pieces.append(induced(small, self.copies))
            else:
                pieces += [in_copy(small, i, self.copies) for i in range(self.copies)]
        return tuple(pieces)

    def _elements(self) -> WreathElement:
        single = self.inner.order or 1
        inner = cartesian([self.inner.elements()] * self.copies, [single] * self.copies)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *inner)
        outer, inner = cartesian(
            [self.outer.elements(), stacked], [self.outer.order or 1, single**self.copies]
        )
        return WreathElement(outer, inner)

    def _families(self, slots: tuple[Slot, ...]) -> list[tuple[Slot, tuple[Slot, ...]]]:
        """Each slot of the outer space with the slots of inner spaces that depend on it."""
        families, used = [], 0
        inner = sorted((s for s in slots if s.space), key=lambda s: s.space)
        for outer in (s for s in slots if s.space == 0):
            axes, members = {outer.axis}, []
            for slot in inner:
                if slot.parent in axes:
                    axes.add(slot.axis)
                    members.append(slot)
            used += len(members)
            families.append((outer, tuple(members)))
        if used != len(inner):
            raise ValueError(
                f"{self}: every axis of an inner space depends on one axis of the outer, got {slots}"
            )
        return families

    def _over(
        self,
        act: Callable[[Element, Array, tuple[Slot, ...]], Array],
        stacked: Element,
        x: Array,
        axis: int,
        slots: tuple[Slot, ...],
    ) -> Array:
        """Maps an inner action over the outer axis, in whose absence the later axes move up by one."""

        def moved(a: int) -> int:
            return a - (a > axis)

        inner = []
        for slot in slots:
            if any(a == axis for _, a in slot.index):
                raise ValueError(
                    f"{self}: the axis of the copies cannot index a block of scalings of the inner group, "
                    "of which every copy has its own"
                )
            parent = None if slot.parent in (None, axis) else moved(slot.parent)
            index = tuple((name, moved(a)) for name, a in slot.index)
            inner.append(Slot(slot.space - 1, moved(slot.axis), slot.weight, parent, index))
        return jax.vmap(lambda g, y: act(g, y, tuple(inner)), in_axes=(0, axis), out_axes=axis)(stacked, x)

    def __str__(self) -> str:
        inner = str(self.inner)
        if isinstance(self.inner, (Product, Wreath)) or "⋉" in inner:
            inner = f"({inner})"
        if isinstance(self.outer, Trivial):
            return f"{inner}^{self.copies}"
        outer = str(self.outer)
        return f"{inner}≀({outer})" if "⋉" in outer else f"{inner}≀{outer}"


def _product_of(orders: list[int | None]) -> int | None:
    """The product of orders, None when one is infinite."""
    finite = [order for order in orders if order is not None]
    return math.prod(finite) if len(finite) == len(orders) else None


def _log_parts(groups: tuple[Group, ...], elements: tuple[Element, ...]) -> tuple[Vector, ...]:
    """Logarithms of several elements; NaN where one of a finite group is not the identity."""
    connected, logs = jnp.asarray(True), []
    for group, g in zip(groups, elements, strict=True):
        if group.dimension:
            logs.append(group.log(g))
        else:
            logs.append(group.algebra_zero())
            connected = connected & _is_identity(group, g)
    return tuple(_nan_unless(connected, log) for log in logs)


def _is_identity(group: Group, g: Element) -> Array:
    """Whether an element of a finite group is the identity, of which the others are far away."""
    near = jax.tree.map(lambda a, b: jnp.all(jnp.abs(a - b) < 1e-3), g, group.identity())
    return all_true(*jax.tree.leaves(near))


def _nan_unless(condition: Array, vector: Vector) -> Vector:
    return jax.tree.map(lambda a: jnp.where(condition, a, jnp.nan), vector)
