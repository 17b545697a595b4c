"""What teleportation optimises over an orbit: plain functions (loss, θ) -> a number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import (
    check_integer,
    check_like,
    fori_loop,
    hutchinson_trace,
    hvp,
    hvp_fn,
    random_like,
    tree_norm,
    tree_vdot,
    unravel_stack,
)
from eqtoolbox.orbits._curves import curvature, curve_curvature
from eqtoolbox.symmetry import Equivariance, Symmetry

Params = Any
Loss = Callable[[Params], Array]
Objective = Callable[[Loss, Params], Array]


def gradient_norm(loss: Loss, params: Params, *, squared: bool = False) -> Array:
    """The norm ‖∇L(θ)‖ of the gradient: what teleportation was invented to enlarge.

    Args:
      loss: θ -> a scalar.
      params: the parameters θ.
      squared: ‖∇L‖² instead, the rate -dL/dt of gradient flow, as the papers have it.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), algorithm 1.
    """
    return _size(jax.grad(loss)(params), squared)


def preconditioned_gradient_norm(
    loss: Loss,
    params: Params,
    second_moment: Params,
    *,
    accumulate: bool = False,
    eps: float = 1e-8,
    squared: bool = False,
) -> Array:
    """The norm (∇LᵀA∇L)^½ with A = 1 / (√v + ε): squared, the rate -dL/dt of an adaptive optimizer.

    As an objective of ``teleport`` it gets ``second_moment`` from the state of the inner optimizer.

    Args:
      loss: θ -> a scalar.
      params: the parameters θ.
      second_moment: v, like ``params``: the sum of squares of AdaGrad, the mean square of RMSProp or Adam.
      accumulate: add the squared gradient at θ to v first, as AdaGrad does.
      eps: ε.
      squared: the square instead.

    Raises:
      ValueError: ``second_moment`` is not like ``params``; names the leaf.

    Reference:
      Zhao (2026), equation 5.7, where the rate is printed without the square.
    """
    check_like(second_moment, params, "second_moment", "params")
    gradient = jax.grad(loss)(params)

    def scaled(g: Array, v: Array) -> Array:
        v = v + g * g if accumulate else v
        inside = v > 0
        return g / jnp.sqrt(jnp.where(inside, jnp.sqrt(jnp.where(inside, v, 1)), 0) + eps)

    return _size(jax.tree.map(scaled, gradient, second_moment), squared)


def sharpness(
    loss: Loss,
    params: Params,
    *,
    key: Array | None = None,
    displacements: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    directions: int = 10,
    kind: Literal["sphere", "positive"] = "sphere",
    excess: bool = False,
) -> Array:
    """The mean loss φ(θ) = mean L(θ + t d) over displacements t and random unit directions d.

    On the sphere E φ - L = mean(t²) tr H / 2p for small t, with p parameters. The published runs draw directions in
    the positive orthant (uniform entries, normalised) instead, which mostly measures the curvature along the vector
    of
    ones: mean(t²) (tr H + 3 1ᵀH1) / 8p, and a term of first order mean(t) √3/(2√p) 1ᵀ∇L.

    Args:
      loss: θ -> a scalar.
      params: the parameters θ.
      key: of the directions; the same ones at every call when None, so that two θ are compared fairly.
      displacements: t.
      directions: how many directions, the same for all displacements.
      kind: "sphere", or "positive" for the orthant.
      excess: φ - L(θ), the mean change of the loss.

    Raises:
      ValueError: ``kind`` is neither, or there are no directions or displacements.

    Reference:
      Zhao (2026), equation 5.1, which says sphere.
    """
    if kind not in ("sphere", "positive"):
        raise ValueError(f"sharpness: `kind` must be 'sphere' or 'positive', got {kind!r}")
    check_integer(directions, "directions", 1)
    if not len(displacements):
        raise ValueError("sharpness: need at least one displacement, got none")
    leaves = jax.tree.leaves(params)
    size, dtype = sum(jnp.size(x) for x in leaves), jnp.result_type(jnp.float32, *leaves)
    key = jax.random.key(0) if key is None else key
    draw = jax.random.normal if kind == "sphere" else jax.random.uniform
    rows = draw(key, (directions, size), dtype)
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)

    def along(row: Array) -> Array:
        step = unravel_stack(row, params)
        at = lambda t: loss(jax.tree.map(lambda w, d: w + (t * d).astype(w.dtype), params, step))  # noqa: E731
        return jnp.mean(jax.lax.map(at, jnp.asarray(displacements, dtype)))

    mean = jnp.mean(jax.lax.map(along, rows))
    return mean - loss(params) if excess else mean


def orbit_curvature(
    loss: Loss, params: Params, *, sym: Symmetry | Equivariance, key: Array | None = None, curves: int = 1
) -> Array:
    """The mean curvature ψ of random curves γ(t) = exp(tM)·θ of the orbit at t = 0.

    κ = ‖γ'' - (γ'·γ'')/‖γ'‖² γ'‖ / ‖γ'‖²: it does not change when M is scaled, and scales as 1/c when a linear
    action is at cθ. The M are the same at every call, unless a ``key`` is given.

    Args:
      loss: not used.
      params: the parameters θ.
      sym: the symmetry, or an ``Equivariance`` with an identity, whose λ is taken for an algebra vector.
      key: of the random M.
      curves: how many.

    Raises:
      TypeError: ``sym`` has no generators.

    Reference:
      Zhao (2026), equation 5.2 and section 3.4.1.
    """
    check_integer(curves, "curves", 1)
    key = jax.random.key(0) if key is None else key
    zero, act = identity_and_action(sym, "orbit_curvature")

    def one(key: Array) -> Array:
        if isinstance(sym, Symmetry):
            return curvature(sym, params, sym.sample_algebra(key))
        m = random_like(key, zero)
        return curve_curvature(lambda t: act(params, jax.tree.map(lambda z, v: z + t * v, zero, m)))

    return jnp.mean(jax.lax.map(one, jax.random.split(key, curves)))


def hessian_trace(loss: Loss, params: Params, *, key: Array | None = None, samples: int = 8) -> Array:
    """Hutchinson's estimate of tr ∇²L(θ); the probes are the same at every call, unless a ``key`` is given."""
    key = jax.random.key(0) if key is None else key
    return hutchinson_trace(hvp_fn(loss, params), params, key=key, samples=samples).value


def hessian_top_eigenvalue(
    loss: Loss, params: Params, *, key: Array | None = None, iterations: int = 20
) -> Array:
    """The eigenvalue of ∇²L(θ) that is largest in size, by power iteration; its gradient is that of vᵀ∇²L v, v fixed.

    Args:
      loss: θ -> a scalar.
      params: the parameters θ.
      key: of the starting vector; the same at every call when None.
      iterations: Hessian products.
    """
    check_integer(iterations, "iterations", 1)
    key = jax.random.key(0) if key is None else key
    start = random_like(key, params)
    fixed = jax.lax.stop_gradient(params)

    def unit(v: Params) -> Params:
        norm = tree_norm(v)
        return jax.tree.map(lambda x: x / jnp.where(norm > 0, norm, 1).astype(x.dtype), v)

    v = fori_loop(0, iterations, lambda _, v: unit(hvp(loss, fixed, v)), unit(start))
    v = jax.lax.stop_gradient(v)
    return tree_vdot(v, hvp(loss, params, v))


def parameter_norm(loss: Loss, params: Params) -> Array:
    """The norm ‖θ‖. Smallest where the layers are balanced; ``loss`` is not used."""
    return _size(params, False)


def quantisation_error(loss: Loss, params: Params, *, bits: int = 8, model: bool = True) -> Array:
    """The mean of ‖w - Q(w)‖² / ‖w‖² over rows and columns w, Q rounding to 2^bits - 1 levels up to max |W|.

    The grid is that of the whole leaf, so that rows and columns much smaller than others are lost: equalising them over
    the orbit needs no data. The error of a leaf with one axis is that of the leaf.

    Args:
      loss: not used.
      params: the parameters θ.
      bits: of the symmetric grid.
      model: with rounding errors uniform in a cell (step²/12), which has a useful gradient; False rounds indeed.

    Raises:
      ValueError: fewer than two bits.
    """
    check_integer(bits, "bits", 2)

    def relative(w: Array) -> list[Array]:
        step = jnp.max(jnp.abs(w)) / (2 ** (bits - 1) - 1)
        error = jnp.square(w - jnp.round(w / jnp.where(step > 0, step, 1)) * step)
        if model:
            error = jnp.broadcast_to(step**2 / 12, jnp.shape(w))
        found = []
        for axis in range(max(jnp.ndim(w), 1)):
            others = tuple(i for i in range(jnp.ndim(w)) if i != axis) if jnp.ndim(w) > 1 else None
            square = jnp.sum(jnp.square(w), others)
            ratio = jnp.sum(error, others) / jnp.where(square > 0, square, 1)
            found.append(jnp.mean(jnp.where(square > 0, ratio, 0)))
        return found

    return jnp.mean(jnp.stack([jnp.mean(jnp.stack(relative(w))) for w in jax.tree.leaves(params)]))


#: Whether more of it is better, for the objectives of this file.
_MAXIMIZE: dict[Any, bool] = {
    gradient_norm: True,
    preconditioned_gradient_norm: True,
    sharpness: False,
    orbit_curvature: True,
    hessian_trace: False,
    hessian_top_eigenvalue: False,
    parameter_norm: False,
    quantisation_error: False,
}


def direction_of(objective: Any, maximize: bool | None, what: str) -> bool:
    """Whether an objective is to grow: what the user says, else what is known of it.

    Raises:
      TypeError: it is no function.
      ValueError: it is the user's own, and the user does not say.
    """
    if not callable(objective):
        raise TypeError(
            f"{what}: `objective` must be a function (loss, params) -> a number, got {objective!r}"
        )
    if maximize is not None:
        return bool(maximize)
    function = objective
    while isinstance(function, functools.partial):
        function = function.func
    if function not in _MAXIMIZE:
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f"{what}: say maximize=True or maximize=False for the objective {name!r}")
    return _MAXIMIZE[function]


def identity_and_action(sym: Any, what: str) -> tuple[Any, Callable[[Params, Any], Params]]:
    """The λ that does nothing, and (θ, λ) -> the moved θ.

    Raises:
      TypeError: ``sym`` is neither a ``Symmetry`` with generators nor an ``Equivariance`` with an identity.
    """
    if isinstance(sym, Symmetry):
        sym = Equivariance.of(sym)
    if not isinstance(sym, Equivariance):
        raise TypeError(f"{what} needs an eqtoolbox.Symmetry or Equivariance, got {sym!r}")
    if sym.identity is None:
        raise TypeError(
            f"{what} needs an Equivariance with an `identity`, a λ that moves nothing; got {sym!r}"
        )
    return sym.identity, sym.act


def _size(tree: Params, squared: bool) -> Array:
    return tree_vdot(tree, tree) if squared else tree_norm(tree)
