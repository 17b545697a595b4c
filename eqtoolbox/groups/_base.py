"""What every group of this room can do, and the little data its methods share.

A group is a frozen, hashable dataclass: it holds sizes, never arrays. Its elements and algebra vectors are
pytrees. It acts on one or several *spaces* (named elsewhere); ``sizes`` has one entry per space. Actions are
requested as *slots*: which space acts on which axis of an array, and with which weight.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups._exponent import Exponent

Element = Any  # a pytree of arrays
Vector = Any  # an algebra vector: a pytree of arrays
Weight = Any  # what a group makes of an exponent: hashable, static

#: A finite group with more elements than this is not enumerated.
ENUMERATION_LIMIT = 100_000


class Slot(NamedTuple):
    """A request to act on one axis of an array.

    Attributes:
      space: which of the group's spaces acts.
      axis: the axis of the array it acts on.
      weight: what the group made of the label's exponent.
      parent: the axis carrying the space this one depends on (wreath products), or None.
      index: ``(name, axis)`` pairs: the axes that index a block of scalings (monomial groups).
    """

    space: int
    axis: int
    weight: Weight = None
    parent: int | None = None
    index: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Isotypic:
    """An isotypic component of a real representation on R^n: ``multiplicity`` copies of one irreducible.

    Attributes:
      name: ``"trivial"``, ``"standard"``, ``"vector"``, …, or ``"unit i"`` for a character of one coordinate.
      dimension: of the irreducible.
      multiplicity: number of copies.
      rows: a function without arguments returning an orthonormal basis, shape
        (multiplicity, dimension, n).
    """

    name: str
    dimension: int
    multiplicity: int
    rows: Callable[[], np.ndarray]

    def coordinates(self, x: Array, axis: int = -1) -> Array:
        """Replaces ``axis`` of ``x`` by two axes (multiplicity, dimension) of orthonormal coordinates."""
        axis = axis % x.ndim
        rows = jnp.asarray(self.rows(), x.dtype)
        y = jnp.tensordot(rows, x, axes=(2, axis), precision=jax.lax.Precision.HIGHEST)
        return jnp.moveaxis(y, (0, 1), (axis, axis + 1))

    def project(self, x: Array, axis: int = -1) -> Array:
        """The orthogonal projection of ``x`` on this component, along ``axis``."""
        axis = axis % x.ndim
        count = self.dimension * self.multiplicity
        if count == x.shape[axis]:
            return x
        if self.name == "standard":
            return x - jnp.mean(x, axis, keepdims=True)
        rows = jnp.asarray(self.rows(), x.dtype).reshape(count, -1)
        y = jnp.tensordot(rows, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
        y = jnp.tensordot(rows, y, axes=(0, 0), precision=jax.lax.Precision.HIGHEST)
        return jnp.moveaxis(y, 0, axis)


def vector_component(n: int, name: str = "vector") -> Isotypic:
    """R^n itself, irreducible."""
    return Isotypic(name, n, 1, lambda: np.eye(n)[None])


def trivial_components(n: int) -> tuple[Isotypic, ...]:
    """n copies of the trivial representation."""
    return (Isotypic("trivial", 1, n, lambda: np.eye(n)[:, None, :]),)


def unit_components(n: int) -> tuple[Isotypic, ...]:
    """One distinct one-dimensional character per coordinate."""
    return tuple(Isotypic(f"unit {i}", 1, 1, lambda i=i: np.eye(n)[None, i : i + 1]) for i in range(n))


def permutation_components(n: int) -> tuple[Isotypic, ...]:
    """The trivial and the standard representation of S(n) in R^n."""
    mean = Isotypic("trivial", 1, 1, lambda: np.full((1, 1, n), 1 / math.sqrt(n)))
    if n == 1:
        return (mean,)
    return mean, Isotypic("standard", n - 1, 1, lambda: complement(np.ones(n)).T[None])


def complement(vector: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the complement of ``vector`` in R^n, shape (n, n - 1) (Householder)."""
    v = np.asarray(vector, np.float64)
    u = v / np.linalg.norm(v)
    sign = 1.0 if u[0] >= 0 else -1.0
    w = u.copy()
    w[0] += sign
    h = np.eye(len(v)) - 2 * np.outer(w, w) / (w @ w)
    return h[:, 1:]


