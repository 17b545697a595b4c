"""The principal logarithm of a matrix, as a differentiable function of JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


@jax.custom_jvp
def log_matrix(matrix: Array) -> Array:
    """The principal logarithm of a real matrix, NaN where it does not exist or is not real.

    Computed by SciPy on the host in float64, by inverse scaling and squaring. The derivative L(A, E) is read
    off the logarithm of a matrix of twice the size, log [[A, E], [0, A]] = [[log A, L(A, E)], [0, log A]];
    its transpose is L(Aᵀ, ·). Derivatives of any order exist, in forward and reverse mode.

    Args:
      matrix: shape (n, n).

    Returns:
      The logarithm, shape (n, n): the one whose eigenvalues have an imaginary part in (-π, π).

    Reference:
      N. J. Higham, Functions of Matrices (SIAM, 2008), chapter 11 and equation (3.16).
    """
    return _host_log(matrix)


@log_matrix.defjvp
def _log_matrix_jvp(primals, tangents):
    (a,), (e,) = primals, tangents
    log = log_matrix(a)

    def derivative_of_exp(x):
        return jax.jvp(jax.scipy.linalg.expm, (log,), (x,))[1]

    tangent = lax.custom_linear_solve(
        derivative_of_exp,
        e,
        solve=lambda _, b: _derivative(a, b),
        transpose_solve=lambda _, b: _derivative(a.T, b),
    )
    return log, tangent


def _derivative(a: Array, e: Array) -> Array:
    """The derivative of the logarithm at ``a`` in the direction ``e``."""
    n = a.shape[-1]
    size = jnp.max(jnp.abs(e), initial=0)
    size = jnp.where(size > 0, size, 1)
    block = jnp.block([[a, e / size], [jnp.zeros_like(a), a]])
    return size * _host_log(block)[:n, n:]


def _host_log(matrix: Array) -> Array:
    shape = jax.ShapeDtypeStruct(matrix.shape, matrix.dtype)
    return jax.pure_callback(_scipy_log, shape, matrix, vmap_method="expand_dims")


def _scipy_log(matrices) -> np.ndarray:
    from scipy.linalg import logm

    matrices = np.asarray(matrices)
    out = np.full(matrices.shape, np.nan, matrices.dtype)
    for i in np.ndindex(matrices.shape[:-2]):
        m = matrices[i].astype(np.float64)
        if np.all(np.isfinite(m)) and not _has_negative_eigenvalue(m):
            out[i] = np.real(logm(m))
    return out


def _has_negative_eigenvalue(m: np.ndarray) -> bool:
    """Whether a real matrix has an eigenvalue on the closed negative axis: no real principal logarithm."""
    w = np.linalg.eigvals(m)
    tolerance = 1e-9 * np.abs(w).max(initial=0.0)
    return bool(np.any((w.real <= tolerance) & (np.abs(w.imag) <= tolerance)))
