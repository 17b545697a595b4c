"""Translations and affine maps: the groups that do not act linearly."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

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
    vector_component,
)
from eqtoolbox.groups._discrete import Trivial
from eqtoolbox.groups._exponent import Exponent
from eqtoolbox.groups._matrix import GeneralLinear, Orthogonal

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class Translation(Group):
    """The additive group R^n. An element is a vector u, shape (n,), added along an axis with exponent q.

    The leaf moves to ``x + q u``, constant along its other axes: ``"in _"`` shifts every column of a softmax
    kernel by the same vector. Sampled from a standard normal. Not linear: gradients do not move.
    """

    n: int

    def __post_init__(self):
        check_size(self.n, "Translation")

    @property
    def dimension(self) -> int:
        return self.n

    @property
    def is_linear(self) -> bool:
        return False

    def compact(self) -> Trivial:
        return Trivial(self.n)

    def weight(self, space: int, exponent: Exponent) -> Fraction:
        power = exponent.uniform
        if power is None:
            raise ValueError(f"{self} takes one exponent, got {exponent}")
        return power

    def dual(self, space: int, weight: Fraction) -> Fraction:
        return Fraction(0)

    def adds_constant(self, space: int, weight: Fraction) -> bool:
        return bool(weight)

    def fixes_constants(self, space: int, weight: Fraction) -> bool:
        return True  # its linear part is trivial

    def identity(self, dtype=None) -> Array:
        return jnp.zeros((self.n,), dtype)

    def sample(self, key: Array, dtype=None) -> Array:
        return jax.random.normal(key, (self.n,), _arrays.float_dtype(dtype))

    def compose(self, a: Array, b: Array) -> Array:
        return a + b

    def inverse(self, g: Array) -> Array:
        return -g

    def contains(self, g: Array, tolerance: float = 1e-5) -> Array:
        return jnp.asarray(jnp.shape(g) == (self.n,)) & all_true(jnp.isfinite(g))

    def act_slots(self, g: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            if slot.weight:
                x = add_along(float(slot.weight) * g, x, slot.axis)
        return x

    def algebra_zero(self, dtype=None) -> Array:
        return jnp.zeros((self.n,), dtype)

    def algebra_sample(self, key: Array, dtype=None) -> Array:
        return jax.random.normal(key, (self.n,), _arrays.float_dtype(dtype))

    def exp(self, xi: Array) -> Array:
        return xi

    def log(self, g: Array) -> Array:
        return g

    def tangent_slots(self, xi: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        return self.act_slots(xi, jnp.zeros_like(x), slots)

    def isotypic(self, weight: Fraction = Fraction(0), space: int = 0) -> tuple[Isotypic, ...]:
        """Of the linear part, which is trivial."""
        return trivial_components(self.n)

    def __str__(self) -> str:
        return f"R^{self.n}"


class AffineElement(NamedTuple):
    """x -> linear @ x + shift; ``linear`` has shape (n, n), ``shift`` (n,). Also an algebra vector."""

    linear: Array
    shift: Array


@dataclass(frozen=True)
class Affine(Group):
    """The group Aff(n) of maps x -> A x + t of a space of n units.

    An axis of size n with exponent 1 holds *points* (a bias: A b + t); ``h{linear:1}`` holds *vectors* (the
    rows of a kernel: A w); ``h*`` or ``h{linear:-1}`` covectors (inverse transpose of A). An axis of size
    n + 1 holds homogeneous coordinates, last one 1: ``h{homogeneous:1}`` or, for the kernel that reads the
    units together with its own bias as last row, ``h{homogeneous:-1}``: the bias absorbs the shift.
    Sampled with A as in ``GeneralLinear`` and t standard normal.
    """

    n: int

    def __post_init__(self):
        check_size(self.n, "Affine")

    @property
    def dimension(self) -> int:
        return self.n * (self.n + 1)

    @property
    def is_linear(self) -> bool:
        return False

    def compact(self) -> Orthogonal:
        return Orthogonal(self.n)

    def axis_size(self, space: int, weight: tuple[str, int]) -> int:
        return self.n + (weight[0] == "homogeneous")

    def weight(self, space: int, exponent: Exponent) -> tuple[str, int]:
        power = exponent.uniform
        if power in (1, -1):
            return ("point", 1) if power == 1 else ("linear", -1)
        (name, power), *more = [(t.name, t.power) for t in exponent.terms]
        if not more and name in ("linear", "homogeneous") and power in (1, -1):
            return name, int(power)
        raise ValueError(
            f"{self} acts with exponent 1, -1, {{linear:±1}} or {{homogeneous:±1}}, got {exponent}"
        )

    def dual(self, space: int, weight: tuple[str, int]) -> tuple[str, int]:
        name, power = weight
        return ("linear" if name == "point" else name, -power)

    def adds_constant(self, space: int, weight: tuple[str, int]) -> bool:
        return weight[0] == "point"

    def identity(self, dtype=None) -> AffineElement:
        dtype = _arrays.float_dtype(dtype)
        return AffineElement(jnp.eye(self.n, dtype=dtype), jnp.zeros((self.n,), dtype))

    def sample(self, key: Array, dtype=None) -> AffineElement:
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

    def contains(self, g: AffineElement, tolerance: float = 1e-5) -> Array:
        return GeneralLinear(self.n).contains(g.linear) & Translation(self.n).contains(g.shift)

    def act_slots(self, g: AffineElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            name, power = slot.weight
            h = g if power == 1 else self.inverse(g)
            matrix = homogeneous(h, 1.0) if name == "homogeneous" else h.linear
            x = _arrays.transform(matrix if power == 1 else matrix.T, x, slot.axis)
            if name == "point":
                x = add_along(g.shift, x, slot.axis)
        return x

    def algebra_zero(self, dtype=None) -> AffineElement:
        return AffineElement(jnp.zeros((self.n, self.n), dtype), jnp.zeros((self.n,), dtype))

    def algebra_sample(self, key: Array, dtype=None) -> AffineElement:
        linear, shift = jax.random.split(key)
        return AffineElement(
            GeneralLinear(self.n).algebra_sample(linear, dtype),
            Translation(self.n).algebra_sample(shift, dtype),
        )

    def exp(self, xi: AffineElement) -> AffineElement:
        return _split(jax.scipy.linalg.expm(homogeneous(xi, 0.0)))

    def log(self, g: AffineElement) -> AffineElement:
        return _split(_arrays.log_matrix(homogeneous(g, 1.0)))

    def tangent_slots(self, xi: AffineElement, x: Array, slots: tuple[Slot, ...]) -> Array:
        total = jnp.zeros_like(x)
        for slot in slots:
            name, power = slot.weight
            matrix = homogeneous(xi, 0.0) if name == "homogeneous" else xi.linear
            total = total + _arrays.transform(matrix if power == 1 else -matrix.T, x, slot.axis)
            if name == "point":
                total = add_along(xi.shift, total, slot.axis)
        return total

    def isotypic(self, weight: tuple[str, int] = ("linear", 1), space: int = 0) -> tuple[Isotypic, ...]:
        """Of the linear part."""
        if weight[0] == "homogeneous":
            raise TypeError(f"{self}: the homogeneous representation is not completely reducible")
        return (vector_component(self.n),)

    def __str__(self) -> str:
        return f"Aff({self.n})"


def add_along(shift: Array, x: Array, axis: int) -> Array:
    """``x`` plus a vector along ``axis``, in the working dtype, returned in the dtype of ``x``."""
    dtype = _arrays.working_dtype(x.dtype)
    return (x.astype(dtype) + _arrays.along(shift.astype(dtype), axis, x.ndim)).astype(x.dtype)


def homogeneous(g: AffineElement, corner: float) -> Array:
    """[[linear, shift], [0, corner]], shape (n + 1, n + 1)."""
    top = jnp.concatenate([g.linear, g.shift[:, None]], axis=1)
    bottom = jnp.zeros_like(top[:1]).at[0, -1].set(corner)
    return jnp.concatenate([top, bottom])


def _split(matrix: Array) -> AffineElement:
    return AffineElement(matrix[:-1, :-1], matrix[:-1, -1])
