"""Straight segments between points of an orbit: how high the loss rises, and how far from the orbit they are."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


def chord_factor(scale: Any, degree: Any = 1.0, t: Any = 0.5) -> Array:
    """φ: the output on the chord between W and its rescaling is φ times the output at its ends.

    For σ(cz) = c^k σ(z), c > 0, and W' = (…, m W_{l-1}, m^{-k} W_l), φ = (1 - t + t m^{-k}) (1 - t + t m)^k, so
    that the loss ‖Y - output‖² rises from zero to (1 - φ)² ‖Y‖². φ >= 1, and 1 only at the ends or for m = 1.

    Args:
      scale: m > 0.
      degree: k > 0.
      t: where on the chord.

    Returns:
      φ, of the broadcast shape.

    Raises:
      ValueError: a number is not positive.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Proposition 3.3.3, equation (B.5).
    """
    _check_positive(scale=scale, degree=degree)
    m, k, t = (jnp.asarray(x, jnp.result_type(float)) for x in (scale, degree, t))
    return (1 - t + t * m**-k) * (1 - t + t * m) ** k


def chord_barrier(scale: Any, degree: Any, target_norm: Any, t: Any = 0.5) -> Array:
    """The loss (1 - φ)² ‖Y‖² on the chord between a zero-loss network and its rescaling by m.

    Args:
      scale: m > 0.
      degree: k > 0 of the activation.
      target_norm: ‖Y‖.
      t: where on the chord; at 1/2 it is unbounded in m.
    """
    return (1 - chord_factor(scale, degree, t)) ** 2 * jnp.asarray(target_norm) ** 2


def scale_for_barrier(barrier: float, degree: float, target_norm: float) -> float:
    """A rescaling m whose chord has more than the given loss at its midpoint: linear connectivity fails.

    m = C^{-1/k} with C = 2^{k+1} (√b/‖Y‖ + 1) - 1.

    Args:
      barrier: b > 0.
      degree: k > 0.
      target_norm: ‖Y‖ > 0.

    Returns:
      m in (0, 1).

    Raises:
      ValueError: a number is not positive.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Proposition 3.3.3. The printed m = C^k fails for k < 1.
    """
    _check_positive(barrier=barrier, degree=degree, target_norm=target_norm)
    c = 2 ** (degree + 1) * (math.sqrt(barrier) / target_norm + 1) - 1
    return c ** (-1 / degree)


def bounded_chord_barrier(
    last_norm: Any, before_norm: Any, limit: Any, degree: Any, target_norm: Any
) -> Array:
    """A bound on the loss of all chords between W and rescalings whose layers stay smaller than c.

    With ‖m W_{l-1}‖ < c and ‖m^{-k} W_l‖ < c, m lies between (‖W_l‖/c)^{1/k} and c/‖W_{l-1}‖, and the loss is at
    most (φ_max - 1)² ‖Y‖², φ_max = max(1, m_-^{-k}) max(1, m_+)^k.

    Args:
      last_norm: ‖W_l‖ < c.
      before_norm: ‖W_{l-1}‖ < c.
      limit: c.
      degree: k > 0.
      target_norm: ‖Y‖.

    Raises:
      ValueError: a number is not positive.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Proposition 3.3.6; the bound depends on c and on W.
    """
    _check_positive(last_norm=last_norm, before_norm=before_norm, limit=limit, degree=degree)
    k = jnp.asarray(degree, jnp.result_type(float))
    low, high = (last_norm / limit) ** (1 / k), limit / jnp.asarray(before_norm)
    largest = jnp.maximum(1, low**-k) * jnp.maximum(1, high) ** k
    return (largest - 1) ** 2 * jnp.asarray(target_norm) ** 2


def orbit_distance_bound(first: Array, second: Array, scale: Any) -> Array:
    """A lower bound on the distance from a chord's midpoint to the pairs with W_1 W_2 = A.

    The chord joins (β W_1, W_2/β) and (W_1/β, β W_2); its midpoint is c (W_1, W_2), c = (β + 1/β)/2. Any pair with
    the product A has σ_min(Ŵ_1) σ_min(Ŵ_2) <= σ_min(A), so the distance is at least
    c min(σ_min(W_1), σ_min(W_2)) - √σ_min(A): it grows without bound with β.

    Args:
      first: W_1, square and invertible.
      second: W_2, likewise.
      scale: β > 0.

    Raises:
      ValueError: ``scale`` is not positive.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Proposition 3.3.5; the bound is not printed.
    """
    _check_positive(scale=scale)
    least = [jnp.linalg.svd(m, compute_uv=False)[..., -1] for m in (first, second, first @ second)]
    beta = jnp.asarray(scale)
    return (beta + 1 / beta) / 2 * jnp.minimum(least[0], least[1]) - jnp.sqrt(least[2])


def chord_distance_bound(curvature: Any, distance: Any, length: Any) -> Array:
    """How far a chord can be from a curve of bounded curvature that joins its ends.

    d_max = (1 - √(1 - (κD/2)²))/κ, about κD²/8; the loss on the chord differs from that of the curve by at most a
    Lipschitz constant times d_max. Two hypotheses are not printed: κD <= 2, and a length of at most π/κ. Without
    the second a helix is a counterexample: its chord goes through the middle.

    Args:
      curvature: κ, an upper bound on the curvature of the curve.
      distance: D, between the ends.
      length: of the curve.

    Returns:
      d_max; infinite where a hypothesis fails.

    Raises:
      ValueError: ``length`` is not positive, or another number is negative.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Theorem 3.4.2, corrected.
    """
    _check_positive(length=length)
    _check_positive(True, curvature=curvature, distance=distance)
    kappa, d, length = (jnp.asarray(x, jnp.result_type(float)) for x in (curvature, distance, length))
    half = kappa * d / 2
    inside = (half <= 1) & (kappa * length <= jnp.pi) & (d <= length * (1 + 1e-6))
    root = jnp.sqrt(jnp.where(inside, 1 - half**2, 1))
    # κD²/4 / (1 + root) has no cancellation.
    return jnp.where(inside, half * d / 2 / (1 + root), jnp.inf)


def _check_positive(zero: bool = False, /, **values: Any) -> None:
    """Refuses numbers that are known and not positive, or not 0 either."""
    for name, value in values.items():
        if isinstance(value, Tracer):
            continue
        x = np.asarray(value)
        if not np.all((x >= 0) if zero else (x > 0)):
            raise ValueError(f"`{name}` must {'not be negative' if zero else 'be positive'}, got {value!r}")
