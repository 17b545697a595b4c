"""Curves in an orbit, t -> act(exp(tξ), θ), and how strongly they bend: the curvature of a minimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import without_inverse
from eqtoolbox.linalg import tree_norm, tree_vdot
from eqtoolbox.symmetry import Symmetry, check_symmetry

Params = Any
Vector = Any
Curve = Callable[[Any], Params]


def curve(sym: Symmetry, params: Params, direction: Vector) -> Curve:
    """The curve γ(t) = act(exp(tξ), θ): every point of it has the outputs of θ.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ = γ(0).
      direction: an algebra vector ξ.

    Returns:
      The function t -> γ(t).

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
      ValueError: ``direction`` is no algebra vector of it.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), equation (3.4).
    """
    check_symmetry(sym, "curve")
    sym._check_vector(direction)

    def gamma(t: Any) -> Params:
        return sym.act(sym.exp(jax.tree.map(lambda x: t * x, direction)), params)

    return gamma


def curve_to(sym: Symmetry, params: Params, g: Any) -> Curve:
    """The curve γ(t) = act(exp(t log g), θ) in an orbit, from θ at 0 to act(g, θ) at 1.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      g: an element with a real logarithm, such as one of ``sym.exp``; where it has none (a permutation, a
        matrix with a negative eigenvalue), γ is NaN.

    Returns:
      The function t -> γ(t).

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
      ValueError: ``g`` is no element of it.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), equation (3.5), which needs log g to exist.
    """
    check_symmetry(sym, "curve_to")
    return curve(sym, params, sym.log(without_inverse(g)))


def curve_derivatives(gamma: Curve, t: Any = 0.0) -> tuple[Params, Params]:
    """γ'(t) and γ''(t) of any curve, by differentiating it twice.

    Args:
      gamma: a function of a number t to a pytree of real arrays, such as ``curve`` returns.
      t: where.

    Returns:
      Two pytrees like γ(t).
    """
    t = jnp.asarray(t, jnp.result_type(float))
    one = jnp.ones_like(t)

    def velocity(s: Array) -> Params:
        return jax.jvp(gamma, (s,), (one,))[1]

    return jax.jvp(velocity, (t,), (one,))


def orbit_derivatives(sym: Symmetry, params: Params, direction: Vector) -> tuple[Params, Params]:
    """γ' = Xθ and γ'' = X Xθ of ``curve`` at t = 0 in closed form, X the generator of ξ: no exponential.

    For W_m -> e^{tM_m} W_m e^{-tM_{m-1}} these are M_m W_m - W_m M_{m-1} and
    M_m² W_m - 2 M_m W_m M_{m-1} + W_m M_{m-1}². Of groups that translate too, the second is the derivative of
    the field X along itself.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      direction: an algebra vector ξ.

    Returns:
      Two pytrees like ``params``.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
      ValueError: ``direction`` is no algebra vector of it.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), section 5.2.2. The explicit expression it announces is not
      printed; the published runs leave out the cross term of neighbouring layers.
    """
    check_symmetry(sym, "orbit_derivatives")
    velocity = sym.generator(direction, params)
    if sym.is_linear:
        return velocity, sym.generator(direction, velocity)
    return velocity, jax.jvp(lambda p: sym.generator(direction, p), (params,), (velocity,))[1]


def curvature_of(velocity: Params, acceleration: Params) -> Array:
    """κ = ‖γ'' - (γ'·γ''/‖γ'‖²) γ'‖ / ‖γ'‖², all leaves taken as one vector.

    The same as ‖T'‖/‖γ'‖ and as (‖γ'‖²‖γ''‖² - (γ'·γ'')²)^½/‖γ'‖³, without the cancellation of the latter.

    Args:
      velocity: γ', a pytree of real arrays.
      acceleration: γ'', like it.

    Returns:
      A number; 0 where γ' = 0, at a point the curve does not leave. The gradient is 0 there and where κ is.
    """
    square = tree_vdot(velocity, velocity)
    moving = square > 0
    square = jnp.where(moving, square, 1)
    along = tree_vdot(velocity, acceleration) / square
    normal = jax.tree.map(lambda a, v: a - along.astype(v.dtype) * v, acceleration, velocity)
    return jnp.where(moving, tree_norm(normal) / square, 0)


def curve_curvature(gamma: Curve, t: Any = 0.0) -> Array:
    """The curvature κ(γ, t) of any curve of parameters, by differentiating it twice.

    >>> import jax.numpy as jnp
    >>> circle = lambda t: {"w": 4 * jnp.stack([jnp.cos(t), jnp.sin(t)])}
    >>> round(float(curve_curvature(circle, 0.3)), 5)
    0.25

    Args:
      gamma: a function of a number t to a pytree of real arrays.
      t: where.

    Returns:
      A number, 0 where the curve stands still.
    """
    return curvature_of(*curve_derivatives(gamma, t))


def curvature(sym: Symmetry, params: Params, direction: Vector) -> Array:
    """The curvature κ at θ of the curve act(exp(tξ), θ), in closed form.

    It does not change with the length of ξ, and along its own curve only as the curve bends; scaling θ by c
    divides it by |c| where the group acts linearly. On uv = c it is 2|c|/(u² + v²)^{3/2}: 2|c|/λ^{3/2} with λ
    the largest Hessian eigenvalue of ½(uv - c)², so that flatter minima are more strongly bent.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"u": "h*", "v": "h"}, {"h": groups.PositiveScaling(1)})
    >>> theta = {"u": jnp.array([1.0]), "v": jnp.array([1.0])}
    >>> round(float(curvature(sym, theta, {"h": jnp.array([1.0])})), 4)
    0.7071

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      direction: an algebra vector ξ.

    Returns:
      A number, differentiable in θ; 0 where ξ does not move θ.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
      ValueError: ``direction`` is no algebra vector of it.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), section 5.2.2.
    """
    return curvature_of(*orbit_derivatives(sym, params, direction))


def mean_curvature(sym: Symmetry, params: Params, directions: Vector) -> Array:
    """ψ(θ): the mean of the curvatures κ of the curves in several directions.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      directions: algebra vectors stacked along a leading axis, such as ``curve_directions`` draws.

    Returns:
      A number, differentiable in θ.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), equation (5.2); its curves are γ_M(·, w), not γ_M(0, w).
    """
    check_symmetry(sym, "mean_curvature")
    return jnp.mean(jax.vmap(lambda xi: curvature(sym, params, xi))(directions))


def curve_directions(sym: Symmetry, count: int, *, key: Array, positive: bool = False) -> Vector:
    """Random directions for ``mean_curvature``, each space's part of length 1.

    Args:
      sym: a symmetry with generators.
      count: how many.
      key: a typed key.
      positive: draws entries uniformly in [0, 1), as the published runs do for their matrices, instead of as
        the groups draw theirs.

    Returns:
      Algebra vectors stacked along a leading axis of length ``count``.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
    """
    check_symmetry(sym, "curve_directions")

    def one(k: Array) -> Vector:
        draw, again = jax.random.split(k)
        xi = sym.sample_algebra(draw)
        if positive:
            leaves, treedef = jax.tree.flatten(xi)
            keys = jax.random.split(again, len(leaves))
            leaves = [jax.random.uniform(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
            xi = treedef.unflatten(leaves)
        return {space: _unit(part) for space, part in xi.items()}

    return jax.vmap(one)(jax.random.split(key, count))


def _unit(vector: Vector) -> Vector:
    length = tree_norm(vector)
    return jax.tree.map(lambda x: x / jnp.where(length > 0, length, 1).astype(x.dtype), vector)
