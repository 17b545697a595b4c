"""Spectral densities and traces of functions, by stochastic Lanczos quadrature.

>>> import jax, jax.numpy as jnp
>>> diagonal = jnp.linspace(1.0, 2.0, 50)
>>> estimate = slq_trace(jnp.log, lambda v: diagonal * v, diagonal, key=jax.random.key(0), probes=8, steps=8)
>>> bool(abs(estimate.value - jnp.log(diagonal).sum()) <= 4 * estimate.standard_error + 1e-3)
True
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, PyTree

from eqtoolbox.linalg._checks import check_choice, check_integer, check_real
from eqtoolbox.linalg._chunks import map_draws
from eqtoolbox.linalg._estimate import Estimate, estimate_mean
from eqtoolbox.linalg._krylov import extend_krylov, normalize, ritz_pairs, start_krylov
from eqtoolbox.linalg._operators import MatVec, flat_matvec
from eqtoolbox.linalg._tree import DISTRIBUTIONS, draw_flat, flat_dtype, tree_norm, tree_size


class Spectrum(NamedTuple):
    """Quadrature rules of random vectors: probe i sees the density Σ_j weights[i, j] δ(λ − nodes[i, j]).

    Attributes:
      nodes: Ritz values per probe, ascending.
      weights: not negative; the mean over probes of their sum is 1.
      size: p, the number of eigenvalues the density stands for.
    """

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]
    size: int | Array


def spectral_density(
    matvec: MatVec,
    like: PyTree,
    *,
    key: Key[Array, ""],
    probes: int = 10,
    steps: int | None = None,
    distribution: str = "sphere",
    batch_size: int | None = 1,
) -> Spectrum:
    """The spectral density (1/p) Σ_i δ(λ − λ_i) of a symmetric operator by stochastic Lanczos quadrature.

    Each probe z runs Lanczos from z/‖z‖; its rule integrates polynomials of degree below 2·steps exactly
    against the spectral measure of z, whose expectation is the density. Rows are fully reorthogonalised.

    Args:
      matvec: a symmetric linear map on trees like ``like``.
      like: a pytree of real arrays or ShapeDtypeStructs, p entries.
      key: a typed key.
      probes: the number of random vectors.
      steps: Lanczos steps per probe, at most p; by default min(30, p).
      distribution: ``"sphere"``, ``"rademacher"`` or ``"normal"``.
      batch_size: probes run together; memory is batch_size · steps · p numbers. None for all.

    Returns:
      A :class:`Spectrum`; see :func:`density_at` for values on a grid.

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: if an argument is out of range or an image does not match ``like``.

    Reference: Ubaru, Chen & Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature (2017).
    """
    check_real(like, "like")
    check_choice(distribution, "distribution", DISTRIBUTIONS)
    p = tree_size(like)
    probes = check_integer(probes, "probes", 1)
    steps = check_integer(
        min(30, p) if steps is None else steps, "steps", 1, p, "the number of entries of `like`"
    )
    product, dtype = flat_matvec(matvec, like), flat_dtype(like)

    def rule(probe_key):
        z = draw_flat(probe_key, p, distribution, dtype)
        state = extend_krylov(product, start_krylov(normalize(z), steps))
        nodes, coordinates, _ = ritz_pairs(state)
        return nodes, coordinates[0] ** 2 * (tree_norm(z) / math.sqrt(p)) ** 2

    nodes, weights = map_draws(rule, key, probes, batch_size)
    return Spectrum(nodes, weights, p)


def density_at(spectrum: Spectrum, grid: Float[Array, " g"], width: float | Array) -> Estimate:
    """The density on a grid, each eigenvalue broadened to a normal density of deviation ``width``.

    Args:
      spectrum: from :func:`spectral_density`, with at least two probes.
      grid: where to evaluate.
      width: positive.

    Returns:
      An :class:`Estimate` on the grid: mean and standard error over probes. It integrates to 1 over the line.

    Raises:
      ValueError: if there are fewer than two probes.
    """
    check_integer(spectrum.nodes.shape[0], "the number of probes", 2, None, "for a standard error")

    def one(nodes, weights):
        z = (grid[:, None] - nodes[None, :]) / width
        return jnp.exp(-0.5 * z**2) @ weights / (width * math.sqrt(2 * math.pi))

    return estimate_mean(jax.vmap(one)(spectrum.nodes, spectrum.weights))


def slq_trace(
    function: Callable[[Array], Array],
    matvec: MatVec,
    like: PyTree,
    *,
    key: Key[Array, ""],
    probes: int = 10,
    steps: int | None = None,
    distribution: str = "rademacher",
    batch_size: int | None = 1,
) -> Estimate:
    """The trace of f(A) for a symmetric A by stochastic Lanczos quadrature: log-determinants, counts.

    The standard error is that of the probes. The error of the quadrature (none for polynomials of degree
    below 2·steps, or when ``steps`` reaches the number of distinct eigenvalues) is not in it.

    Args:
      function: f, applied elementwise to an array of Ritz values; finite on the hull of the spectrum.
      matvec: a symmetric linear map on trees like ``like``.
      like: a pytree of real arrays or ShapeDtypeStructs.
      key: a typed key.
      probes: the number of random vectors, at least 2.
      steps: Lanczos steps per probe, at most p; by default min(30, p).
      distribution: ``"rademacher"``, ``"normal"`` or ``"sphere"``.
      batch_size: probes run together; None for all.

    Returns:
      An :class:`Estimate` of tr f(A).

    Raises:
      TypeError: naming the leaf, if one is not real floating point.
      ValueError: if an argument is out of range or an image does not match ``like``.

    Reference: Ubaru, Chen & Saad (2017), algorithm 1.
    """
    check_integer(probes, "probes", 2, None, "for a standard error")
    spectrum = spectral_density(
        matvec,
        like,
        key=key,
        probes=probes,
        steps=steps,
        distribution=distribution,
        batch_size=batch_size,
    )
    # after a breakdown the unused nodes have weight 0, and f need not be finite there
    used = spectrum.weights > 0
    inside = jnp.where(used, spectrum.nodes, spectrum.nodes[:, :1])
    terms = jnp.where(used, spectrum.weights * function(inside), 0)
    return estimate_mean(spectrum.size * jnp.sum(terms, axis=1))
