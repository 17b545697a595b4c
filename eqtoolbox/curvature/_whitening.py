"""Kronecker factors of a gradient covariance on the isotypic components, and their inverse roots.

On a component with m copies of an irreducible on units d₁ × … × d_k, the coordinates of a gradient are an array
X of shape (m, d₁, …, d_k). The covariance is modelled as M ⊗ N₁ ⊗ … ⊗ N_k. In an invariant ensemble Schur's lemma
makes every N the identity, and leaves M; for a single trained model the N say how far it has broken the symmetry.

Each factor is that of what the factors before it have whitened: M of X, N₁ of M^{-1/2} X, N₂ of
N₁^{-1/2} M^{-1/2} X. So a direction of low rank is whitened once, not on every side of the array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from eqtoolbox.curvature._components import Component
from eqtoolbox.curvature._rows import HIGHEST, gram, product


class Factors(NamedTuple):
    """Matrices of a Kronecker product on each component.

    Attributes:
      copies: for each component M, shape (*family, m, m).
      units: for each component and each axis of its units that is whitened N, shape (d_i, d_i), by "component/i".
    """

    copies: dict[str, Array]
    units: dict[str, Array]


class Units(NamedTuple):
    """Which axes of the units are whitened.

    Attributes:
      largest: those of at most so many units; None for no limit.
      sides: at most so many for each component, those that whiten most first; None for all.
    """

    largest: int | None
    sides: int | None

    def axes(self, component: Component) -> tuple[int, ...]:
        """The axes of a component."""
        most = math.inf if self.largest is None else self.largest
        fit = [i for i, size in enumerate(component.shape) if 1 < size <= most]
        entries = math.prod(component.shape)

        def order(i: int) -> tuple[int, int]:
            size = component.shape[i]
            return -min(
                size, entries // size
            ), size  # the rank that a root on this axis can whiten; then the cost

        return tuple(sorted(fit, key=order)[: self.sides])


def unit_name(component: Component, axis: int) -> str:
    """The key of the factor of one axis of the units."""
    return f"{component.name}/{axis}"


def zeros(components: tuple[Component, ...], units: Units) -> Factors:
    """Factors before the first gradient."""
    found = Factors({}, {})
    for c in components:
        found.copies[c.name] = jnp.zeros((*c.family, c.multiplicity, c.multiplicity))
        for i in units.axes(c):
            found.units[unit_name(c, i)] = jnp.zeros((c.shape[i], c.shape[i]))
    return found


def whiten(
    components: tuple[Component, ...], units: Units, roots: Factors, coordinates: dict[str, Array]
) -> dict[str, Array]:
    """The coordinates, multiplied by every root."""
    found = {}
    for c in components:
        x = product(roots.copies[c.name], coordinates[c.name])
        for i in units.axes(c):
            x = _times_units(c, roots.units[unit_name(c, i)], x, i)
        # Roots of factors without full rank blow up what rounding leaves outside of the irreducible.
        found[c.name] = c.project(x)
    return found


def learn(
    components: tuple[Component, ...],
    units: Units,
    factors: Factors,
    roots: Factors,
    coordinates: dict[str, Array],
    mix: Callable[[str, Array, Array], Array],
    renew: Callable[[Array, Array], Array],
) -> tuple[Factors, Factors]:
    """Factors and roots with one gradient more: each factor is that of what the new roots before it whiten.

    Args:
      components: of the commutant.
      units: which axes of the units are whitened.
      factors: before.
      roots: before.
      coordinates: of the gradient.
      mix: the new factor, from its name, the old one and what the gradient says.
      renew: the new root, from the new factor and the old root.

    Returns:
      The factors and their roots.
    """
    found, made = Factors({}, {}), Factors({}, {})
    for c in components:
        x, name = coordinates[c.name], c.name
        one = gram(x) / c.dimension
        found.copies[name] = mix(name, factors.copies[name], one)
        made.copies[name] = renew(found.copies[name], roots.copies[name])
        x = product(made.copies[name], x)
        for i in units.axes(c):
            name = unit_name(c, i)
            one = _gram_units(c, x, i) * (c.shape[i] / c.size)
            found.units[name] = mix(name, factors.units[name], one)
            made.units[name] = renew(found.units[name], roots.units[name])
            x = _times_units(c, made.units[name], x, i)
    return found, made


def inverse_root(matrix: Array, power: float, damping: float | Array) -> Array:
    """A^power for a positive semidefinite matrix (…, m, m); 0 where A is 0.

    ``damping`` times the largest eigenvalue is added to each.
    """
    if matrix.shape[-1] == 1:
        return _power(matrix, matrix, power, damping)
    w, v = jnp.linalg.eigh(matrix)
    new = _power(jnp.maximum(w, 0), w[..., -1:], power, damping)
    return jnp.matmul(v * new[..., None, :], v.mT, precision=HIGHEST)


def _power(w: Array, largest: Array, power: float, damping: float | Array) -> Array:
    there = largest > float(jnp.finfo(w.dtype).tiny) / float(jnp.finfo(w.dtype).eps)
    return jnp.where(there, (jnp.where(there, w, 1) + damping * jnp.where(there, largest, 1)) ** power, 0)


def _times_units(c: Component, matrix: Array, x: Array, axis: int) -> Array:
    """The product with a symmetric matrix along one axis of the units, of coordinates (*family, m, D)."""
    before, after = _around(c, axis)
    if after == 1:
        return jnp.matmul(x.reshape(-1, c.shape[axis]), matrix, precision=HIGHEST).reshape(x.shape)
    return jnp.matmul(matrix, x.reshape(before, c.shape[axis], after), precision=HIGHEST).reshape(x.shape)


def _gram_units(c: Component, x: Array, axis: int) -> Array:
    """The sum over all other axes of the products of the entries along one axis of the units."""
    before, after = _around(c, axis)
    if after == 1:
        rows = x.reshape(-1, c.shape[axis])
        return jnp.matmul(rows.mT, rows, precision=HIGHEST)
    rows = x.reshape(before, c.shape[axis], after)
    return jnp.sum(jnp.matmul(rows, rows.mT, precision=HIGHEST), 0)


def _around(c: Component, axis: int) -> tuple[int, int]:
    """The numbers of entries before and after an axis of the units."""
    lead = math.prod(c.family) * c.multiplicity
    return lead * math.prod(c.shape[:axis]), math.prod(c.shape[axis + 1 :])
