"""Stochastic traces and diagonals of matrix-free operators, with standard errors.

>>> import jax, jax.numpy as jnp
>>> diagonal = jnp.arange(1.0, 6.0)
>>> matvec = lambda v: diagonal * v
>>> estimate = hutchinson_trace(matvec, diagonal, key=jax.random.key(0), samples=4)
>>> float(estimate.value), float(estimate.standard_error)  # exact for a diagonal matrix
(15.0, 0.0)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key, PyTree

from eqtoolbox.linalg._checks import check_choice, check_integer, check_real
from eqtoolbox.linalg._chunks import fold_chunks, map_chunks, map_draws
from eqtoolbox.linalg._estimate import Estimate, estimate_mean
from eqtoolbox.linalg._krylov import matmul, project_out
from eqtoolbox.linalg._moments import moments_estimate, moments_init, moments_update_batch
from eqtoolbox.linalg._operators import MatVec, flat_matvec
from eqtoolbox.linalg._tree import (
    DISTRIBUTIONS,
    abstract_working,
    draw_flat,
    flat_dtype,
    tree_size,
    unravel_stack,
)


def _check(like: PyTree, samples: int, distribution: str, low: int = 2) -> int:
    check_real(like, "like")
    check_choice(distribution, "distribution", DISTRIBUTIONS)
    return check_integer(samples, "samples", low, None, "for a standard error")


def _flat(matvec: MatVec, like: PyTree, distribution: str) -> tuple[Callable, Callable]:
    """The product on flat vectors, and a map from keys to random ones."""
    p, dtype = tree_size(like), flat_dtype(like)
    return flat_matvec(matvec, like), lambda key: draw_flat(key, p, distribution, dtype)


def hutchinson_trace(
    matvec: MatVec,
    like: PyTree,
    *,
    key: Key[Array, ""],
    samples: int = 100,
    distribution: str = "rademacher",
    batch_size: int | None = 1,
) -> Estimate:
    """The trace of A as the mean of ⟨z, A z⟩ over isotropic random z.

    With Rademacher probes the variance is 2 Σ_{i≠j} A_ij² / samples for symmetric A.

    Args:
      matvec: a linear map on trees like ``like``.
      like: a pytree of real arrays or ShapeDtypeStructs.
      key: a typed key.
      samples: the number of probes, at least 2.
      distribution: ``"rademacher"``, ``"normal"`` or ``"sphere"``.
      batch_size: probes run together; None for all.

    Returns:
      An :class:`Estimate` of the trace.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: if an argument is out of range or an image does not match ``like``.

    Reference: Hutchinson, A stochastic estimator of the trace of the influence matrix (1989).
    """
    samples = _check(like, samples, distribution)
    product, draw = _flat(matvec, like, distribution)

    def one(probe_key):
        z = draw(probe_key)
        return matmul(z, product(z))

    return estimate_mean(map_draws(one, key, samples, batch_size))


def hutchinson_diagonal(
    matvec: MatVec,
    like: PyTree,
    *,
    key: Key[Array, ""],
    samples: int = 100,
    distribution: str = "rademacher",
    batch_size: int | None = 1,
) -> Estimate:
    """The diagonal of A as the mean of z ⊙ A z over isotropic random z; memory is one batch and three trees.

    Args:
      matvec: a linear map on trees like ``like``.
      like: a pytree of real arrays or ShapeDtypeStructs.
      key: a typed key.
      samples: the number of probes, at least 2.
      distribution: ``"rademacher"``, ``"normal"`` or ``"sphere"``.
      batch_size: probes run together; None for all.

    Returns:
      An :class:`Estimate` whose value and standard error are trees like ``like``, in at least float32.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: if an argument is out of range or an image does not match ``like``.

    Reference: Bekas, Kokiopoulou & Saad, An estimator for the diagonal of a matrix (2007).
    """
    samples = _check(like, samples, distribution)
    product, draw = _flat(matvec, like, distribution)

    abstract = abstract_working(like)

    def one(i):
        z = draw(jax.random.fold_in(key, i))
        return unravel_stack(z * product(z), abstract)

    step = lambda state, chunk: moments_update_batch(state, jax.vmap(one)(chunk))  # noqa: E731
    state = fold_chunks(step, moments_init(abstract), jnp.arange(samples), batch_size)
    return moments_estimate(state)._replace(samples=samples)


def hutchpp_trace(
    matvec: MatVec,
    like: PyTree,
    *,
    key: Key[Array, ""],
    samples: int = 99,
    distribution: str = "rademacher",
    batch_size: int | None = 1,
) -> Estimate:
    """The trace of A by Hutch++: exact on the range of a random sketch, Hutchinson on the rest.

    A third of the products sketches A S, a third takes the exact trace on its orthonormal range Q, and a
    third estimates tr (I − QQᵀ) A (I − QQᵀ). For a positive semidefinite A the error falls as 1/samples
    instead of 1/√samples; it is 0 when the rank of A is at most samples/3.

    Args:
      matvec: a linear map on trees like ``like``.
      like: a pytree of real arrays or ShapeDtypeStructs.
      key: a typed key.
      samples: the number of products with A, at least 6.
      distribution: ``"rademacher"``, ``"normal"`` or ``"sphere"``.
      batch_size: probes run together; None for all. The sketch takes samples/3 trees in any case.

    Returns:
      An :class:`Estimate`; ``samples`` is the number of probes of the last third, which make the standard
      error.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: if an argument is out of range or an image does not match ``like``.

    Reference: Meyer, Musco, Musco & Woodruff, Hutch++: optimal stochastic trace estimation (2021),
    algorithm 1.
    """
    samples = _check(like, samples, distribution, 6)
    product, draw = _flat(matvec, like, distribution)
    rank = min(samples // 3, tree_size(like))
    probes = samples - 2 * rank
    sketch_key, probe_key = jax.random.split(key)
    sketch = map_draws(lambda k: product(draw(k)), sketch_key, rank, batch_size)
    rows = jnp.linalg.qr(sketch.T)[0].T
    exact = jnp.sum(map_chunks(lambda row: matmul(row, product(row)), rows, batch_size))

    def one(k):
        z, _ = project_out(draw(k), rows)
        return matmul(z, product(z))

    rest = estimate_mean(map_draws(one, probe_key, probes, batch_size))
    return rest._replace(value=rest.value + exact)
