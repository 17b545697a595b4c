"""Translations and affine maps: the groups that do not act linearly."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._base import Group, Slot, single_power
from eqtoolbox.groups._discrete import Trivial
from eqtoolbox.groups._exponent import Exponent
from eqtoolbox.groups._isotypic import Isotypic, trivial_component, vector_component
from eqtoolbox.groups._log import log_matrix
from eqtoolbox.groups._matrix import GeneralLinear, Orthogonal

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class Translation(Group):
    """The additive group R^n. An element is a vector u, shape (n,), added along an axis with exponent q.

    The leaf moves to ``x + q u``, constant along its other axes: ``"in _"`` shifts every column of a softmax
    kernel by the same vector. Not linear: gradients do not move. Elements and algebra vectors are sampled
    from a standard normal.

    Attributes:
      n: the number of units.
    """

    n: int

    @property
    def dimension(self) -> int:
        return self.n

    @property
    def is_linear(self) -> bool:
        return False

    def compact(self) -> Trivial:
        return Trivial(self.n)

    def weight(self, space: int, exponent: Exponent) -> Fraction:
        return single_power(self, exponent)

    def dual(self, space: int, weight: Fraction) -> Fraction:
        return Fraction(0)

    def adds_constant(self, space: int, weight: Fraction) -> bool:
        return bool(weight)

    def fixes_constants(self, space: int, weight: Fraction) -> bool:
        return True  # its linear part is trivial

    def identity(self, dtype: DTypeLike | None = None) -> Array:
        return jnp.zeros((self.n,), _arrays.float_dtype(dtype))

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        return jax.random.normal(key, (self.n,), _arrays.float_dtype(dtype))

    def compose(self, a: Array, b: Array) -> Array:
        return a + b

    def inverse(self, g: Array) -> Array:
        return -g

    def _contains(self, g: Array, tolerance: float) -> Array:
        return jnp.all(jnp.isfinite(g))

    def _act(self, g: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            if slot.weight:
                x = _arrays.shift(float(slot.weight) * g, x, slot.axis)
        return x

    def algebra_zero(self, dtype: DTypeLike | None = None) -> Array:
        return self.identity(dtype)

    def algebra_sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        return self.sample(key, dtype)

    def exp(self, xi: Array) -> Array:
        return xi

    def log(self, g: Array) -> Array:
        return g

    def _tangent(self, xi: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        return self._act(xi, jnp.zeros_like(x), slots)

    def _isotypic(self, weight: Fraction) -> tuple[Isotypic, ...]:
        """Of the linear part, which is trivial."""
        return (trivial_component(self.n),)

    def __str__(self) -> str:
        return f"R^{self.n}"


class AffineElement(NamedTuple):
    """The map x -> linear @ x + shift, or an algebra vector: its derivative at the identity.

    Attributes:
      linear: shape (n, n).
      shift: shape (n,).
    """

    linear: Array
    shift: Array


@dataclass(frozen=True)
class Affine(Group):
    """The group Aff(n) of maps x -> A x + t of a space of n units.

    An axis of size n with exponent 1 holds *points* (a bias: A b + t); ``h{linear:1}`` holds *vectors* (the
    rows of a kernel: A w); ``h*`` or ``h{linear:-1}`` covectors (inverse transpose of A). An axis of size
    n + 1 holds homogeneous coordinates, last one 1: ``h{homogeneous:1}`` or, for the kernel that reads the
    units together with its own bias as last row, ``h{homogeneous:-1}``: the bias absorbs the shift.
    Sampled with A as in ``GeneralLinear`` and t standard normal; algebra vectors likewise.

    Attributes:
      n: the number of units.
    """

    n: int

    @property
    def dimension(self) -> int:
        return self.n * (self.n + 1)

    @property
    def is_linear(self) -> bool:
        return False

    def compact(self) -> Orthogonal:
        """The group O(n), which acts on axes of size n only."""
        return Orthogonal(self.n)

    def axis_size(self, space: int, weight: tuple[str, int]) -> int:
        return self.n + (weight[0] == "homogeneous")

    def weight(self, space: int, exponent: Exponent) -> tuple[str, int]:
        names = [(term.name, term.power, term.index) for term in exponent.terms]
        for power in (1, -1):
            if names == [("", power, None)]:
                return ("point", 1) if power == 1 else ("linear", -1)
            for name in ("linear", "homogeneous"):
                if names == [(name, power, None)]:
                    return name, power
        raise ValueError(
            f"{self} acts with exponent 1, -1, {{linear:±1}} or {{homogeneous:±1}}, got {exponent}"
        )

    def dual(self, space: int, weight: tuple[str, int]) -> tuple[str, int]:
        name, power = weight
        return ("linear" if name == "point" else name, -power)

    def adds_constant(self, space: int, weight: tuple[str, int]) -> bool:
        return weight[0] == "point"

    def identity(self, dtype: DTypeLike | None = None) -> AffineElement:
        dtype = _arrays.float_dtype(dtype)
        return AffineElement(jnp.eye(self.n, dtype=dtype), jnp.zeros((self.n,), dtype))

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> AffineElement:
        linear, shift = jax.random.split(key)
        return AffineElement(
            GeneralLinear(self.n).sample(linear, dtype), Translation(self.n).sample(shift, dtype)
        )

    def compose(self, a: AffineElement, b: AffineElement) -> AffineElement:
        linear = jnp.matmul(a.linear, b.linear, precision=_HIGHEST)
        return AffineElement(linear, jnp.matmul(a.linear, b.shift, precision=_HIGHEST) + a.shift)

    def inverse(self, g: AffineElement) -> AffineElement:
        linear = jnp.linalg.inv(g.linear)
        return AffineElement(linear, -jnp.matmul(linear, g.shift, precision=_HIGHEST))

    def _contains(self, g: AffineElement, tolerance: float) -> Array:
        return GeneralLinear(self.n).contains(g.linear) & Translation(self.n).contains(g.shift)

    def _act(self, g: AffineElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        inverse = self.inverse(g) if any(slot.weight[1] == -1 for slot in slots) else g
        for slot in slots:
            name, power = slot.weight
            h = g if power == 1 else inverse
            matrix = _homogeneous(h, 1.0) if name == "homogeneous" else h.linear
            x = _arrays.transform(matrix if power == 1 else matrix.T, x, slot.axis)
            if name == "point":
                x = _arrays.shift(g.shift, x, slot.axis)
        return x

    def algebra_zero(self, dtype: DTypeLike | None = None) -> AffineElement:
        dtype = _arrays.float_dtype(dtype)
        return AffineElement(jnp.zeros((self.n, self.n), dtype), jnp.zeros((self.n,), dtype))

    def algebra_sample(self, key: Array, dtype: DTypeLike | None = None) -> AffineElement:
        linear, shift = jax.random.split(key)
        return AffineElement(
            GeneralLinear(self.n).algebra_sample(linear, dtype),
            Translation(self.n).algebra_sample(shift, dtype),
        )

    def exp(self, xi: AffineElement) -> AffineElement:
        return _from_homogeneous(jax.scipy.linalg.expm(_homogeneous(xi, 0.0)))

    def log(self, g: AffineElement) -> AffineElement:
        return _from_homogeneous(log_matrix(_homogeneous(g, 1.0)))

    def _tangent(self, xi: AffineElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        total = jnp.zeros_like(x)
        for slot in slots:
            name, power = slot.weight
            matrix = _homogeneous(xi, 0.0) if name == "homogeneous" else xi.linear
            total = total + _arrays.transform(matrix if power == 1 else -matrix.T, x, slot.axis)
            if name == "point":
                total = _arrays.shift(xi.shift, total, slot.axis)
        return total

    def _isotypic(self, weight: tuple[str, int]) -> tuple[Isotypic, ...]:
        """Of the linear part."""
        if weight[0] == "homogeneous":
            raise TypeError(f"{self}: the homogeneous representation is not a sum of irreducible pieces")
        return (vector_component(self.n),)

    def __str__(self) -> str:
        return f"Aff({self.n})"


def _homogeneous(g: AffineElement, corner: float) -> Array:
    """The matrix [[linear, shift], [0, corner]], shape (n + 1, n + 1)."""
    top = jnp.concatenate([g.linear, g.shift[:, None]], axis=1)
    bottom = jnp.zeros_like(top[:1]).at[0, -1].set(corner)
    return jnp.concatenate([top, bottom])


def _from_homogeneous(matrix: Array) -> AffineElement:
    return AffineElement(matrix[:-1, :-1], matrix[:-1, -1])
