"""How far a minimum moves away when the loss shifts: the expected distance to a line, a parabola, a circle."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eqtoolbox.linalg import fori_loop

#: Nodes of the Gauss-Legendre rule on each smooth piece of the circle of shifts.
NODES = 96
#: From the upper bound on the root Newton's method falls onto it; quadratic from the start unless the root is tiny.
NEWTON_STEPS = 40


def expected_distance(shape: str, curvature: Array | float, radius: Array | float = 1.0) -> Array:
    """E dist(w, γ) over w uniform on the circle of radius r around a point where γ has curvature κ.

    E/r depends on x = κr alone: 2/π for a line, and 2/π - x²/(12π) + … for the parabola and the circle alike.
    Both fall, then rise: the circle from x = 1.6308 on, back to 2/π at 2.4705, towards 1; the parabola from
    1.8282 on, back at 4.7327, towards 1/2 + 1/π.

    >>> round(float(expected_distance("circle", 1.0)), 5), round(float(expected_distance("parabola", 1.0)), 5)
    (0.59874, 0.62106)

    Args:
      shape: "line", "parabola" (t, k t²) with κ = 2|k|, or "circle" of radius 1/κ.
      curvature: κ >= 0, any shape.
      radius: r > 0, of a shape that broadcasts.

    Returns:
      The expected distance; differentiable in both.

    Raises:
      ValueError: no such shape.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), equations (5.3) to (5.6) and Figure 5.5, where κ₁ = 2k₁ and
      κ₂ = 1/k₂ need absolute values. That parabola and circle depend on κ in opposite ways is due to the
      ranges of κr that are shown.
    """
    if shape not in _SHAPES:
        raise ValueError(f"`shape` must be one of {sorted(_SHAPES)}, got {shape!r}")
    r = jnp.asarray(radius, jnp.result_type(float))
    x = jnp.abs(jnp.asarray(curvature, r.dtype)) * r
    return r * _SHAPES[shape](x)


def _line(x: Array) -> Array:
    return jnp.full(x.shape, 2 / np.pi, x.dtype)


def _circle(x: Array) -> Array:
    """dist/r = (1 - 2 sinθ/x + 1/x²)^½ - 1/x up to its sign, which changes where sin θ = x/2."""
    rho = 1 / jnp.maximum(x, 1e-12)[..., None]

    def distance(angle: Array) -> Array:
        slope = 1 - 2 * rho * jnp.sin(angle)
        # Not the difference of the two, which are large where the circle is.
        return jnp.abs(slope) / (jnp.sqrt(jnp.maximum(slope + rho**2, 0)) + rho)

    return _mean(distance, jnp.arcsin(jnp.minimum(x / 2, 1)))


def _parabola(x: Array) -> Array:
    """For r = 1 and k = x/2: the distance to the one point t >= 0 with 2k²t³ + (1 - 2k sinθ)t = cosθ."""
    k = x[..., None] / 2

    def distance(angle: Array) -> Array:
        c, s = jnp.cos(angle), jnp.sin(angle)
        a, b = 2 * k**2, 1 - 2 * k * s
        a = jnp.maximum(a, 1e-12)
        t = jnp.sqrt(jnp.maximum(-b / a, 0)) + jnp.cbrt(jnp.maximum(c, 0) / a)
        t = jnp.where(b > 0, jnp.minimum(t, c / jnp.where(b > 0, b, 1)), t)

        def newton(_: int, t: Array) -> Array:
            slope = 3 * a * t**2 + b
            return t - (a * t**3 + b * t - c) / jnp.where(jnp.abs(slope) > 1e-30, slope, 1)

        t = fori_loop(0, NEWTON_STEPS, newton, lax.stop_gradient(t))
        return jnp.sqrt((t - c) ** 2 + (k * t**2 - s) ** 2)

    # The circle meets the parabola where sin θ = k cos² θ.
    meets = 2 * k[..., 0] / (1 + jnp.sqrt(1 + 4 * k[..., 0] ** 2))
    return _mean(distance, jnp.arcsin(meets))


def _mean(distance: Callable[[Array], Array], kink: Array) -> Array:
    """The mean over θ in [-π/2, π/2], which by symmetry is that over the circle, smooth but at one angle."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    total = jnp.zeros_like(kink)
    for low, high in ((jnp.full_like(kink, -np.pi / 2), kink), (kink, jnp.full_like(kink, np.pi / 2))):
        half = (high - low) / 2
        # An angle that is quadratic near the ends takes the sting out of square roots there.
        s, ds = np.sin(np.pi / 2 * nodes), np.pi / 2 * np.cos(np.pi / 2 * nodes) * weights
        angle = (low + half)[..., None] + jnp.multiply.outer(half, s.astype(half.dtype))
        total = total + half * jnp.tensordot(distance(angle), ds.astype(half.dtype), 1)
    return total / np.pi


_SHAPES = {"line": _line, "parabola": _parabola, "circle": _circle}
