"""What every group of this room can do, and the little data its methods share.

A group is a frozen, hashable dataclass: it holds sizes, never arrays. Its elements and algebra vectors are
pytrees. It acts on one or several *spaces* (named elsewhere); ``sizes`` has one entry per space. Actions are
requested as *slots*: which space acts on which axis of an array, and with which weight.
"""

from __future__ import annotations

import abc
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._exponent import Exponent
from eqtoolbox.groups._isotypic import Isotypic

Element = Any  # a pytree of arrays
Vector = Any  # an algebra vector: a pytree of arrays
Weight = Any  # what a group makes of an exponent: hashable, static

#: A finite group with more elements than this is not enumerated.
ENUMERATION_LIMIT = 100_000


class Slot(NamedTuple):
    """A request to act on one axis of an array.

    Attributes:
      space: which of the group's spaces acts.
      axis: the axis of the array it acts on, not negative.
      weight: what the group made of the label's exponent.
      parent: the axis carrying the space this one depends on (wreath products), or None.
      index: ``(name, axis)`` pairs: the axes that index a block of scalings (monomial groups).
    """

    space: int
    axis: int
    weight: Weight = None
    parent: int | None = None
    index: tuple[tuple[str, int], ...] = ()


class Group(abc.ABC):
    """The interface of a group; the defaults are those of a discrete linear group on one space.

    Methods on elements and vectors are pure and work under ``jit``, ``vmap`` and ``grad``: called with one
    element each, and mapped over stacks of them. ``dtype`` is that of the floating arrays of an element: the
    default float when None, and at least float32 (bfloat16 parameters are acted on by float32 elements).

    A new group is a frozen dataclass that defines the abstract methods and ``_isotypic``; with a Lie algebra
    also ``dimension``, ``algebra_zero``, ``algebra_sample``, ``exp``, ``log`` and ``_tangent``; when finite
    also ``order`` and ``_elements``.
    """

    n: int

    def __post_init__(self):
        object.__setattr__(self, "n", checked_size(self.n, type(self).__name__))

    # What it is.

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
        """Dimension of the Lie algebra; 0 for a finite group."""
        return 0

    @property
    def order(self) -> int | None:
        """Number of elements, None when infinite."""
        return None

    @property
    def is_compact(self) -> bool:
        """Whether it has an invariant (Haar) probability distribution."""
        return self.dimension == 0

    @property
    def is_linear(self) -> bool:
        """Whether it acts linearly (translations and affine maps do not)."""
        return True

    def compact(self) -> Group:
        """A maximal compact subgroup, on the same spaces."""
        return self

    def compact_exponent(self, space: int, exponent: Exponent) -> Exponent:
        """The exponent with which ``compact()`` acts where this group acts with ``exponent``."""
        return exponent

    # How it acts.

    @abc.abstractmethod
    def weight(self, space: int, exponent: Exponent) -> Weight:
        """Gives an exponent its meaning for one of the group's spaces.

        Args:
          space: number of the space.
          exponent: what a label says.

        Returns:
          A hashable value that only this group reads.

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

    def act(self, g: Element, x: Array, axis: int | tuple[int | None, ...] = -1, exponent: Any = 1) -> Array:
        """Acts with ``g`` on one axis of ``x``; for a group on several spaces, on one axis per space.

        Args:
          g: an element.
          x: an array of any rank; ``x.shape[axis]`` must be the size of the space.
          axis: the axis, or a tuple with one entry per space of the group, None for a space that ``x`` does
            not carry.
          exponent: a number, an ``Exponent``, or a tuple with one of them per space.

        Returns:
          An array of the shape and dtype of ``x``.

        Raises:
          ValueError: an axis has the wrong size, the group has no such representation, or ``g`` does not
            have the shapes of an element.
          TypeError: ``x`` holds integers and ``g`` does more than permute.
        """
        x = jnp.asarray(x)
        return self.act_slots(g, x, self.slots(x, axis, exponent))

    def tangent(
        self, xi: Vector, x: Array, axis: int | tuple[int | None, ...] = -1, exponent: Any = 1
    ) -> Array:
        """The infinitesimal action of ``xi`` on ``x``: d/dt act(exp(t xi), x) at t = 0.

        Args:
          xi: an algebra vector.
          x: as for ``act``.
          axis: as for ``act``.
          exponent: as for ``act``.

        Returns:
          An array of the shape and dtype of ``x``.

        Raises:
          ValueError: as for ``act``.
          TypeError: as for ``act``.
        """
        x = jnp.asarray(x)
        return self.tangent_slots(xi, x, self.slots(x, axis, exponent))

    def act_slots(self, g: Element, x: Array, slots: tuple[Slot, ...]) -> Array:
        """Acts with ``g`` on every slot of ``x``: in float32 at least, rounded once to the dtype of ``x``.

        Args:
          g: an element.
          x: an array.
          slots: on which axes, and how.

        Returns:
          An array of the shape and dtype of ``x``.

        Raises:
          ValueError: ``g`` does not have the shapes of an element.
          TypeError: ``x`` holds integers and ``g`` does more than permute.
        """
        self.check_element(g)
        return self._act(g, x, slots).astype(x.dtype)

    def tangent_slots(self, xi: Vector, x: Array, slots: tuple[Slot, ...]) -> Array:
        """The derivative of ``act_slots(exp(t xi), x, slots)`` at t = 0.

        Args:
          xi: an algebra vector.
          x: an array.
          slots: on which axes, and how.

        Returns:
          An array of the shape and dtype of ``x``.

        Raises:
          ValueError: ``xi`` does not have the shapes of an algebra vector.
          TypeError: ``x`` holds integers and ``xi`` does not act by zero.
        """
        self.check_vector(xi)
        return self._tangent(xi, x, slots).astype(x.dtype)

    def slots(self, x: Array, axis: int | tuple[int | None, ...], exponent: Any = 1) -> tuple[Slot, ...]:
        """The slots of ``act``, checked against the shape of ``x``."""
        axes = axis if isinstance(axis, tuple) else (axis,)
        exponents = exponent if isinstance(exponent, tuple) else (exponent,) * len(axes)
        if not len(axes) == len(exponents) == len(self.sizes):
            raise ValueError(
                f"{self} acts on {len(self.sizes)} spaces: give one axis for each, "
                f"got axis={axis}, exponent={exponent}"
            )
        for a in axes:
            if a is not None and not -x.ndim <= a < x.ndim:
                raise ValueError(f"{self}: there is no axis {a} in an array of shape {x.shape}")
        axes = tuple(a if a is None else a % x.ndim for a in axes)
        given = [a for a in axes if a is not None]
        if not given or len(set(given)) < len(given):
            raise ValueError(
                f"{self}: every space needs an axis of its own, got axis={axis} for shape {x.shape}"
            )
        slots = []
        for space, (a, q, parent) in enumerate(zip(axes, exponents, self.parents, strict=True)):
            if a is None:
                continue
            weight = self.weight(space, Exponent.of(q))
            size = self.axis_size(space, weight)
            if x.shape[a] != size:
                raise ValueError(f"{self} needs an axis of size {size}, got shape {x.shape} at axis {a}")
            if parent is not None and axes[parent] is None:
                raise ValueError(
                    f"{self}: space {space} depends on space {parent}, give the axis of that too"
                )
            slots.append(Slot(space, a, weight, None if parent is None else axes[parent]))
        return tuple(slots)

    @abc.abstractmethod
    def _act(self, g: Element, x: Array, slots: tuple[Slot, ...]) -> Array:
        """``act_slots`` without checks; the result may have the working dtype of ``x``."""

    def _tangent(self, xi: Vector, x: Array, slots: tuple[Slot, ...]) -> Array:
        """``tangent_slots`` without checks; the result may have the working dtype of ``x``."""
        return jnp.zeros_like(x)

    # Its elements.

    @abc.abstractmethod
    def identity(self, dtype: DTypeLike | None = None) -> Element:
        """The neutral element."""

    @abc.abstractmethod
    def sample(self, key: Array, dtype: DTypeLike | None = None) -> Element:
        """A random element: Haar distributed where the group is compact, else as its class states.

        Args:
          key: a typed key.
          dtype: of the floating arrays.
        """

    @abc.abstractmethod
    def compose(self, a: Element, b: Element) -> Element:
        """The product that acts as ``a`` after ``b``."""

    @abc.abstractmethod
    def inverse(self, g: Element) -> Element:
        """The inverse element."""

    def with_inverse(self, g: Element) -> Element:
        """The same element with the inverses of its matrices, for acting with it many times.

        An inverse transpose then acts by a product instead of a solve, and ``inverse`` takes two transposes. Accepted
        wherever an element is. Groups without matrices to invert return ``g``.
        """
        return g

    def contains(self, g: Element, tolerance: float = 1e-5) -> Array:
        """Whether ``g`` is an element, up to ``tolerance``: a boolean scalar.

        Args:
          g: a pytree of arrays; one without the shapes of an element is none.
          tolerance: largest absolute error of the equations an element satisfies. Conditions that are
            inequalities (invertible, positive) or speak of integers hold or fail as they are.
        """
        if not _shapes_fit(without_inverse(g), _shapes(self, "identity")):
            return jnp.asarray(False)
        return self._contains(jax.tree.map(jnp.asarray, g), tolerance)

    def check_element(self, g: Element) -> None:
        """Checks the structure and array shapes of one element; values are for ``contains``.

        Raises:
          ValueError: showing the shapes of an element and those of ``g``.
        """
        _check_shapes(self, without_inverse(g), "identity", "an element")

    def check_vector(self, xi: Vector) -> None:
        """Checks the structure and array shapes of one algebra vector.

        Raises:
          ValueError: showing the shapes of an algebra vector and those of ``xi``.
        """
        _check_shapes(self, xi, "algebra_zero", "an algebra vector")

    @abc.abstractmethod
    def _contains(self, g: Element, tolerance: float) -> Array:
        """``contains`` for arrays of the right shapes."""

    def elements(self) -> Element:
        """Every element of a finite group, once, stacked along a leading axis of length ``order``.

        Raises:
          ValueError: the group is infinite or has more than ``ENUMERATION_LIMIT`` elements.
        """
        _check_enumerable(self)
        return self._elements()

    def _elements(self) -> Element:
        """``elements`` of a small finite group; such a group defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define its elements")

    # Its Lie algebra.

    def algebra_zero(self, dtype: DTypeLike | None = None) -> Vector:
        """The zero of the Lie algebra: minimal coordinates, ``dimension`` numbers in all."""
        return jnp.zeros((0,), _arrays.float_dtype(dtype))

    def algebra_sample(self, key: Array, dtype: DTypeLike | None = None) -> Vector:
        """A random algebra vector: independent normal coordinates, of the variance its class states.

        Args:
          key: a typed key.
          dtype: of the vector.
        """
        return self.algebra_zero(dtype)

    def exp(self, xi: Vector) -> Element:
        """The exponential of an algebra vector, in its dtype."""
        return self.identity()

    def log(self, g: Element) -> Vector:
        """The principal logarithm: an algebra vector with exp(log(g)) = g, NaN where there is none.

        Raises:
          TypeError: the group is finite.
        """
        raise TypeError(f"{self} is finite: its elements have no logarithm")

    # Its irreducible pieces.

    def isotypic(self, weight: Weight = None, space: int = 0) -> tuple[Isotypic, ...]:
        """The real isotypic components of the vector representation.

        Args:
          weight: of the representation, from ``weight``; None for exponent 1.
          space: number of the space.

        Returns:
          Components that are orthogonal to each other and span the axis.

        Raises:
          TypeError: the representation is not a sum of irreducible ones (possible without compactness).
        """
        return self._isotypic(self.weight(space, Exponent.of(1)) if weight is None else weight)

    def _isotypic(self, weight: Weight) -> tuple[Isotypic, ...]:
        """``isotypic`` for a given weight; a group on one space defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define its isotypic components")


class WithInverse(NamedTuple):
    """An invertible matrix that comes with its inverse, as the transpose that acts; see ``Group.with_inverse``.

    Attributes:
      matrix: shape (n, n).
      dual: its inverse transpose, shape (n, n).
    """

    matrix: Array
    dual: Array


def without_inverse(g: Element) -> Element:
    """The element in its plain form: every ``WithInverse`` replaced by its matrix."""

    def is_pair(value: Any) -> bool:
        return isinstance(value, WithInverse) and jnp.shape(value.matrix) == jnp.shape(value.dual)

    return jax.tree.map(lambda leaf: leaf.matrix if is_pair(leaf) else leaf, g, is_leaf=is_pair)


class UnitGroup(Group):
    """A group that moves each unit of a space as a whole: it permutes them and gives each a factor.

    These can be the outer group of a wreath product.
    """

    def compact(self) -> UnitGroup:
        return self

    def permutation(self, g: Element) -> Array:
        """The index vector by which ``g`` permutes the units, shape (n,)."""
        return jnp.arange(self.n)


def checked_size(n: Any, name: str) -> int:
    """``n`` as an int.

    Raises:
      ValueError: it is not a positive integer.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"{name}: the size must be a positive integer, got {n!r}")
    return int(n)


