"""A few extreme eigenpairs of a symmetric operator, to a stated residual.

>>> import jax, jax.numpy as jnp
>>> diagonal = {"a": jnp.array([4.0, 4.0, -7.0]), "b": jnp.linspace(0.0, 1.0, 20)}
>>> matvec = lambda v: jax.tree.map(jnp.multiply, diagonal, v)
>>> pairs, info = top_eigenpairs(matvec, diagonal, 2, key=jax.random.key(0), subspace=8)
>>> bool(jnp.allclose(pairs.values, 4.0, rtol=1e-5)), bool(info.converged.all())
(True, True)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, PyTree

from eqtoolbox.linalg._checks import check_choice, check_integer, check_real
from eqtoolbox.linalg._krylov import Krylov, draw_start, extend_krylov, matmul, ritz_pairs, start_krylov
from eqtoolbox.linalg._manual import vary_with, while_loop
from eqtoolbox.linalg._operators import MatVec, flat_matvec
from eqtoolbox.linalg._tree import (
    abstract_working,
    coarsest_eps,
    flat_dtype,
    tree_norm,
    tree_size,
    unravel_stack,
)

_ORDERS = {"largest": lambda v: -v, "smallest": lambda v: v, "magnitude": lambda v: -jnp.abs(v)}


class Eigenpairs(NamedTuple):
    """Approximate eigenpairs, in the order asked for.

    Attributes:
      values: Rayleigh quotients ⟨y_i, A y_i⟩.
      vectors: stack of orthonormal vectors y_i.
      residuals: ‖A y_i − θ_i y_i‖, computed explicitly: an eigenvalue lies within this of each value.
    """

    values: Float[Array, " k"]
    vectors: PyTree
    residuals: Float[Array, " k"]


class EigenInfo(NamedTuple):
    """How the solver ended.

    Attributes:
      converged: for each pair, whether its residual is below the tolerance.
      confirmed: whether a cycle from a fresh random direction found no other eigenvalue ahead of these.
      tolerance: the absolute tolerance, ``tol`` times the largest ‖A v‖ seen.
      cycles: restart cycles done.
      matvecs: products with A.
    """

    converged: Bool[Array, " k"]
    confirmed: Bool[Array, ""]
    tolerance: Float[Array, ""]
    cycles: Int[Array, ""]
    matvecs: Int[Array, ""]


class _Search(NamedTuple):
    krylov: Krylov
    first: Int[Array, ""]
    previous: Float[Array, " k"]
    probing: Bool[Array, ""]
    done: Bool[Array, ""]
    finite: Bool[Array, ""]
    cycles: Int[Array, ""]
    matvecs: Int[Array, ""]


def _restart(krylov: Krylov, values: Array, coordinates: Array, kept: Array, following: Array) -> Krylov:
    """Keeps the first ``kept`` Ritz vectors as rows, then the row ``following``."""
    keep = jnp.arange(values.size) < kept
    rows = matmul(jnp.where(keep[:, None], coordinates.T, 0), krylov.basis[:-1])
    basis = jnp.concatenate([rows, jnp.zeros_like(rows[:1])]).at[kept].set(following)
    return krylov._replace(basis=basis, projected=jnp.diag(jnp.where(keep, values, 0)))


def _search(
    matvec: Callable[[Array], Array],
    start: Float[Array, " p"],
    k: int,
    m: int,
    order: Callable[[Array], Array],
    tol: float,
    max_cycles: int,
    phases: Float[Array, " p"],
) -> _Search:
    """Thick-restart cycles until k bounds are below ``tol`` and a fresh direction changes nothing."""
    kept = k + (m - k) // 2
    whole = m == start.size

    def cycle(search):
        fresh_row = jnp.where(search.probing, k, -1)
        offset = search.cycles * m
        krylov = extend_krylov(
            matvec, search.krylov, search.first, phases, offset=offset, fresh_row=fresh_row
        )
        values, coordinates, bounds = ritz_pairs(krylov)
        ranking = jnp.argsort(order(values))
        values, coordinates, bounds = values[ranking], coordinates[:, ranking], bounds[ranking]
        limit = tol * krylov.scale
        small = jnp.all(bounds[:k] <= limit)
        same = jnp.all(jnp.abs(values[:k] - search.previous) <= limit)
        # a probing cycle keeps the k converged pairs only: their residuals, below the tolerance, are dropped
        rows = jnp.where(small, jnp.int32(k), jnp.int32(kept))
        first = jnp.where(small, rows - 1, rows)
        residual_row = jnp.where(small, 0, krylov.basis[m])
        return _Search(
            krylov=_restart(krylov, values, coordinates, rows, residual_row),
            first=first,
            previous=values[:k],
            probing=small,
            done=small & (whole | (search.probing & same)),
            finite=jnp.all(jnp.isfinite(values)),
            cycles=search.cycles + 1,
            matvecs=search.matvecs + m - search.first,
        )

    krylov, zero, no = start_krylov(start, m), jnp.int32(0), jnp.bool_(False)
    search = _Search(krylov, zero, jnp.zeros((k,), krylov.projected.dtype), no, no, ~no, zero, zero)
    return while_loop(lambda s: ~s.done & s.finite & (s.cycles < max_cycles), cycle, search)


def top_eigenpairs(
    matvec: MatVec,
    like: PyTree,
    k: int,
    *,
    key: Key[Array, ""],
    which: str = "largest",
    tol: float | None = None,
    subspace: int | None = None,
    max_cycles: int = 100,
) -> tuple[Eigenpairs, EigenInfo]:
    """The first ``k`` eigenpairs of a symmetric operator by thick-restart Lanczos.

    Each cycle extends an orthonormal basis to ``subspace`` rows, does a Rayleigh-Ritz projection and keeps
    the best Ritz vectors. When the residual bounds of the first k are below the tolerance, one more cycle
    starts from a fresh random direction orthogonal to them: Lanczos from one vector never sees the second
    copy of a repeated eigenvalue, and this cycle does. The solver ends when it changes nothing, or after
    ``max_cycles``; read ``info``.

    The values are differentiable in whatever ``matvec`` closes over: dθ_i = ⟨y_i, dA y_i⟩ (for a simple
    eigenvalue); vectors and residuals count as constants.

    Args:
      matvec: a symmetric linear map on trees like ``like``.
      like: a pytree of real arrays or ShapeDtypeStructs, p entries.
      k: how many pairs, between 1 and p.
      key: a typed key.
      which: ``"largest"``, ``"smallest"`` (both algebraic) or ``"magnitude"``.
      tol: of the residuals, relative to ‖A‖; by default ε^(2/3) of the coarsest leaf dtype.
      subspace: rows of the basis, k < subspace ≤ p unless k = p; by default max(2k + 10, 20). Memory is
        2 · subspace · p numbers.
      max_cycles: the limit on restart cycles.

    Returns:
      (:class:`Eigenpairs`, :class:`EigenInfo`).

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: if an argument is out of range or an image does not match ``like``.

    Reference: Wu & Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems (2000).
    """
    check_real(like, "like")
    check_choice(which, "which", _ORDERS)
    p = tree_size(like)
    k = check_integer(k, "k", 1, p, "the number of entries of `like`")
    m = min(p, max(2 * k + 10, 20)) if subspace is None else subspace
    m = check_integer(m, "subspace", min(k + 1, p), p, "more than `k`, at most the entries of `like`")
    max_cycles = check_integer(max_cycles, "max_cycles", 1)
    relative = coarsest_eps(like) ** (2 / 3) if tol is None else tol
    if not 0 < relative < 1:
        raise ValueError(f"`tol` must be between 0 and 1, got {tol!r}")

    product = flat_matvec(matvec, like)
    start, phases = vary_with(draw_start(key, p, flat_dtype(like)), like)
    closed, constants = jax.closure_convert(product, start)
    frozen = [lax.stop_gradient(c) for c in constants]
    order = _ORDERS[which]
    # bounds are estimates: half the tolerance leaves room for the explicit residual
    search = _search(lambda v: closed(v, *frozen), start, k, m, order, relative / 2, max_cycles, phases)
    rows = lax.stop_gradient(search.krylov.basis[:k])

    def pair(y):
        image = product(y)
        value = matmul(y, image)
        return value, lax.stop_gradient(tree_norm(image - value * y))

    values, residuals = lax.map(pair, rows)
    tolerance = relative * search.krylov.scale
    pairs = Eigenpairs(values, unravel_stack(rows, abstract_working(like)), residuals)
    info = EigenInfo(residuals <= tolerance, search.done, tolerance, search.cycles, search.matvecs + k)
    return pairs, info
