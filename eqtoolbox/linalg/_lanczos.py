"""Lanczos on pytrees, with full reorthogonalisation and an error bound for every Ritz value.

>>> import jax, jax.numpy as jnp
>>> diagonal = {"a": jnp.array([5.0, 3.0]), "b": jnp.array([1.0, 0.0])}
>>> matvec = lambda v: jax.tree.map(jnp.multiply, diagonal, v)
>>> ritz = lanczos(matvec, diagonal, 4, key=jax.random.key(0))
>>> bool(jnp.allclose(ritz.values, jnp.array([5.0, 3.0, 1.0, 0.0]), atol=1e-5))
True
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key, PyTree

from eqtoolbox.linalg._checks import check_integer, check_like, check_real
from eqtoolbox.linalg._krylov import draw_start, extend_krylov, matmul, normalize, ritz_pairs, start_krylov
from eqtoolbox.linalg._manual import vary_with
from eqtoolbox.linalg._operators import MatVec, flat_matvec
from eqtoolbox.linalg._tree import abstract_working, flat_dtype, ravel, tree_size, unravel_stack


class Ritz(NamedTuple):
    """What k Lanczos steps know of the spectrum; sorted from the largest value.

    Attributes:
      values: Ritz values.
      bounds: residual norms ‖A y_i − θ_i y_i‖ = |β_k s_ki|: an eigenvalue lies within this of each Ritz
        value.
      weights: squared components of the start vector on the Ritz vectors; they sum to 1.
      steps: the dimension of the Krylov space of the start vector: k, or less if an invariant subspace was
        reached.
      vectors: stack of orthonormal Ritz vectors, or None.
    """

    values: Float[Array, " k"]
    bounds: Float[Array, " k"]
    weights: Float[Array, " k"]
    steps: Int[Array, ""]
    vectors: PyTree | None


def lanczos(
    matvec: MatVec,
    like: PyTree,
    steps: int,
    *,
    key: Key[Array, ""],
    start: PyTree | None = None,
    vectors: bool = True,
) -> Ritz:
    """``steps`` Lanczos steps of a symmetric operator; k x p memory, usable under jit and vmap.

    Rows are orthogonalised twice against all earlier ones, so there are no ghost copies of converged
    eigenvalues. Where the Krylov space becomes invariant (at ``Ritz.steps``) the iteration goes on with a
    random direction orthogonal to it: every returned value is a Ritz value of A, and repeated eigenvalues
    can appear. Vectors are handed to ``matvec`` in the dtypes of ``like`` and kept in at least float32.

    Args:
      matvec: a symmetric linear map on trees like ``like``.
      like: a pytree of real arrays or ShapeDtypeStructs, p entries.
      steps: k, between 1 and p.
      key: for the start vector and for the directions after a breakdown.
      start: the start vector (any norm); by default random.
      vectors: whether to return the Ritz vectors.

    Returns:
      A :class:`Ritz` of length k.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: if ``steps`` is out of range, or ``start`` or an image does not match ``like``.

    Reference: Lanczos (1950); Parlett, The symmetric eigenvalue problem (1998), ch. 13.
    """
    check_real(like, "like")
    steps = check_integer(steps, "steps", 1, tree_size(like), "the number of entries of `like`")
    if start is not None:
        check_like(start, like, "start", "like")
    first, phases = vary_with(draw_start(key, tree_size(like), flat_dtype(like)), like)
    if start is not None:
        first = normalize(ravel(start).astype(first.dtype))
    state = extend_krylov(flat_matvec(matvec, like), start_krylov(first, steps), 0, phases)
    values, coordinates, bounds = (jnp.flip(x, -1) for x in ritz_pairs(state))
    rows = unravel_stack(matmul(coordinates.T, state.basis[:-1]), abstract_working(like)) if vectors else None
    return Ritz(values, bounds, coordinates[0] ** 2, state.breakdown, rows)
