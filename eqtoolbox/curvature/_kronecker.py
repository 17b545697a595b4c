"""Kronecker factors of a curvature on the pieces of the isotypic components, and their damped inverse.

On a piece with m copies of an irreducible on units d₁ × … × d_k, a sample of the curvature has coordinates X of shape
(m, d₁, …, d_k), and the curvature is modelled as M ⊗ N₁ ⊗ … ⊗ N_k, as in ``_whitening``. Here the eigenpairs of the
factors are kept, not roots: (M ⊗ N₁ ⊗ … + λ)^{-1} is then exact for every damping λ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.curvature._commutant import Commutant
from eqtoolbox.curvature._components import Component
from eqtoolbox.curvature._rows import HIGHEST, gram
from eqtoolbox.curvature._whitening import Factors, Units, unit_name, zeros
from eqtoolbox.symmetry import Symmetry


class Eigen(NamedTuple):
    """Eigenvalues and eigenvectors of factors.

    Attributes:
      values: of each factor.
      vectors: of each, as columns.
    """

    values: Factors
    vectors: Factors


@dataclass(frozen=True, eq=False)
class Pieces:
    """The components of a commutant, or what each of them has on every leaf.

    Attributes:
      com: the commutant.
      parts: components with the copies of one piece each, in the order of the copies.
      owners: the name of the component that each part is of.
      units: which axes of the units have factors.
    """

    com: Commutant
    parts: tuple[Component, ...]
    owners: tuple[str, ...]
    units: Units

    @classmethod
    def of(cls, com: Commutant, units: Units, couple: bool) -> Pieces:
        """One piece for each component if ``couple``, otherwise for each leaf that it is on."""
        parts, owners = [], []
        for c in com.components:
            for path, run in itertools.groupby(c.members, lambda m: "" if couple else m.path):
                members = tuple(run)
                name = f"{c.name} of {path}" if path else c.name
                own = tuple(replace(m, start=m.start - members[0].start) for m in members)
                parts.append(replace(c, name=name, multiplicity=sum(m.count for m in own), members=own))
                owners.append(c.name)
        return cls(com, tuple(parts), tuple(owners), units)

    def start(self) -> tuple[Factors, Eigen]:
        """Factors of nothing, and eigenpairs of the same shapes."""
        found = zeros(self.parts, self.units)
        return found, Eigen(jax.tree.map(lambda x: x[..., 0], found), jax.tree.map(jnp.copy, found))

    def rows(self, coordinates: dict[str, Array]) -> dict[str, Array]:
        """The coordinates of each piece, (..., *family, m, D), from those of the components."""
        found, taken = {}, dict.fromkeys(coordinates, 0)
        for c, owner in zip(self.parts, self.owners, strict=True):
            first, last = taken[owner], taken[owner] + c.multiplicity
            found[c.name] = coordinates[owner][..., first:last, :]
            taken[owner] = last
        return found

    def components(self, rows: dict[str, Array]) -> dict[str, Array]:
        """Undoes ``rows``."""
        lists: dict[str, list[Array]] = {}
        for c, owner in zip(self.parts, self.owners, strict=True):
            lists.setdefault(owner, []).append(rows[c.name])
        return {owner: jnp.concatenate(parts, -2) for owner, parts in lists.items()}

    def learn(
        self,
        factors: Factors,
        samples: dict[str, Array],
        mix: Callable[[Array, Array], Array],
        weight: Array,
        floor: float | Array,
    ) -> tuple[Factors, Eigen]:
        """Factors with new samples, and their eigenpairs.

        Args:
          factors: before.
          samples: coordinates (s, *family, m, D) of s samples of the components.
          mix: the new factor, from the old one and what the samples say.
          weight: of all samples in the new factors.
          floor: share of the largest eigenvalue that is added to all where a factor whitens.

        Returns:
          The factors, not divided by the weight, and the eigenpairs; those of the N have a mean eigenvalue of 1.
        """
        found = Factors({}, {})
        values, vectors = Factors({}, {}), Factors({}, {})
        for c in self.parts:
            x = self.rows(samples)[c.name]
            count, name = len(x), c.name
            own = mix(factors.copies[name], jnp.mean(gram(x), 0) / c.dimension)
            w, v = _eigh(own / weight)
            found.copies[name], values.copies[name], vectors.copies[name] = own, w, v
            x = jnp.matmul(v.mT[None], x, precision=HIGHEST) / _root(w, floor)[None, ..., None]
            for i in self.units.axes(c):
                name = unit_name(c, i)
                rows = jnp.moveaxis(_split(c, x, i), 1, 0).reshape(c.shape[i], -1)
                own = mix(factors.units[name], gram(rows) * (c.shape[i] / (c.size * count)))
                trace = jnp.trace(own)
                w, v = _eigh(own * jnp.where(trace > 0, c.shape[i] / jnp.where(trace > 0, trace, 1), 0))
                found.units[name], values.units[name], vectors.units[name] = own, w, v
                x = _along(c, v / _root(w, floor)[None], x, i)
        return found, Eigen(values, vectors)

    def solve(
        self, eigen: Eigen, coordinates: dict[str, Array], damping: Array, floor: float | Array
    ) -> dict[str, Array]:
        """(M ⊗ N₁ ⊗ … + λ + floor · its largest eigenvalue)^{-1} on the coordinates of every piece."""
        found = {}
        for c, x in ((c, self.rows(coordinates)[c.name]) for c in self.parts):
            axes = self.units.axes(c)
            v = eigen.vectors.copies[c.name]
            y = jnp.matmul(v.mT, x, precision=HIGHEST)
            all_values = eigen.values.copies[c.name]
            for i in range(len(c.shape)):
                w = eigen.values.units[unit_name(c, i)] if i in axes else jnp.ones(c.shape[i], y.dtype)
                all_values = all_values[..., None] * w.reshape((1,) * all_values.ndim + w.shape)
            for i in axes:
                y = _along(c, eigen.vectors.units[unit_name(c, i)], y, i)
            damped = all_values.reshape(x.shape) + (damping + floor * jnp.max(all_values))
            y = jnp.where(damped > 0, y / jnp.where(damped > 0, damped, 1), 0)
            for i in axes:
                y = _along(c, eigen.vectors.units[unit_name(c, i)].T, y, i)
            found[c.name] = c.project(jnp.matmul(v, y, precision=HIGHEST))
        return self.components(found)


def pieces(sym: Symmetry, params: object, units: Units, couple: bool, diagonal_above: int | None) -> Pieces:
    """The pieces of the parameters."""
    return Pieces.of(Commutant(sym, params, diagonal_above=diagonal_above), units, couple)


def _eigh(matrix: Array) -> tuple[Array, Array]:
    if matrix.shape[-1] == 1:
        return jnp.maximum(matrix[..., 0], 0), jnp.ones_like(matrix)
    w, v = jnp.linalg.eigh(matrix)
    return jnp.maximum(w, 0), v


def _root(w: Array, floor: float | Array) -> Array:
    """√(w + floor · the largest); infinite where all are 0."""
    damped = w + floor * w[..., -1:]
    return jnp.where(damped > 0, jnp.sqrt(jnp.where(damped > 0, damped, 1)), jnp.inf)


def _split(c: Component, x: Array, axis: int) -> Array:
    """Coordinates (..., D) as (rest, d_axis, after)."""
    return x.reshape(-1, c.shape[axis], math.prod(c.shape[axis + 1 :]))


def _along(c: Component, matrix: Array, x: Array, axis: int) -> Array:
    """matrixᵀ along one axis of the units."""
    y = jnp.einsum("bsa,st->bta", _split(c, x, axis), matrix, precision=HIGHEST)
    return y.reshape(x.shape)
