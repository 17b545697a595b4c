"""Scalars u, w with the symmetry (cu, w/c) for every c ≠ 0: the mirrors u = w and u = -w."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import GeneralLinear, Group, Monomial, Wreath
from eqtoolbox.mirror._concrete import concretely
from eqtoolbox.mirror._mirror import Mirror
from eqtoolbox.symmetry import Factor, Symmetry, leaf_paths

Params = Any


@dataclass(frozen=True)
class EntryPair:
    """The subspace of one direction (1, sign)/√2 on two entries of the parameters.

    Attributes:
      paths: of their leaves.
      indices: their places in the ravelled leaves.
      sign: of the second.
    """

    paths: tuple[str, str]
    indices: tuple[int, int]
    sign: int

    def order(self, directions: None, params: Params) -> Array:
        """The scalar (u + sign · w)/√2."""
        leaves = dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))
        u, w = (jnp.ravel(leaves[p])[i] for p, i in zip(self.paths, self.indices, strict=True))
        dtype = jnp.result_type(u, w, jnp.float32)
        return (u.astype(dtype) + self.sign * w.astype(dtype)) / np.sqrt(2.0).astype(dtype)

    def lift(self, directions: None, z: Array, params: Params) -> Params:
        """O z."""

        def leaf(path: tuple, x: Any) -> Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            dtype = jnp.promote_types(jnp.result_type(x), jnp.float32)
            flat = jnp.zeros(np.prod(jnp.shape(x), dtype=int), dtype)
            for path_, i, sign in zip(self.paths, self.indices, (1, self.sign), strict=True):
                if path_ == name:
                    flat = flat.at[i].add((sign * z / np.sqrt(2.0)).astype(dtype))
            return flat.reshape(jnp.shape(x))

        return jax.tree_util.tree_map_with_path(leaf, params)


@dataclass(frozen=True)
class ScalarPairs:
    """The mirrors of the scalar pairs of one generator, two for each unit.

    Attributes:
      space: the space of the units.
      units: for each pair its unit, the paths of its leaves and the places there.
    """

    space: str
    units: tuple[tuple[int, tuple[str, str], tuple[int, int]], ...]

    def __len__(self) -> int:
        return 2 * len(self.units)

    def __getitem__(self, index: int) -> Mirror:
        unit, paths, indices = self.units[index // 2]
        sign = -1 if index % 2 == 0 else 1
        text = f"{paths[0]} = {'-' if sign > 0 else ''}{paths[1]} at unit {unit} of {self.space}"
        return Mirror(text, EntryPair(paths, indices, sign))


def scalar_pairs(sym: Symmetry, params: Params) -> list[tuple[str, Group, ScalarPairs]]:
    """The generators of a symmetry that scale pairs of scalars, with both signs of the scale.

    (u, w) and (w, u) lie on one orbit of R*: the element c = w/u takes one to the other. So an invariant function is
    symmetric under the exchange, though no fixed element of the group is. For c > 0 only this holds where uw ≥ 0 but
    (u, w) -> (w, u) leaves the orbit where uw < 0, and there is no mirror.

    Args:
      sym: the symmetry.
      params: the parameters or their shapes.

    Returns:
      The space, its group, and the mirrors, for each generator with a pair.
    """
    return concretely(_scalar_pairs, sym, jax.eval_shape(lambda p: p, params))


def _scalar_pairs(sym: Symmetry, shapes: Params) -> list[tuple[str, Group, ScalarPairs]]:
    found = []
    ones = jax.tree.map(lambda x: jnp.ones(x.shape) if _real(x) else jnp.zeros(x.shape, x.dtype), shapes)
    for factor in sym.factors:
        for vectors, flips in _generators(factor):
            pairs = _pairs(sym, factor, vectors, flips, ones)
            if pairs:
                found.append((factor.spaces[0], factor.group, ScalarPairs(factor.spaces[0], tuple(pairs))))
    return found


def _real(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _generators(factor: Factor) -> Iterator[tuple[list[Any], Any]]:
    """For each generator of R* on single units: algebra vectors that scale all of them by 1 and by 1, 2, …; c = -1."""
    group = factor.group
    if (
        isinstance(group, Monomial)
        and len(group.scales) == group.num_scales
        and len(group.signs) == group.num_signs
    ):
        for name in group.scales:
            if name in group.signs:
                k, zero = group.scales.index(name), group.algebra_zero()
                identity = group.identity()
                flip = identity._replace(sign=identity.sign.at[group.signs.index(name)].set(-1))
                yield [zero.at[k].set(1.0), zero.at[k].set(jnp.arange(1.0, group.n + 1))], flip
    elif isinstance(group, GeneralLinear) and group.n == 1:
        yield [jnp.ones((1, 1))] * 2, -jnp.ones((1, 1))
    elif isinstance(group, Wreath) and isinstance(group.inner, GeneralLinear) and group.inner.n == 1:
        zero, one, count = (
            group.algebra_zero(),
            jnp.ones((group.copies, 1, 1)),
            jnp.arange(1.0, group.copies + 1),
        )
        vectors = [zero._replace(inner=one), zero._replace(inner=count[:, None, None])]
        yield vectors, group.identity()._replace(inner=-one)


def _pairs(sym: Symmetry, factor: Factor, vectors: list[Any], flip: Any, ones: Params):
    """The units that scale exactly two entries, by opposite powers, and flip both."""
    rates, counted = (sym.generator({factor.key: v}, ones) for v in vectors)
    element = sym.identity() | {factor.key: flip}
    flipped = sym.act(element, ones)
    paths = leaf_paths(ones)
    entries: dict[int, list[tuple[str, int, float, bool]]] = {}
    for path, rate, count, turned in zip(
        paths, *map(jax.tree.leaves, (rates, counted, flipped)), strict=True
    ):
        rate, count, turned = (np.asarray(x, np.float64).ravel() for x in (rate, count, turned))
        for i in np.flatnonzero(rate):
            unit = round(count[i] / rate[i]) - 1
            entries.setdefault(unit, []).append((path, int(i), float(rate[i]), turned[i] < 0))
    found = []
    for unit, members in sorted(entries.items()):
        if len(members) == 2 and members[0][2] == -members[1][2] and all(m[3] for m in members):
            (path_a, a, _, _), (path_b, b, _, _) = members
            found.append((unit, (path_a, path_b), (a, b)))
    return found
