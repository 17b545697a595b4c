"""Streaming mean, variance and covariance over pytrees, stable and mergeable.

Welford's update for one sample, Chan's formula for batches and for merging states. Each state keeps its
first sample as the *origin* and accumulates differences from it, so that a mean of 1e6 with deviation 1
keeps its digits in float32.

>>> import jax, jax.numpy as jnp
>>> xs = 1e6 + jax.random.normal(jax.random.key(0), (1000,))
>>> state = moments_update_batch(moments_init(xs[0]), xs)
>>> bool(jnp.isclose(moments_variance(state), jnp.var(xs - 1e6, ddof=1), rtol=1e-5))
True
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, PyTree

from eqtoolbox.linalg._checks import check_integer, check_like, leading_size, name_leaf
from eqtoolbox.linalg._estimate import Estimate
from eqtoolbox.linalg._tree import ravel, ravel_stack, to_working, tree_size


class Moments(NamedTuple):
    """Sufficient statistics of n samples; a pytree for jit, scan, vmap and merging across devices.

    Attributes:
      count: n, int32.
      origin: a reference value near the samples (the first one).
      offset: mean − origin.
      squares: Σ (x − mean)², like ``origin``.
      products: Σ (x − mean)(x − mean)ᵀ in ravel order, or None without covariance.
    """

    count: Int[Array, ""]
    origin: PyTree
    offset: PyTree
    squares: PyTree
    products: Float[Array, "p p"] | None


def _check_samples(x: PyTree) -> None:
    for path, leaf in jax.tree.leaves_with_path(x):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise TypeError(f"leaf `{name_leaf(path)}` must be real, got dtype {jnp.result_type(leaf)}")


def _weight(count: Array, total: Array, like: Array) -> Array:
    """The quotient count / total in the dtype of ``like``; 0 for no samples."""
    return count.astype(like.dtype) / jnp.maximum(total, 1).astype(like.dtype)


def moments_init(like: PyTree, *, covariance: bool = False) -> Moments:
    """The state of no samples.

    Args:
      like: one sample: a pytree of real arrays or ShapeDtypeStructs.
      covariance: also accumulate the p x p covariance of all entries (small trees).

    Returns:
      A :class:`Moments` in at least float32.

    Raises:
      TypeError: naming the leaf, if one is complex.
    """
    _check_samples(like)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(to_working, like))
    products = None
    if covariance:
        p = tree_size(like)
        products = jnp.zeros((p, p), jnp.result_type(*jax.tree.leaves(zeros)))
    return Moments(jnp.int32(0), zeros, zeros, zeros, products)


def moments_merge(a: Moments, b: Moments) -> Moments:
    """The state of the samples of ``a`` and ``b`` together; commutative and associative to rounding.

    Raises:
      ValueError: if the states are of different trees or only one has a covariance.

    Reference: Chan, Golub & LeVeque, Updating formulae and a pairwise algorithm for computing sample
    variances (1979).
    """
    check_like(b._replace(count=0), a._replace(count=0), "b", "a")
    total = a.count + b.count
    empty = a.count == 0
    origin = jax.tree.map(lambda x, y: jnp.where(empty, y, x), a.origin, b.origin)
    # both means as seen from the new origin; the differences of nearby origins are exact
    offset_a = jax.tree.map(lambda o, s, x: jnp.where(empty, 0, (s - o) + x), origin, a.origin, a.offset)
    offset_b = jax.tree.map(
        lambda o, s, x: jnp.where(b.count == 0, 0, (s - o) + x), origin, b.origin, b.offset
    )
    delta = jax.tree.map(jnp.subtract, offset_b, offset_a)
    offset = jax.tree.map(lambda x, d: x + d * _weight(b.count, total, d), offset_a, delta)

    def cross(d):
        return a.count.astype(d.dtype) * _weight(b.count, total, d)

    squares = jax.tree.map(lambda x, y, d: x + y + cross(d) * d * d, a.squares, b.squares, delta)
    products = None
    if a.products is not None and b.products is not None:
        d = ravel(delta).astype(a.products.dtype)
        products = a.products + b.products + cross(d) * jnp.outer(d, d)
    return Moments(total, origin, offset, squares, products)


def moments_update_batch(
    state: Moments, xs: PyTree, axis: int = 0, *, where: Bool[Array, " n"] | None = None
) -> Moments:
    """``state`` with a batch of samples along ``axis`` of every leaf.

    Args:
      state: of the samples so far.
      xs: a pytree like a sample, n of them along ``axis``.
      axis: the axis of the samples.
      where: which samples count; the others may hold anything, NaN as well. All of them when None.

    Raises:
      TypeError: naming the leaf, if one is complex.
      ValueError: naming the leaf, if a sample does not match the state, or the batch sizes (or ``where``) differ.
    """
    _check_samples(xs)
    xs = jax.tree.map(lambda x: jnp.moveaxis(jnp.asarray(x), axis, 0), xs)
    n = leading_size(xs, "xs")
    check_like(jax.eval_shape(lambda t: jax.tree.map(lambda x: x[0], t), xs), state.origin, "x", "state")
    if where is None:
        origin = jax.tree.map(lambda x, o: x[0].astype(o.dtype), xs, state.origin)
        count = jnp.int32(n)
    else:
        if jnp.shape(where) != (n,):
            raise ValueError(
                f"`where` must have the shape {(n,)}, one for each sample, got {jnp.shape(where)}"
            )
        count = jnp.sum(where, dtype=jnp.int32)
        xs = jax.tree.map(lambda x: jnp.where(where.reshape(n, *(1,) * (x.ndim - 1)), x, 0), xs)
        first = jnp.argmax(where)
        origin = jax.tree.map(lambda x, o: x[first].astype(o.dtype), xs, state.origin)

    def counted(x: Array) -> Array:
        return x if where is None else jnp.where(where.reshape(n, *(1,) * (x.ndim - 1)), x, 0)

    def mean(x: Array) -> Array:
        if where is None:
            return jnp.mean(x, axis=0)
        return jnp.sum(x, axis=0) / jnp.maximum(count, 1).astype(x.dtype)

    shifted = jax.tree.map(lambda x, o: counted(x.astype(o.dtype) - o[None]), xs, origin)
    offset = jax.tree.map(mean, shifted)
    centred = jax.tree.map(lambda x, m: counted(x - m[None]), shifted, offset)
    squares = jax.tree.map(lambda c: jnp.sum(c * c, axis=0), centred)
    products = None
    if state.products is not None:
        flat = ravel_stack(centred).astype(state.products.dtype)
        products = jnp.matmul(flat.T, flat, precision=lax.Precision.HIGHEST)
    return moments_merge(state, Moments(count, origin, offset, squares, products))


def moments_update(state: Moments, x: PyTree) -> Moments:
    """``state`` with one more sample.

    Raises:
      TypeError: naming the leaf, if one is complex.
      ValueError: naming the leaf, if the sample does not match the state.

    Reference: Welford, Note on a method for calculating corrected sums of squares and products (1962).
    """
    return moments_update_batch(state, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x))


def moments_psum(state: Moments, axis_name: str | tuple[str, ...]) -> Moments:
    """The merged state of all devices (or vmap lanes) along a named axis, the same on each."""
    total = lax.psum(state.count, axis_name)
    share = lambda x: _weight(state.count, total, x)  # noqa: E731
    origin = jax.tree.map(lambda o: lax.psum(share(o) * o, axis_name), state.origin)
    local = jax.tree.map(
        lambda o, s, x: jnp.where(state.count == 0, 0, (s - o) + x), origin, state.origin, state.offset
    )
    offset = jax.tree.map(lambda x: lax.psum(share(x) * x, axis_name), local)
    delta = jax.tree.map(jnp.subtract, local, offset)
    count = lambda d: state.count.astype(d.dtype)  # noqa: E731
    squares = jax.tree.map(lambda x, d: lax.psum(x + count(d) * d * d, axis_name), state.squares, delta)
    products = None
    if state.products is not None:
        d = ravel(delta).astype(state.products.dtype)
        products = lax.psum(state.products + count(d) * jnp.outer(d, d), axis_name)
    return Moments(total, origin, offset, squares, products)


def moments_mean(state: Moments) -> PyTree:
    """The mean of the samples; 0 of none."""
    return jax.tree.map(jnp.add, state.origin, state.offset)


def moments_variance(state: Moments, *, ddof: int = 1) -> PyTree:
    """Σ (x − mean)² / (n − ddof); NaN where n is at most ``ddof``."""
    n = state.count - check_integer(ddof, "ddof", 0)
    return jax.tree.map(
        lambda s: jnp.where(n > 0, s / jnp.maximum(n, 1).astype(s.dtype), jnp.nan), state.squares
    )


def moments_standard_error(state: Moments) -> PyTree:
    """The standard error of the mean, √(variance / n); NaN for fewer than two samples."""
    n = jnp.maximum(state.count, 1)
    return jax.tree.map(lambda v: jnp.sqrt(v / n.astype(v.dtype)), moments_variance(state))


def moments_covariance(state: Moments, *, ddof: int = 1) -> Float[Array, "p p"]:
    """The covariance matrix of all entries in ravel order; NaN where n is at most ``ddof``.

    Raises:
      ValueError: if the state was made without ``covariance=True``.
    """
    if state.products is None:
        raise ValueError(
            "`state` must be made by moments_init(like, covariance=True), got one without products"
        )
    n = state.count - check_integer(ddof, "ddof", 0)
    return jnp.where(n > 0, state.products / jnp.maximum(n, 1).astype(state.products.dtype), jnp.nan)


def moments_estimate(state: Moments) -> Estimate:
    """The mean with its standard error as an :class:`Estimate`."""
    return Estimate(moments_mean(state), moments_standard_error(state), state.count)
