"""How a permutation, a vector of factors and a matrix act on one axis of an array.

Each function computes in at least float32 and leaves the result there; whoever combines them casts the
result back to the dtype of the parameter once, so that a bfloat16 leaf is rounded only once per action.
Outside of a compiled program those of several operations are one; inside they leave no trace of that.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def working_dtype(dtype: DTypeLike):
    """The dtype in which an array of ``dtype`` is multiplied: at least float32.

    Raises:
      TypeError: the dtype holds integers or booleans.
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"an array of dtype {jnp.dtype(dtype)} can be permuted, but not multiplied or shifted"
        )
    return jnp.promote_types(dtype, jnp.float32)


def float_dtype(dtype: DTypeLike | None):
    """The real dtype of group elements for parameters of ``dtype``: at least float32.

    None stands for the default float (float64 where x64 is enabled).

    Raises:
      TypeError: the dtype holds integers or booleans.
    """
    if dtype is None:
        return jnp.result_type(float)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"the dtype of a group element must be a floating one, got {jnp.dtype(dtype)}")
    return _real(jnp.promote_types(dtype, jnp.float32))


def _real(dtype):
    """The dtype of the real part."""
    return jnp.finfo(dtype).dtype


def along(vector: Array, axis: int, ndim: int) -> Array:
    """``vector`` reshaped to broadcast along ``axis`` of an array with ``ndim`` axes."""
    return lax.expand_dims(vector, [a for a in range(ndim) if a != axis])


@partial(jax.jit, static_argnames="axis", inline=True)
def permute(index: Array, x: Array, axis: int) -> Array:
    """``new = old[index]`` along ``axis``.

    An index n or more, or below -n, reads as NaN (in an array of integers as an extreme one): a wrong
    index is never silently clipped.
    """
    axis, n = axis % x.ndim, x.shape[axis]
    index = index.astype(jnp.promote_types(index.dtype, jnp.int32))
    index = jnp.where(index < 0, index + n, index)
    valid = (index >= 0) & (index < n)
    index = jnp.clip(index, 0, n - 1)  # checked here, once for each index, not by the gather for each entry
    if axis == 0:
        y = x.at[index].get(mode="promise_in_bounds", unique_indices=True)
    else:
        # Entry by entry: XLA on CPU gathers whole columns into a transposed copy, at several times the cost.
        every = jnp.broadcast_to(along(index, axis, x.ndim), x.shape)
        y = jnp.take_along_axis(x, every, axis, mode="promise_in_bounds")
    return jnp.where(along(valid, axis, x.ndim), y, _no_value(x.dtype))


def _no_value(dtype: DTypeLike) -> Array:
    """What a wrong index reads, as in ``jax.numpy.take``: NaN, or an extreme value of other dtypes."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.asarray(jnp.nan, dtype)
    if jnp.issubdtype(dtype, jnp.bool_):
        return jnp.asarray(True)
    limits = jnp.iinfo(dtype)
    return jnp.asarray(limits.min or limits.max, dtype)


def multiply(factor: Array, x: Array) -> Array:
    """``factor * x`` in the working dtype of ``x``."""
    dtype = working_dtype(x.dtype)
    return x.astype(dtype) * factor.astype(_real(dtype))


@partial(jax.jit, static_argnames="axis", inline=True)
def transform(matrix: Array, x: Array, axis: int) -> Array:
    """``new[.., i, ..] = sum_j matrix[i, j] old[.., j, ..]`` along ``axis``, in the working dtype of ``x``.

    Full precision on every backend: TPUs and GPUs round the operands of a default matmul.
    """
    dtype = working_dtype(x.dtype)
    matrix = matrix.astype(_real(dtype)).astype(dtype)
    x, last = x.astype(dtype), x.ndim - 1
    if axis == last:
        return lax.dot_general(x, matrix, (((last,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
    y = lax.dot_general(matrix, x, (((1,), (axis,)), ((), ())), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(y, 0, axis)


@partial(jax.jit, static_argnames="axis", inline=True)
def solve(matrix: Array, x: Array, axis: int) -> Array:
    """``sum_j matrix[i, j] new[.., j, ..] = old[.., i, ..]`` along ``axis``, in the working dtype of ``x``.

    It costs less than an inverse and a product, most of all for an array with few other entries.
    """
    dtype = working_dtype(x.dtype)
    matrix = matrix.astype(_real(dtype)).astype(dtype)
    columns = jnp.moveaxis(x.astype(dtype), axis, 0)
    y = jnp.linalg.solve(matrix, columns.reshape(columns.shape[0], -1))
    return jnp.moveaxis(y.reshape(columns.shape), 0, axis)


@partial(jax.jit, static_argnames="axis", inline=True)
def shift(vector: Array, x: Array, axis: int) -> Array:
    """``new[.., i, ..] = old[.., i, ..] + vector[i]`` along ``axis``, in the working dtype of ``x``."""
    dtype = working_dtype(x.dtype)
    return x.astype(dtype) + along(vector.astype(_real(dtype)), axis, x.ndim)


def power(base: Array, exponent: Fraction) -> Array:
    """``base ** exponent`` for a positive base: by products for an integer, else within rounding."""
    if exponent.denominator == 1:
        return lax.integer_pow(base, int(exponent))
    if exponent.denominator == 2:
        return lax.integer_pow(lax.sqrt(base), exponent.numerator)
    return jnp.power(base, float(exponent))
