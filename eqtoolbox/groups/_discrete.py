"""Groups without a Lie algebra: the trivial group, permutations, sign flips."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._base import Group, Slot, UnitGroup, single_power
from eqtoolbox.groups._exponent import Exponent
from eqtoolbox.groups._isotypic import Isotypic, permutation_components, trivial_component, unit_components


@dataclass(frozen=True)
class Trivial(UnitGroup):
    """The group of one element on a space of ``n`` units: a fixed axis with a name.

    Its element is the empty tuple. As the outer group of a wreath product it gives a direct power.

    Attributes:
      n: the number of units.
    """

    n: int

    @property
    def order(self) -> int:
        return 1

    def weight(self, space: int, exponent: Exponent) -> None:
        return None

    def is_still(self, space: int) -> bool:
        return True

    def fixes_constants(self, space: int, weight: None) -> bool:
        return True

    def identity(self, dtype: DTypeLike | None = None) -> tuple:
        return ()

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> tuple:
        return ()

    def compose(self, a: tuple, b: tuple) -> tuple:
        return ()

    def inverse(self, g: tuple) -> tuple:
        return ()

    def _contains(self, g: tuple, tolerance: float) -> Array:
        return jnp.asarray(True)

    def _act(self, g: tuple, x: Array, slots: tuple[Slot, ...]) -> Array:
        return x

    def _isotypic(self, weight: None) -> tuple[Isotypic, ...]:
        return (trivial_component(self.n),)

    def _elements(self) -> tuple:
        return ()

    def __str__(self) -> str:
        return f"1({self.n})"


@dataclass(frozen=True)
class Permutation(UnitGroup):
    """The symmetric group S(n). An element is an index vector p, shape (n,), acting as ``new = old[p]``.

    Sampled uniformly. The vector representation is trivial plus standard; exponents are ignored, since the
    representation is orthogonal. The products and inverses of index vectors that are no permutations are
    index vectors that read NaN where they are not defined.

    Attributes:
      n: the number of units.
    """

    n: int

    @property
    def order(self) -> int:
        return math.factorial(self.n)

    def weight(self, space: int, exponent: Exponent) -> None:
        return None

    def fixes_constants(self, space: int, weight: None) -> bool:
        return True

    def identity(self, dtype: DTypeLike | None = None) -> Array:
        return jnp.arange(self.n)

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        return jax.random.permutation(key, self.n)

    def compose(self, a: Array, b: Array) -> Array:
        return _arrays.permute(a, b, 0)

    def inverse(self, g: Array) -> Array:
        return invert_permutation(g)

    def _contains(self, g: Array, tolerance: float) -> Array:
        return is_permutation(g)

    def _act(self, g: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            x = _arrays.permute(g, x, slot.axis)
        return x

    def permutation(self, g: Array) -> Array:
        return g

    def _isotypic(self, weight: None) -> tuple[Isotypic, ...]:
        return permutation_components(self.n)

    def _elements(self) -> Array:
        return jnp.asarray(list(itertools.permutations(range(self.n))), jnp.arange(1).dtype)

    def __str__(self) -> str:
        return f"S({self.n})"


@dataclass(frozen=True)
class SignFlip(UnitGroup):
    """The group Z_2^n of sign flips without permutations. An element is an int8 vector of +1 and -1.

    An exponent is read by its parity: an even one is not flipped. Sampled uniformly.

    Attributes:
      n: the number of units.
    """

    n: int

    @property
    def order(self) -> int:
        return 2**self.n

    def weight(self, space: int, exponent: Exponent) -> bool:
        return is_odd(self, single_power(self, exponent))

    def fixes_constants(self, space: int, weight: bool) -> bool:
        return not weight

    def identity(self, dtype: DTypeLike | None = None) -> Array:
        return jnp.ones((self.n,), jnp.int8)

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        return jax.random.rademacher(key, (self.n,), jnp.int8)

    def compose(self, a: Array, b: Array) -> Array:
        return a * b

    def inverse(self, g: Array) -> Array:
        return g

    def _contains(self, g: Array, tolerance: float) -> Array:
        return jnp.all(jnp.abs(g) == 1)

    def _act(self, g: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            if slot.weight:
                x = _arrays.multiply(_arrays.along(g, slot.axis, x.ndim), x)
        return x

    def _isotypic(self, weight: bool) -> tuple[Isotypic, ...]:
        return unit_components(self.n) if weight else (trivial_component(self.n),)

    def _elements(self) -> Array:
        return jnp.asarray(list(itertools.product((1, -1), repeat=self.n)), jnp.int8)

    def __str__(self) -> str:
        return f"Z₂^{self.n}"


def is_odd(group: Group, power: Fraction) -> bool:
    """The parity of a rational power with an odd denominator: whether (-1)**power is -1.

    Raises:
      ValueError: the denominator is even, so the power of a negative number is not real.
    """
    if power.denominator % 2 == 0:
        raise ValueError(f"{group}: a sign has no real power {power}, the denominator must be odd")
    return power.numerator % 2 == 1


def invert_permutation(p: Array) -> Array:
    """The inverse of an index vector; where it has none, an index out of range."""
    n = p.shape[-1]
    empty = jnp.full_like(p, n)
    return empty.at[p].set(jnp.arange(n, dtype=p.dtype), mode="drop", unique_indices=True)


def is_permutation(p: Array) -> Array:
    """Whether a vector of length n holds each of 0 .. n-1 once."""
    if not jnp.issubdtype(p.dtype, jnp.integer):
        return jnp.asarray(False)
    return jnp.all(jnp.sort(p) == jnp.arange(p.shape[-1], dtype=p.dtype))
