"""What an infinitesimal group law is, as residuals of a map a(g, θ) with g a matrix; and the printed one.

At g = 1 every map with a(1, θ) = θ has D_θa = 1, linear or not: Theorem 6.3.2 of Zhao (2026) is the linearity of
D_ga, and its residual says nothing about associativity. The bracket condition and the flow equation do.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import fori_loop

MatrixAction = Callable[[Array, Array], Array]  # (g, θ) -> θ', θ one vector


def infinitesimal(act: MatrixAction, h: Array, theta: Array) -> Array:
    """ξ_h(θ) = D_ga(h) at g = 1: one forward pass."""
    unit = jnp.eye(h.shape[-1], dtype=h.dtype)
    return jax.jvp(lambda g: act(g, theta), (unit,), (h,))[1]


def additivity_residual(act: MatrixAction, h: Array, k: Array, theta: Array) -> Array:
    """The printed L_assoc: D_θa ξ_h + ξ_k − ξ_{h+k} at g = 1, a derivative of the residual of the identity axiom."""
    unit = jnp.eye(h.shape[-1], dtype=h.dtype)
    moved = jax.jvp(lambda p: act(unit, p), (theta,), (infinitesimal(act, h, theta),))[1]
    return moved + infinitesimal(act, k, theta) - infinitesimal(act, h + k, theta)


def bracket_residual(act: MatrixAction, h: Array, k: Array, theta: Array) -> Array:
    """[ξ_h, ξ_k] + ξ_[h,k] with [ξ, η] = Dη ξ − Dξ η: 0 for a left action."""
    field = lambda m: lambda p: infinitesimal(act, m, p)  # noqa: E731
    forward = jax.jvp(field(k), (theta,), (field(h)(theta),))[1]
    backward = jax.jvp(field(h), (theta,), (field(k)(theta),))[1]
    return forward - backward + field(h @ k - k @ h)(theta)


def flow_residual(act: MatrixAction, h: Array, theta: Array, t: float | Array) -> Array:
    """d/dt a(exp(th), θ) − ξ_h(a(exp(th), θ)): 0 at all t for an action."""
    curve = lambda s: act(jax.scipy.linalg.expm(s * h), theta)  # noqa: E731
    t = jnp.asarray(t, theta.dtype)
    point, speed = jax.jvp(curve, (t,), (jnp.ones_like(t),))
    return speed - infinitesimal(act, h, point)


def flow(field: Callable[[Array], Array], theta: Array, t: float | Array, steps: int = 50) -> Array:
    """The end of θ' = ξ(θ) at time t by ``steps`` steps of the classical Runge-Kutta method."""
    dt = jnp.asarray(t, theta.dtype) / steps

    def step(_: Array, x: Array) -> Array:
        a = field(x)
        b = field(x + dt / 2 * a)
        c = field(x + dt / 2 * b)
        d = field(x + dt * c)
        return x + dt / 6 * (a + 2 * b + 2 * c + d)

    return fori_loop(0, steps, step, theta)


def level_set_field(losses: Callable[[Array], Array], theta: Array, w: Array) -> Array:
    """(1 − J⁺J) w with J = D_θL: a direction that keeps d losses, for any w; d at most p and J of full rank.

    An exact data-dependent symmetry of *any* loss, of local dimension p − rank J: that such directions exist is no
    discovery. ``w`` may depend on θ and the data.
    """
    jacobian = jax.jacrev(losses)(theta)
    q = jnp.linalg.qr(jacobian.T)[0]
    return w - q @ (q.T @ w)


def orthogonality(h: Array, *, printed: bool = False) -> Array:
    """Σ_{i<j} |cos(h_i, h_j)|; as printed without the absolute value, which is least, −k/2, for opposite generators."""
    flat = h.reshape(h.shape[0], -1)
    unit = flat / jnp.sqrt(jnp.sum(flat * flat, 1, keepdims=True) + 1e-12)
    cosines = (unit @ unit.T)[jnp.triu_indices(len(flat), 1)]
    return jnp.sum(cosines if printed else jnp.abs(cosines))
