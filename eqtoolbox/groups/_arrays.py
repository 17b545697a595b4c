"""How a permutation, a vector of factors and a matrix act on one axis of an array.

Parameters of less than float32 are multiplied in float32 and come back in their own dtype.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax


def working_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype in which a leaf of ``dtype`` is multiplied: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def float_dtype(dtype: jnp.dtype | None) -> jnp.dtype:
    """``dtype``, or the default float (float64 where x64 is enabled) for None."""
    return jnp.result_type(float) if dtype is None else jnp.dtype(dtype)


def along(vector: Array, axis: int, ndim: int) -> Array:
    """``vector`` reshaped to broadcast along ``axis`` of an array with ``ndim`` axes."""
    return lax.expand_dims(vector, [a for a in range(ndim) if a != axis])


def permute(index: Array, x: Array, axis: int) -> Array:
    """``new = old[index]`` along ``axis``; an index out of range reads as NaN."""
    return jnp.take(x, index, axis=axis, mode="fill", unique_indices=True)


def multiply(factor: Array, x: Array) -> Array:
    """``factor * x`` in the working dtype, returned in the dtype of ``x``."""
    dtype = working_dtype(x.dtype)
    real = jnp.finfo(dtype).dtype if jnp.issubdtype(dtype, jnp.complexfloating) else dtype
    return (x.astype(dtype) * factor.astype(real)).astype(x.dtype)


def transform(matrix: Array, x: Array, axis: int) -> Array:
    """``new[.., i, ..] = sum_j matrix[i, j] old[.., j, ..]`` along ``axis``.

    Full precision on every backend: TPUs and GPUs round the operands of a default matmul.
    """
    dtype = working_dtype(x.dtype)
    matrix = matrix.astype(jnp.finfo(dtype).dtype).astype(dtype)
    x_, last = x.astype(dtype), x.ndim - 1
    if axis == last:
        y = lax.dot_general(x_, matrix, (((last,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
    else:
        y = lax.dot_general(matrix, x_, (((1,), (axis,)), ((), ())), precision=lax.Precision.HIGHEST)
        y = jnp.moveaxis(y, 0, axis)
    return y.astype(x.dtype)


def power(base: Array, exponent) -> Array:
    """``base ** exponent`` for a positive base and a rational exponent; exact for small integers."""
    if exponent.denominator == 1:
        return lax.integer_pow(base, int(exponent))
    return jnp.power(base, float(exponent))


def log_matrix(matrix: Array) -> Array:
    """The principal logarithm of a real matrix, NaN where it is not real (SciPy, through a callback)."""

    def host(m):
        import numpy as np
        from scipy.linalg import logm

        out = np.full(m.shape, np.nan, m.dtype)
        for i in np.ndindex(m.shape[:-2]):
            if not np.all(np.isfinite(m[i])) or _has_negative_eigenvalue(m[i]):
                continue
            value = logm(m[i].astype(np.float64))
            out[i] = np.real(value)
        return out

    shape = jax.ShapeDtypeStruct(matrix.shape, matrix.dtype)
    return jax.pure_callback(host, shape, matrix, vmap_method="expand_dims")


def _has_negative_eigenvalue(m) -> bool:
    """Whether a real matrix has an eigenvalue on the closed negative axis: no real principal log."""
    import numpy as np

    w = np.linalg.eigvals(m.astype(np.float64))
    scale = np.abs(w).max(initial=0.0)
    tol = 1e-9 * scale
    return bool(np.any((w.real <= tol) & (np.abs(w.imag) <= tol)))
