"""Exports: what a symmetry says of the axes of parameters, in the formats that other libraries read."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from eqtoolbox.groups import (
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    Product,
    Stabiliser,
    Wreath,
)
from eqtoolbox.inference._infer import explained
from eqtoolbox.symmetry import Symmetry, check_symmetry


class PermutationSpec(NamedTuple):
    """The permutations of a model as git-re-basin writes them.

    Attributes:
      perm_to_axes: name of the permutation -> pairs (path of a leaf, axis).
      axes_to_perm: path of a leaf -> for each axis the name of its permutation, or None.
    """

    perm_to_axes: dict[str, list[tuple[str, int]]]
    axes_to_perm: dict[str, tuple[str | None, ...]]


def axis_labels(sym: Symmetry, params: Any) -> Any:
    """The labels as a tree like the parameters: one string for each leaf, ``"..."`` where no group acts.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"u": "_ h", "v": "h _"}, {"h": groups.Permutation(4)})
    >>> axis_labels(sym, {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2)), "w": jnp.ones(2)})
    {'u': '_ h', 'v': 'h _', 'w': '...'}

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: a label does not fit its leaf.
    """
    check_symmetry(sym, "an export")
    labels = sym.labels_of(params)
    sym.check(params)
    return jax.tree.unflatten(jax.tree.structure(params), [str(label) for label in labels.values()])


def permutation_spec(sym: Symmetry, params: Any, *, partial: bool = False) -> PermutationSpec:
    """The permutations of a symmetry as git-re-basin writes them: no scalings, signs or rotations.

    GL(n) and O(n) count as the permutations that they contain, a group for each head as those that all
    heads share.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"u": "_ h", "v": "h _"}, {"h": groups.Permutation(4)})
    >>> permutation_spec(sym, {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2))}).axes_to_perm
    {'u': (None, 'h'), 'v': ('h', None)}

    Args:
      sym: the symmetry.
      params: arrays or ``ShapeDtypeStruct``.
      partial: leave out permutations that act on a part or a factor of an axis, which the format cannot say,
        instead of raising.

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: a label does not fit its leaf, or a permutation acts on a part or a factor of an axis.
    """
    check_symmetry(sym, "an export")
    names = _permuted(sym)
    axes: dict[str, list[str | None]] = {}
    unsaid: dict[str, str] = {}
    for path, label in sym.atoms(params).items():
        axes[path] = []
        for i, axis in enumerate(label):
            spaces = [atom.space for segment in axis for atom in segment if atom.space in names]
            whole = len(axis) == 1 and sum(atom.size != 1 for atom in axis[0]) == 1
            axes[path].append(spaces[0] if spaces and whole else None)
            unsaid |= {str(s): f"{path!r}, axis {i}" for s in spaces if not whole}
    if unsaid and not partial:
        space, place = next(iter(unsaid.items()))
        raise ValueError(
            f"the permutation of {space!r} acts on a part or a factor of leaf {place}, which a permutation spec "
            "cannot say; pass partial=True to leave such permutations out"
        )
    named = {path: tuple(None if s in unsaid else s for s in spaces) for path, spaces in axes.items()}
    places: dict[str, list[tuple[str, int]]] = {}
    for path, spaces in named.items():
        for i, space in enumerate(spaces):
            if space is not None:
                places.setdefault(space, []).append((path, i))
    return PermutationSpec(places, named)


def axis_integers(sym: Symmetry, params: Any, *, partial: bool = False) -> Any:
    """The same as integers, as universal neural functionals read them: a tree like the parameters.

    Axes with one integer are permuted together. That format has no fixed axes: each one has an integer of its own,
    or, where the symmetry was inferred, shares it with the axes on which it is the same space (the classes of a
    kernel and its bias), so that an equivariant network treats its entries alike.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"u": "_ h", "v": "h _"}, {"h": groups.Permutation(4)})
    >>> axis_integers(sym, {"u": jnp.ones((3, 4)), "v": jnp.ones((4, 2))})
    {'u': (1, 0), 'v': (0, 2)}

    Args:
      sym: the symmetry.
      params: arrays or ``ShapeDtypeStruct``.
      partial: as for ``permutation_spec``.

    Returns:
      A tree like the parameters with a tuple of integers for each leaf, one per axis; permutations first.

    Raises:
      TypeError: ``sym`` is no symmetry.
      ValueError: as for ``permutation_spec``.
    """
    spec = permutation_spec(sym, params, partial=partial)
    numbers: dict[Any, int] = {name: i for i, name in enumerate(spec.perm_to_axes)}
    known = explained(sym)
    shared = {leaf: i for i, space in enumerate(known.pinned) for leaf in space.leaves} if known else {}
    out = []
    for path, spaces in spec.axes_to_perm.items():
        keys = [s or shared.get(f"{path}[{i}]", (path, i)) for i, s in enumerate(spaces)]
        out.append(tuple(numbers.setdefault(key, len(numbers)) for key in keys))
    return jax.tree.unflatten(jax.tree.structure(params), out)


def _permuted(sym: Symmetry) -> set[str]:
    """The spaces whose units a group permutes, all copies alike."""
    return {
        name
        for factor in sym.factors
        for name, yes in zip(factor.spaces, _permutes(factor.group), strict=True)
        if yes
    }


def _permutes(group: Group) -> list[bool]:
    """For each space of a group whether it contains the permutations of its units."""
    if isinstance(group, Product):
        return [yes for part in group.groups for yes in _permutes(part)]
    if isinstance(group, Wreath):
        return _permutes(group.outer) + _permutes(group.inner)
    if isinstance(group, Stabiliser):
        return [group.vector is None]  # the ones vector
    return [isinstance(group, (Permutation, Monomial, GeneralLinear, Orthogonal))]
