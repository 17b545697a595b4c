"""Arrays of any rank as matrices: what Shampoo, SOAP and Muon do with a convolution or an attention kernel."""

from __future__ import annotations

import math

from jax import Array


def split_axis(shape: tuple[int, ...]) -> int:
    """How many leading axes make the rows, so that the matrix is as close to square as it can be; the most of them.

    >>> split_axis((3, 3, 16, 32)), split_axis((32, 2, 16)), split_axis((2, 16, 32))
    (3, 1, 2)
    """
    sizes = [math.prod(shape[:i]) for i in range(1, len(shape))]
    columns = [math.prod(shape) // rows for rows in sizes]
    largest = [max(pair) for pair in zip(sizes, columns, strict=True)]
    return len(largest) - largest[::-1].index(min(largest))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a leaf as a matrix; that of a vector or a number stays.

    >>> matrix_shape((3, 3, 16, 32)), matrix_shape((7,)), matrix_shape(())
    ((144, 32), (7,), ())
    """
    if len(shape) < 2:
        return tuple(shape)
    rows = math.prod(shape[: split_axis(shape)])
    return rows, math.prod(shape) // rows


def as_matrix(x: Array) -> Array:
    """A leaf as a matrix."""
    return x.reshape(matrix_shape(x.shape))
