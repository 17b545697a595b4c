"""Smaller parameters where a constraint is met: zeros, fewer units, factors of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from eqtoolbox.linalg import check_number
from eqtoolbox.mirror._constraints import Constraint, LowRank, Projected, Sparse, product
from eqtoolbox.mirror._factors import chosen, flat, is_float, unflat, wide
from eqtoolbox.mirror._groups import Cells, GroupSparse, Merged, matches, unit_cells
from eqtoolbox.mirror._reparametrize import check_constraint
from eqtoolbox.symmetry import Symmetry, is_masked, present

Params = Any
Edge = Callable[[Sequence[Any]], float]


@dataclass(frozen=True)
class PruneInfo:
    """What ``prune`` did.

    Attributes:
      removed: how many of the constraint's order parameters were at most ``tol``: weights, units, singular values,
        pairs.
      total: how many there were.
      before: entries of all parameters.
      after: entries afterwards; of ``sparse`` those that are not 0.
      sizes: for units, the new size of each space: what to build the smaller model with.
      kept: for units, the numbers of those kept, by space.
      ranks: for ``low_rank``, the rank of each matrix by its path.
    """

    removed: int
    total: int
    before: int
    after: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """The share that was removed."""
        return self.removed / self.total


class LowRankFactors(NamedTuple):
    """A matrix as a product of two; takes the place of the leaf.

    Attributes:
      left: shape (..., r).
      right: shape (r, n).
    """

    left: Array
    right: Array

    def product(self) -> Array:
        """The matrix, in the dtype of the factors."""
        wider = jnp.promote_types(self.left.dtype, jnp.float32)
        return product(self.left.astype(wider), self.right.astype(wider)).astype(self.left.dtype)


def prune(
    params: Params, constraint: Constraint, tol: float = 1e-6, *, fraction: float | None = None
) -> tuple[Params, PruneInfo]:
    """Removes what a constraint has made (nearly) zero: the outputs stay as they are, up to ``tol``.

    - ``sparse``: weights of at most ``tol`` become 0.
    - ``group_sparse`` of a symmetry: units of norm at most ``tol`` are taken out of every leaf that its labels put
      them on, so that all arrays are smaller; of an axis: slices become 0.
    - ``low_rank``: each matrix becomes ``LowRankFactors`` without its singular values of at most ``tol``, where that
      has fewer entries; else the matrix without them.
    - ``merged``: pairs that differ by at most ``tol`` become one unit, and what reads them is added up.
    - ``tied``, ``linear``: order parameters of at most ``tol`` become 0.

    Outputs do not depend on a unit without weights where it is read by nothing but the leaves of its label; one that
    is normalised together with others is not such a unit.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups, mirror
    >>> params = {"in": jnp.array([[1.0, 0.0, 2.0]]), "out": jnp.array([[1.0], [0.0], [3.0]])}
    >>> sym = Symmetry({"in": "_ h", "out": "h* _"}, {"h": groups.Monomial(3, scales=1)})
    >>> small, info = mirror.prune(params, mirror.group_sparse(sym))
    >>> small["in"].shape, small["out"].shape, dict(info.sizes)
    ((1, 2), (2, 1), {'h': 2})

    Args:
      params: the parameters; concrete, since the shapes of the result depend on them.
      constraint: one of this room.
      tol: absolute, for the order parameters named above.
      fraction: remove at least this share of the order parameters, the smallest ones, instead of those within ``tol``;
        outputs then change by what they were worth. Train on with ``keep_zeros``, or the smaller arrays as they are.

    Returns:
      The smaller parameters, with their dtypes, and what was done. At least one unit of a space stays.

    Raises:
      TypeError: the parameters are traced, or ``constraint`` is none.
      ValueError: ``tol`` is negative, ``fraction`` is not in [0, 1], or a parameter is NaN; ``merged`` does not know
        what reads the units.
    """
    check_constraint(constraint, "prune")
    check_number(tol, "prune: `tol`")
    if not tol >= 0:
        raise ValueError(f"prune: `tol` must not be negative, got {tol!r}")
    if fraction is not None:
        check_number(fraction, "prune: `fraction`")
        if not 0 <= fraction <= 1:
            raise ValueError(f"prune: `fraction` must be from 0 to 1, got {fraction!r}")
    edge = partial(_edge, tol=tol, fraction=fraction)
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(params)):
        raise TypeError("prune: shapes depend on values: call it outside of jit")
    for path, x in flat(params).items():
        if is_float(x) and bool(jnp.isnan(x).any()):
            raise ValueError(f"prune: leaf {path!r} holds NaN")
    if isinstance(constraint, Sparse):
        return _sparse(params, constraint, edge)
    if isinstance(constraint, LowRank):
        return _low_rank(params, constraint, edge)
    if isinstance(constraint, GroupSparse):
        return _groups(params, constraint, edge)
    if isinstance(constraint, Merged):
        return _merged(params, constraint, edge)
    assert isinstance(constraint, Projected)
    z = constraint.order(jax.tree.map(wide, params))
    tol = edge([jnp.abs(x) for x in jax.tree.leaves(z)])
    cut = jax.tree.map(lambda x: jnp.where(jnp.abs(x) <= tol, x, 0), z)
    lifted = constraint.lift(cut, params)
    small = jax.tree.map(lambda p, x: (wide(p) - x).astype(p.dtype), params, lifted)
    removed = sum(int(jnp.sum(jnp.abs(x) <= tol)) for x in jax.tree.leaves(z))
    return small, PruneInfo(removed, _entries(z), _entries(params), _entries(small) - removed)


def _edge(sizes: Sequence[Any], *, tol: float, fraction: float | None) -> float:
    """The size up to which order parameters are removed: ``tol``, or that of the last one of the smallest."""
    if fraction is None:
        return tol
    ordered = np.sort(np.concatenate([np.asarray(x).reshape(-1) for x in sizes]))
    count = math.ceil(fraction * ordered.size * (1 - 1e-12))
    return float(ordered[count - 1]) if count else -1.0


def _matrix(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _sparse(params: Params, constraint: Sparse, edge: Edge) -> tuple[Params, PruneInfo]:
    leaves = flat(params)
    mine = chosen(params, constraint.where, "sparse", lambda x: True)
    sizes = {p: jnp.abs(wide(leaves[p])) for p in mine}
    tol = edge(list(sizes.values()))
    new = {**leaves, **{p: jnp.where(size <= tol, 0, leaves[p]) for p, size in sizes.items()}}
    removed = sum(int(jnp.sum(size <= tol)) for size in sizes.values())
    total = sum(leaves[p].size for p in mine)
    after = sum(int(jnp.count_nonzero(x)) for x in new.values() if not is_masked(x))
    return unflat(new, params), PruneInfo(removed, total, _entries(params), after)


def _low_rank(params: Params, constraint: LowRank, edge: Edge) -> tuple[Params, PruneInfo]:
    leaves = flat(params)
    new, ranks, removed, total = dict(leaves), {}, 0, 0
    mine = chosen(params, constraint.where, "low_rank", lambda x: jnp.ndim(x) > 1)
    parts = {p: jnp.linalg.svd(_matrix(wide(leaves[p])), full_matrices=False) for p in mine}
    tol = edge([s for _, s, _ in parts.values()])
    for path, (left, s, right) in parts.items():
        x = leaves[path]
        r = int(jnp.sum(s > tol))
        root = jnp.sqrt(s[:r])
        a = (left[:, :r] * root[None]).reshape(*x.shape[:-1], r)
        b = root[:, None] * right[:r]
        if a.size + b.size < x.size:
            new[path] = LowRankFactors(a.astype(x.dtype), b.astype(x.dtype))
        else:
            new[path] = product(a, b).astype(x.dtype)
        ranks[path], removed, total = r, removed + s.size - r, total + s.size
    small = unflat(new, params)
    return small, PruneInfo(removed, total, _entries(params), _entries(small), ranks=ranks)


def _groups(params: Params, constraint: GroupSparse, edge: Edge) -> tuple[Params, PruneInfo]:
    norms = {name: np.asarray(n) for name, n in constraint.norms(params).items()}
    tol = edge(list(norms.values()))
    total, removed = sum(n.size for n in norms.values()), sum(int((n <= tol).sum()) for n in norms.values())
    if constraint.sym is None:
        leaves, open_ = flat(params), {name: jnp.asarray(n > tol) for name, n in norms.items()}
        cells = constraint.cells(params)
        new = {
            p: jnp.where(c.multiply(jnp.ones(leaves[p].shape, bool), open_), leaves[p], 0)
            for p, c in cells.items()
        }
        small = unflat({**leaves, **new}, params)
        after = sum(int(jnp.count_nonzero(x)) for x in jax.tree.leaves(small))
        return small, PruneInfo(removed, total, _entries(params), after)
    kept = {}
    for name, n in norms.items():
        left = np.flatnonzero(n > tol)
        if not left.size:
            left, removed = np.array([n.argmax()]), removed - 1
        kept[name] = left
    sizes = {name: left.size for name, left in kept.items()}
    small = take_units(present(constraint.sym, params), params, kept)
    return small, PruneInfo(removed, total, _entries(params), _entries(small), sizes, kept)


def _merged(params: Params, constraint: Merged, edge: Edge) -> tuple[Params, PruneInfo]:
    space, sym = constraint.space, present(constraint.sym, params)
    z = constraint.order(jax.tree.map(wide, params))
    norms = np.asarray(constraint.norms(z))
    tol = edge([norms])
    met = [pair for pair, n in zip(constraint.pairs, norms, strict=True) if n <= tol]
    cells = unit_cells(sym, (space,), params, gated=False)
    read = [path for path in cells if matches(path, constraint.outgoing)] if constraint.outgoing else []
    if not read or len(read) == len(cells):
        raise ValueError(
            f"merged: which of the leaves {', '.join(cells)} read the units of {space!r}? The labels do not say it by "
            "a negative exponent: give merged(…, outgoing=…)"
        )
    leaves, (first, second) = flat(params), (zip(*met, strict=True) if met else ((), ()))
    i, j, new = np.array(first, int), np.array(second, int), dict(flat(params))
    for path, cell in cells.items():
        blocks = cell.blocks(wide(leaves[path]))
        for k, names in enumerate(cell.gates):
            for axis, name in enumerate(names):
                if name is not None:
                    rows = jnp.moveaxis(blocks[k], axis, 0)
                    both = (rows[i] + rows[j]) * (1.0 if path in read else 0.5)
                    blocks[k] = jnp.moveaxis(rows.at[i].set(both), 0, axis)
        new[path] = cell.whole(blocks).astype(leaves[path].dtype)
    n = max(
        size for f in sym.factors for name, size in zip(f.spaces, f.group.sizes, strict=True) if name == space
    )
    kept = {space: np.setdiff1d(np.arange(n), j)}
    small = take_units(sym, unflat(new, params), kept)
    sizes = {space: kept[space].size}
    return small, PruneInfo(len(met), norms.size, _entries(params), _entries(small), sizes, kept)


def take_units(sym: Symmetry, params: Params, kept: Mapping[str, np.ndarray]) -> Params:
    """The parameters with some units of some spaces only, in every leaf that the labels put them on."""
    leaves = flat(params)
    atoms = sym.atoms({path: x for path, x in leaves.items() if not is_masked(x)})
    new = dict(leaves)
    for path, cell in unit_cells(sym, tuple(kept), params, gated=False).items():
        parts = []
        for block, names in zip(cell.blocks(leaves[path]), cell.gates, strict=True):
            for axis, name in enumerate(names):
                if name is not None:
                    block = jnp.take(block, jnp.asarray(kept[name]), axis)
            parts.append(block)
        new[path] = _whole(cell, parts, atoms[path], {name: len(k) for name, k in kept.items()})
    return unflat(new, params)


def _whole(cell: Cells, parts: list[Array], axes: Any, sizes: Mapping[str, int]) -> Array:
    """The leaf of smaller blocks."""
    assert cell.plan is not None
    smaller = tuple(
        tuple(math.prod(sizes.get(a.space, a.size) for a in segment) for segment in segments)
        for segments in axes
    )
    return Cells(cell.plan._replace(axes=smaller), cell.gates).whole(parts)


def _entries(tree: Any) -> int:
    return sum(jnp.size(x) for x in jax.tree.leaves(tree))
