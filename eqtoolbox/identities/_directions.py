"""λ and its directions: what the caller gave, as a point and a stack of tangent vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from eqtoolbox.linalg import basis
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any

#: Above this many entries of λ the directions have to be given.
ALL_LIMIT = 512
#: Directions mapped at a time.
BATCH = 32


def point(eq: Equivariance | Symmetry, params: Tree, lam: Tree | None) -> Tree:
    """λ as a pytree of real arrays: 0 or ``eq.identity`` when it is None.

    Raises:
      TypeError: a discrete symmetry, or something that is neither a ``Symmetry`` nor an ``Equivariance``.
      ValueError: there is no λ and no identity, or keys that the symmetry has not.
    """
    dtype = _float_dtype(params)
    if isinstance(eq, Symmetry):
        zero = eq.zero_algebra(dtype)
        return zero if lam is None else _complete(zero, _real(lam, dtype), "lam", 0)
    if not isinstance(eq, Equivariance):
        raise TypeError(f"`eq` must be an Equivariance or a Symmetry, got {eq!r}")
    if lam is None and eq.identity is None:
        raise ValueError(
            "`lam` is needed: this Equivariance names no identity; give lam, or Equivariance(..., identity=λ0)"
        )
    return _real(eq.identity if lam is None else lam, dtype)


def stack(directions: Tree | None, lam: Tree, *, limit: int = ALL_LIMIT) -> tuple[Tree, bool]:
    """The directions stacked along a leading axis, and whether one was given without it.

    Args:
      directions: None for every basis vector of λ; a pytree like λ; or one with a leading axis on every leaf.
        For a symmetry, spaces left out count as zero.
      lam: λ, arrays.
      limit: the largest number of basis vectors.

    Raises:
      ValueError: naming the leaf and the shapes, or too many basis vectors.
    """
    if directions is None:
        count = sum(leaf.size for leaf in jax.tree.leaves(lam))
        if count > limit:
            raise ValueError(f"λ has {count} directions, more than {limit}: choose some with `directions=`")
        return basis(lam), False
    dtype = _float_dtype(lam)
    directions = _real(directions, dtype)
    if isinstance(lam, dict) and isinstance(directions, dict):
        directions = _complete(lam, directions, "directions", None)
    want, got = jax.tree.structure(lam), jax.tree.structure(directions)
    if want != got:
        raise ValueError(f"`directions` must have the structure of λ: {want}, got {got}")
    pairs = list(zip(jax.tree.leaves_with_path(lam), jax.tree.leaves(directions), strict=True))
    (_, leaf), given = pairs[0]
    extra = given.ndim - leaf.ndim
    leading = given.shape[:1] if extra == 1 else ()
    for (path, leaf), given in pairs:
        if extra not in (0, 1) or given.shape != leading + leaf.shape or leading == (0,):
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "."
            raise ValueError(
                f"leaf `{name}` of `directions` must have the shape {leaf.shape} of λ, or one more, leading, axis "
                f"on every leaf, got {given.shape}"
            )
    cast = jax.tree.map(lambda d, x: d.astype(x.dtype), directions, lam)
    return (jax.tree.map(lambda d: d[None], cast), True) if extra == 0 else (cast, False)


def single(directions: Tree, lam: Tree) -> Tree:
    """One direction, checked.

    Raises:
      ValueError: there is none, or several.
    """
    if directions is None:
        raise ValueError("`direction` must be a pytree like λ, got None")
    stacked, alone = stack(directions, lam)
    if not alone:
        raise ValueError(
            "`direction` must be one pytree like λ without a leading axis; use jax.vmap for many"
        )
    return jax.tree.map(lambda d: d[0], stacked)


def over(function: Callable[[Tree], Tree], stacked: Tree) -> Tree:
    """``function`` of every row of a stack, a bounded number at a time."""
    count = jax.tree.leaves(stacked)[0].shape[0]
    if count <= BATCH:
        return jax.vmap(function)(stacked)
    return jax.lax.map(function, stacked, batch_size=BATCH)


def _float_dtype(tree: Tree) -> Any:
    dtypes = [jnp.result_type(x) for x in jax.tree.leaves(tree)]
    return jnp.result_type(jnp.float32, *(d for d in dtypes if jnp.issubdtype(d, jnp.floating)))


def _real(tree: Tree, dtype: Any) -> Tree:
    """Arrays of real numbers; integers become ``dtype``, and so do Python numbers."""

    def leaf(x: Any) -> jax.Array:
        floating = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(x) if floating else jnp.asarray(x, dtype)

    return jax.tree.map(leaf, tree)


def _complete(zero: Mapping, given: Any, name: str, extra: int | None) -> Tree:
    """``given`` with zeros for the keys of ``zero`` that it lacks; ``extra`` leading axes, None to look."""
    if not isinstance(given, Mapping) or not set(given) <= set(zero):
        got = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"`{name}` may have the keys {sorted(map(str, zero))}, got {got}")
    lead: tuple[int, ...] = ()
    for key in given:
        pairs = zip(jax.tree.leaves(zero[key]), jax.tree.leaves(given[key]), strict=False)
        for like, leaf in pairs:
            if extra is None and leaf.ndim == like.ndim + 1:
                lead = leaf.shape[:1]
    blank = {
        key: jax.tree.map(lambda x: jnp.zeros(lead + x.shape, x.dtype), value) for key, value in zero.items()
    }
    return {**blank, **given}
