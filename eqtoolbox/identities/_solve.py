"""Solving with the Jacobian of a map of a pytree to itself: M u = b and aᵀ M = cᵀ.

Up to ``DENSE_LIMIT`` entries by an LU factorisation with one step of refinement, above by GMRES.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities._identity import distance
from eqtoolbox.linalg import ravel_stack, to_dense, unravel_stack

Tree = Any

#: Largest number of entries for which the matrix is formed.
DENSE_LIMIT = 1000
#: Dimension of a Krylov space of GMRES, and how many of them are tried.
RESTART, CYCLES = 64, 32


class Solver(NamedTuple):
    """Solves with one matrix and its transpose.

    Attributes:
      solve: b -> (u with M u = b, ‖M u - b‖ / ‖b‖).
      transposed: c -> (a with Mᵀ a = c, its relative residual).
      conditioning: σ_min / σ_max; 1 where the matrix was not formed, and the residual has to tell.
    """

    solve: Callable[[Tree], tuple[Tree, Array]]
    transposed: Callable[[Tree], tuple[Tree, Array]]
    conditioning: Array


def jacobian_solver(function: Callable[[Tree], Tree], at: Tree) -> Solver:
    """The solver of ∇F(x), for F from a space to itself.

    Args:
      function: F, returning a pytree with the shapes and dtypes of ``at``.
      at: the point x.
    """
    _, forward = jax.linearize(function, at)
    backward = jax.linear_transpose(forward, at)
    size = sum(leaf.size for leaf in jax.tree.leaves(at))
    if size <= DENSE_LIMIT:
        return _dense(forward, at)
    return Solver(_gmres(forward, at), _gmres(lambda c: backward(c)[0], at), jnp.float32(1))


def _dense(forward: Callable[[Tree], Tree], like: Tree) -> Solver:
    matrix = to_dense(forward, like)
    factors = jax.scipy.linalg.lu_factor(matrix)
    values = jnp.linalg.svd(jax.lax.stop_gradient(matrix), compute_uv=False)

    def solver(trans: int) -> Callable[[Tree], tuple[Tree, Array]]:
        def times(x: Array) -> Array:
            return jnp.matmul(matrix.T if trans else matrix, x, precision=jax.lax.Precision.HIGHEST)

        def solve(b: Tree) -> tuple[Tree, Array]:
            flat = _ravel(b).astype(matrix.dtype)
            x = jax.scipy.linalg.lu_solve(factors, flat, trans=trans)
            x = x + jax.scipy.linalg.lu_solve(factors, flat - times(x), trans=trans)
            return unravel_stack(x, like), distance(times(x), flat)

        return solve

    return Solver(solver(0), solver(1), values[-1] / values[0])


def _gmres(times: Callable[[Tree], Tree], like: Tree) -> Callable[[Tree], tuple[Tree, Array]]:
    from jax.scipy.sparse.linalg import gmres

    def flat_times(x: Array) -> Array:
        return _ravel(times(unravel_stack(x, like)))

    def solve(b: Tree) -> tuple[Tree, Array]:
        flat = _ravel(b)
        tolerance = 100 * float(jnp.finfo(flat.dtype).eps)
        x, _ = gmres(flat_times, flat, tol=tolerance, restart=RESTART, maxiter=CYCLES)
        return unravel_stack(x, like), distance(flat_times(x), flat)

    return solve


def _ravel(tree: Tree) -> Array:
    return ravel_stack(jax.tree.map(lambda x: x[None], tree))[0]
