"""The principal logarithm of a matrix, as a differentiable function of JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_HIGHEST = lax.Precision.HIGHEST

#: Newton steps of the first square root; a spectrum near the negative axis needs many.
FIRST_STEPS = 24
#: Newton steps of a later one, whose spectrum lies in the right half-plane.
LATER_STEPS = 8
#: Nodes of the quadrature.
NODES = 16


@jax.jit
def log_matrix(matrix: Array) -> Array:
    """The principal logarithm of a real matrix, NaN where it has none that is real.

    Inverse scaling and squaring: with A = r B, r the geometric mean of the absolute eigenvalues,
    log A = log(r) I + 2^k log(B^(1/2^k)). The square roots are taken by the product form of the
    Denman-Beavers iteration, and log(I + X) = ∫₀¹ X (I + t X)⁻¹ dt by Gauss-Legendre quadrature, which is the
    diagonal Padé approximant. The number of steps is fixed, so the function has derivatives of any order in
    forward and reverse mode. The result is NaN where its exponential is not the matrix to half the digits:
    without a real principal logarithm, and for a rotation too near π (by 1e-3 in float32, 1e-5 in float64).

    Args:
      matrix: shape (n, n), float32 or float64.

    Returns:
      The logarithm, shape (n, n): the one whose eigenvalues have an imaginary part in (-π, π).

    Reference:
      N. J. Higham, Functions of Matrices (SIAM, 2008), equations (6.29), (11.17) and (11.18).
    """
    n, eps = matrix.shape[-1], float(jnp.finfo(matrix.dtype).eps)
    eye = jnp.eye(n, dtype=matrix.dtype)
    _, log_det = jnp.linalg.slogdet(matrix)
    log_scale = log_det / n
    roots = 3 if eps > 1e-10 else 5
    root = _square_root(matrix * jnp.exp(-log_scale), FIRST_STEPS)
    root = lax.scan(lambda b, _: (_square_root(b, LATER_STEPS), None), root, length=roots - 1)[0]
    log = log_scale * eye + 2**roots * _log_near_identity(root)
    error = jnp.abs(jax.scipy.linalg.expm(lax.stop_gradient(log)) - matrix)
    return jnp.where(jnp.max(error) <= eps**0.5 * jnp.max(jnp.abs(matrix)), log, jnp.nan)


def _square_root(matrix: Array, steps: int) -> Array:
    """The principal square root, by ``steps`` of M ← (2 I + M + M⁻¹) / 4, X ← X (I + M⁻¹) / 2."""
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)

    def step(state, _):
        m, x = state
        inverse = jnp.linalg.inv(m)
        return ((2 * eye + m + inverse) / 4, jnp.matmul(x, eye + inverse, precision=_HIGHEST) / 2), None

    return lax.scan(step, (matrix, matrix), length=steps)[0][1]


def _log_near_identity(matrix: Array) -> Array:
    """The logarithm of a matrix with its spectrum near 1, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    x = matrix - eye

    def term(t: Array, w: Array) -> Array:
        return w * jnp.linalg.solve(eye + t * x, x)

    terms = jax.vmap(term)(jnp.asarray((nodes + 1) / 2, x.dtype), jnp.asarray(weights / 2, x.dtype))
    return jnp.sum(terms, axis=0)
