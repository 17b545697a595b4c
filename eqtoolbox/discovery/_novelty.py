"""What of the symmetries found is new: not in the span of known generators, or not along known orbits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array

from eqtoolbox.discovery._families import Family, check_family, check_fits, is_real, real_leaves
from eqtoolbox.discovery._null_space import NullSpace, probe_rows
from eqtoolbox.linalg import Rank, float64, rank_from_singular_values
from eqtoolbox.symmetry import Symmetry

Params = Any

#: Relative size below which what is left of a generator after projection is rounding.
_FLOOR = 1e-9


@dataclass(frozen=True)
class Novelty:
    """Symmetries found compared with known ones.

    Attributes:
      new: how many dimensions of the span found are not in the span of the known generators.
      rank: the ``linalg.Rank`` that decides ``new``.
      directions: coefficients of these, shape (new, m), orthogonal to all found that is known.
      share: for each generator of ``NullSpace.basis`` the part of its size outside the known span, in [0, 1].
      known: the dimension of the known algebra.
      unseen: how many dimensions of it were not found.
      off_orbit: how many directions at a point leave the known orbit: 0 where new generators are combinations of
        known ones with coefficients that depend on θ.
    """

    new: int
    rank: Rank = field(repr=False)
    directions: np.ndarray = field(repr=False)
    share: np.ndarray = field(repr=False)
    known: int
    unseen: int
    off_orbit: int


def novelty(
    found: NullSpace, known: Symmetry | Family, params: Params, inputs: Any = None, *, key: Array
) -> Novelty:
    """Projects the symmetries found on the span of known generators: what is left is new.

    Both are paired with the same random vectors at the same random points, more of them than generators.

    Args:
      found: from ``null_space``.
      known: a symmetry, or any family.
      params: the parameters θ, for their scale.
      inputs: X, for families that depend on data.
      key: a typed key.

    Returns:
      The comparison, for constant coefficients (``new``) and at a point (``off_orbit``).

    Raises:
      TypeError: ``known`` is neither a symmetry nor a family, or discrete.
      ValueError: one of the families does not fit the parameters or ``inputs``.
    """
    other = check_family(known, "novelty")
    k = found.dimension
    inputs = np.zeros((1,)) if inputs is None else inputs
    for family in (found.family, other):
        check_fits(family, params, inputs)
    point = _generic(params, key)
    with float64(params, inputs, point) as (p, x, point):
        k_field, k_point = jax.random.split(key)
        count = k + other.dimension + 16
        # not in the readable basis, in which small entries have been dropped
        probed = probe_rows(found.family, p, x, k_field, count, 1.0, 0.0)
        ours = probed @ found.vectors.T
        theirs = probe_rows(other, p, x, k_field, count, 1.0, 0.0)
        count = min(count, sum(np.size(leaf) for leaf in real_leaves(p)) + 16)
        here = probe_rows(found.family, point, x, k_point, count, 0.0, 1.0) @ found.vectors.T
        orbit = probe_rows(other, point, x, k_point, count, 0.0, 1.0)
    sizes = np.linalg.norm(ours, axis=0)
    span, dimension = _column_space(theirs)
    left = (ours - span @ (span.T @ ours)) / np.where(sizes > 0, sizes, 1)
    rank, turned = _rank_of(left)
    directions = np.linalg.qr((turned[: int(rank.rank)] @ found.vectors).T)[0].T
    tangent, _ = _column_space(orbit)
    scale = np.linalg.norm(here, axis=0)
    off, _ = _rank_of((here - tangent @ (tangent.T @ here)) / np.where(scale > 0, scale, 1))
    new = int(rank.rank)
    each = probed @ found.basis.T
    size = np.linalg.norm(each, axis=0)
    share = np.linalg.norm(each - span @ (span.T @ each), axis=0) / np.where(size > 0, size, 1)
    return Novelty(new, rank, directions, share, dimension, dimension - (k - new), int(off.rank))


def _generic(params: Params, key: Array) -> Params:
    """Random parameters of the scale of each leaf, drawn by NumPy: nothing to compile."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.clone(key))))

    def leaf(x: Any) -> Any:
        if not is_real(x):
            return x
        x = np.asarray(x)
        size = np.sqrt(np.mean(x.astype(np.float64) ** 2)) if x.size else 0.0
        return (size if size > 0 else 1.0) * rng.normal(size=x.shape)

    return jax.tree.map(leaf, params)


def _column_space(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    norms = np.linalg.norm(matrix, axis=0)
    u, values, _ = np.linalg.svd(matrix / np.where(norms > 0, norms, 1), full_matrices=False)
    rank = int(rank_from_singular_values(values, noise=_FLOOR).rank) if values.size else 0
    return u[:, :rank], rank


def _rank_of(left: np.ndarray) -> tuple[Rank, np.ndarray]:
    """The rank of columns that were of unit size: absolute, as nothing may be left of any."""
    if not left.shape[1]:
        return rank_from_singular_values(np.zeros(0)), np.zeros((0, 0))
    _, values, turned = np.linalg.svd(left, full_matrices=False)
    if values[0] < _FLOOR:
        return rank_from_singular_values(np.zeros(1)), turned
    return rank_from_singular_values(values, noise=_FLOOR), turned
