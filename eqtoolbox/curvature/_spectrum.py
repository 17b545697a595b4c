"""Functions of the spectrum of an operator given by its blocks, and the table of a commutant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

if TYPE_CHECKING:
    from eqtoolbox.curvature._commutant import Blocks, Commutant

_HIGHEST = "highest"


class ApplyInfo(NamedTuple):
    """What was done to the eigenvalues.

    Attributes:
      clipped: for each component the number of eigenvalues replaced because they are within rounding of zero.
      total: how many eigenvalues of the p × p operator that is.
    """

    clipped: dict[str, Array]
    total: Array


class BlockSpectrum(NamedTuple):
    """Eigenvalues with multiplicities.

    Attributes:
      values: the distinct ones up to accident, in descending order, shape (k,).
      multiplicities: how often each occurs in the p × p operator, shape (k,).
      components: the name of the component of each is ``names[components[i]]``, shape (k,).
      names: of the components.
    """

    values: Array
    multiplicities: Array
    components: Array
    names: tuple[str, ...]


def apply(
    function: Callable[[Array], Array], blocks: Blocks, damping: float | None
) -> tuple[Blocks, dict[str, Array]]:
    """``Commutant.apply`` on blocks; also the number of eigenvalues replaced in each component."""
    new, clipped = {}, {}
    for name, block in blocks.items():
        block = block.astype(jnp.promote_types(block.dtype, jnp.float32))
        if block.shape[-1] == 0:
            new[name], clipped[name] = block, jnp.int32(0)
            continue
        w, v = jnp.linalg.eigh(jax.lax.stop_gradient(block))
        safe, small = _safe(w, damping)
        whole, constants = jax.closure_convert(lambda u, to=safe: function(to(u)), w)
        new[name] = _from_eigen(whole, block, w, v, tuple(constants))
        clipped[name] = jnp.sum(small)
    return new, clipped


def _safe(w: Array, damping: float | None) -> tuple[Callable[[Array], Array], Array]:
    """A function that takes eigenvalues near ``w`` away from 0, and which of them it replaces."""
    info = jnp.finfo(w.dtype)
    eps = float(info.eps)
    # The smallest normal number where all is 0: a function such as w ** -0.5 stays finite.
    largest = jnp.maximum(jnp.max(jnp.abs(w), -1, keepdims=True), float(info.tiny) / eps)
    bound = w.shape[-1] * eps * largest
    small = jnp.abs(w) < bound
    added = (eps if damping is None else damping) * largest
    return (lambda u: jnp.where(small, bound, u) + added), small


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _from_eigen(function, block: Array, w: Array, v: Array, constants: tuple[Array, ...]) -> Array:
    """f(A) for a matrix A = v diag(w) vᵀ; its derivative exists where eigenvalues coincide too."""
    del block
    return _sandwich(v * function(w, *constants)[..., None, :], v)


@_from_eigen.defjvp
def _from_eigen_jvp(function, primals, tangents) -> tuple[Array, Array]:
    """The derivative of f(A): v (L ∘ vᵀ dA v) vᵀ, L the divided differences of f (Daleckii & Krein 1965)."""
    block, _, _, constants = primals
    change, _, _, by_constants = tangents
    w, v = jnp.linalg.eigh(block)
    values, slopes = jax.jvp(lambda u: function(u, *constants), (w,), (jnp.ones_like(w),))
    gap = w[..., :, None] - w[..., None, :]
    size = jnp.maximum(jnp.abs(w)[..., :, None], jnp.abs(w)[..., None, :])
    near = jnp.abs(gap) <= float(jnp.finfo(w.dtype).eps) ** (1 / 3) * size
    quotient = (values[..., :, None] - values[..., None, :]) / jnp.where(near, 1, gap)
    average = (slopes[..., :, None] + slopes[..., None, :]) / 2
    inside = jnp.where(near, average, quotient) * _sandwich(v.mT, v.mT, change)
    if constants:
        _, direct = jax.jvp(lambda c: function(w, *c), (constants,), (by_constants,))
        inside = inside + direct[..., None] * jnp.eye(w.shape[-1], dtype=w.dtype).reshape(
            (1,) * (w.ndim - 1) + (w.shape[-1],) * 2
        )
    return _sandwich(v * values[..., None, :], v), _sandwich(v, v, inside)


def _sandwich(left: Array, right: Array, middle: Array | None = None) -> Array:
    """left middle rightᵀ."""
    if middle is not None:
        left = jnp.matmul(left, middle, precision=_HIGHEST)
    return jnp.matmul(left, right.mT, precision=_HIGHEST)


def spectrum(com: Commutant, blocks: Blocks) -> BlockSpectrum:
    """``Commutant.spectrum``."""
    values, multiplicities, components = [], [], []
    for i, c in enumerate(com.components):
        w = jnp.linalg.eigvalsh(blocks[c.name]).reshape(-1)
        values.append(w)
        multiplicities.append(np.full(w.shape, c.dimension))
        components.append(np.full(w.shape, i))
    joined = jnp.concatenate(values)
    order = jnp.argsort(joined, descending=True)
    return BlockSpectrum(
        joined[order],
        jnp.asarray(np.concatenate(multiplicities))[order],
        jnp.asarray(np.concatenate(components))[order],
        tuple(c.name for c in com.components),
    )


def table(com: Commutant) -> str:
    """The components as text."""
    groups = ", ".join(str(f.group) for f in com.symmetry.factors) or "no group"
    rows = [("component", "copies", "dimension", "leaves")]
    for c in com.components:
        family = "×".join(map(str, c.family))
        copies = f"{c.multiplicity} (× {family})" if family else str(c.multiplicity)
        leaves = " ".join(sorted({m.path for m in c.members}))
        rows.append((c.name, copies, str(c.dimension), leaves))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(t.ljust(w) for t, w in zip(row[:3], widths, strict=True)), row[3]]) for row in rows]
    head = f"commutant of {groups}: {com.num_factors} free numbers for {com.size} parameters"
    notes = [f"{whole} has no invariant distribution: it acts through {part}" for whole, part in com.reduced]
    return "\n".join([head, *notes, *(line.rstrip() for line in lines)])
