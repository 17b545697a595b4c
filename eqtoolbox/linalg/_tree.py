"""Vectors that are pytrees, and stacks of them.

A *stack* is a pytree whose every leaf has one more, leading, axis: k vectors of the same structure, the
rows of a k x p matrix that is never flattened. Sums are accumulated in at least float32, at full matmul
precision.

>>> import jax, jax.numpy as jnp
>>> like = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
>>> stack = random_stack(jax.random.key(0), like, 3)
>>> q, r = orthonormalize(stack)
>>> gram = jax.vmap(lambda row: stack_vdot(q, row))(q)
>>> bool(jnp.allclose(gram, jnp.eye(3), atol=1e-6))
True
>>> ravel_stack(basis(like)).shape
(6, 6)
"""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import DTypeLike, Float, Key, PyTree

from eqtoolbox.linalg._checks import check_choice, check_integer, check_like, check_real, leading_size
from eqtoolbox.linalg._manual import vary_like

DISTRIBUTIONS = ("rademacher", "normal", "sphere")


def working_dtype(dtype: DTypeLike) -> Any:
    """The dtype in which a leaf of ``dtype`` is accumulated: at least float32."""
    small = not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32 if small else dtype)


def to_working(tree: PyTree) -> PyTree:
    """``tree`` with every leaf in its working dtype."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(working_dtype(jnp.result_type(x))), tree)


def abstract_working(like: PyTree) -> PyTree:
    """Shapes of ``like`` (arrays or ShapeDtypeStructs) with working dtypes."""
    return jax.eval_shape(to_working, like)


def flat_dtype(like: PyTree) -> Any:
    """The dtype in which all of ``like`` is held as one vector: the widest working dtype."""
    return jnp.result_type(*(working_dtype(jnp.result_type(x)) for x in jax.tree.leaves(like)))


def ravel(tree: PyTree) -> Float[Array, " p"]:
    """``tree`` as one vector in at least float32, in the order of ``jax.flatten_util.ravel_pytree``."""
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(to_working(tree))])


def tree_size(like: PyTree) -> int:
    """The number of entries p of ``like``, whose leaves may be abstract."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(like))


def coarsest_eps(like: PyTree) -> float:
    """The largest machine epsilon among the (floating) leaves of ``like``."""
    return max(float(jnp.finfo(jnp.result_type(leaf)).eps) for leaf in jax.tree.leaves(like))


def _contract(x: Array, y: Array, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    dtype = jnp.promote_types(working_dtype(x.dtype), working_dtype(y.dtype))
    dims = (axes, ((), ()))
    return lax.dot_general(x.astype(dtype), y.astype(dtype), dims, precision=lax.Precision.HIGHEST)


def tree_vdot(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """The inner product <a, b> over all leaves, accumulated in at least float32.

    ``optax.tree.vdot`` stays in the dtype of the leaves, which loses a bfloat16 sum.

    Args:
      a: a pytree of real arrays.
      b: a pytree of the same structure and shapes.

    Returns:
      A scalar.

    Raises:
      ValueError: naming the leaf, if structures or shapes differ.
    """
    check_like(b, a, "b", "a")

    def leaf(x, y):
        axes = tuple(range(jnp.ndim(x)))
        return _contract(jnp.asarray(x), jnp.asarray(y), (axes, axes))

    return jax.tree.reduce(operator.add, jax.tree.map(leaf, a, b), jnp.float32(0))


@jax.jit
def tree_norm(a: PyTree) -> Float[Array, ""]:
    """The Euclidean norm over all leaves, without overflow or underflow of the squares.

    The entries are divided by the largest one first; the gradient at 0 is 0.
    """
    if not jax.tree.leaves(a):
        return jnp.float32(0)
    a = to_working(a)
    largest = jax.tree.reduce(jnp.maximum, jax.tree.map(lambda x: jnp.max(jnp.abs(x), initial=0), a))
    largest = lax.stop_gradient(largest)
    usable = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.where(usable, largest, 1)
    scaled = jax.tree.map(lambda x: x / scale.astype(x.dtype), a)
    square = tree_vdot(scaled, scaled)
    return scale * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)


def draw_flat(key: Key[Array, ""], p: int, distribution: str, dtype: DTypeLike) -> Float[Array, " p"]:
    """A random isotropic vector of p numbers; see :func:`random_like`."""
    if distribution == "rademacher":
        return jax.random.rademacher(key, (p,), dtype)
    z = jax.random.normal(key, (p,), dtype)
    return z if distribution == "normal" else z * (math.sqrt(p) / tree_norm(z))


def random_like(
    key: Key[Array, ""], like: PyTree, distribution: str = "normal", dtype: DTypeLike | None = None
) -> PyTree:
    """A random isotropic vector z with E[z zᵀ] = I and the structure of ``like``.

    One draw of p numbers in at least float32 is split over the leaves and rounded to their dtypes.

    Args:
      key: a typed key.
      like: a pytree of arrays or ShapeDtypeStructs.
      distribution: ``"normal"``, ``"rademacher"`` (entries ±1) or ``"sphere"`` (uniform on the sphere of
        radius √p).
      dtype: of the result; by default that of each leaf.

    Returns:
      A pytree like ``like``.

    Raises:
      TypeError: naming the leaf, if it is not real floating point.
      ValueError: if ``distribution`` is unknown or ``like`` has no entry.
    """
    check_choice(distribution, "distribution", DISTRIBUTIONS)
    check_real(like, "like")
    like = jax.eval_shape(lambda t: t, like)
    z = draw_flat(key, tree_size(like), distribution, flat_dtype(like))
    if dtype is not None:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), like)
    return unravel_stack(z, like)


