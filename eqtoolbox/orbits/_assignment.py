"""Linear assignment inside compiled programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def assignment(score: Array) -> Array:
    """The permutation p with the largest Σ_i score[i, p[i]], by SciPy's solver.

    Works under ``jit`` and ``vmap``: the host solves one problem after the other.

    Args:
      score: shape (..., n, n).

    Returns:
      Index vectors, shape (..., n); the identity where a score is not finite.
    """
    # Whether 64 bits are enabled is local to a thread, and that of the callback is another.
    out = jax.ShapeDtypeStruct(score.shape[:-1], jnp.int32)
    found = jax.pure_callback(_solve, out, score, vmap_method="expand_dims")
    return found.astype(jnp.arange(1).dtype)


def _solve(score: Array) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    matrices = np.asarray(score)
    n = matrices.shape[-1]
    flat = matrices.reshape(-1, n, n)
    found = np.empty((len(flat), n), np.int32)
    for i, matrix in enumerate(flat):
        finite = np.isfinite(matrix).all()
        found[i] = linear_sum_assignment(matrix, maximize=True)[1] if finite else np.arange(n)
    return found.reshape(matrices.shape[:-1])
