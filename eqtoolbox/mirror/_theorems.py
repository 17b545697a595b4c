"""Critical weight decays of Theorems 2 to 4, for all units, directions or pairs of a space at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import GeneralLinear, Monomial, Orthogonal, PositiveScaling, Wreath
from eqtoolbox.linalg import tree_vdot
from eqtoolbox.mirror._of import of
from eqtoolbox.symmetry import Factor, Symmetry, check_symmetry, cut

Params = Any
Loss = Callable[[Params], Array]


def rescaling_weight_decay(
    sym: Symmetry, loss: Loss, params: Params, space: str, *, batch_size: int = 64
) -> Array:
    """γ_0 = max(0, (ℓ_0(0, 0) - ℓ_0(u, w)) / (‖u‖² + ‖w‖²)) for every unit of a space with a rescaling (MS-T2).

    (u, w) is everything that a scaling of the unit multiplies, with whatever powers. Above γ_0 the network without the
    unit is better. This needs no mirror: scalings c > 0 are enough, for γ_0 as for the stationarity of (0, 0), because
    ℓ_0(cu, 0) = ℓ_0(u, 0) for all c > 0 makes ℓ_0 constant there (where it is differentiable).

    Args:
      sym: the symmetry.
      loss: ℓ_0, θ -> a scalar, without the decay.
      params: θ.
      space: a space on which positive scalings, a monomial group with scalings, or GL(1) acts.
      batch_size: how many units are tried at a time.

    Returns:
      An array of shape (n,); NaN for a unit that is 0 already.

    Raises:
      TypeError: no unit of the space is scaled on its own.
      ValueError: there is no such space.

    Reference:
      Ziyin, Theorem 2.
    """
    factor, i = find_factor(sym, space, "rescaling_weight_decay")
    group, key = factor.group, factor.key
    zero: Any = None
    if i == 0 and isinstance(group, Monomial) and group.num_scales:
        zero, at = group.algebra_zero(), lambda k: zero.at[:, k].set(1.0)
        count = group.n
    elif i == 0 and isinstance(group, PositiveScaling):
        zero, at = group.algebra_zero(), lambda k: zero.at[k].set(1.0)
        count = group.dimension
    elif isinstance(group, GeneralLinear) and group.n == 1:
        zero, at, count = group.algebra_zero(), lambda k: zero + 1.0, 1
    else:
        raise TypeError(
            f"rescaling_weight_decay needs positive scalings, a monomial group with scalings or GL(1) on {space!r}, "
            f"got {group}"
        )

    def critical(k: Array) -> Array:
        rate = sym.generator({key: at(k)}, params)
        removed = jax.tree.map(lambda p, x: jnp.where(x != 0, p, 0).astype(p.dtype), params, rate)
        without = jax.tree.map(jnp.subtract, params, removed)
        return jnp.maximum((loss(without) - loss(params)) / tree_vdot(removed, removed), 0)

    return jax.lax.map(critical, jnp.arange(count), batch_size=min(batch_size, count))


def rank_weight_decay(
    sym: Symmetry, loss: Loss, params: Params, space: str, *, copy: int | None = None, batch_size: int = 64
) -> tuple[Array, Array]:
    """γ_0 above which losing a singular value pays, for each one of a space with a rotation symmetry (MS-T3).

    The leaves of the space are matrices of d rows each; W is all of them side by side. For one matrix this removes a
    singular value, ℓ_0(W_{/i}); with a double rotation the direction n is removed on both sides, n^T W = 0 and U n = 0.

    Args:
      sym: the symmetry.
      loss: ℓ_0, θ -> a scalar, without the decay.
      params: θ.
      space: a space on which O(d) or GL(d) acts.
      copy: which copy, inside a wreath product (a head, say).
      batch_size: how many directions are tried at a time.

    Returns:
      (γ_0, shape (d,), at least 0; the singular values, decreasing); NaN where a singular value is 0.

    Raises:
      TypeError: neither O(d) nor GL(d) acts on the space.
      ValueError: there is no such space or copy.

    Reference:
      Ziyin, Theorem 3.
    """
    factor, i = find_factor(sym, space, "rank_weight_decay")
    group = factor.group
    inner = group.inner if isinstance(group, Wreath) and i == 1 and copy is not None else group
    if not isinstance(inner, (GeneralLinear, Orthogonal)):
        raise TypeError(f"rank_weight_decay needs O(d) or GL(d) on {space!r}, or a `copy` of it, got {group}")
    if isinstance(group, Wreath) and copy is not None and not 0 <= copy < group.copies:
        raise ValueError(f"`copy` must be between 0 and {group.copies - 1}, got {copy}")
    d = inner.n
    gram = jnp.zeros((d, d))
    for rows in space_rows(sym, params, space, None if inner is group else copy):
        gram = gram + jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)
    squares, directions = jnp.linalg.eigh(gram)
    identity = sym.identity()

    def critical(n: Array) -> Array:
        turned: Any = jnp.eye(d) - 2 * jnp.outer(n, n)
        if inner is not group:
            own = identity[factor.key]
            turned = own._replace(inner=own.inner.at[copy].set(turned))
        moved = sym.act({**identity, factor.key: turned}, params)
        symmetric = jax.tree.map(lambda a, b: (a + b) / 2, params, moved)
        lost = jax.tree.map(jnp.subtract, params, symmetric)
        return jnp.maximum((loss(symmetric) - loss(params)) / tree_vdot(lost, lost), 0)

    found = jax.lax.map(critical, directions.T[::-1], batch_size=min(batch_size, d))
    return found, jnp.sqrt(jnp.maximum(squares[::-1], 0))


def merging_weight_decay(
    sym: Symmetry, loss: Loss, params: Params, space: str, *, batch_size: int = 64
) -> Array:
    """γ_0 above which two units had better be equal, for every pair of a permuted space (MS-T4).

    Args:
      sym: the symmetry.
      loss: ℓ_0, θ -> a scalar, without the decay.
      params: θ.
      space: a space whose units are exchanged.
      batch_size: how many pairs are tried at a time.

    Returns:
      A symmetric (n, n) matrix, not positive where merging pays without decay; NaN on the diagonal and for pairs that
      are equal already.

    Raises:
      ValueError: no units of the space are exchanged.

    Reference:
      Ziyin, Theorem 4.
    """
    (family,) = of(sym).select(kind="exchange", space=space).families
    found = family.weight_decays(loss, params, batch_size=batch_size)
    n = (1 + math.isqrt(1 + 8 * family.count)) // 2
    a, b = jnp.triu_indices(n, 1)
    return jnp.full((n, n), jnp.nan).at[a, b].set(found).at[b, a].set(found)


def space_rows(sym: Symmetry, params: Params, space: str, copy: int | None = None) -> list[Array]:
    """The parts of the parameters that carry a space, each as a matrix with one row for each of its units.

    Args:
      sym: the symmetry.
      params: θ.
      space: the space; a leaf where it is on two axes counts twice.
      copy: of a space inside a wreath product, the copy; all of them side by side where it is None.

    Returns:
      A list of (n, …) matrices.
    """
    found = []
    table = {name: f for f in sym.factors for name in f.spaces}
    outer = table[space].spaces[0]
    leaves = jax.tree.leaves(params)
    for leaf, plan in zip(leaves, sym.plans(params).values(), strict=True):
        for part, block in zip(cut(jnp.asarray(leaf), plan), plan.blocks, strict=True):
            for axis, name in enumerate(block.names):
                if name != space:
                    continue
                rows = jnp.moveaxis(part, axis, 0)
                if copy is not None:
                    where = [a for a in range(part.ndim) if block.names[a] == outer]
                    at = where[0]
                    rows = jnp.take(rows, copy, axis=at + (at < axis))
                found.append(rows.reshape(rows.shape[0], -1))
    return found


def find_factor(sym: Symmetry, space: str, what: str) -> tuple[Factor, int]:
    """The factor of a space and the number of the space in it; ``what`` asks, for messages."""
    check_symmetry(sym, what)
    for factor in sym.factors:
        if space in factor.spaces:
            return factor, factor.spaces.index(space)
    known = ", ".join(s for f in sym.factors for s in f.spaces)
    raise ValueError(f"there is no space {space!r}; there are {known}")
