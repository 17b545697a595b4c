"""What becomes of the state of ``scale_by_symmetry`` when its parameters are moved along an orbit."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.curvature._commutant import Commutant
from eqtoolbox.curvature._components import Component
from eqtoolbox.curvature._rows import HIGHEST
from eqtoolbox.curvature._symo import ScaleBySymmetryState
from eqtoolbox.curvature._whitening import Factors, unit_name
from eqtoolbox.symmetry import Symmetry, carry_state, is_masked

#: The default of ``scale_by_symmetry``.
DIAGONAL_ABOVE = 1024


@carry_state.register
def carry_whitener(state: ScaleBySymmetryState, motion: Any, fresh: Any) -> Any:
    """Moves the state where that is exact: under elements of a compact group.

    These act orthogonally, so that gradients and whitened directions move alike. On a component they act by the
    identity on copies and by matrices R on units: the factors M commute with them and stay, N becomes R N Rᵀ, and so
    do the roots. A step then commutes with the move. A scaling or an element of GL takes M ⊗ N to what is no such
    product, so that there, as where the state is that of another symmetry, it is made anew.

    Args:
      state: before the move.
      motion: an ``orbits.Motion``.
      fresh: the state of an optimizer that starts at the new parameters.

    Returns:
      A state.
    """
    sym = motion.sym
    if not isinstance(sym, Symmetry) or not all(f.group.is_compact for f in sym.factors):
        return fresh
    if any(is_masked(leaf) for leaf in jax.tree.leaves(motion.before, is_leaf=is_masked)):
        return fresh
    com = Commutant(sym, motion.before, diagonal_above=DIAGONAL_ABOVE)
    blocks = {c.name: (*c.family, c.multiplicity, c.multiplicity) for c in com.components}
    if blocks != {name: jnp.shape(m) for name, m in state.symo_factors.copies.items()}:
        return fresh
    turns = {}
    for c in com.components:
        for i, size in enumerate(c.shape):
            name = unit_name(c, i)
            if name in state.symo_factors.units:
                if not _is_product(c) or state.symo_factors.units[name].shape != (size, size):
                    return fresh
                turns[name] = _turn(com, c, i, motion)
    if turns.keys() != state.symo_factors.units.keys():
        return fresh

    def turned(factors: Factors) -> Factors:
        new = {k: _product(_product(turns[k], n), turns[k].T) for k, n in factors.units.items()}
        return Factors(factors.copies, new)

    momentum = state.symo_momentum
    return state._replace(
        symo_factors=turned(state.symo_factors),
        symo_roots=turned(state.symo_roots),
        symo_momentum=momentum if isinstance(momentum, tuple) and not momentum else motion.covector(momentum),
    )


def _is_product(c: Component) -> bool:
    """Whether the irreducible is a product of vectors, or of those that sum to 0, one for each axis of the units."""
    sizes = {1}
    for n in c.shape:
        sizes = {s * m for s in sizes for m in (n, n - 1)}
    return not c.family and c.dimension in sizes


def _turn(com: Commutant, c: Component, axis: int, motion: Any) -> Array:
    """The matrix R by which the element acts on one axis of the units, up to its sign.

    Of e ⊗ v it makes R e ⊗ R'v, for each unit vector e and one v of the other axes: the product with R'v is left.
    """
    others = [n for i, n in enumerate(c.shape) if i != axis]
    v = jax.random.normal(jax.random.key(axis), others)
    zeros = {d.name: jnp.zeros((*d.family, d.multiplicity, math.prod(d.shape))) for d in com.components}
    like = jax.tree.map(lambda w: jnp.zeros(jnp.shape(w)), motion.before)

    def image(e: Array) -> Array:
        rows = jnp.moveaxis(jnp.tensordot(e, v, 0), 0, axis).reshape(1, -1)
        x = c.project(zeros[c.name].at[:1].set(rows))
        moved = motion.covector(com.from_coordinates({**zeros, c.name: x}, like))
        found = com.coordinates(moved)[c.name][0].reshape(c.shape)
        return jnp.moveaxis(found, axis, 0).reshape(c.shape[axis], -1)

    images = jax.lax.map(image, jnp.eye(c.shape[axis]))  # unit vectors, entries, other axes
    whole = images.reshape(-1, images.shape[-1])
    common = jnp.linalg.eigh(_product(whole.T, whole))[1][:, -1]
    turn = jnp.matmul(images, common, precision=HIGHEST).T
    # R keeps lengths, of all vectors or of those that sum to 0: its singular values are 1, or 1 and 0.
    gram = _product(turn, turn.T)
    return turn / jnp.sqrt(jnp.sum(gram**2) / jnp.trace(gram))


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=HIGHEST)
