"""Estimates of the blocks of operators that are given by products, or by per-example gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import (
    Estimate,
    moments_estimate,
    moments_init,
    moments_update_batch,
    scan,
)

if TYPE_CHECKING:
    from eqtoolbox.curvature._commutant import Commutant

Params = Any


def operator(
    com: Commutant,
    matvec: Callable[[Params], Params],
    params: Params,
    key: Array | None,
    samples: int,
    exact: bool,
    batch_size: int | None,
) -> Estimate:
    """``Commutant.operator``."""
    if exact:
        value = _symmetric(_exact(com, matvec, params, batch_size))
        return Estimate(value, jax.tree.map(jnp.zeros_like, value), 1)
    if key is None or isinstance(samples, bool) or samples < 1:
        raise ValueError(f"an estimate needs a key and samples >= 1, got key={key}, samples={samples}")

    def one(k: Array) -> dict[str, Array]:
        return _symmetric(_probed(com, matvec, params, k, batch_size))

    draws = jax.lax.map(one, jax.random.split(key, samples))
    start = moments_init(jax.tree.map(lambda x: x[0], draws))
    return moments_estimate(moments_update_batch(start, draws))


def fisher(
    com: Commutant,
    example_loss: Callable[..., Array],
    params: Params,
    batch: tuple[Any, ...],
    batch_size: int | None,
) -> Estimate:
    """``Commutant.fisher``."""
    leaves = jax.tree.leaves(batch)
    if not leaves or any(not jnp.ndim(x) or len(x) != len(leaves[0]) for x in leaves):
        shapes = [jnp.shape(x) for x in leaves]
        raise ValueError(f"the batch must have as many examples in every array, got the shapes {shapes}")

    def one(example: tuple[Any, ...]) -> dict[str, Array]:
        return com.gram(jax.grad(example_loss)(params, *example))

    count = len(leaves[0])
    size = count if batch_size is None else min(batch_size, count)
    state = moments_init(jax.eval_shape(one, jax.tree.map(lambda x: x[0], batch)))
    for start in range(0, count, size):
        rows = jax.tree.map(lambda x, s=start: x[s : s + size], batch)
        state = moments_update_batch(state, jax.vmap(one)(rows))
    return moments_estimate(state)


def _shapes(com: Commutant, params: Params) -> dict[str, jax.ShapeDtypeStruct]:
    return jax.eval_shape(com.coordinates, params)


def _response(
    com: Commutant, matvec: Callable[[Params], Params], params: Params, noise: dict[str, Array], row: Array
) -> dict[str, Array]:
    """⟨rows of A(e_row ⊗ z), z⟩/d for every component, z the part of the noise in the irreducible.

    ``row`` counts through the copies of all components; only the component it falls in is probed.
    """
    place_back = jax.linear_transpose(com.coordinates, params)
    probes, projected, start = {}, {}, 0
    for c in com.components:
        hot = (jnp.arange(c.multiplicity) + start == row).astype(noise[c.name].dtype)
        probes[c.name] = hot[:, None] * noise[c.name][..., None, :]
        start += c.multiplicity
    (direction,) = place_back(probes)
    for name, z in com.coordinates(direction).items():
        projected[name] = jnp.sum(z, -2)  # the other rows are zero
    image = com.coordinates(matvec(direction))
    return {
        c.name: jnp.sum(image[c.name] * projected[c.name][..., None, :], -1) / c.dimension
        for c in com.components
    }


def _assemble(com: Commutant, responses: dict[str, Array]) -> dict[str, Array]:
    """Blocks from the responses to all rows, stacked along the leading axis."""
    blocks, start = {}, 0
    for c in com.components:
        own = responses[c.name][start : start + c.multiplicity]
        blocks[c.name] = jnp.moveaxis(own, 0, -1)
        start += c.multiplicity
    return blocks


def _probed(com, matvec, params, key, batch_size) -> dict[str, Array]:
    shapes = _shapes(com, params)
    keys = jax.random.split(key, len(shapes))
    noise = {
        name: jax.random.rademacher(k, (*s.shape[:-2], s.shape[-1]), s.dtype)
        for k, (name, s) in zip(keys, shapes.items(), strict=True)
    }
    rows = jnp.arange(sum(c.multiplicity for c in com.components))
    responses = jax.lax.map(lambda r: _response(com, matvec, params, noise, r), rows, batch_size=batch_size)
    return _assemble(com, responses)


def _exact(com, matvec, params, batch_size) -> dict[str, Array]:
    """The sum of the responses to unit noise, over the entries of every irreducible and family."""
    shapes = _shapes(com, params)
    rows = jnp.arange(sum(c.multiplicity for c in com.components))
    sizes = {name: s.size // s.shape[-2] for name, s in shapes.items()}

    def responses(entry: Array) -> dict[str, Array]:
        noise = {
            name: (jnp.arange(sizes[name]) == entry).astype(s.dtype).reshape(*s.shape[:-2], s.shape[-1])
            for name, s in shapes.items()
        }
        return jax.lax.map(lambda r: _response(com, matvec, params, noise, r), rows, batch_size=batch_size)

    def add(total: dict[str, Array], entry: Array) -> tuple[dict[str, Array], None]:
        return jax.tree.map(jnp.add, total, responses(entry)), None

    entries = jnp.arange(max(sizes.values()))
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(responses, entries[0]))
    total, _ = scan(add, zero, entries)
    return _assemble(com, total)


def _symmetric(blocks: dict[str, Array]) -> dict[str, Array]:
    return jax.tree.map(lambda b: (b + b.mT) / 2, blocks)
