"""Numerical rank by the gap in the singular values.

NumPy arrays are decided on the host in float64 whatever JAX's precision; JAX arrays under jit and vmap too.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> a = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 20))
>>> result = numerical_rank(a)
>>> result.rank, result.ambiguous, result.gap > 1e10
(3, False, True)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, PyTree, Shaped

from eqtoolbox.linalg._checks import check_real, leading_size, name_leaf
from eqtoolbox.linalg._operators import MatVec, to_dense
from eqtoolbox.linalg._tree import coarsest_eps, ravel_stack


class Rank(NamedTuple):
    """A rank and how clear it is. NumPy input gives Python scalars and NumPy arrays.

    Attributes:
      rank: r.
      gap: σ_r / max(σ_{r+1}, floor); infinite for rank 0.
      threshold: a value with σ_r above and σ_{r+1} not above it.
      singular_values: in descending order.
      ambiguous: True if the gap is below ``min_gap``, or if another gap is nearly as large and the floor
        decided.
    """

    rank: int | Int[Array, ""]
    gap: float | Float[Array, ""]
    threshold: float | Float[Array, ""]
    singular_values: Any
    ambiguous: bool | Bool[Array, ""]


def _check_concrete(good: Any, message: str, x: Any) -> None:
    """Raises ValueError where ``good`` is False; a traced value passes."""
    try:
        failed = not bool(good)
    except jax.errors.ConcretizationTypeError:
        return
    if failed:
        raise ValueError(f"{message}, got {np.asarray(x)}")


def _decide(s: Any, floor: float, min_gap: float, xp: Any) -> Rank:
    """The rule, in the array module ``xp``; ``s`` sorted and not empty, ``floor`` relative to s[0]."""
    largest = s[0]
    unit = s / xp.where(largest > 0, largest, 1)
    levels = xp.log(xp.concatenate([xp.maximum(unit, floor), xp.full((1,), floor, s.dtype)]))
    gaps = levels[:-1] - levels[1:]
    ordered = xp.sort(xp.concatenate([gaps, xp.zeros((1,), s.dtype)]))
    by_gap = xp.argmax(gaps) + 1
    by_floor = xp.sum(unit > floor)
    clear = (ordered[-1] >= np.log(min_gap)) & (ordered[-2] <= ordered[-1] / 2)
    rank = xp.where(clear, by_gap, by_floor)
    last = xp.maximum(rank - 1, 0)
    gap = gaps[last]
    certain = (gap >= np.log(min_gap)) & (clear | (by_gap == by_floor))
    zero = largest == 0
    return Rank(
        xp.where(zero, 0, rank),
        xp.where(zero, xp.inf, xp.exp(gap)),
        largest * xp.exp((levels[last] + levels[last + 1]) / 2),
        s,
        ~(certain | zero),
    )


def rank_from_singular_values(
    values: Shaped[Any, " k"],
    *,
    shape: tuple[int, ...] | None = None,
    noise: float | None = None,
    min_gap: float = 10.0,
) -> Rank:
    """The rank at the largest gap log(σ_r / σ_{r+1}), values below the noise floor counting as the floor.

    With σ_{k+1} the floor itself, a well-conditioned matrix has its largest gap at the end: full rank.
    Where the largest gap is below ``min_gap``, or another one exceeds its square root, the count of values
    above the floor decides; ``ambiguous`` tells where this gave another rank or a small gap. Scaling the
    values changes nothing.

    Args:
      values: singular values in any order, k of them.
      shape: (m, n) of the matrix; by default (k, k).
      noise: the floor relative to σ_1; by default min(max(m, n) ε, √ε) with ε that of the dtype of
        ``values``. Give it when the entries are known less well than to rounding.
      min_gap: the ratio below which a gap is not trusted.

    Returns:
      A :class:`Rank`. No values give rank 0.

    Raises:
      ValueError: if ``values`` is not one-dimensional, or has negative or non-finite entries (concrete
        values only; a traced NaN comes back ambiguous), or ``noise`` or ``min_gap`` is out of range.
    """
    on_host = not isinstance(values, jax.Array)
    xp = np if on_host else jnp
    s = xp.asarray(values)
    if s.ndim != 1:
        raise ValueError(f"`values` must be one-dimensional, got shape {s.shape}")
    s = s if jnp.issubdtype(s.dtype, jnp.floating) else s.astype(np.float64 if on_host else jnp.float32)
    if noise is None:
        eps = float(jnp.finfo(s.dtype).eps)
        noise = min(max(shape or (s.size, 1), default=1) * eps, eps**0.5)
    if not 0 < noise < 1:
        raise ValueError(f"`noise` must be between 0 and 1, got {noise!r}")
    if not min_gap > 1:
        raise ValueError(f"`min_gap` must be above 1, got {min_gap!r}")
    _check_concrete(xp.all((s >= 0) & xp.isfinite(s)), "`values` must be finite and not negative", s)
    s = s.astype(np.float64) if on_host else s.astype(jnp.promote_types(s.dtype, jnp.float32))
    s = xp.sort(s)[::-1]
    # no values and the value 0 alike: rank 0
    rank, gap, threshold, _, ambiguous = _decide(s if s.size else xp.zeros(1, s.dtype), noise, min_gap, xp)
    if on_host:
        return Rank(int(rank), float(gap), float(threshold), s, bool(ambiguous))
    return Rank(rank, gap, threshold, s, ambiguous)


def numerical_rank(x: PyTree, *, noise: float | None = None, min_gap: float = 10.0) -> Rank:
    """The numerical rank of a matrix, or of the vectors in a stack of trees.

    Args:
      x: an (m, n) array, or a pytree of which every leaf has a leading axis of m vectors. If all leaves are
        NumPy arrays the singular values are computed on the host in float64.
      noise: see :func:`rank_from_singular_values`; the default uses ε of the coarsest leaf dtype.
      min_gap: see :func:`rank_from_singular_values`.

    Returns:
      A :class:`Rank`.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: if an array is not two-dimensional, leading axes disagree, or entries are not finite.
    """
    bare = jax.tree_util.all_leaves([x])
    if bare and np.ndim(x) != 2:
        raise ValueError(f"`x` must be a matrix or a stack of trees, got an array of shape {np.shape(x)}")
    on_host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(x))
    if bare and np.size(x) == 0:
        return rank_from_singular_values(np.zeros(0) if on_host else jnp.zeros(0), min_gap=min_gap)
    m = leading_size(x, "x")
    if on_host:
        leaves = jax.tree.leaves_with_path(x)
        for path, leaf in leaves:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"leaf `{name_leaf(path)}` of `x` must be real floating point, got dtype {leaf.dtype}"
                )
        matrix = np.concatenate([leaf.reshape(m, -1).astype(np.float64) for _, leaf in leaves], axis=1)
        eps = max(float(jnp.finfo(leaf.dtype).eps) for _, leaf in leaves)
    else:
        check_real(x, "x")
        matrix, eps = ravel_stack(x), coarsest_eps(x)
    xp = np if on_host else jnp
    _check_concrete(xp.all(xp.isfinite(matrix)), "`x` must be finite", matrix)
    values = xp.linalg.svd(matrix, compute_uv=False)
    noise = min(max(matrix.shape) * eps, eps**0.5) if noise is None else noise
    return rank_from_singular_values(values, shape=matrix.shape, noise=noise, min_gap=min_gap)


def operator_rank(
    matvec: MatVec,
    like: PyTree,
    *,
    noise: float | None = None,
    min_gap: float = 10.0,
    batch_size: int | None = None,
) -> Rank:
    """The numerical rank of a matrix-free linear map on a small space, from its dense matrix.

    Prefer the map J to its Gram operator JᵀJ, whose singular values are squared.

    Args:
      matvec: a linear map from trees like ``like`` to trees of any structure.
      like: a pytree of real arrays of the domain.
      noise: see :func:`rank_from_singular_values`; the default uses ε of the coarsest leaf dtype.
      min_gap: see :func:`rank_from_singular_values`.
      batch_size: columns computed at a time; None for all.

    Returns:
      A :class:`Rank`.

    Raises:
      TypeError: naming the leaf, if one of ``like`` is not real floating point.
    """
    dense = to_dense(matvec, like, batch_size=batch_size)
    eps = coarsest_eps(like)
    noise = min(max(dense.shape) * eps, eps**0.5) if noise is None else noise
    return numerical_rank(dense, noise=noise, min_gap=min_gap)
