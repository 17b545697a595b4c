"""Learned generators: objective (6.3) as printed, and vector fields that keep the loss by construction.

As printed, an MLP a(g, θ, X) is trained on its derivative at g = 1 alone: a(exp(th), θ, X) at finite t is
extrapolation. The corrected method learns vector fields ξ_i(θ, X) projected on the level set of the loss, with
brackets that close, and integrates them: identity and one-parameter group law hold exactly, the loss is kept up to
the error of the integrator, and there is no matrix h whose gauge is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox.discovery._laws import additivity_residual, infinitesimal, level_set_field, orthogonality
from eqtoolbox.linalg import check_integer, scan, vary_with

Losses = Callable[[Array, Array], Array]  # (θ as a vector, data as a vector) -> d losses
Draw = Callable[[Array], tuple[Array, Array]]  # key -> (θ, data)


@dataclass(frozen=True)
class Weights:
    """The weights γ of (6.3) and β; γ_3 and β are not printed."""

    invariance: float = 1.0
    identity: float = 10.0
    associativity: float = 1.0
    size: float = 10.0
    orthogonal: float = 1.0
    sparse: float = 0.1
    beta: float = 1.0


def init_mlp(key: Array, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Normal weights of variance 1 / fan-in and zero biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (a, b)) / jnp.sqrt(a), jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def mlp(net: list[tuple[Array, Array]], x: Array) -> Array:
    """tanh between layers."""
    for i, (w, b) in enumerate(net):
        x = x @ w + b
        x = jnp.tanh(x) if i < len(net) - 1 else x
    return x


def printed_action(net: Any, data: Array) -> Callable[[Array, Array], Array]:
    """a_X(g, θ): an MLP of (g, θ, X)."""
    return lambda g, theta: mlp(net, jnp.concatenate([g.ravel(), theta, data]))


def printed_terms(
    net: Any, h: Array, losses: Losses, theta: Array, data: Array, beta: float = 1.0
) -> dict[str, Array]:
    """The terms of (6.3) for one sample, unweighted; h of shape (k, p, p)."""
    act = printed_action(net, data)
    norm = lambda v: jnp.sqrt(jnp.sum(v * v) + 1e-12)  # noqa: E731  # a norm at exactly 0 has no gradient
    fields = jax.vmap(lambda m: infinitesimal(act, m, theta))(h)
    change = jax.vmap(lambda v: jax.jvp(lambda p: losses(p, data), (theta,), (v,))[1])(fields)
    unit = jnp.eye(h.shape[-1], dtype=h.dtype)
    return {
        "invariance": jnp.mean(jnp.abs(change)),
        "identity": norm(act(unit, theta) - theta),
        "associativity": norm(additivity_residual(act, h[0], h[-1], theta)),
        "size": jnp.mean(jnp.abs(beta - jax.vmap(norm)(fields))),
        "orthogonal": orthogonality(h, printed=True),
        "sparse": jnp.sum(jnp.abs(h)),
    }


def field_basis(net: Any, losses: Losses, theta: Array, data: Array, count: int) -> Array:
    """The learned fields ξ_i(θ, X) of the corrected method, shape (count, p): an MLP, projected on the level set."""
    raw = mlp(net, jnp.concatenate([theta, data])).reshape(count, -1)
    bounded = raw / jnp.sqrt(1 + jnp.sum(raw * raw, 1, keepdims=True) / 4)
    return jax.vmap(lambda w: level_set_field(lambda p: losses(p, data), theta, w))(bounded)


def corrected_terms(
    net: Any, constants: Array, losses: Losses, theta: Array, data: Array, count: int, beta: float = 1.0
) -> dict[str, Array]:
    """Terms of the corrected objective for one sample: size, |cos| of the fields, and closure of their brackets.

    ``constants`` of shape (count, count, count) are the structure constants, learned with the fields: they are what
    the matrices h leave free. Invariance is exact by the projection.
    """
    basis = lambda p: field_basis(net, losses, p, data, count)  # noqa: E731
    fields = basis(theta)
    terms = {
        "size": jnp.mean(jnp.abs(beta - jnp.sqrt(jnp.sum(fields * fields, 1) + 1e-12))),
        "orthogonal": orthogonality(fields),
    }
    if count > 1:
        along = jax.vmap(lambda v: jax.jvp(basis, (theta,), (v,))[1])(fields)  # [b, a] = Dξ_a ξ_b
        brackets = jnp.swapaxes(along, 0, 1) - along  # [a, b] = Dξ_a ξ_b − Dξ_b ξ_a
        antisymmetric = (constants - jnp.swapaxes(constants, 0, 1)) / 2
        left = brackets - jnp.einsum("abc,cp->abp", antisymmetric, fields)
        terms["bracket"] = jnp.sqrt(jnp.mean(left * left) + 1e-12)
    return terms


def learn(
    key: Array,
    losses: Losses,
    draw: Draw,
    *,
    count: int = 1,
    corrected: bool = True,
    weights: Weights = Weights(),
    steps: int = 2000,
    batch: int = 64,
    hidden: tuple[int, ...] = (128, 128, 128),
    rate: float = 1e-3,
) -> tuple[Any, dict[str, Array]]:
    """Trains generators by Adam on fresh samples.

    Args:
      key: a typed key.
      losses: (θ, X) -> d losses, θ and X as vectors.
      draw: key -> (θ, X), a random sample.
      count: k, the number of generators.
      corrected: learn projected vector fields; else (6.3) as printed.
      weights: of the terms; the corrected method has the bracket in place of the associativity.
      steps: of Adam.
      batch: samples in each.
      hidden: widths of the MLP.
      rate: of Adam.

    Returns:
      (what was learned: ``{"net", "h"}`` as printed, ``{"net", "constants"}`` corrected; the mean of each term over
      the last tenth of the steps).

    Raises:
      TypeError: ``count``, ``steps`` or ``batch`` is no integer, or ``draw`` gives no pair of vectors.
      ValueError: one of these is not positive, or the losses are no vector.
    """
    for name, value in (("count", count), ("steps", steps), ("batch", batch)):
        check_integer(value, name, 1)
    k_net, k_h, k_steps = jax.random.split(key, 3)
    theta, data, found = _check_task(losses, draw, k_steps)
    p, q = theta.shape[0], data.shape[0]
    if corrected:
        sizes = (p + q, *hidden, count * p)
        start = {"net": init_mlp(k_net, sizes), "constants": jnp.zeros((count, count, count))}
    else:
        sizes = (p * p + p + q, *hidden, p)
        start = {"net": init_mlp(k_net, sizes), "h": jax.random.normal(k_h, (count, p, p)) / p}
    start = vary_with(start, start, theta, data, found)
    gamma = {name: getattr(weights, name, weights.associativity) for name in _TERMS}

    def terms(learned: Any, key: Array) -> dict[str, Array]:
        thetas, xs = jax.vmap(draw)(jax.random.split(key, batch))
        if corrected:
            one = partial(corrected_terms, learned["net"], learned["constants"], losses)
            each = jax.vmap(lambda t, x: one(t, x, count, weights.beta))(thetas, xs)
        else:
            one = partial(printed_terms, learned["net"], learned["h"], losses)
            each = jax.vmap(lambda t, x: one(t, x, weights.beta))(thetas, xs)
        return jax.tree.map(jnp.mean, each)

    def objective(learned: Any, key: Array) -> tuple[Array, dict[str, Array]]:
        found = terms(learned, key)
        return jnp.sum(jnp.stack([gamma[name] * value for name, value in found.items()])), found

    optimizer = optax.adam(rate)

    def step(carry: Any, i: Array) -> tuple[Any, dict[str, Array]]:
        learned, state = carry
        slope, found = jax.grad(objective, has_aux=True)(learned, jax.random.fold_in(k_steps, i))
        updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(learned, updates), state), found

    train = jax.jit(lambda carry: scan(step, carry, jnp.arange(steps)))
    (learned, _), history = train((start, optimizer.init(start)))
    return learned, jax.tree.map(lambda v: jnp.mean(v[-max(1, steps // 10) :]), history)


def _check_task(losses: Losses, draw: Draw, key: Array) -> Any:
    """The shapes of θ, X and the losses."""
    drawn = jax.eval_shape(draw, key)
    if not (isinstance(drawn, tuple) and len(drawn) == 2 and all(len(jnp.shape(v)) == 1 for v in drawn)):
        raise TypeError(f"`draw` must return (θ, X), two vectors, got {drawn}")
    found = jax.eval_shape(losses, *drawn)
    if not isinstance(found, jax.ShapeDtypeStruct) or len(found.shape) != 1:
        raise ValueError(f"`losses` must return a vector, one number for each datum, got {found}")
    return *drawn, found


_TERMS = ("invariance", "identity", "associativity", "size", "orthogonal", "sparse", "bracket")


def relative_invariance(losses: Losses, fields: Array, theta: Array, data: Array) -> Array:
    """|D_θL ξ| / (‖D_θL‖ ‖ξ‖) of each field, shape (count,)."""
    jacobian = jax.jacrev(lambda p: losses(p, data))(theta)
    sizes = jnp.linalg.norm(jacobian) * jnp.linalg.norm(fields, axis=1)
    return jnp.linalg.norm(fields @ jacobian.T, axis=1) / jnp.where(sizes > 0, sizes, 1)
