"""Curvature of the last layer: that of the loss at the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities._hessian import hessian_images
from eqtoolbox.identities._identity import Identity, relative
from eqtoolbox.linalg import check_like, hvp, tree_norm, tree_vdot

Tree = Any


def last_layer(
    output_loss: Callable[[Array], Array],
    features: Array,
    kernel: Array,
    direction: Array,
    bias: Array | None = None,
) -> Identity:
    """The identity ⟨V, ∇²_W L V⟩ = ⟨Vh, ∇²ℓ(y) Vh⟩ of a last layer y = W h (EQ-5.3).

    The paper derives it from W -> PW for V with rows in the row space of W. No condition on V is needed: y is
    affine in W, so the Hessian in W is the pull-back of ∇²ℓ by V ↦ Vh. With the equivariance W ↦ W + λV,
    y ↦ y + λVh it is Theorem 1 (iii) for any V. A bias, or a mean over a batch inside ``output_loss``, changes
    nothing.

    Args:
      output_loss: outputs y, shape (..., c), to a scalar.
      features: h, shape (..., s).
      kernel: W as Flax holds it, shape (s, c): y = h W.
      direction: V, shape (s, c).
      bias: shape (c,), or None.

    Returns:
      An ``Identity`` of numbers: on the left a true Hessian product in W, on the right one of the output loss,
      the term "A". Its scale is ‖∇²_W L‖_F ‖V‖² + |A|.

    Raises:
      ValueError: shapes that do not fit.

    Reference:
      Yang & Ziyin, Corollary 3.
    """
    if jnp.ndim(kernel) != 2 or jnp.shape(features)[-1:] != jnp.shape(kernel)[:1]:
        raise ValueError(
            f"`kernel` must have the shape (s, c) with s the last axis of `features` {jnp.shape(features)}, "
            f"got {jnp.shape(kernel)}"
        )
    if jnp.shape(direction) != jnp.shape(kernel):
        raise ValueError(f"`direction` must have the shape {jnp.shape(kernel)}, got {jnp.shape(direction)}")

    def times(w: Array) -> Array:
        return jnp.matmul(features, w, precision=jax.lax.Precision.HIGHEST)

    def outputs(w: Array) -> Array:
        return times(w) if bias is None else times(w) + jnp.broadcast_to(bias, times(w).shape)

    (image,), size = hessian_images(lambda w: output_loss(outputs(w)), kernel, direction[None])
    lhs = tree_vdot(direction, image)
    moved = times(direction)
    rhs = tree_vdot(moved, hvp(output_loss, outputs(kernel), moved))
    scale = size * tree_norm(direction) ** 2 + jnp.abs(rhs)
    return Identity(lhs, rhs, {"A": rhs}, relative(jnp.abs(lhs - rhs), scale), scale, jnp.float32(0))


def softmax_variance(probabilities: Array, direction_outputs: Array) -> Array:
    """Var_p(z), the curvature ⟨z, ∇²ℓ z⟩ of the softmax cross-entropy along z = Vh (EQ-5.3).

    >>> import jax.numpy as jnp
    >>> float(softmax_variance(jnp.array([0.5, 0.5]), jnp.array([0.0, 2.0])))
    1.0

    Args:
      probabilities: p = softmax(y), shape (..., c).
      direction_outputs: z, shape (..., c).

    Returns:
      Shape (...): one variance per sample, never negative.

    Raises:
      ValueError: the shapes differ.

    Reference:
      Yang & Ziyin, section 5.3.
    """
    check_like(direction_outputs, probabilities, "direction_outputs", "probabilities")
    mean = jnp.sum(probabilities * direction_outputs, axis=-1, keepdims=True)
    return jnp.sum(probabilities * (direction_outputs - mean) ** 2, axis=-1)
