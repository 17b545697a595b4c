"""The mirrors that a `Symmetry` contains: `of(sym)` for all, `reflection(sym, space, n)` for a given direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import (
    Affine,
    GeneralLinear,
    Group,
    Orthogonal,
    Product,
    Stabiliser,
    Wreath,
)
from eqtoolbox.linalg import check_integer, tree_norm
from eqtoolbox.mirror._element import ElementSubspace, Frozen
from eqtoolbox.mirror._mirror import Mirror
from eqtoolbox.mirror._reflections import (
    Reflections,
    affine_reflection,
    embed,
    householder,
    numpy_identity,
    reflections,
    why_none,
)
from eqtoolbox.mirror._scalar_pairs import scalar_pairs
from eqtoolbox.symmetry import Factor, Symmetry, check_symmetry

Params = Any

#: At most so many bytes of elements are stacked at a time.
STACK_BYTES = 2**25


@dataclass(frozen=True)
class Family:
    """The mirrors of one kind that one space of a symmetry contains.

    Attributes:
      kind: "exchange", "signed exchange", "sign flip", "reflection" or "rescaling pair".
      space: the space.
      group: the group that contains them.
      count: how many.
      complete: False where these are a basis of infinitely many, one for each unit vector: see ``reflection``.
    """

    kind: str
    space: str
    group: Group
    count: int
    complete: bool
    _sym: Symmetry
    _make: Any

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Mirror:
        return self._make(range(self.count)[index])

    def __iter__(self) -> Iterator[Mirror]:
        return (self._make(i) for i in range(self.count))

    def distances(self, params: Params, *, batch_size: int = 64) -> Array:
        """‖Oᵀθ‖ = ‖θ - Rθ‖ / 2 of every mirror of the family, by acting with stacks of elements.

        Args:
          params: θ, arrays.
          batch_size: how many reflections of θ are held at a time.

        Returns:
          An array of shape (count,).
        """

        def distance(symmetric: Params) -> Array:
            return tree_norm(jax.tree.map(jnp.subtract, params, symmetric))

        return self._over(distance, params, batch_size)

    def weight_decays(self, loss: Any, params: Params, *, batch_size: int = 64) -> Array:
        """γ_0 = (ℓ_0(u) - ℓ_0(w)) / s² of every mirror of the family, see ``local_weight_decay`` (MS-T1.3).

        Args:
          loss: ℓ_0, θ -> a scalar.
          params: w, arrays.
          batch_size: how many mirrors are tried at a time.

        Returns:
          An array of shape (count,); NaN for mirrors that are satisfied.
        """
        here = loss(params)

        def critical(symmetric: Params) -> Array:
            distance = tree_norm(jax.tree.map(jnp.subtract, params, symmetric))
            return (loss(symmetric) - here) / distance**2

        return self._over(critical, params, batch_size)

    def _over(self, f: Any, params: Params, batch_size: int) -> Array:
        """``f`` of the symmetric point (θ + Rθ)/2 of every mirror."""
        if self.count == 0 or not isinstance(self[0].subspace, ElementSubspace):
            return jnp.stack([f(m.complement(params)) for m in self])

        def at(g: Any) -> Array:
            return f(jax.tree.map(lambda a, b: (a + b) / 2, params, self._sym.act(g, params)))

        size = sum(np.asarray(x).nbytes for x in jax.tree.leaves(self[0].subspace.element))
        chunk, found = max(1, STACK_BYTES // max(size, 1)), []
        for start in range(0, self.count, chunk):
            elements = [self[i].subspace.element for i in range(start, min(start + chunk, self.count))]  # pyright: ignore
            stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *elements)
            found.append(jax.lax.map(at, stacked, batch_size=min(batch_size, len(elements))))
        return jnp.concatenate(found)


@dataclass(frozen=True)
class Mirrors(Sequence):
    """All mirrors of a symmetry, made when they are asked for: d(d-1)/2 exchanges are no objects in memory.

    Attributes:
      families: by kind and space.
      without: pairs (space, why) of the spaces whose group contains no mirror.
    """

    families: tuple[Family, ...]
    without: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return sum(f.count for f in self.families)

    @overload
    def __getitem__(self, index: int) -> Mirror: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mirror]: ...
    def __getitem__(self, index: int | slice) -> Mirror | list[Mirror]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = range(len(self))[index]
        for family in self.families:
            if i < family.count:
                return family[i]
            i -= family.count
        raise IndexError(index)

    def select(self, *, kind: str | None = None, space: str | None = None) -> Mirrors:
        """The mirrors of one kind, of one space, or both.

        Raises:
          ValueError: there are none; says which there are.
        """
        chosen = tuple(f for f in self.families if kind in (None, f.kind) and space in (None, f.space))
        if not chosen:
            known = ", ".join(f"{f.kind} of {f.space}" for f in self.families) or "none"
            why = "".join(f"; {name}: {text}" for name, text in self.without if name == space)
            raise ValueError(
                f"there is no mirror of kind {kind!r} and space {space!r}: there are {known}{why}"
            )
        return Mirrors(chosen, ())

    def __str__(self) -> str:
        rows = [
            (f.space, str(f.group), f.kind, f"{f.count}" if f.complete else f"{f.count} of infinitely many")
            for f in self.families
        ]
        rows = [("space", "group", "kind", "mirrors"), *rows, *((s, "", "none", w) for s, w in self.without)]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"{len(self)} mirrors", *lines])


def of(sym: Symmetry, params: Params | None = None) -> Mirrors:
    r"""The mirrors contained in a symmetry: its group elements that are reflections (MS-D2).

    ====================================  =================================================================
    group                                 mirrors
    ====================================  =================================================================
    S(n)                                  every exchange of two units, O = (θ_a - θ_b)/√2 on all leaves
    Z₂ⁿ, B(n), S(n) ⋉ (R* or Z₂)ⁿ         the sign flip of each unit; exchanges, also with a sign
    O(n), GL(n), stabilisers, Aff(n)      I - 2nnᵀ for every unit vector n: a basis here, else ``reflection``
    wreath products                       exchanges of copies, and the mirrors of each copy
    products                              those of every factor
    scalings c > 0, translations          none
    a scalar pair u·w under R* = R \ {0}   besides the sign flip, u = w and u = -w
    ====================================  =================================================================

    A positive rescaling (u, w) -> (cu, w/c) alone has no mirror: c = -1 is missing, and the loss may differ between
    the signs. (0, 0) is stationary all the same where the loss is differentiable there, and Theorem 2 holds: see
    ``rescaling_weight_decay``. With all c ≠ 0 the mirror of vectors u, w is O = I, the simultaneous flip of both;
    only for scalars u, w is also an exchange of u and w a symmetry, as (u, w) and (w, u) lie on one orbit.

    Products of the mirrors here whose subspaces are orthogonal are mirrors too: see ``direct_sum``.

    >>> import jax.numpy as jnp, eqtoolbox as eqt
    >>> from eqtoolbox import mirror
    >>> sym = eqt.Symmetry({"v": "_ h", "u": "h _"}, {"h": eqt.groups.Permutation(4)})
    >>> print(mirror.of(sym))
    6 mirrors
    space  group  kind      mirrors
    h      S(4)   exchange  6
    >>> print(mirror.of(sym)[5])
    mirror exchange of units 2 and 3 of h

    Args:
      sym: the symmetry.
      params: the parameters (or their shapes); with them the labels are checked, and scalar rescaling pairs found.

    Returns:
      A lazy sequence of ``Mirror``.

    Raises:
      TypeError: ``sym`` is not a ``Symmetry``.
      ValueError: a label does not fit the parameters.
    """
    check_symmetry(sym, "mirror.of")
    families, without = [], []
    for factor in sym.factors:
        found = reflections(factor.group)
        families += [_family(sym, factor, r) for r in found]
        if not found and not all(factor.group.is_still(i) for i in range(len(factor.spaces))):
            without.append((" ".join(factor.spaces), why_none(factor.group)))
    if params is not None:
        sym.check(params)
        for space, group, pairs in scalar_pairs(sym, params):
            make = pairs.__getitem__
            families.append(Family("rescaling pair", space, group, len(pairs), True, sym, make))
    return Mirrors(tuple(families), tuple(without))


def reflection(
    sym: Symmetry, space: str, n: Any, *, copy: int | None = None, name: str | None = None
) -> Mirror:
    """The mirror I - 2NᵀN of a space on which O(d), GL(d), a stabiliser or Aff(d) acts (Theorem 3).

    Its symmetric points have no component along the rows of N on any leaf of the space: W n = 0, and nᵀU = 0.

    >>> import jax.numpy as jnp, eqtoolbox as eqt
    >>> from eqtoolbox import mirror
    >>> sym = eqt.Symmetry({"v": "_ h", "u": "h* _"}, {"h": eqt.groups.GeneralLinear(2)})
    >>> params = {"v": jnp.array([[3.0, 1.0]]), "u": jnp.array([[1.0], [2.0]])}
    >>> m = mirror.reflection(sym, "h", [1.0, 1.0])
    >>> [round(float(x[0]), 4) for x in m.order(params).values()], m.dimension(params)
    ([2.1213, 2.8284], 2)

    Args:
      sym: the symmetry.
      space: the space.
      n: a vector of d numbers, or several as rows of a matrix; they are made orthonormal. Not traced.
      copy: which copy, where the group is inside a wreath product (a head, say).
      name: what to call it.

    Returns:
      A ``Mirror``.

    Raises:
      TypeError: no group of matrices acts on the space.
      ValueError: there is no such space or copy, n has the wrong size, is not finite, dependent, or not
        orthogonal to the vector that a stabiliser fixes.
    """
    check_symmetry(sym, "mirror.reflection")
    for factor in sym.factors:
        if space in factor.spaces:
            break
    else:
        known = ", ".join(s for f in sym.factors for s in f.spaces)
        raise ValueError(f"there is no space {space!r}; there are {known}")
    group, depth = factor.group, factor.spaces.index(space)
    inner, path = _matrix_group(group, depth, copy, space)
    rows = np.atleast_2d(np.asarray(n, np.float64))
    if rows.shape[-1] != inner.n or rows.ndim != 2:
        raise ValueError(
            f"`n` must be one or more vectors of {inner.n} numbers for {space!r}, got shape {np.shape(n)}"
        )
    q, r = np.linalg.qr(rows.T)
    pivots, lengths = np.abs(np.diagonal(r)), np.linalg.norm(rows, axis=1)
    if not np.all(np.isfinite(rows)) or len(rows) > inner.n or np.any(pivots <= 1e-10 * lengths):
        raise ValueError(f"`n` must be finite and linearly independent vectors, got {rows}")
    if isinstance(inner, Stabiliser):
        slip = np.abs(q.T @ inner.fixed).max() / np.linalg.norm(inner.fixed)
        if slip > 1e-6:
            raise ValueError(
                f"`n` must be orthogonal to the vector that {inner} fixes, got a cosine of {slip:.1e}"
            )
    part = affine_reflection(q.T) if isinstance(inner, Affine) else householder(q.T)
    element = embed(group, path, part)
    where = "" if copy is None else f"copy {copy} of "
    text = "n" if len(rows) == 1 else f"{len(rows)} directions n"
    return _mirror(sym, factor, element, name or f"reflection {text} of {where}{space}")


def _matrix_group(group: Group, space: int, copy: int | None, name: str):
    """The group of matrices on a space, and the path of (factor or copy) numbers that leads to it."""
    if isinstance(group, (GeneralLinear, Orthogonal, Stabiliser, Affine)):
        if copy is not None:
            raise ValueError(f"the group {group} of {name!r} has no copies, got copy={copy}")
        return group, ()
    if isinstance(group, Product):
        i, space = group.locate(space)
        inner, path = _matrix_group(group.groups[i], space, copy, name)
        return inner, (i, *path)
    if isinstance(group, Wreath) and space > 0:
        if copy is None:
            raise ValueError(
                f"{group} has {group.copies} copies of the space {name!r}: give one, copy=0, say"
            )
        copy = check_integer(copy, "copy", 0, group.copies - 1)
        inner, path = _matrix_group(group.inner, space - 1, None, name)
        return inner, (copy, *path)
    raise TypeError(
        f"a direction n needs O(d), GL(d), a stabiliser or Aff(d) on {name!r}, got {group}: see mirror.of"
    )


def _family(sym: Symmetry, factor: Factor, r: Reflections) -> Family:
    space = factor.spaces[r.space]

    def make(i: int) -> Mirror:
        return _mirror(sym, factor, r.element(i), f"{r.kind} of {r.label(i)} {space}")

    return Family(r.kind, space, factor.group, r.count, r.complete, sym, make)


def _mirror(sym: Symmetry, factor: Factor, part: Any, name: str) -> Mirror:
    """The mirror of an element of one factor, the others at their identity."""
    element = {f.key: part if f is factor else numpy_identity(f.group) for f in sym.factors}
    return Mirror(name, ElementSubspace(sym, Frozen.of(element)))
