"""Points that hide nothing: parameters near those given, inputs like them, and the same inputs in other shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@jax.jit
def near(key: Array, params: Any, spread: float = 0.3) -> Any:
    """Parameters near those given, so that zeros and ones of an initialisation hide nothing.

    A leaf of positive numbers stays one (a variance); any other floating-point leaf gets normal noise of ``spread``
    times its root mean square, or of ``spread`` where it is zero.
    """

    def shaken(key: Array, leaf: Any) -> Any:
        x = jnp.asarray(leaf)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        noise = jax.random.normal(key, x.shape, jnp.promote_types(x.dtype, jnp.float32))
        size = jnp.sqrt(jnp.mean(jnp.square(x.astype(noise.dtype))))
        added = x + spread * jnp.where(size > 0, size, 1) * noise
        return jnp.where(jnp.all(x > 0), x * jnp.exp(spread / 3 * noise), added).astype(x.dtype)

    return _each(shaken, key, params)


@jax.jit
def alike(key: Array, inputs: Any) -> Any:
    """Other inputs of the same kind: floating-point numbers with noise of their own size, others in another order."""

    def other(key: Array, leaf: Any) -> Any:
        x = jnp.asarray(leaf)
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jax.random.permutation(key, x.ravel()).reshape(x.shape)
        noise = jax.random.normal(key, x.shape, jnp.promote_types(x.dtype, jnp.float32))
        size = jnp.sqrt(jnp.mean(jnp.square(x.astype(noise.dtype))))
        return (x + jnp.where(size > 0, size, 1) * noise).astype(x.dtype)

    return _each(other, key, inputs)


def other_shapes(inputs: Any) -> Iterator[tuple[str, Any]]:
    """The inputs with one entry less along one axis, all arrays of that length together, with words for it."""
    leaves, structure = jax.tree.flatten(inputs)
    for axis in range(max((jnp.ndim(x) for x in leaves), default=0)):
        size = next(jnp.shape(x)[axis] for x in leaves if jnp.ndim(x) > axis)
        if size < 3:
            continue  # one entry of an axis hides it
        fits = [jnp.ndim(x) > axis and jnp.shape(x)[axis] == size for x in leaves]
        cut = [
            jax.lax.slice_in_dim(jnp.asarray(x), 0, size - 1, axis=axis) if fit else x
            for x, fit in zip(leaves, fits, strict=True)
        ]
        yield f"{size - 1} instead of {size} on axis {axis}", structure.unflatten(cut)


@jax.jit
def change(one: Any, other: Any) -> Array:
    """The largest relative difference of two trees of outputs; infinite where only one of them is finite."""
    gaps = [
        _relative(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        if jnp.issubdtype(jnp.result_type(a), jnp.inexact)
    ]
    return jnp.max(jnp.stack(gaps)) if gaps else jnp.zeros(())


def _relative(a: Array, b: Array) -> Array:
    finite = jnp.isfinite(a) & jnp.isfinite(b)
    size = jnp.max(jnp.where(finite, jnp.abs(a), 0), initial=1e-30)
    gap = jnp.max(jnp.where(finite, jnp.abs(a - b), 0), initial=0) / size
    return jnp.where(jnp.any(jnp.isfinite(a) != jnp.isfinite(b)), jnp.inf, gap)


def _each(f: Any, key: Array, tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    return structure.unflatten([f(k, leaf) for k, leaf in zip(keys, leaves, strict=False)])
