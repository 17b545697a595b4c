"""Shampoo as an optax transformation: a root of a Kronecker-factored gradient covariance.

Compact and plain, to compare with: one full factor for each side of each matrix, eigendecompositions, no blocks and
no grafting. Gupta, Koren and Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization" (2018), algorithm 1,
with sums (``decay=1``) or with the exponential averages of its later implementations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from peers.matrices import as_matrix
from peers.momentum import nesterov_average

HIGHEST = lax.Precision.HIGHEST


class ShampooState(NamedTuple):
    """State of ``scale_by_shampoo``.

    Attributes:
      shampoo_count: steps taken.
      factors: for each leaf the tuple of its factors, one per axis of the matrix.
      roots: their inverse roots, as last computed.
    """

    shampoo_count: Array
    factors: Any
    roots: Any


def grams(x: Array) -> tuple[Array, ...]:
    """G Gᵀ and Gᵀ G of a matrix, g gᵀ of a vector, g² of a number as 1 x 1."""
    x = as_matrix(x)
    x = x.reshape(-1, 1) if x.ndim < 2 else x
    left = jnp.matmul(x, x.mT, precision=HIGHEST)
    return (left,) if x.shape[1] == 1 else (left, jnp.matmul(x.mT, x, precision=HIGHEST))


def inverse_root(factor: Array, order: int, eps: float) -> Array:
    """(F + eps · max eigenvalue)^(-1/(2 order)) of a positive matrix; the identity where it is zero."""
    w, v = jnp.linalg.eigh(factor)
    top = w[-1]
    floor = jnp.maximum(eps * top, jnp.finfo(factor.dtype).tiny)
    root = (jnp.maximum(w, 0) + floor) ** (-0.5 / order)
    out = jnp.matmul(v * root[None], v.T, precision=HIGHEST)
    return jnp.where(top > 0, out, jnp.eye(len(w), dtype=factor.dtype))


def apply_roots(x: Array, roots: tuple[Array, ...]) -> Array:
    """L G R of a leaf, in its own shape."""
    y = as_matrix(x)
    y = y.reshape(-1, 1) if y.ndim < 2 else y
    y = jnp.matmul(roots[0], y, precision=HIGHEST)
    if len(roots) == 2:
        y = jnp.matmul(y, roots[1], precision=HIGHEST)
    return y.reshape(x.shape)


def scale_by_shampoo(
    decay: float = 0.95, eps: float = 1e-8, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """L^(-1/4) G R^(-1/4) with L and R the averages of G Gᵀ and Gᵀ G; g gᵀ to the power -1/2 for vectors.

    Args:
      decay: of the factors' averages, which are corrected for their start at zero; 1 for plain sums.
      eps: damping relative to the largest eigenvalue of a factor.
      every: steps between the eigendecompositions.

    Returns:
      The transformation. Momentum goes before it or after it in the chain.
    """

    def init(params):
        factors = jax.tree.map(lambda p: tuple(jnp.zeros_like(f) for f in grams(p)), params)
        roots = jax.tree.map(lambda p: tuple(jnp.eye(len(f), dtype=f.dtype) for f in grams(p)), params)
        return ShampooState(jnp.zeros([], jnp.int32), factors, roots)

    def update(updates, state, params=None, **extra):
        del params, extra
        count = optax.safe_increment(state.shampoo_count)
        weight = 1.0 if decay == 1 else 1 - decay
        new = jax.tree.map(grams, updates)
        factors = jax.tree.map(lambda f, g: decay * f + weight * g, state.factors, new)
        # A factor scales out of the update where the power of all roots together is -1/2: so does the correction.
        correction = 1.0 if decay == 1 else 1 - decay**count

        def fresh():
            return jax.tree.map(
                lambda _, fs: tuple(inverse_root(f / correction, len(fs), eps) for f in fs), updates, factors
            )

        due = state.shampoo_count % every == 0
        roots = fresh() if every == 1 else lax.cond(due, fresh, lambda: state.roots)
        return jax.tree.map(apply_roots, updates, roots), ShampooState(count, factors, roots)

    return optax.GradientTransformationExtraArgs(init, update)


def shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    decay: float = 0.95,
    eps: float = 1e-8,
    every: int = 1,
    momentum: float = 0.9,
    after: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Shampoo with an average of gradients before the root, or Nesterov's momentum after it.

    Args:
      learning_rate: a number or a schedule.
      decay: see ``scale_by_shampoo``.
      eps: see ``scale_by_shampoo``.
      every: see ``scale_by_shampoo``.
      momentum: of the gradients' average, or of the momentum after the root; 0 for none.
      after: whether the momentum comes after the root.

    Returns:
      The optimizer.
    """
    root = scale_by_shampoo(decay, eps, every)
    if not momentum:
        middle = root
    elif after:
        middle = optax.chain(root, nesterov_average(momentum))
    else:
        middle = with_average(root, momentum)
    return optax.chain(middle, optax.scale_by_learning_rate(learning_rate))


class AverageState(NamedTuple):
    """State of ``with_average``: the average of gradients, the count, the inner state."""

    average_count: Array
    average: Any
    inner: Any


def with_average(inner: optax.GradientTransformation, decay: float) -> optax.GradientTransformationExtraArgs:
    """Factors from the raw gradients, the roots applied to their bias-corrected average: Shampoo's own order.

    Args:
      inner: ``scale_by_shampoo``.
      decay: of the average.

    Returns:
      The transformation.
    """

    def init(params):
        return AverageState(
            jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params), inner.init(params)
        )

    def update(updates, state, params=None, **extra):
        del extra
        count = optax.safe_increment(state.average_count)
        average = optax.tree.update_moment(updates, state.average, decay, 1)
        _, inner_state = inner.update(updates, state.inner, params)
        corrected = optax.tree.bias_correction(average, decay, count)
        out = jax.tree.map(apply_roots, corrected, inner_state.roots)
        return out, AverageState(count, average, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
