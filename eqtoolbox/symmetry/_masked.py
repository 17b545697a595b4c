"""Trees of which an optimizer sees a part: ``optax.partition`` leaves a ``MaskedNode`` for the rest."""

from __future__ import annotations

from typing import Any

import jax
import optax

from eqtoolbox.symmetry._paths import leaf_paths, locate
from eqtoolbox.symmetry._symmetry import Symmetry


def is_masked(leaf: Any) -> bool:
    """Whether a leaf is masked out (``optax.MaskedNode``)."""
    return isinstance(leaf, optax.MaskedNode)


def present(sym: Symmetry, params: Any) -> Symmetry:
    """The symmetry of the leaves that are there: without the factors whose leaves are all masked out.

    Raises:
      ValueError: a factor has some of its leaves masked out and others not; or nothing is left.
    """
    leaves = jax.tree.leaves(params, is_leaf=is_masked)
    found = locate(leaf_paths(params), (path for path, _ in sym.labels))
    masked = {path for path, i in found.items() if is_masked(leaves[i])}
    if not masked:
        return sym
    kept = []
    for f in sym.factors:
        mine = [path for path, label in sym.labels if any(a.space in f.spaces for a in label.atoms)]
        missing = [p for p in mine if p in masked]
        if missing and len(missing) < len(mine):
            raise ValueError(
                f"leaf {missing[0]!r} is masked out (optax.MaskedNode), but {f.key!r} acts on it together with "
                f"{next(p for p in mine if p not in missing)!r}: mask or partition whole orbits together, or "
                "restrict the symmetry to the spaces that are trained"
            )
        if not missing:
            kept.append(f)
    if not kept:
        raise ValueError("every leaf on which the symmetry acts is masked out (optax.MaskedNode)")
    small = sym.restrict(*(f.spaces[0] for f in kept))
    return Symmetry({path: label for path, label in small.labels if path not in masked}, small.groups)
