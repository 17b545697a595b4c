"""SOAP as an optax transformation: Adam in the eigenbasis of Shampoo's factors.

Compact and plain, to compare with. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam" (2024),
algorithm 3: the basis is found by one step of orthogonal iteration every few steps, the first one by an
eigendecomposition of the first gradient. Vectors and numbers get Adam, as in the authors' program; their step that
only initialises is not left out here, the first gradient already moves the parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from peers.matrices import as_matrix

HIGHEST = lax.Precision.HIGHEST


class SoapState(NamedTuple):
    """State of ``scale_by_soap``.

    Attributes:
      soap_count: steps taken.
      mean: average of the gradients, in the parameters' own coordinates.
      square: average of the squared gradients, in the eigenbasis.
      factors: for each leaf the averages of G Gᵀ and Gᵀ G; none for vectors.
      bases: their orthonormal bases, columns ordered by falling eigenvalue.
    """

    soap_count: Array
    mean: Any
    square: Any
    factors: Any
    bases: Any


def rotate(x: Array, bases: tuple[Array, ...], *, back: bool = False) -> Array:
    """Q_Lᵀ G Q_R of a leaf, in its own shape, or Q_L G Q_Rᵀ."""
    if not bases:
        return x
    left, right = (q if back else q.T for q in bases)
    y = jnp.matmul(left, as_matrix(x), precision=HIGHEST)
    return jnp.matmul(y, right.T, precision=HIGHEST).reshape(x.shape)


def _is_matrix(x: Array) -> bool:
    return as_matrix(x).ndim == 2


def _grams(x: Array) -> tuple[Array, ...]:
    if not _is_matrix(x):
        return ()
    m = as_matrix(x)
    return jnp.matmul(m, m.T, precision=HIGHEST), jnp.matmul(m.T, m, precision=HIGHEST)


def _eigenbasis(factor: Array) -> Array:
    return jnp.linalg.eigh(factor)[1][:, ::-1]


def _iterate(factor: Array, basis: Array, square: Array, axis: int) -> tuple[Array, Array]:
    """One orthogonal iteration, after sorting the basis by its Rayleigh quotients; the moments go along."""
    quotients = jnp.sum(basis * jnp.matmul(factor, basis, precision=HIGHEST), axis=0)
    order = jnp.argsort(-quotients)
    q, _ = jnp.linalg.qr(jnp.matmul(factor, basis[:, order], precision=HIGHEST))
    return q, jnp.take(square, order, axis=axis)


def _first(square: Array, factors: tuple[Array, ...], bases: tuple[Array, ...]):
    del bases
    return square, tuple(_eigenbasis(f) for f in factors)


def _refresh(square: Array, factors: tuple[Array, ...], bases: tuple[Array, ...]):
    if not factors:
        return square, bases
    moments, new = as_matrix(square), []
    for axis, (factor, basis) in enumerate(zip(factors, bases, strict=True)):
        q, moments = _iterate(factor, basis, moments, axis)
        new.append(q)
    return moments.reshape(square.shape), tuple(new)


def scale_by_soap(
    b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8, every: int = 10
) -> optax.GradientTransformationExtraArgs:
    """Adam's update in the eigenbasis of the averages of G Gᵀ and Gᵀ G.

    Args:
      b1: decay of the gradients' average.
      b2: decay of the squares' average and of the factors.
      eps: added to the root of the squares' average.
      every: steps between two changes of the basis.

    Returns:
      The transformation.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        factors = jax.tree.map(lambda p: tuple(jnp.zeros_like(f) for f in _grams(p)), params)
        bases = jax.tree.map(lambda p: tuple(jnp.eye(len(f), dtype=f.dtype) for f in _grams(p)), params)
        return SoapState(jnp.zeros([], jnp.int32), zeros, zeros, factors, bases)

    def rebased(which, square, factors, bases):
        outer = jax.tree.structure(square)
        leaves = (
            which(s, f, b)
            for s, f, b in zip(
                jax.tree.leaves(square), outer.flatten_up_to(factors), outer.flatten_up_to(bases), strict=True
            )
        )
        squares, new = zip(*leaves, strict=True)
        return jax.tree.unflatten(outer, squares), jax.tree.unflatten(outer, new)

    def update(updates, state, params=None, **extra):
        del params, extra
        old = state.soap_count
        count = optax.safe_increment(old)
        factors = jax.tree.map(
            lambda f, g: b2 * f + (1 - b2) * g, state.factors, jax.tree.map(_grams, updates)
        )
        # The basis that a step uses is older than its own gradient, but for the first one.
        square, bases = lax.cond(
            old == 0,
            lambda: rebased(_first, state.square, factors, state.bases),
            lambda: (state.square, state.bases),
        )
        mean = optax.tree.update_moment(updates, state.mean, b1, 1)
        rotated = jax.tree.map(rotate, updates, bases)
        square = optax.tree.update_moment(rotated, square, b2, 2)
        mean_hat = jax.tree.map(rotate, optax.tree.bias_correction(mean, b1, count), bases)
        square_hat = optax.tree.bias_correction(square, b2, count)
        scaled = jax.tree.map(lambda m, s: m / (jnp.sqrt(s) + eps), mean_hat, square_hat)
        out = jax.tree.map(lambda u, q: rotate(u, q, back=True), scaled, bases)
        square, bases = lax.cond(
            count % every == 0,
            lambda: rebased(_refresh, square, factors, bases),
            lambda: (square, bases),
        )
        return out, SoapState(count, mean, square, factors, bases)

    return optax.GradientTransformationExtraArgs(init, update)


def soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.95,
    b2: float = 0.95,
    eps: float = 1e-8,
    every: int = 10,
) -> optax.GradientTransformationExtraArgs:
    """SOAP: ``scale_by_soap`` and a learning rate."""
    return optax.chain(scale_by_soap(b1, b2, eps, every), optax.scale_by_learning_rate(learning_rate))
