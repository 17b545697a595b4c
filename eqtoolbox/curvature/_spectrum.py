"""Functions of the spectrum of an operator given by its blocks, and the table of a commutant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

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
        if block.shape[-1] == 0:
            new[name], clipped[name] = block, jnp.int32(0)
            continue
        w, v = jnp.linalg.eigh(block)
        eps = float(jnp.finfo(w.dtype).eps)
        largest = jnp.max(jnp.abs(w), -1, keepdims=True)
        bound = w.shape[-1] * eps * largest
        small = jnp.abs(w) < bound
        w = jnp.where(small, bound, w) + (eps if damping is None else damping) * largest
        new[name] = jnp.matmul(v * function(w)[..., None, :], v.mT, precision=_HIGHEST)
        clipped[name] = jnp.sum(small)
    return new, clipped


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
    return "\n".join([head, *(line.rstrip() for line in lines)])
