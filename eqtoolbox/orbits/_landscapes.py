"""Test functions of two or more variables with the rotations that keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import Orthogonal
from eqtoolbox.symmetry import Equivariance

_HIGHEST = jax.lax.Precision.HIGHEST


class Landscape(NamedTuple):
    """A function and its symmetry g·x = h⁻¹(g h(x)): it is |h(x)|².

    Attributes:
      loss: x -> a number.
      symmetry: λ is the angle of a rotation in two dimensions; an algebra vector of ``groups.Orthogonal`` in more.
      minimum: where the loss is 0.
      start: where descent starts in the papers.
    """

    loss: Callable[[Array], Array]
    symmetry: Equivariance
    minimum: Array
    start: Array


def rosenbrock() -> Landscape:
    """100 (x₁² - x₂)² + (x₁ - 1)²."""
    return _landscape(
        lambda x: jnp.stack([10 * (x[0] ** 2 - x[1]), x[0] - 1]),
        lambda y: jnp.stack([y[1] + 1, (y[1] + 1) ** 2 - 0.1 * y[0]]),
        (1.0, 1.0),
        (-1.0, -1.0),
    )


def booth() -> Landscape:
    """(x₁ + 2x₂ - 7)² + (2x₁ + x₂ - 5)²."""
    return _landscape(
        lambda x: jnp.stack([x[0] + 2 * x[1] - 7, 2 * x[0] + x[1] - 5]),
        lambda y: jnp.stack([(2 * y[1] - y[0]) / 3 + 1, (2 * y[0] - y[1]) / 3 + 3]),
        (1.0, 3.0),
        (5.0, -5.0),
    )


def ellipse(a: float = 10.0) -> Landscape:
    """x₁² + a x₂² for a > 0; the paper prints a ≥ 0, but a = 0 has no inverse.

    Raises:
      ValueError: a is not positive.
    """
    if not a > 0:
        raise ValueError(f"ellipse: a must be positive, got {a!r}")
    root = float(np.sqrt(a))
    return _landscape(
        lambda x: jnp.stack([x[0], root * x[1]]),
        lambda y: jnp.stack([y[0], y[1] / root]),
        (0.0, 0.0),
        (1.0, 1.0),
    )


def quadratic(matrix: Array) -> Landscape:
    """wᵀAw for a positive definite A: O(n) acts by A^-½ g A^½.

    Args:
      matrix: A, symmetric, shape (n, n).

    Raises:
      ValueError: A is not symmetric or not positive definite.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), equation 4.33.
    """
    a = np.asarray(matrix, np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1] or not np.allclose(a, a.T):
        raise ValueError(f"quadratic: the matrix must be symmetric, got shape {a.shape}")
    values, vectors = np.linalg.eigh(a)
    if not values[0] > 0:
        raise ValueError(
            f"quadratic: the matrix must be positive definite, its least eigenvalue is {values[0]}"
        )
    root = (vectors * np.sqrt(values)) @ vectors.T
    back = (vectors / np.sqrt(values)) @ vectors.T
    group = Orthogonal(len(a))
    dtype = jnp.asarray(matrix).dtype

    def act(w: Array, lam: Array) -> Array:
        inside = jnp.matmul(jnp.asarray(root, dtype), w, precision=_HIGHEST)
        return jnp.matmul(
            jnp.asarray(back, dtype), group.act(group.exp(lam), inside, axis=0), precision=_HIGHEST
        )

    return Landscape(
        lambda w: jnp.sum(jnp.square(jnp.matmul(jnp.asarray(root, dtype), w, precision=_HIGHEST))),
        Equivariance(act, act_inverse=lambda w, lam: act(w, -lam), identity=group.algebra_zero(dtype)),
        jnp.zeros(len(a), dtype),
        jnp.ones(len(a), dtype),
    )


def _landscape(
    h: Callable[[Array], Array], back: Callable[[Array], Array], minimum: tuple, start: tuple
) -> Landscape:
    def act(x: Array, angle: Array) -> Array:
        u, v = h(x)
        c, s = jnp.cos(angle), jnp.sin(angle)
        return back(jnp.stack([c * u - s * v, s * u + c * v]))

    return Landscape(
        lambda x: jnp.sum(jnp.square(h(x))),
        Equivariance(act, act_inverse=lambda x, angle: act(x, -angle), identity=jnp.zeros(())),
        jnp.asarray(minimum),
        jnp.asarray(start),
    )
