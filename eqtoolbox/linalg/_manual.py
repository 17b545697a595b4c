"""``jax.lax`` under ``jax.shard_map``, where the type of a value says over which mesh axes it varies.

- A loop that starts at zeros and adds what differs from device to device changes the type of its state, and a
  conditional may have branches of two types: JAX refuses both. Here they are first given one type.
- A derivative in a value that does not vary is summed over the devices. Where the value is ours, such as the zero of
  an algebra, each device wants its own derivative: the value is made to vary first.

Outside of ``shard_map`` these are the functions of JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def _axes(x: Any) -> frozenset:
    """The manual mesh axes that an array, or a ShapeDtypeStruct, varies over."""
    aval = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(jnp.asarray(x))
    return getattr(getattr(aval, "manual_axis_type", None), "varying", frozenset())


def _is_manual() -> bool:
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def _widen(x: Any, axes: frozenset) -> Any:
    missing = tuple(sorted(axes - _axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x


def vary_like(tree: Any, like: Any) -> Any:
    """``tree`` with every leaf varying over the mesh axes that the leaf of ``like`` varies over, too."""
    if not _is_manual():
        return tree

    return jax.tree.map(lambda x, other: _widen(x, _axes(other)), tree, like)


def vary_with(tree: Any, *others: Any) -> Any:
    """``tree`` with every leaf varying over all mesh axes that some leaf of ``others`` varies over."""
    if not _is_manual():
        return tree
    axes = frozenset().union(*(_axes(x) for x in jax.tree.leaves(others)))
    return jax.tree.map(lambda x: _widen(x, axes), tree)


def _settle(state: Any, step: Callable[[Any], Any]) -> Any:
    """``state`` with the types that ``step`` keeps."""
    if not _is_manual():
        return state
    while True:
        # Each round widens a leaf by a mesh axis or ends.
        settled = vary_like(state, jax.eval_shape(step, state))
        if [_axes(x) for x in jax.tree.leaves(settled)] == [_axes(x) for x in jax.tree.leaves(state)]:
            return settled
        state = settled


def scan(f: Callable, init: Any, xs: Any = None, **options: Any) -> tuple[Any, Any]:
    """``jax.lax.scan``."""

    def step(state: Any) -> Any:
        return f(state, jax.tree.map(lambda x: x[0], xs))[0]

    return lax.scan(f, _settle(init, step), xs, **options)


def while_loop(proceed: Callable, step: Callable, state: Any) -> Any:
    """``jax.lax.while_loop``."""
    return lax.while_loop(proceed, step, _settle(state, step))


def fori_loop(lower: Any, upper: Any, step: Callable, state: Any) -> Any:
    """``jax.lax.fori_loop``."""
    return lax.fori_loop(lower, upper, step, _settle(state, lambda s: step(jnp.int32(0), s)))


def cond(pred: Any, true: Callable, false: Callable, *operands: Any) -> Any:
    """``jax.lax.cond``."""
    if not _is_manual():
        return lax.cond(pred, true, false, *operands)
    one, other = jax.eval_shape(true, *operands), jax.eval_shape(false, *operands)

    def joined(branch: Callable) -> Callable:
        return lambda *operands: vary_like(vary_like(branch(*operands), one), other)

    return lax.cond(pred, joined(true), joined(false), *operands)


def linear_transpose(forward: Callable, at: Any, context: Any) -> Callable[[Any], Any]:
    """``jax.linear_transpose(forward, at)`` of a map that depends on ``context``; the result varies as that does.

    JAX would sum it over the devices where ``at`` does not vary. Of ``at`` only the shapes matter.
    """
    if not _is_manual():
        return jax.linear_transpose(forward, at)

    def backward(cotangent: Any) -> Any:
        start = vary_with(jax.tree.map(_zeros, at), context, cotangent)
        cotangent = vary_like(cotangent, jax.eval_shape(forward, start))
        return jax.linear_transpose(forward, start)(cotangent)

    return backward


def _zeros(x: Any) -> Array:
    return jnp.zeros(jnp.shape(x), jnp.result_type(x))
