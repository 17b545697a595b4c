"""The factors of a reparametrisation θ = T(w, u, v), and trees by the paths of their leaves."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox.symmetry import is_masked, leaf_paths

Params = Any


class Factors(NamedTuple):
    """What θ = T(w, u, v) is made of; arrays only, so that any optimizer takes it for parameters.

    Attributes:
      w: the first factors, or the gates of groups.
      u: the second factors.
      v: like the parameters: what T takes from it. ``optax.MaskedNode`` where w and u are all there is.
    """

    w: Any
    u: Any
    v: Any


def penalty(factors: Factors) -> Array:
    """‖w‖² + ‖u‖², what the strength of a constraint multiplies."""
    leaves = jax.tree.leaves((factors.w, factors.u))
    return jnp.stack([jnp.sum(jnp.square(x)) for x in leaves]).sum()


def wide(x: Any) -> Array:
    """A copy in at least float32: factors are kept in it, and a donated parameter does not take them along."""
    return jnp.array(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def flat(tree: Params) -> dict[str, Any]:
    """The leaves by their paths, in order; a ``MaskedNode`` counts as one."""
    return dict(zip(leaf_paths(tree), jax.tree.leaves(tree, is_leaf=is_masked), strict=True))


def unflat(leaves: Any, like: Params) -> Params:
    """A tree like ``like`` with these leaves by their paths, and ``MaskedNode`` where there is none."""
    treedef = jax.tree.structure(like, is_leaf=is_masked)
    return jax.tree.unflatten(treedef, [leaves.get(path, optax.MaskedNode()) for path in leaf_paths(like)])


def chosen(params: Params, where: Sequence[str], what: str, fits: Callable[[Any], bool]) -> list[str]:
    """The paths that match a glob and whose leaves fit.

    Raises:
      TypeError: one of them is complex.
      ValueError: a glob matches no leaf, or no leaf that matches fits.
    """
    leaves = flat(params)
    hits = {g: [p for p in leaves if any(fnmatch.fnmatchcase(n, g) for n in _names(p))] for g in where}
    there = {path for paths in hits.values() for path in paths if not is_masked(leaves[path])}
    for glob, paths in hits.items():
        if not paths:
            raise ValueError(f"{what}: {glob!r} matches none of the leaves {', '.join(leaves)}")
    for path in sorted(there):
        if jnp.issubdtype(jnp.result_type(leaves[path]), jnp.complexfloating):
            raise TypeError(f"{what}: leaf {path!r} must be real, got {jnp.result_type(leaves[path])}")
    found = [path for path, x in leaves.items() if path in there and is_float(x) and fits(x)]
    if not found:
        raise ValueError(f"{what}: no leaf to act on among {', '.join(sorted(there)) or 'no leaf at all'}")
    return found


def _names(path: str) -> tuple[str, str]:
    """The path, and without the ``/value`` of a raw NNX state."""
    return path, path.removesuffix("/value")


def is_float(x: Any) -> bool:
    """Whether a leaf that is there holds real numbers."""
    return not is_masked(x) and bool(jnp.issubdtype(jnp.result_type(x), jnp.floating))


def larger_factor(size: Array, imbalance: float) -> Array:
    """a ≥ 0 with a b = size and a² − b² = imbalance, both of which hold for b = size / a."""
    return jnp.sqrt((imbalance + jnp.sqrt(imbalance**2 + 4 * jnp.square(size))) / 2)


def divided(x: Array, by: Array) -> Array:
    """x / by, and 0 where both are 0."""
    safe = jnp.where(by == 0, 1, by)
    return x / safe
