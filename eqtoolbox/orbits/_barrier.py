"""The loss on the way from one set of parameters to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import check_integer, check_like

Params = Any


class Barrier(NamedTuple):
    """The loss along a curve, and how far it rises above the straight line between its ends.

    Attributes:
      value: the largest of ``curve``; at least 0, for it is 0 at the ends.
      curve: loss - ((1 - t) · loss at 0 + t · loss at 1), shape (points,).
      losses: the loss, shape (points,).
      times: t, evenly spaced from 0 to 1, shape (points,).
    """

    value: Array
    curve: Array
    losses: Array
    times: Array


def interpolate(params_a: Params, params_b: Params, t: Any) -> Params:
    """(1 - t) θ_a + t θ_b, leaf by leaf; every leaf keeps its dtype, and whole numbers are those of θ_a.

    Args:
      params_a: θ_a.
      params_b: θ_b, of the same shapes.
      t: a number.

    Raises:
      ValueError: structures or shapes differ; names the leaf.
    """
    check_like(params_b, params_a, "params_b", "params_a")

    def leaf(x: Any, y: Any) -> Array:
        x, y = jnp.asarray(x), jnp.asarray(y)
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        work = jnp.promote_types(x.dtype, jnp.float32)
        return ((1 - t) * x.astype(work) + t * y.astype(work)).astype(x.dtype)

    return jax.tree.map(leaf, params_a, params_b)


def barrier(
    loss: Callable[[Params], Array],
    params_a: Params,
    params_b: Params,
    *,
    points: int = 25,
    batch: int | None = None,
) -> Barrier:
    """The loss barrier on the segment between two networks.

    Args:
      loss: maps parameters to a number.
      params_a: one end.
      params_b: the other, of the same shapes.
      points: at how many the loss is measured, ends included; they are mapped over by ``vmap``.
      batch: how many of them at once; all when None.

    Returns:
      A ``Barrier``: value, curve, losses and times.

    Raises:
      ValueError: shapes differ, or ``points`` is less than 2.

    Reference:
      Frankle et al., "Linear mode connectivity" (2020); Ainsworth et al., "Git Re-Basin" (2023), Definition 2.2.
    """
    check_like(params_b, params_a, "params_b", "params_a")
    return barrier_along(loss, lambda t: interpolate(params_a, params_b, t), points=points, batch=batch)


def barrier_along(
    loss: Callable[[Params], Array],
    path: Callable[[Any], Params],
    *,
    points: int = 25,
    batch: int | None = None,
) -> Barrier:
    """The loss barrier along any path t -> θ(t), t in [0, 1], such as ``curve_to`` or ``linear_path`` return.

    Args:
      loss: maps parameters to a number.
      path: maps a number to parameters.
      points: as for ``barrier``.
      batch: as for ``barrier``.

    Returns:
      A ``Barrier``.

    Raises:
      ValueError: ``points`` is less than 2.
    """
    check_integer(points, "points", 2)
    times = jnp.linspace(0.0, 1.0, points)
    losses = jax.lax.map(lambda t: loss(path(t)), times, batch_size=points if batch is None else batch)
    if losses.shape != (points,):
        raise ValueError(f"`loss` must return a number, got shape {losses.shape[1:]}")
    at = times.astype(losses.dtype)
    curve = losses - ((1 - at) * losses[0] + at * losses[-1])
    return Barrier(jnp.max(curve), curve, losses, times)
