"""The Krylov step shared by Lanczos, the eigensolver and the quadrature, on flat vectors.

State: orthonormal rows V = (v_0, …, v_m) and T = V A Vᵀ of the first m rows. Step j appends the part of A v_j
orthogonal to all rows (projected out twice: "twice is enough", Parlett 1998) and the column V A v_j of T.
Since T is a full Rayleigh-Ritz projection, any orthonormal start (a thick restart, a second block) is valid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Key

from eqtoolbox.linalg._manual import cond, fori_loop, vary_with
from eqtoolbox.linalg._tree import tree_norm


class Krylov(NamedTuple):
    """An orthonormal basis and the operator projected on it.

    Attributes:
      basis: m + 1 rows; those not reached yet are zero.
      projected: T; only the upper triangle is written.
      residual: β, the norm of the part of A v_{m-1} outside the first m rows.
      scale: the largest ‖A v_j‖ seen, a lower bound of ‖A‖.
      breakdown: the number of steps before the first breakdown (m if there was none).
    """

    basis: Float[Array, "m+1 p"]
    projected: Float[Array, "m m"]
    residual: Float[Array, ""]
    scale: Float[Array, ""]
    breakdown: Int[Array, ""]


def matmul(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """The product of vectors or matrices at full precision."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def project_out(
    vector: Float[Array, " p"], rows: Float[Array, "k p"]
) -> tuple[Float[Array, " p"], Float[Array, " k"]]:
    """``vector`` without its components along orthonormal ``rows``, and these components."""
    first = matmul(rows, vector)
    vector = vector - matmul(first, rows)
    second = matmul(rows, vector)
    return vector - matmul(second, rows), first + second


def normalize(vector: Float[Array, " p"], floor: Any = 0.0) -> Float[Array, " p"]:
    """``vector`` over its norm; zero where the norm is at most ``floor``."""
    norm = tree_norm(vector)
    return jnp.where(norm <= floor, 0, vector / jnp.where(norm <= floor, 1, norm))


def draw_start(key: Key[Array, ""], p: int, dtype: Any) -> tuple[Float[Array, " p"], Float[Array, " p"]]:
    """A random unit vector, and phases for :func:`random_direction` (uniform on the circle to 1e-8)."""
    start, phases = jax.random.normal(key, (2, p), dtype)
    return normalize(start), 2 * jnp.pi * phases


def random_direction(angles: Float[Array, " p"], rows: Float[Array, "k p"]) -> Float[Array, " p"]:
    """A random unit vector orthogonal to ``rows``; zero if they span the space.

    It is cos(n u) before projection, of the ``angles`` n u with phases u and n = 1, 2, … Since
    E[cos(n u) cos(m u)] = δ_nm / 2, directions of different n are uncorrelated, and one draw of phases outside of a
    loop serves all of its steps.
    """
    vector, _ = project_out(normalize(jnp.cos(angles)), rows)
    return normalize(vector, 10 * jnp.finfo(angles.dtype).eps)


def start_krylov(start: Float[Array, " p"], steps: int) -> Krylov:
    """The state of the single row ``start`` (of unit norm) with room for ``steps`` steps."""
    basis = jnp.zeros((steps + 1, start.size), start.dtype).at[0].set(start)
    zero = jnp.zeros((), start.dtype)
    return Krylov(basis, jnp.zeros((steps, steps), start.dtype), zero, zero, jnp.int32(steps))


def extend_krylov(
    matvec: Callable[[Array], Array],
    state: Krylov,
    first: Any = 0,
    phases: Float[Array, " p"] | None = None,
    *,
    offset: Any = 0,
    fresh_row: Any = -1,
) -> Krylov:
    """Steps ``first``, …, m - 1.

    A step *breaks down* when the new direction is rounding: at most 100 ε times the largest ‖A v‖. The rows
    so far then span an invariant subspace. With ``phases`` a random orthogonal direction continues (T is
    then block diagonal, and every Ritz value still belongs to A); without, the remaining rows and columns
    are zero. Row ``fresh_row`` is such a random direction in any case. ``offset`` tells apart the random
    directions of one call from those of another.
    """
    steps = state.projected.shape[0]
    eps = jnp.finfo(state.basis.dtype).eps

    def step(j, state):
        image = matvec(state.basis[j])
        scale = jnp.maximum(state.scale, tree_norm(image))
        rest, column = project_out(image, state.basis)
        beta = tree_norm(rest)
        rounding = 100 * eps * scale
        broken = beta <= rounding
        following = normalize(rest, rounding)
        if phases is not None:
            replaced = broken | (j + 1 == fresh_row)
            angles = vary_with((offset + j + 1) * phases, state.basis)
            fresh = partial(random_direction, angles, state.basis)
            following = cond(replaced, fresh, lambda: following)
        return Krylov(
            state.basis.at[j + 1].set(following),
            state.projected.at[:, j].set(column[:steps]),
            jnp.where(broken, 0, beta),
            scale,
            jnp.where(broken, jnp.minimum(state.breakdown, jnp.int32(j + 1)), state.breakdown),
        )

    return fori_loop(first, steps, step, state)


def ritz_pairs(state: Krylov) -> tuple[Float[Array, " m"], Float[Array, "m m"], Float[Array, " m"]]:
    """Ritz values (ascending), their coordinates in the basis (columns) and residual bounds |β s_{m-1,i}|."""
    upper = jnp.triu(state.projected)
    values, coordinates = jnp.linalg.eigh(upper + jnp.triu(upper, 1).T, symmetrize_input=False)
    return values, coordinates, jnp.abs(state.residual * coordinates[-1])