def single_power(group: Group, exponent: Exponent):
    """The power of an exponent that is the same for every generator.

    Raises:
      ValueError: the exponent names generators, of which the group has only one.
    """
    power = exponent.uniform
    if power is None:
        raise ValueError(f"{group} has no named scalings or signs: it takes one number, got {exponent}")
    return power


@functools.lru_cache(maxsize=1024)
def _shapes(group: Group, maker: str) -> Any:
    """The pytree of shapes of an element or an algebra vector."""
    return jax.eval_shape(getattr(group, maker))


def _shapes_fit(value: Any, expected: Any) -> bool:
    leaves, treedef = jax.tree.flatten(value)
    wanted, wanted_treedef = jax.tree.flatten(expected)
    return treedef == wanted_treedef and all(
        jnp.shape(a) == b.shape for a, b in zip(leaves, wanted, strict=True)
    )


def _check_shapes(group: Group, value: Any, maker: str, what: str) -> None:
    expected = _shapes(group, maker)
    if not _shapes_fit(value, expected):
        show = functools.partial(jax.tree.map, jnp.shape)
        raise ValueError(
            f"{group}: {what} has shapes {show(expected)}, got {show(value)}; use jax.vmap for many"
        )


def _check_enumerable(group: Group) -> None:
    if group.dimension or group.order is None:
        raise ValueError(f"{group} is infinite: it cannot be enumerated, sample it instead")
    if group.order > ENUMERATION_LIMIT:
        raise ValueError(
            f"{group} has about 10^{math.log10(group.order):.0f} elements, more than {ENUMERATION_LIMIT}: "
            "sample it instead"
        )


def cartesian(parts: list[Element], counts: list[int]) -> tuple[Element, ...]:
    """All combinations of stacked elements.

    Args:
      parts: pytrees, the i-th with a leading axis of length ``counts[i]``; it may have no arrays.
      counts: their lengths.

    Returns:
      The parts, each with a leading axis as long as the product of the lengths; the last varies fastest.
    """
    grid = np.indices(counts).reshape(len(counts), -1)
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], part) for part, i in zip(parts, grid, strict=True))


def all_true(*conditions: Array) -> Array:
    """The conjunction of arrays of booleans of any shape, as a scalar."""
    return functools.reduce(jnp.logical_and, map(jnp.all, conditions), jnp.asarray(True))
