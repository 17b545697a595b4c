"""Positive scalings: one number per unit, or one number for a whole axis or leaf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._base import Slot, UnitGroup, all_true, single_power
from eqtoolbox.groups._discrete import Trivial
from eqtoolbox.groups._exponent import Exponent
from eqtoolbox.groups._isotypic import Isotypic, trivial_component, unit_components

#: Random scalings and singular values are exp(u), u uniform in ± this: at most a factor 4 between two.
LOG_SPREAD = math.log(2.0)


@dataclass(frozen=True)
class PositiveScaling(UnitGroup):
    """The group of positive diagonal matrices R₊^n. An element is a vector c > 0, shape (n,).

    An axis with exponent q (any rational) is multiplied by c**q. Sampled as exp(u), u uniform in
    [-log 2, log 2]. The algebra is R^n, an algebra vector log c; its random coordinates are normal with
    standard deviation 1/2.

    Attributes:
      n: the number of units.
    """

    n: int

    @property
    def dimension(self) -> int:
        return self.n

    def compact(self) -> Trivial:
        return Trivial(self.n)

    def weight(self, space: int, exponent: Exponent) -> Fraction:
        return single_power(self, exponent)

    def dual(self, space: int, weight: Fraction) -> Fraction:
        return -weight

    def fixes_constants(self, space: int, weight: Fraction) -> bool:
        return not weight

    def identity(self, dtype: DTypeLike | None = None) -> Array:
        return jnp.ones((self.dimension,), _arrays.float_dtype(dtype))

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        return sample_scale(key, (self.dimension,), dtype)

    def compose(self, a: Array, b: Array) -> Array:
        return a * b

    def inverse(self, g: Array) -> Array:
        return 1 / g

    def _contains(self, g: Array, tolerance: float) -> Array:
        return is_scale(g)

    def _act(self, g: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            if slot.weight:
                x = _arrays.multiply(_arrays.along(_arrays.power(g, slot.weight), slot.axis, x.ndim), x)
        return x

    def algebra_zero(self, dtype: DTypeLike | None = None) -> Array:
        return jnp.zeros((self.dimension,), _arrays.float_dtype(dtype))

    def algebra_sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        return 0.5 * jax.random.normal(key, (self.dimension,), _arrays.float_dtype(dtype))

    def exp(self, xi: Array) -> Array:
        return jnp.exp(xi)

    def log(self, g: Array) -> Array:
        return jnp.log(g)

    def _tangent(self, xi: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        moved = [s for s in slots if s.weight]
        if not moved:
            return jnp.zeros_like(x)
        rate = jnp.zeros((1,) * x.ndim, xi.dtype)
        for slot in moved:
            rate = rate + float(slot.weight) * _arrays.along(xi, slot.axis, x.ndim)
        return _arrays.multiply(rate, x)

    def _isotypic(self, weight: Fraction) -> tuple[Isotypic, ...]:
        return unit_components(self.n) if weight else (trivial_component(self.n),)

    def __str__(self) -> str:
        return f"R₊^{self.n}"


@dataclass(frozen=True)
class Scaling(PositiveScaling):
    """One positive number for all ``n`` units of an axis; an element has shape (1,).

    With n = 1 it labels a whole leaf: ``"_ _ | c"`` multiplies the kernel by c, ``"| c*"`` divides a scalar.
    Exponents, sampling and the algebra are those of ``PositiveScaling``.

    Attributes:
      n: the number of units.
    """

    n: int = 1

    @property
    def dimension(self) -> int:
        return 1

    def _isotypic(self, weight: Fraction) -> tuple[Isotypic, ...]:
        trivial = trivial_component(self.n)
        return (Isotypic("scalar", 1, self.n, self.n, trivial.rows) if weight else trivial,)

    def __str__(self) -> str:
        return "R₊"


def sample_scale(key: Array, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
    """exp(u), u uniform in [-log 2, log 2]."""
    u = jax.random.uniform(key, shape, _arrays.float_dtype(dtype), -LOG_SPREAD, LOG_SPREAD)
    return jnp.exp(u)


def is_scale(c: Array) -> Array:
    """Whether ``c`` is positive and finite."""
    return all_true(c > 0, jnp.isfinite(c))
