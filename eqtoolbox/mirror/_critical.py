"""Where SGD begins to collapse: critical learning rates and weight decays with standard errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.linalg import Estimate
from eqtoolbox.mirror._decay import gd_weight_decay
from eqtoolbox.mirror._lyapunov import BatchLoss, block_estimate, curvatures, lyapunov
from eqtoolbox.mirror._mirror import Mirror
from eqtoolbox.mirror._restricted import SHIFT, check_mirror, check_rates

Params = Any

#: Values tried between the ends of the range, first and in each refinement.
GRID = 49


class CriticalRate(NamedTuple):
    """The learning rates between which SGD collapses.

    Attributes:
      lower: the collapse begins here: an ``Estimate``; 0 where SGD collapses at any small learning rate, NaN where at
        none.
      upper: above this SGD is unstable and leaves again: an ``Estimate``.
      second_order: -2E[h + 2γ]/E[(h + 2γ)²] of equation (5), an ``Estimate``; not positive where GD is attracted.
    """

    lower: Estimate
    upper: Estimate
    second_order: Estimate


def critical_learning_rate(
    loss: BatchLoss,
    params: Params,
    mirror: Mirror,
    batches: Any,
    *,
    weight_decay: float = 0.0,
    key: Array | None = None,
) -> CriticalRate:
    """The learning rates at which the Lyapunov exponent changes sign, and their second-order approximation (MS-2.4c).

    Equation (5) expands Λ = E log|1 - η(h + 2γ)| to second order in η. It is exact for weak noise and has no upper
    end; the two roots of Λ itself are found by evaluating it on a grid with the same batches. For rank above one h is
    taken along the eigenvector of the smallest mean curvature (the paper's diagonal approximation); the roots are those
    of the top exponent, without that approximation. Not for ``jit``.

    Args:
      loss: (θ, batch) -> a scalar, without the decay.
      params: θ.
      mirror: a mirror of the loss of every batch.
      batches: a pytree with a leading axis of T batches.
      weight_decay: γ of γ‖θ‖².
      key: a typed key; key 0 by default.

    Returns:
      A ``CriticalRate``; the standard errors are those of Λ over its slope, and of the ratio of the two means.

    Reference:
      Ziyin, section 2.4, equation (5).
    """
    check_mirror(mirror)
    check_rates(weight_decay=weight_decay)
    direction = None
    if mirror.dimension(params) > 1:
        direction = gd_weight_decay(_mean(loss, _again(batches)), params, mirror, key=key).direction
    h = np.asarray(
        jax.jit(curvatures, static_argnums=0)(loss, params, mirror, _again(batches), direction), np.float64
    )
    h = h + SHIFT * weight_decay
    first, second = h.mean(), np.mean(h**2)
    ratio = -2 * first / second
    # the error of a ratio of two means, by linearisation
    spread = block_estimate(jnp.asarray(-2 * h / second - ratio * h**2 / second)).standard_error
    at = _exponent(loss, params, mirror, batches, key)
    scale = 1 / np.sqrt(second)
    low = min(0.02 * abs(ratio), 0.02 * scale) if ratio else 1e-3 * scale
    grid = np.geomspace(low, 40 * scale, GRID)
    lower, upper = _window(lambda rates: at(rates, weight_decay), grid)
    return CriticalRate(lower, upper, Estimate(ratio, float(spread), h.size))


def sgd_weight_decay(
    loss: BatchLoss,
    params: Params,
    mirror: Mirror,
    batches: Any,
    *,
    learning_rate: float = 0.1,
    key: Array | None = None,
) -> Estimate:
    """The weight decay γ from which on SGD collapses at a learning rate: Λ(γ) = 0 (MS-2.4b).

    For small learning rates or large batches it is that of ``gd_weight_decay``; noise makes it smaller.
    Not for ``jit``.

    Args:
      loss: (θ, batch) -> a scalar, without the decay.
      params: θ.
      mirror: a mirror of the loss of every batch.
      batches: a pytree with a leading axis of T batches.
      learning_rate: η.
      key: a typed key; key 0 by default.

    Returns:
      An ``Estimate``, negative where SGD collapses without decay; NaN where it does for none of the decays tried.
    """
    check_rates(learning_rate=learning_rate)
    escape = gd_weight_decay(_mean(loss, _again(batches)), params, mirror, key=key)
    center = float(escape.weight_decay)
    h = np.asarray(
        jax.jit(curvatures, static_argnums=0)(loss, params, mirror, _again(batches), escape.direction),
        np.float64,
    )
    reach = abs(center) + np.sqrt(np.mean(h**2)) * max(1.0, learning_rate * np.sqrt(np.mean(h**2)))
    at = _exponent(loss, params, mirror, batches, key)
    grid = np.linspace(center - 2 * reach, center + reach, GRID)
    return _window(lambda decays: at(learning_rate, decays), grid)[0]


def _mean(loss: BatchLoss, batches: Any) -> Callable[[Params], Array]:
    return lambda params: jnp.mean(jax.lax.map(lambda batch: loss(params, batch), batches))


def _again(batches: Any) -> Any:
    """The same batches for another use, where they are or hold keys."""

    def leaf(x: Any) -> Any:
        return jax.random.clone(x) if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) else x

    return jax.tree.map(leaf, batches)


def _exponent(loss, params, mirror, batches, key):
    @jax.jit
    def run(params, mirror, batches, rates, decays):
        return lyapunov(loss, params, mirror, batches, learning_rate=rates, weight_decay=decays, key=key)

    def at(rates: Any, decays: Any) -> tuple[np.ndarray, np.ndarray]:
        found = run(params, mirror, _again(batches), jnp.asarray(rates), jnp.asarray(decays))
        return np.asarray(found.value, np.float64), np.asarray(found.standard_error, np.float64)

    return at


def _window(
    at: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], grid: np.ndarray
) -> tuple[Estimate, Estimate]:
    """Where Λ becomes negative along a grid, and where positive again."""
    values, _ = at(grid)
    nowhere = Estimate(float("nan"), float("nan"), 0)
    below = np.flatnonzero(values < 0)
    if not below.size:
        return nowhere, nowhere
    start, after = below[0], np.flatnonzero(values[below[0] :] > 0)
    lower = Estimate(0.0 if grid[0] > 0 else -np.inf, 0.0, 0)
    if start > 0:
        lower = _root(at, float(grid[start - 1]), float(grid[start]))
    upper = nowhere
    if after.size:
        end = below[0] + after[0]
        upper = _root(at, float(grid[end - 1]), float(grid[end]))
    return lower, upper


def _root(at: Callable, low: float, high: float) -> Estimate:
    """The root between two values by one refined grid and a straight line; its error is that of Λ over the slope."""
    grid = np.linspace(low, high, GRID)
    values, errors = at(grid)
    (changes,) = np.nonzero(np.signbit(values[1:]) != np.signbit(values[:-1]))
    middle = changes[len(changes) // 2] if changes.size else 0
    near = slice(max(middle - 4, 0), middle + 6)
    slope, intercept = np.polyfit(grid[near], values[near], 1)
    root = float(np.clip(-intercept / slope, low, high))
    return Estimate(root, float(errors[middle] / abs(slope)), GRID)
