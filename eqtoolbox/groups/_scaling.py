"""Positive scalings: one number per unit, or one number for a whole axis or leaf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._base import (
    Group,
    Isotypic,
    Slot,
    all_true,
    check_size,
    trivial_components,
    unit_components,
)
from eqtoolbox.groups._exponent import Exponent

#: Random scalings and singular values are exp(u), u uniform in ± this: at most a factor 4 between two.
LOG_SPREAD = math.log(2.0)


@dataclass(frozen=True)
class PositiveScaling(Group):
    """The group of positive diagonal matrices R₊^n. An element is a vector c > 0, shape (n,).

    An axis with exponent q (any rational) is multiplied by c**q. Sampled as exp(u), u uniform in
    [-log 2, log 2]; the algebra is R^n, with standard normal coordinates halved.
    """

    n: int

    def __post_init__(self):
        check_size(self.n, type(self).__name__)

    @property
    def dimension(self) -> int:
        return self.n

    def compact(self) -> Group:
        from eqtoolbox.groups._discrete import Trivial

        return Trivial(self.n)

    def weight(self, space: int, exponent: Exponent) -> Fraction:
        power = exponent.uniform
        if power is None:
            raise ValueError(f"{self} takes one exponent, got {exponent}")
        return power

    def dual(self, space: int, weight: Fraction) -> Fraction:
        return -weight

    def fixes_constants(self, space: int, weight: Fraction) -> bool:
        return not weight

    def identity(self, dtype=None) -> Array:
        return jnp.ones((self.dimension,), dtype)

    def sample(self, key: Array, dtype=None) -> Array:
        return sample_scale(key, (self.dimension,), dtype)

    def compose(self, a: Array, b: Array) -> Array:
        return a * b

    def inverse(self, g: Array) -> Array:
        return 1 / g

    def contains(self, g: Array, tolerance: float = 1e-5) -> Array:
        return is_scale(g, (self.dimension,))

    def act_slots(self, g: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            if slot.weight:
                x = _arrays.multiply(_arrays.along(_arrays.power(g, slot.weight), slot.axis, x.ndim), x)
        return x

    def algebra_zero(self, dtype=None) -> Array:
        return jnp.zeros((self.dimension,), dtype)

    def algebra_sample(self, key: Array, dtype=None) -> Array:
        return 0.5 * jax.random.normal(key, (self.dimension,), _arrays.float_dtype(dtype))

    def exp(self, xi: Array) -> Array:
        return jnp.exp(xi)

    def log(self, g: Array) -> Array:
        return jnp.log(g)

    def tangent_slots(self, xi: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        rates = [float(s.weight) * _arrays.along(xi, s.axis, x.ndim) for s in slots if s.weight]
        if not rates:
            return jnp.zeros_like(x)
        rate = sum(jnp.broadcast_to(r, _shape(rates)) for r in rates)
        return _arrays.multiply(rate, x)

    def permutation(self, g: Array) -> Array:
        """The index vector of an element: the identity."""
        return jnp.arange(self.n)

    def isotypic(self, weight: Fraction = Fraction(1), space: int = 0) -> tuple[Isotypic, ...]:
        return unit_components(self.n) if weight else trivial_components(self.n)

    def __str__(self) -> str:
        return f"R₊^{self.n}"


@dataclass(frozen=True)
class Scaling(PositiveScaling):
    """One positive number for all ``n`` units of an axis; an element has shape (1,).

    With n = 1 it labels a whole leaf: ``"_ _ | c"`` multiplies the kernel by c, ``"| c*"`` divides a scalar.
    """

    n: int = 1

    @property
    def dimension(self) -> int:
        return 1

    def isotypic(self, weight: Fraction = Fraction(1), space: int = 0) -> tuple[Isotypic, ...]:
        (component,) = trivial_components(self.n)
        name = "scalar" if weight else "trivial"
        return (Isotypic(name, 1, self.n, component.rows),)

    def __str__(self) -> str:
        return "R₊"


def _shape(arrays) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(a.shape for a in arrays))


def sample_scale(key: Array, shape: tuple[int, ...], dtype=None) -> Array:
    """exp(u), u uniform in [-log 2, log 2]."""
    u = jax.random.uniform(key, shape, _arrays.float_dtype(dtype), -LOG_SPREAD, LOG_SPREAD)
    return jnp.exp(u)


def is_scale(c: Array, shape: tuple[int, ...]) -> Array:
    """Whether ``c`` has that shape and is positive and finite."""
    if jnp.shape(c) != shape:
        return jnp.asarray(False)
    return all_true(c > 0, jnp.isfinite(c))