def random_stack(
    key: Key[Array, ""],
    like: PyTree,
    count: int,
    distribution: str = "normal",
    dtype: DTypeLike | None = None,
) -> PyTree:
    """``count`` independent vectors of :func:`random_like`, stacked on a leading axis."""
    count = check_integer(count, "count", 1)
    draw = partial(random_like, like=like, distribution=distribution, dtype=dtype)
    return jax.vmap(lambda k: draw(k))(jax.random.split(key, count))


def stack_vdot(stack: PyTree, vector: PyTree) -> Float[Array, " k"]:
    """The inner products of every row of ``stack`` with ``vector``: a k x p matrix times a vector.

    Args:
      stack: a pytree whose leaves have shape (k, *leaf).
      vector: a pytree whose leaves have shape (*leaf).

    Returns:
      k numbers, accumulated in at least float32.
    """

    def leaf(s, x):
        n = jnp.ndim(x)
        return _contract(jnp.asarray(s), jnp.asarray(x), (tuple(range(1, n + 1)), tuple(range(n))))

    return jax.tree.reduce(operator.add, jax.tree.map(leaf, stack, vector))


def stack_combine(coefficients: Float[Array, "*j k"], stack: PyTree) -> PyTree:
    """Linear combinations of the rows of ``stack``: the product of a (j x) k matrix with a k x p matrix.

    Args:
      coefficients: shape (k,) for one vector, (j, k) for a stack of j.
      stack: a pytree whose leaves have shape (k, *leaf).

    Returns:
      A vector, or a stack of j vectors, in working dtypes.
    """
    last = coefficients.ndim - 1

    def leaf(s):
        dtype = working_dtype(jnp.result_type(s))
        return _contract(coefficients.astype(dtype), jnp.asarray(s), ((last,), (0,)))

    return jax.tree.map(leaf, stack)


def ravel_stack(stack: PyTree) -> Float[Array, "k p"]:
    """The rows of ``stack`` as a k x p matrix, in the order of ``jax.flatten_util.ravel_pytree``."""
    k = leading_size(stack, "stack")
    return jnp.concatenate([jnp.reshape(x, (k, -1)) for x in jax.tree.leaves(to_working(stack))], axis=1)


def unravel_stack(matrix: Float[Array, "*k p"], like: PyTree) -> PyTree:
    """The inverse of :func:`ravel_stack` (or of a ravel, for a vector), with the leaf dtypes of ``like``.

    Raises:
      ValueError: if the last axis of ``matrix`` is not the size of ``like``.
    """
    leaves, treedef = jax.tree.flatten(jax.eval_shape(lambda t: t, like))
    sizes = [leaf.size for leaf in leaves]
    if matrix.shape[-1:] != (sum(sizes),):
        raise ValueError(f"the last axis of `matrix` must have size {sum(sizes)}, got shape {matrix.shape}")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    parts = jnp.split(matrix, ends, axis=-1)
    rows = matrix.shape[:-1]
    shaped = [part.reshape(rows + x.shape).astype(x.dtype) for part, x in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, vary_like(shaped, leaves))


def basis(like: PyTree) -> PyTree:
    """The p standard unit vectors of the space of ``like``, as a stack (p² numbers: for small trees)."""
    check_real(like, "like")
    return unravel_stack(jnp.eye(tree_size(like)), like)


def orthonormalize(stack: PyTree) -> tuple[PyTree, Float[Array, "k k"]]:
    """Orthonormal rows that span those of ``stack``, by Householder QR.

    With A the k x p matrix of the rows, A = Rᵀ Q. The rows of Q are orthonormal to rounding even where
    those of ``stack`` are dependent; the diagonal of R is not negative.

    Args:
      stack: a pytree whose leaves have shape (k, *leaf), k at most p.

    Returns:
      (Q as a stack in working dtypes, R upper triangular).

    Raises:
      ValueError: if there are more rows than dimensions.
    """
    check_real(stack, "stack")
    matrix = ravel_stack(stack)
    k, p = matrix.shape
    if k > p:
        raise ValueError(f"`stack` must have at most as many rows as entries per row, got {k} rows of {p}")
    q, r = jnp.linalg.qr(matrix.T)
    signs = jnp.where(jnp.diagonal(r) < 0, -1, 1).astype(r.dtype)
    rows = jax.eval_shape(lambda s: jax.tree.map(lambda x: x[0], to_working(s)), stack)
    return unravel_stack((q * signs[None, :]).T, rows), r * signs[:, None]
