"""Orbits: their dimension at a point, and the parts of a vector along and across them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.linalg import Rank, basis, numerical_rank, ravel_stack, tree_norm, tree_vdot, while_loop
from eqtoolbox.symmetry._paths import common_dtype, moving_leaves, replace_moving
from eqtoolbox.symmetry._symmetry import Params, Symmetry, Vector, check_symmetry

#: Largest number of entries of the matrix of generators that is formed.
DENSE_LIMIT = 2**28


def generator_matrix(sym: Symmetry, params: Params, batch_size: int = 64) -> Array:
    """The characteristic directions of all generators, as a dense matrix: for small models.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ, p numbers.
      batch_size: how many generators are computed at a time.

    Returns:
      Shape (dimension, p); columns in the order of ``jax.flatten_util.ravel_pytree(params)``, rows in that of
      an algebra vector.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
      ValueError: the matrix would have more than ``DENSE_LIMIT`` entries.
    """
    check_symmetry(sym, "generator_matrix")
    sym.zero_algebra()  # refuses discrete ones
    entries = sym.dimension * optax.tree.size(params)
    if entries > DENSE_LIMIT:
        raise ValueError(
            f"the matrix of {sym.dimension} generators on {optax.tree.size(params)} parameters has more than "
            f"{DENSE_LIMIT} entries: restrict the symmetry to some of its spaces"
        )
    return _generator_rows(sym, params, batch_size)


@partial(jax.jit, static_argnums=(0, 2))
def _generator_rows(sym: Symmetry, params: Params, batch_size: int) -> Array:
    """Compiled once for all parameters of the same shapes."""
    zero = sym.zero_algebra()
    return ravel_stack(jax.lax.map(lambda xi: sym.generator(xi, params), basis(zero), batch_size=batch_size))


def orbit_dimension(sym: Symmetry, params: Params, *, full: bool = False) -> int | Rank:
    """The dimension of the orbit through θ: the rank of the linear map ξ -> X(θ) ξ (DA-T11).

    It is the group dimension minus that of the stabiliser of θ. The rank is read off the singular values in
    float64 where the parameters are.

    Args:
      sym: the symmetry; a discrete one has orbits of dimension 0.
      params: the parameters θ.
      full: return the ``linalg.Rank`` with the singular values and their gap.

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: as for ``generator_matrix``.
    """
    check_symmetry(sym, "orbit_dimension")
    size = optax.tree.size(params)
    matrix = np.zeros((0, size)) if sym.is_discrete else np.asarray(generator_matrix(sym, params))
    rank = numerical_rank(matrix)
    return rank if full else int(rank.rank)


class Split(NamedTuple):
    """A tangent vector v = orbit + normal.

    Attributes:
      orbit: the part in the span of the generators, a pytree like the parameters.
      normal: the rest, orthogonal to the orbit.
      coordinates: the algebra vector of least norm with generator(coordinates, θ) = orbit.
    """

    orbit: Params
    normal: Params
    coordinates: Vector


class SplitInfo(NamedTuple):
    """How the split was reached.

    Attributes:
      iterations: of CGLS.
      residual: |Xᵀ normal| / (|X| |v|), |X| the largest stretch seen: how far the normal part is from
        orthogonal to the orbit.
      converged: whether the residual met the tolerance.
    """

    iterations: Array
    residual: Array
    converged: Array


def split(
    sym: Symmetry,
    params: Params,
    vector: Params,
    *,
    tolerance: float | None = None,
    max_iterations: int = 500,
) -> tuple[Split, SplitInfo]:
    """Splits a tangent vector, such as a gradient, into its parts along and across the orbit of θ.

    Least squares min |X ξ - v| over algebra vectors ξ by CGLS, matrix-free: one generator and one transpose an
    iteration. The orbit part of the gradient of an invariant function vanishes: then no iteration is needed, and
    the orbit part returned is exactly 0. Leaves of integers do not move and have both parts 0.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      vector: a pytree like ``params``, v.
      tolerance: on ``SplitInfo.residual``; 1e-5 in float32 and 1e-12 in float64 by default.
      max_iterations: stops there, converged or not.

    Returns:
      The split and how it was reached.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
      ValueError: ``vector`` has other leaves or shapes than ``params``.
    """
    check_symmetry(sym, "split")
    forward, transpose = sym.tangent_map(params)
    if tolerance is None:
        tolerance = 1e-12 if common_dtype(params) == jnp.float64 else 1e-5
    moving = moving_leaves(vector, params, "the vector")
    like = moving_leaves(params, params, "the parameters")
    v = [jnp.asarray(a).astype(jnp.result_type(b)) for a, b in zip(moving, like, strict=True)]

    def axpy(a: Array, x: Any, y: Any) -> Any:
        return jax.tree.map(lambda xi, yi: (yi + a * xi).astype(yi.dtype), x, y)

    def safe(a: Array, b: Array) -> Array:
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

    s = transpose(v)
    length = tree_norm(v)

    def stretch(p: Vector, q: list[Array]) -> Array:
        return safe(tree_norm(q), tree_norm(p))

    def proceed(state):
        _, _, _, _, gamma, size, count = state
        return (count < max_iterations) & (jnp.sqrt(gamma) > tolerance * size * length)

    def step(state):
        xi, r, p, s, gamma, size, count = state
        q = forward(p)
        size = jnp.maximum(size, stretch(p, q))
        alpha = safe(gamma, tree_vdot(q, q))
        xi, r = axpy(alpha, p, xi), axpy(-alpha, q, r)
        s = transpose(r)
        new = tree_vdot(s, s)
        return xi, r, axpy(safe(new, gamma), p, s), s, new, size, count + 1

    zero = jax.tree.map(jnp.zeros_like, s)
    state = (zero, v, s, s, tree_vdot(s, s), stretch(s, forward(s)), jnp.asarray(0))
    xi, normal, _, _, gamma, size, count = while_loop(proceed, step, state)
    residual = safe(jnp.sqrt(gamma), size * length)
    orbit = [a - b for a, b in zip(v, normal, strict=True)]
    parts = Split(replace_moving(orbit, params), replace_moving(normal, params), xi)
    return parts, SplitInfo(count, residual, residual <= tolerance)
