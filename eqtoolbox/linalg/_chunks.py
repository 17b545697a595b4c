"""Mapping over a leading axis in chunks, so that memory is bounded by the chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Key

from eqtoolbox.linalg._checks import check_integer, leading_size
from eqtoolbox.linalg._manual import scan


def _chunk_size(n: int, batch_size: int | None) -> int:
    return n if batch_size is None else min(check_integer(batch_size, "batch_size", 1), n)


def map_chunks(f: Callable, xs: Any, batch_size: int | None, name: str = "xs") -> Any:
    """``jax.vmap(f)(xs)``, at most ``batch_size`` rows at a time (None: all at once)."""
    n = leading_size(xs, name)
    size = _chunk_size(n, batch_size)
    return jax.vmap(f)(xs) if size == n else lax.map(f, xs, batch_size=size)


def map_draws(f: Callable, key: Key[Array, ""], n: int, batch_size: int | None) -> Any:
    """``f`` of n keys folded from ``key``, stacked, at most ``batch_size`` at a time (None: all at once)."""
    return map_chunks(lambda i: f(jax.random.fold_in(key, i)), jnp.arange(n), batch_size)


def fold_chunks(step: Callable, state: Any, xs: Any, batch_size: int | None, name: str = "xs") -> Any:
    """``state = step(state, chunk)`` over consecutive chunks of ``xs``; the last may be shorter."""
    n = leading_size(xs, name)
    size = _chunk_size(n, batch_size)
    whole = n // size
    if whole == 1:
        state = step(state, jax.tree.map(lambda x: x[:size], xs))
    else:
        head = jax.tree.map(lambda x: x[: whole * size].reshape((whole, size, *x.shape[1:])), xs)
        state, _ = scan(lambda s, chunk: (step(s, chunk), None), state, head)
    if n % size:
        state = step(state, jax.tree.map(lambda x: x[whole * size :], xs))
    return state
