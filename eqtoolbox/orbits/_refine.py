"""Levenberg-Marquardt on the algebra: for every group with generators, and several axes of one leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import GeneralLinear, Group, Orthogonal, Product, Stabiliser, Wreath, WreathElement
from eqtoolbox.linalg import linear_transpose, while_loop
from eqtoolbox.orbits._blocks import Pair, act_on, squared_distance

STEPS = 20
INNER_STEPS = 200


def refine(group: Group, g: Any, pairs: Sequence[Pair], steps: int = STEPS) -> Any:
    """Moves ``g`` along the algebra as long as the squared distance falls.

    The residual moves by the infinitesimal action, r + Xδ, which is linear; the damped normal equations are
    solved by conjugate gradients, without any matrix.

    Args:
      group: a group with generators.
      g: the element to start from.
      pairs: the blocks before ``g``.
      steps: at most that many.
    """
    dtype, dimension = jnp.result_type(*(pair.moved for pair in pairs)), max(group.dimension, 1)

    def distance(h: Any) -> Array:
        return squared_distance(act_on(group, h, pairs))

    def step(h: Any, mu: Array) -> Any:
        moved = act_on(group, h, pairs)

        def field(delta: Any) -> list[Array]:
            return [group.tangent_slots(delta, p.moved, p.slots) for p in moved]

        zero = group.algebra_zero(dtype)
        back = linear_transpose(field, zero, moved)
        right = back([p.wanted - p.moved for p in moved])[0]
        size = squared_distance([p._replace(wanted=jnp.zeros_like(p.wanted)) for p in moved])
        scale = mu * size / dimension

        def normal(delta: Any) -> Any:
            return jax.tree.map(lambda x, y: x + scale * y, back(field(delta))[0], delta)

        delta = jax.scipy.sparse.linalg.cg(normal, right, tol=1e-10, maxiter=INNER_STEPS)[0]
        return group.compose(retract(group, delta), h)

    def body(state):
        h, cost, mu, count = state
        new = _like(step(h, mu), h)
        found = distance(new)
        better = jnp.isfinite(found) & (found < cost)
        h = jax.tree.map(lambda x, y: jnp.where(better, x, y), new, h)
        return h, jnp.where(better, found, cost), jnp.where(better, mu * 0.1, mu * 10), count + 1

    def going(state):
        return (state[3] < steps) & (state[2] < 1e6)

    g = jax.tree.map(jnp.asarray, g)
    state = (g, distance(g), jnp.asarray(1e-2, dtype), 0)
    return while_loop(going, body, state)[0]


def retract(group: Group, delta: Any) -> Any:
    """An element that agrees with exp(δ) to first order, without the exponential of a matrix."""
    match group:
        case GeneralLinear() | Stabiliser(is_orthogonal=False):
            return jnp.eye(group.n, dtype=delta.dtype) + group.matrix(delta)
        case Orthogonal() | Stabiliser():
            half, one = group.matrix(delta) / 2, jnp.eye(group.n, dtype=delta.dtype)
            return jnp.linalg.solve(one - half, one + half)
        case Product():
            return tuple(retract(g, d) for g, d in zip(group.groups, delta, strict=True))
        case Wreath():
            inner = jax.vmap(lambda d: retract(group.inner, d), axis_size=group.copies)(delta.inner)
            return WreathElement(retract(group.outer, delta.outer), inner)
    return group.exp(delta) if group.dimension else group.identity()


def _norm(tree: Any) -> Array:
    return jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)))


def _like(new: Any, old: Any) -> Any:
    return jax.tree.map(lambda x, y: x.astype(y.dtype), new, old)
