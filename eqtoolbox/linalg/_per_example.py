"""Per-example gradients of ``batch_loss(params, batch)``, and products with them that never form them.

The loss of example i is ``batch_loss`` on the batch of that one example (leading axis 1), so g_i = ∇
batch_loss(θ, batch[i:i+1]). When ``batch_loss`` is a mean over examples, the mean of the g_i is its
gradient; a model that couples the examples of a batch (BatchNorm in training) has no such decomposition.

>>> import jax, jax.numpy as jnp
>>> def batch_loss(w, batch):
...     x, y = batch
...     return 0.5 * jnp.mean((x @ w - y) ** 2)
>>> x, y, w = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 1.0]), jnp.array([2.0, 1.0])
>>> per_example_grads(batch_loss, w, (x, y)).tolist()
[[1.0, 0.0], [0.0, 2.0]]
>>> per_example_vdot(batch_loss, w, (x, y), jnp.ones(2)).tolist()
[1.0, 2.0]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from eqtoolbox.linalg._checks import check_real, leading_size
from eqtoolbox.linalg._chunks import fold_chunks, map_chunks
from eqtoolbox.linalg._operators import as_tangent
from eqtoolbox.linalg._tree import working_dtype

BatchLoss = Callable[[PyTree, Any], Array]


def _example_loss(batch_loss: BatchLoss) -> BatchLoss:
    return lambda params, example: batch_loss(params, jax.tree.map(lambda x: x[None], example))


def per_example_losses(
    batch_loss: BatchLoss, params: PyTree, batch: Any, *, batch_size: int | None = None
) -> Float[Array, " n"]:
    """The loss of each example.

    Args:
      batch_loss: parameters and a batch to a scalar.
      params: θ.
      batch: a pytree whose leaves have a common leading axis of n examples.
      batch_size: examples at a time; None for all.

    Returns:
      n losses.

    Raises:
      ValueError: naming the leaf, if the leading axes disagree.
    """
    loss = _example_loss(batch_loss)
    return map_chunks(lambda example: loss(params, example), batch, batch_size, "batch")


def per_example_grads(
    batch_loss: BatchLoss, params: PyTree, batch: Any, *, batch_size: int | None = None
) -> PyTree:
    """The gradient of each example, as a stack of n trees.

    Args:
      batch_loss: parameters and a batch to a scalar.
      params: θ.
      batch: a pytree whose leaves have a common leading axis of n examples.
      batch_size: examples at a time, which bounds the intermediate memory; None for all.

    Returns:
      A pytree whose leaves have shape (n, *leaf).

    Raises:
      TypeError: naming the leaf, if a parameter is not real floating point.
      ValueError: naming the leaf, if the leading axes disagree.
    """
    check_real(params, "params")
    gradient = jax.grad(_example_loss(batch_loss))
    return map_chunks(lambda example: gradient(params, example), batch, batch_size, "batch")


def per_example_vdot(
    batch_loss: BatchLoss, params: PyTree, batch: Any, v: PyTree, *, batch_size: int | None = None
) -> Float[Array, " n"]:
    """⟨g_i, v⟩ for each example, by one forward-mode pass, without forming the gradients.

    Args:
      batch_loss: parameters and a batch to a scalar.
      params: θ.
      batch: a pytree whose leaves have a common leading axis of n examples.
      v: a pytree like ``params``; cast to its dtypes.
      batch_size: examples at a time; None for all.

    Returns:
      n inner products.

    Raises:
      TypeError: naming the leaf, if a parameter is not real floating point.
      ValueError: naming the leaf, if the leading axes disagree or ``v`` does not match ``params``.
    """
    check_real(params, "params")
    tangent = as_tangent(v, params)
    loss = _example_loss(batch_loss)

    def one(example):
        return jax.jvp(lambda p: loss(p, example), (params,), (tangent,))[1]

    return map_chunks(one, batch, batch_size, "batch")


def weighted_grad(
    batch_loss: BatchLoss,
    params: PyTree,
    batch: Any,
    weights: Float[Array, " n"],
    *,
    batch_size: int | None = None,
) -> PyTree:
    """Σ_i w_i g_i by one reverse pass per chunk, without forming the gradients.

    Args:
      batch_loss: parameters and a batch to a scalar.
      params: θ.
      batch: a pytree whose leaves have a common leading axis of n examples.
      weights: n numbers.
      batch_size: examples at a time; None for all.

    Returns:
      A pytree with the shapes and dtypes of ``params``, accumulated over chunks in at least float32.

    Raises:
      TypeError: naming the leaf, if a parameter is not real floating point.
      ValueError: naming the leaf, if the leading axes disagree; if ``weights`` does not have one number per
        example.
    """
    check_real(params, "params")
    n = leading_size(batch, "batch")
    if jnp.shape(weights) != (n,):
        raise ValueError(f"`weights` must have shape ({n},), one per example, got {jnp.shape(weights)}")
    loss = _example_loss(batch_loss)

    def chunk_sum(p, chunk):
        examples, w = chunk
        losses = jax.vmap(loss, (None, 0))(p, examples)
        return jnp.sum(losses * w.astype(losses.dtype))

    def step(total, chunk):
        gradient = jax.grad(chunk_sum)(params, chunk)
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient)

    zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), working_dtype(jnp.result_type(x))), params)
    total = fold_chunks(step, zeros, (batch, jnp.asarray(weights)), batch_size, "(batch, weights)")
    return jax.tree.map(lambda t, p: t.astype(jnp.result_type(p)), total, params)


def gradient_covariance_vp(
    batch_loss: BatchLoss,
    params: PyTree,
    batch: Any,
    v: PyTree,
    *,
    centered: bool = True,
    batch_size: int | None = None,
) -> PyTree:
    """The product with the covariance of the per-example gradients, (1/n) Σ_i (g_i − ḡ)⟨g_i − ḡ, v⟩.

    One forward-mode and one reverse pass over the batch; no per-example gradient is formed. Positive
    semidefinite.

    Args:
      batch_loss: parameters and a batch to a scalar.
      params: θ.
      batch: a pytree whose leaves have a common leading axis of n examples.
      v: a pytree like ``params``; cast to its dtypes.
      centered: whether to subtract the mean gradient ḡ.
      batch_size: examples at a time; None for all.

    Returns:
      A pytree with the shapes and dtypes of ``params``.

    Raises:
      TypeError: naming the leaf, if a parameter is not real floating point.
      ValueError: naming the leaf, if the leading axes disagree or ``v`` does not match ``params``.
    """
    products = per_example_vdot(batch_loss, params, batch, v, batch_size=batch_size)
    products = products.astype(working_dtype(products.dtype))
    # Σ_i ḡ (⟨g_i, v⟩ − mean) = 0, so only the products need centring
    weights = (products - jnp.mean(products) if centered else products) / products.shape[0]
    return weighted_grad(batch_loss, params, batch, weights, batch_size=batch_size)


def fisher_vp(
    batch_loss: BatchLoss, params: PyTree, batch: Any, v: PyTree, *, batch_size: int | None = None
) -> PyTree:
    """The product with the empirical Fisher matrix (1/n) Σ_i g_i ⟨g_i, v⟩ of the given labels.

    The Fisher information of the model's own predictive distribution is :func:`ggn_vp` with the negative
    log-likelihood as output loss; the two differ away from a perfect fit.

    Args:
      batch_loss: parameters and a batch to a scalar.
      params: θ.
      batch: a pytree whose leaves have a common leading axis of n examples.
      v: a pytree like ``params``; cast to its dtypes.
      batch_size: examples at a time; None for all.

    Returns:
      A pytree with the shapes and dtypes of ``params``.

    Raises:
      TypeError: naming the leaf, if a parameter is not real floating point.
      ValueError: naming the leaf, if the leading axes disagree or ``v`` does not match ``params``.

    Reference: Kunstner, Balles & Hennig, Limitations of the empirical Fisher approximation (2019).
    """
    return gradient_covariance_vp(batch_loss, params, batch, v, centered=False, batch_size=batch_size)
