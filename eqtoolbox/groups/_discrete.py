"""Groups without a Lie algebra: the trivial group, permutations, sign flips."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._base import (
    Group,
    Isotypic,
    Slot,
    all_true,
    check_size,
    permutation_components,
    trivial_components,
    unit_components,
)
from eqtoolbox.groups._exponent import Exponent


@dataclass(frozen=True)
class Trivial(Group):
    """The group of one element on a space of ``n`` units: a fixed axis with a name.

    Its element is the empty tuple. As the outer group of a wreath product it gives a direct power.
    """

    n: int

    def __post_init__(self):
        check_size(self.n, "Trivial")

    @property
    def order(self) -> int:
        return 1

    def weight(self, space: int, exponent: Exponent) -> None:
        return None

    def is_still(self, space: int) -> bool:
        return True

    def fixes_constants(self, space: int, weight: None) -> bool:
        return True

    def identity(self, dtype=None) -> tuple:
        return ()

    def sample(self, key: Array, dtype=None) -> tuple:
        return ()

    def compose(self, a: tuple, b: tuple) -> tuple:
        return ()

    def inverse(self, g: tuple) -> tuple:
        return ()

    def contains(self, g: tuple, tolerance: float = 1e-5) -> Array:
        return jnp.asarray(g == ())

    def act_slots(self, g: tuple, x: Array, slots: tuple[Slot, ...]) -> Array:
        return x

    def permutation(self, g: tuple) -> Array:
        """The index vector of an element: the identity."""
        return jnp.arange(self.n)

    def isotypic(self, weight=None, space: int = 0) -> tuple[Isotypic, ...]:
        return trivial_components(self.n)

    def _elements(self) -> tuple:
        return ()

    def __str__(self) -> str:
        return f"1({self.n})"


@dataclass(frozen=True)
class Permutation(Group):
    """The symmetric group S(n). An element is an index vector p, shape (n,), acting as ``new = old[p]``.

    Sampled uniformly. The vector representation is trivial plus standard; exponents are ignored, since the
    representation is orthogonal.
    """

    n: int

    def __post_init__(self):
        check_size(self.n, "Permutation")

    @property
    def order(self) -> int:
        return math.factorial(self.n)

    def weight(self, space: int, exponent: Exponent) -> None:
        return None

    def fixes_constants(self, space: int, weight: None) -> bool:
        return True

    def identity(self, dtype=None) -> Array:
        return jnp.arange(self.n)

    def sample(self, key: Array, dtype=None) -> Array:
        return jax.random.permutation(key, self.n)

    def compose(self, a: Array, b: Array) -> Array:
        return b[a]

    def inverse(self, g: Array) -> Array:
        return invert_permutation(g)

    def contains(self, g: Array, tolerance: float = 1e-5) -> Array:
        return is_permutation(g, self.n)

    def act_slots(self, g: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            x = _arrays.permute(g, x, slot.axis)
        return x

    def permutation(self, g: Array) -> Array:
        """The index vector of an element: itself."""
        return g

    def isotypic(self, weight=None, space: int = 0) -> tuple[Isotypic, ...]:
        return permutation_components(self.n)

    def _elements(self) -> Array:
        return jnp.asarray(list(itertools.permutations(range(self.n))), jnp.arange(1).dtype)

    def __str__(self) -> str:
        return f"S({self.n})"


@dataclass(frozen=True)
class SignFlip(Group):
    """The group Z_2^n of sign flips without permutations. An element is an int8 vector of +1 and -1.

    An exponent is read by its parity: an even one is not flipped. Sampled uniformly.
    """

    n: int

    def __post_init__(self):
        check_size(self.n, "SignFlip")

    @property
    def order(self) -> int:
        return 2**self.n

    def weight(self, space: int, exponent: Exponent) -> bool:
        power = exponent.uniform
        if power is None:
            raise ValueError(f"{self} takes one exponent, got {exponent}")
        return odd(power)

    def fixes_constants(self, space: int, weight: bool) -> bool:
        return not weight

    def identity(self, dtype=None) -> Array:
        return jnp.ones((self.n,), jnp.int8)

    def sample(self, key: Array, dtype=None) -> Array:
        return jax.random.rademacher(key, (self.n,), jnp.int8)

    def compose(self, a: Array, b: Array) -> Array:
        return a * b

    def inverse(self, g: Array) -> Array:
        return g

    def contains(self, g: Array, tolerance: float = 1e-5) -> Array:
        return all_true(jnp.abs(g) == 1) & jnp.asarray(jnp.shape(g) == (self.n,))

    def act_slots(self, g: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            if slot.weight:
                x = _arrays.multiply(_arrays.along(g, slot.axis, x.ndim), x)
        return x

    def permutation(self, g: Array) -> Array:
        """The index vector of an element: the identity."""
        return jnp.arange(self.n)

    def isotypic(self, weight: bool = True, space: int = 0) -> tuple[Isotypic, ...]:
        return unit_components(self.n) if weight else trivial_components(self.n)

    def _elements(self) -> Array:
        return jnp.asarray(list(itertools.product((1, -1), repeat=self.n)), jnp.int8)

    def __str__(self) -> str:
        return f"Z₂^{self.n}"


def odd(power) -> bool:
    """The parity of a rational power with an odd denominator: whether (-1)**power is -1.

    Raises:
      ValueError: the denominator is even, so the power of a negative number is not real.
    """
    if power.denominator % 2 == 0:
        raise ValueError(f"a sign has no real power {power}: the denominator must be odd")
    return power.numerator % 2 == 1


def invert_permutation(p: Array) -> Array:
    """The inverse of an index vector."""
    return jnp.zeros_like(p).at[p].set(jnp.arange(p.shape[-1], dtype=p.dtype), unique_indices=True)


def is_permutation(p: Array, n: int) -> Array:
    """Whether ``p`` holds each of 0 .. n-1 once."""
    p = jnp.asarray(p)
    if p.shape != (n,) or not jnp.issubdtype(p.dtype, np.integer):
        return jnp.asarray(False)
    return jnp.all(jnp.sort(p) == jnp.arange(n, dtype=p.dtype))