class Group(abc.ABC):
    """The interface of a group; the defaults are those of a discrete linear group on one space.

    Every method is pure and works under ``jit`` and ``vmap``. ``dtype`` is that of the floating arrays of an
    element, the default float when None.
    """

    n: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of units of each space it acts on."""
        return (self.n,)

    @property
    def parents(self) -> tuple[int | None, ...]:
        """For each space, the space its element depends on (wreath products), else None."""
        return (None,) * len(self.sizes)

    @property
    def dimension(self) -> int:
        """Dimension of the Lie algebra; 0 for a discrete group."""
        return 0

    @property
    def order(self) -> int | None:
        """Number of elements, None when infinite."""
        return None

    @property
    def is_compact(self) -> bool:
        """Whether it has an invariant (Haar) probability distribution."""
        return self.order is not None

    @property
    def is_linear(self) -> bool:
        """Whether it acts linearly (translations and affine maps do not)."""
        return True

    def compact(self) -> Group:
        """A maximal compact subgroup."""
        return self

    @abc.abstractmethod
    def weight(self, space: int, exponent: Exponent) -> Weight:
        """Gives an exponent its meaning for one of the group's spaces.

        Raises:
          ValueError: the group has no such representation.
        """

    def dual(self, space: int, weight: Weight) -> Weight:
        """The weight of the dual (inverse transpose) of the linear part: how gradients move."""
        return weight

    def axis_size(self, space: int, weight: Weight) -> int:
        """The size of an axis on which that space acts with that weight."""
        return self.sizes[space]

    def is_still(self, space: int) -> bool:
        """Whether no element moves that space: a trivial group, or the outer space of a direct power."""
        return False

    def adds_constant(self, space: int, weight: Weight) -> bool:
        """Whether the action adds a vector that is constant along the other axes (translations, points)."""
        return False

    def fixes_constants(self, space: int, weight: Weight) -> bool:
        """Whether every element fixes the all-ones vector of that space, so that added constants commute."""
        return False

    @abc.abstractmethod
    def identity(self, dtype=None) -> Element:
        """The neutral element."""

    @abc.abstractmethod
    def sample(self, key: Array, dtype=None) -> Element:
        """A random element: Haar distributed where the group is compact, else as its class states."""

    @abc.abstractmethod
    def compose(self, a: Element, b: Element) -> Element:
        """The product that acts as ``a`` after ``b``."""

    @abc.abstractmethod
    def inverse(self, g: Element) -> Element:
        """The inverse element."""

    @abc.abstractmethod
    def contains(self, g: Element, tolerance: float = 1e-5) -> Array:
        """Whether ``g`` is an element, up to ``tolerance``: a boolean scalar."""

    @abc.abstractmethod
    def act_slots(self, g: Element, x: Array, slots: tuple[Slot, ...]) -> Array:
        """Acts with ``g`` on every slot of ``x``."""

    def algebra_zero(self, dtype=None) -> Vector:
        """The zero of the Lie algebra: minimal coordinates, ``dimension`` numbers in all."""
        return jnp.zeros((0,), dtype)

    def algebra_sample(self, key: Array, dtype=None) -> Vector:
        """A random algebra vector with independent normal coordinates."""
        return self.algebra_zero(dtype)

    def exp(self, xi: Vector) -> Element:
        """The exponential of an algebra vector."""
        return self.identity()

    def log(self, g: Element) -> Vector:
        """The principal logarithm: NaN where ``g`` has none.

        Raises:
          TypeError: the group is discrete.
        """
        raise TypeError(f"{self} is discrete: its elements have no logarithm")

    def tangent_slots(self, xi: Vector, x: Array, slots: tuple[Slot, ...]) -> Array:
        """The derivative of ``act_slots(exp(t xi), x, slots)`` at t = 0."""
        return jnp.zeros_like(x)

    @abc.abstractmethod
    def isotypic(self, weight: Weight = None, space: int = 0) -> tuple[Isotypic, ...]:
        """The real isotypic components of the vector representation with that weight."""

    def elements(self) -> Element:
        """Every element of a finite group, stacked along a leading axis of length ``order``.

        Raises:
          ValueError: the group is infinite or has more than ``ENUMERATION_LIMIT`` elements.
        """
        check_enumerable(self)
        return self._elements()

    def _elements(self) -> Element:
        raise NotImplementedError(f"{type(self).__name__} cannot enumerate its elements")

    def act(self, g: Element, x: Array, axis: int | tuple[int, ...] = -1, exponent: Any = 1) -> Array:
        """Acts with ``g`` on one axis of ``x`` (one axis per space for a group on several spaces).

        Args:
          g: an element.
          x: an array of any rank; ``x.shape[axis]`` must be the size of the space.
          axis: the axis, or a tuple with one axis per space of the group.
          exponent: a number, an ``Exponent``, or a tuple with one per space.

        Returns:
          An array of the shape and dtype of ``x``.

        Raises:
          ValueError: an axis has the wrong size, or the group has no such representation.
        """
        return self.act_slots(g, x, self.slots(x, axis, exponent))

    def tangent(self, xi: Vector, x: Array, axis: int | tuple[int, ...] = -1, exponent: Any = 1) -> Array:
        """The infinitesimal action of ``xi`` on ``x``: d/dt act(exp(t xi), x) at t = 0."""
        return self.tangent_slots(xi, x, self.slots(x, axis, exponent))

    def slots(self, x: Array, axis: int | tuple[int, ...], exponent: Any) -> tuple[Slot, ...]:
        """The slots of ``act``: one per space, checked against the shape of ``x``."""
        axes = axis if isinstance(axis, tuple) else (axis,)
        powers = exponent if isinstance(exponent, tuple) else (exponent,) * len(axes)
        if not len(axes) == len(powers) == len(self.sizes):
            raise ValueError(f"{self} acts on {len(self.sizes)} axes, got axis={axis}, exponent={exponent}")
        axes = tuple(a % x.ndim for a in axes)
        weights = [self.weight(i, Exponent.of(q)) for i, q in enumerate(powers)]
        for i, (a, w) in enumerate(zip(axes, weights, strict=True)):
            if x.shape[a] != self.axis_size(i, w):
                raise ValueError(
                    f"{self} needs an axis of size {self.axis_size(i, w)}, got shape {x.shape} at axis {a}"
                )
        parents = (None if p is None else axes[p] for p in self.parents)
        return tuple(Slot(i, a, w, p) for i, (a, w, p) in enumerate(zip(axes, weights, parents, strict=True)))


def check_size(n: int, name: str) -> None:
    """Raises ValueError unless ``n`` is a positive integer."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"{name}: the size must be a positive integer, got {n!r}")


def check_enumerable(group: Group) -> None:
    """Raises ValueError unless the group is finite and small enough to enumerate."""
    if group.order is None:
        raise ValueError(f"{group} is infinite: it cannot be enumerated, sample it instead")
    if group.order > ENUMERATION_LIMIT:
        raise ValueError(
            f"{group} has {group.order} elements, more than {ENUMERATION_LIMIT}: sample it instead"
        )


def cartesian(parts: list[Element]) -> tuple[Element, ...]:
    """All combinations of stacked elements: each returned part has the product of the leading sizes."""
    sizes = [jax.tree.leaves(p)[0].shape[0] if jax.tree.leaves(p) else 1 for p in parts]
    grid = np.indices(sizes).reshape(len(sizes), -1)
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], part) for part, i in zip(parts, grid, strict=True))


def all_true(*conditions) -> Array:
    """The conjunction of arrays of booleans of any shape, as a scalar."""
    return jnp.stack([jnp.all(c) for c in conditions]).all() if conditions else jnp.asarray(True)
