"""The Krylov step shared by Lanczos, the eigensolver and the quadrature.

State: orthonormal rows V = (v_0, …, v_m) as a stack and T = V A Vᵀ of the first m rows. Step j appends the
part of A v_j orthogonal to all rows (projected out twice: "twice is enough", Parlett 1998) and the column V
A v_j of T. Since T is a full Rayleigh-Ritz projection, any orthonormal start (a thick restart, a second
block) is valid.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Key, PyTree

from ._operators import MatVec
from ._tree import random_stack, stack_combine, stack_vdot, tree_norm


class Krylov(NamedTuple):
    """An orthonormal basis and the operator projected on it.

    Attributes:
      basis: stack of m + 1 rows; rows not reached yet are zero.
      projected: (m, m); only the upper triangle is written.
      residual: β, the norm of the part of A v_{m-1} outside the first m rows.
      scale: the largest ‖A v_j‖ seen, a lower bound of ‖A‖.
      breakdown: the number of steps before the first breakdown (m if there was none).
    """

    basis: PyTree
    projected: Float[Array, "m m"]
    residual: Float[Array, ""]
    scale: Float[Array, ""]
    breakdown: Int[Array, ""]


def row(stack: PyTree, j: Any) -> PyTree:
    """Row ``j`` of a stack."""
    return jax.tree.map(lambda s: lax.dynamic_index_in_dim(s, j, keepdims=False), stack)


def set_row(stack: PyTree, j: Any, vector: PyTree) -> PyTree:
    """``stack`` with row ``j`` replaced."""
    return jax.tree.map(lambda s, x: lax.dynamic_update_index_in_dim(s, x, j, 0), stack, vector)


def scale_tree(factor: Array, tree: PyTree) -> PyTree:
    """``factor * tree`` in the dtypes of ``tree``."""
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)


def project_out(vector: PyTree, stack: PyTree) -> tuple[PyTree, Float[Array, " k"]]:
    """``vector`` without its components along the orthonormal rows of ``stack``, and these components."""

    def once(vector):
        coefficients = stack_vdot(stack, vector)
        rest = jax.tree.map(lambda x, y: x - y, vector, stack_combine(coefficients, stack))
        return rest, coefficients

    vector, first = once(vector)
    vector, second = once(vector)
    return vector, first + second


def normalize(vector: PyTree, floor: Array | float = 0.0) -> PyTree:
    """``vector`` over its norm; zero where the norm is at most ``floor``."""
    norm = tree_norm(vector)
    vanishes = norm <= floor
    safe = jnp.where(vanishes, 1, norm)
    return jax.tree.map(lambda x: jnp.where(vanishes, 0, x / safe.astype(x.dtype)), vector)


def draw_start(key: Key[Array, ""], like: PyTree) -> tuple[PyTree, PyTree]:
    """A random start vector, and phases for :func:`random_direction` (uniform on the circle to 1e-8)."""
    drawn = random_stack(key, like, 2)
    return row(drawn, 0), jax.tree.map(lambda x: 2 * jnp.pi * x[1], drawn)


def random_direction(phases: PyTree, index: Array, stack: PyTree) -> PyTree:
    """A random unit vector orthogonal to the rows of ``stack``; zero if they span the space.

    It is cos(n u) with n = ``index`` + 1 before projection. Since E[cos(n u) cos(m u)] = δ_nm / 2,
    directions of different index are uncorrelated, and one draw outside of a loop serves all of its steps.
    """
    turns = (index + 1).astype(jnp.float32)
    vector = normalize(jax.tree.map(lambda u: jnp.cos(turns.astype(u.dtype) * u), phases))
    vector, coefficients = project_out(vector, stack)
    return normalize(vector, 10 * jnp.finfo(coefficients.dtype).eps)


def start_krylov(start: PyTree, steps: int) -> Krylov:
    """The state of the single row ``start`` (unit norm, working dtypes) with room for ``steps`` steps."""
    basis = jax.tree.map(lambda x: jnp.zeros((steps + 1, *x.shape), x.dtype).at[0].set(x), start)
    dtype = jax.eval_shape(tree_norm, start).dtype
    zero = jnp.zeros((), dtype)
    return Krylov(basis, jnp.zeros((steps, steps), dtype), zero, zero, jnp.int32(steps))


def extend_krylov(
    matvec: MatVec,
    state: Krylov,
    first: Any = 0,
    phases: PyTree | None = None,
    *,
    offset: Any = 0,
    fresh_row: Any = -1,
) -> Krylov:
    """Steps ``first``, …, m - 1.

    A step *breaks down* when the new direction is rounding: at most 10 ε times the largest ‖A v‖. The rows
    so far then span an invariant subspace. With ``phases`` a random orthogonal direction continues (T is
    then block diagonal, and every Ritz value still belongs to A); without, the remaining rows and columns
    are zero. Row ``fresh_row`` is such a random direction in any case. ``offset`` tells apart the random
    directions of one call from those of another.
    """
    steps = state.projected.shape[0]
    eps = jnp.finfo(state.projected.dtype).eps

    def step(j, state):
        image = matvec(row(state.basis, j))
        scale = jnp.maximum(state.scale, tree_norm(image))
        rest, column = project_out(image, state.basis)
        beta = tree_norm(rest)
        broken = beta <= 10 * eps * scale
        following = normalize(rest, 10 * eps * scale)
        if phases is not None:
            replaced = broken | (j + 1 == fresh_row)
            fresh = partial(random_direction, phases, offset + j, state.basis)
            following = lax.cond(replaced, fresh, lambda: following)
        return Krylov(
            set_row(state.basis, j + 1, following),
            state.projected.at[:, j].set(column[:steps].astype(state.projected.dtype)),
            jnp.where(broken, 0, beta),
            scale,
            jnp.where(broken, jnp.minimum(state.breakdown, jnp.int32(j + 1)), state.breakdown),
        )

    return lax.fori_loop(first, steps, step, state)


def ritz_pairs(state: Krylov) -> tuple[Float[Array, " m"], Float[Array, "m m"], Float[Array, " m"]]:
    """Ritz values (ascending), their coordinates in the basis (columns) and residual bounds |β s_{m-1,i}|."""
    upper = jnp.triu(state.projected)
    values, coordinates = jnp.linalg.eigh(upper + jnp.triu(upper, 1).T, symmetrize_input=False)
    return values, coordinates, jnp.abs(state.residual * coordinates[-1])
