"""The Lyapunov exponent of SGD at a symmetric point: does ‖Pθ‖ shrink or grow?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import Estimate, check_integer, leading_size, scan, vary_with
from eqtoolbox.mirror._mirror import Mirror
from eqtoolbox.mirror._restricted import SHIFT, Restricted, check_rates, restrict

Params = Any
BatchLoss = Callable[[Params, Any], Array]

#: Blocks of consecutive batches whose means give the standard error.
BLOCKS = 32


def lyapunov(
    loss: BatchLoss,
    params: Params,
    mirror: Mirror,
    batches: Any,
    *,
    learning_rate: float | Array = 0.1,
    weight_decay: float | Array = 0.0,
    exponents: int = 1,
    burn_in: int | None = None,
    key: Array | None = None,
) -> Estimate:
    """Λ, the growth rate per step of ‖Pθ‖ under SGD near the symmetric point (MS-2.4b).

    Near (I - P)θ the order parameter follows z_{t+1} = (I - η(OᵀH_tO + 2γ)) z_t, H_t the Hessian of batch t. It
    collapses to 0 if and only if Λ < 0, be the point a saddle of the mean loss or not.

    * Rank one: Λ = E log|1 - η(h + 2γ)|, the mean over the batches, exact for them (Theorem 5).
    * Any rank: the growth of orthonormal vectors under the product of these matrices, with a QR decomposition in every
      step. Only Hessian-vector products in the order parameter are computed, one (per exponent) a batch.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox import mirror
    >>> loss = lambda p, x: (p["w"] ** 2)[0] * x / 2  # the Hessian of a batch is x
    >>> params = {"w": jnp.ones(1)}
    >>> flip = mirror.from_directions(params)
    >>> lam = mirror.lyapunov(loss, params, flip, jnp.array([-1.0, 1.0] * 50), learning_rate=0.5)
    >>> round(float(lam.value), 4)  # log(1.5 · 0.5) / 2: collapses, though the mean curvature is 0
    -0.1438

    Args:
      loss: (θ, batch) -> a scalar, without the decay.
      params: θ; the statement is about the symmetric point next to it, which is taken as fixed (Assumption 2).
      mirror: a mirror of the loss of every batch.
      batches: a pytree with a leading axis of T batches, in the order SGD sees them: draw them as it does.
      learning_rate: η; or an array of them, broadcast with ``weight_decay``.
      weight_decay: γ of γ‖θ‖² (half of optax's).
      exponents: how many of the largest exponents, at most the dimension of the mirror.
      burn_in: steps left out for the vectors to turn into place; a tenth by default, none for rank one.
      key: a typed key for the first vectors; key 0 by default.

    Returns:
      An ``Estimate``: value, standard error over blocks of consecutive batches, and the number of steps used; of shape
      (), or that of the rates, followed by (exponents,) if more than one.

    Raises:
      ValueError: fewer than two batches, too many exponents, or a mirror of dimension 0.

    Reference:
      Ziyin, section 2.4, Theorem 5; Benettin et al. (1980) for QR.
    """
    check_rates(learning_rate=learning_rate, weight_decay=weight_decay)
    steps = check_integer(leading_size(batches, "batches"), "the number of batches", 2)
    at = restrict(loss, params, mirror)
    exponents = check_integer(exponents, "exponents", 1, at.zero.size, "the dimension of the mirror")
    rates, decays = jnp.broadcast_arrays(
        jnp.asarray(learning_rate, at.zero.dtype), jnp.asarray(weight_decay, at.zero.dtype)
    )
    growth = _growth(at, batches, rates.ravel(), decays.ravel(), exponents, key)
    if burn_in is None:
        burn_in = 0 if at.zero.size == 1 else steps // 10
    burn_in = check_integer(burn_in, "burn_in", 0, steps - 2)
    growth = growth[burn_in:].reshape(steps - burn_in, *rates.shape, exponents)
    return block_estimate(growth[..., 0] if exponents == 1 else growth)


def block_estimate(samples: Array, blocks: int = BLOCKS) -> Estimate:
    """The mean over the leading axis with the standard error of the means of consecutive blocks."""
    count = samples.shape[0]
    blocks = min(blocks, count)
    length = count // blocks
    means = jnp.mean(samples[: blocks * length].reshape(blocks, length, *samples.shape[1:]), axis=1)
    return Estimate(jnp.mean(samples, axis=0), jnp.std(means, axis=0, ddof=1) / math.sqrt(blocks), count)


def curvatures(loss: BatchLoss, params: Params, mirror: Mirror, batches: Any, direction: Any = None) -> Array:
    """h_t = ⟨n, H_t n⟩ of every batch along a direction of the order parameter.

    Args:
      loss: (θ, batch) -> a scalar, without the decay.
      params: θ; the Hessian is taken at the symmetric point next to it.
      mirror: a mirror of the loss.
      batches: a pytree with a leading axis of T batches.
      direction: n, a pytree like ``mirror.order(params)``, normalised here; not needed for a mirror of rank one.

    Returns:
      An array of shape (T,).

    Raises:
      ValueError: the direction is missing.
    """
    at = restrict(loss, params, mirror)
    if direction is None:
        if at.zero.size > 1:
            raise ValueError(
                f"mirror {mirror.name} has dimension {at.zero.size}: give a `direction`, "
                "such as that of gd_weight_decay"
            )
        n = jnp.ones_like(at.zero)
    else:
        n = jnp.concatenate([jnp.ravel(x).astype(at.zero.dtype) for x in jax.tree.leaves(direction)])
        n = n / jnp.linalg.norm(n)
    n = vary_with(n, params, batches)

    def curvature(batch: Any) -> Array:
        return jnp.vdot(n, at.hessian(batch)(n))

    return jax.lax.map(curvature, batches)


def _growth(
    at: Restricted, batches: Any, rates: Array, decays: Array, exponents: int, key: Array | None
) -> Array:
    """The logarithm of the growth of each vector in each step, shape (T, len(rates), exponents)."""
    r, dtype = at.zero.size, at.zero.dtype
    if r == 1:
        one = vary_with(jnp.ones_like(at.zero), at.point, batches)
        h = jax.lax.map(lambda batch: at.hessian(batch)(one)[0], batches)
        return jnp.log(jnp.abs(1 - rates[None] * (h[:, None] + SHIFT * decays[None])))[..., None]
    key = jax.random.key(0) if key is None else key
    first = jnp.linalg.qr(jax.random.normal(key, (r, exponents), dtype))[0].T
    frames = vary_with(jnp.broadcast_to(first, (rates.size, exponents, r)), at.zero, batches)
    units = vary_with(jnp.eye(r, dtype=dtype), at.zero, batches)
    dense = r <= rates.size * exponents

    def step(frames: Array, batch: Any) -> tuple[Array, Array]:
        product = at.hessian(batch)
        if dense:
            matrix = jax.vmap(product)(units)
            images = jnp.matmul(frames, matrix, precision=jax.lax.Precision.HIGHEST)
        else:
            images = jax.vmap(jax.vmap(product))(frames)
        frames = frames - rates[:, None, None] * (images + SHIFT * decays[:, None, None] * frames)
        if exponents == 1:
            lengths = jnp.linalg.norm(frames, axis=-1, keepdims=True)
            return frames / lengths, jnp.log(lengths[..., 0])
        q, upper = jnp.linalg.qr(jnp.swapaxes(frames, -1, -2))
        return jnp.swapaxes(q, -1, -2), jnp.log(jnp.abs(jnp.diagonal(upper, axis1=-2, axis2=-1)))

    return scan(step, frames, batches)[1]
