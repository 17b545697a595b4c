"""`fold_norms`: gains and shifts of normalisations folded into what reads them, and the symmetry that is then there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.inference._affine import AffineRedundancy, redundancy
from eqtoolbox.inference._affine_program import Algebra
from eqtoolbox.inference._affine_search import Candidate, Found, Search
from eqtoolbox.inference._affine_shift import Values, read_values
from eqtoolbox.inference._affine_terms import Term, extent
from eqtoolbox.inference._infer import infer_symmetry
from eqtoolbox.inference._jaxpr import trace
from eqtoolbox.inference._passes import frozen_leaves
from eqtoolbox.linalg import basis, ravel_stack
from eqtoolbox.symmetry import Symmetry, leaf_paths


@dataclass(frozen=True)
class Gain:
    """A gain that can be folded.

    Attributes:
      path: of the leaf.
      shifts: the leaves added behind it.
      readers: pairs of a leaf that multiplies what carries the gain, and its axes that are those of the gain.
    """

    path: str
    shifts: tuple[str, ...]
    readers: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Folded:
    """A model with its normalisations folded.

    Attributes:
      gains: those that are folded, into which leaves.
      symmetry: of the folded model: on all leaves but the gains and their shifts, which are 1 and 0 there.
    """

    gains: tuple[Gain, ...]
    symmetry: Symmetry
    _shifts: tuple[AffineRedundancy, ...] = field(repr=False, compare=False)

    def fold(self, params: Any) -> Any:
        """The same function with gains 1 and shifts 0.

        Kernels that read a norm are multiplied by its gain γ, their biases take up what its shift β adds to them.

        Args:
          params: the parameters θ.
        """
        for item in self._shifts:
            params = item.act(params, -_leaves(params)[item.leaf])
        return self._multiplied(params, _leaves(params), lambda w, gain: w * gain, one=True)

    def unfold(self, folded: Any, like: Any) -> Any:
        """The same function with the gains and shifts of ``like``; the inverse of ``fold`` for ``like`` = θ.

        Args:
          folded: parameters as ``fold`` returns them.
          like: parameters whose gains are not 0.
        """
        given = _leaves(like)
        params = self._multiplied(folded, given, lambda w, gain: w / gain, one=False)
        for item in self._shifts:
            params = item.act(params, given[item.leaf])
        return params

    def act(self, element: Any, params: Any) -> Any:
        """An element of ``symmetry`` on parameters that are not folded: the outputs do not change.

        Args:
          element: as ``symmetry.sample`` draws it.
          params: the parameters θ, with gains that are not 0.
        """
        return self.unfold(self.symmetry.act(element, self.fold(params)), params)

    def generator(self, vector: Any, params: Any) -> Any:
        """The tangent of ``act`` at the identity.

        Args:
          vector: an algebra vector of ``symmetry``.
          params: the parameters θ.
        """
        folded = self.fold(params)
        tangent = self.symmetry.generator(vector, folded)
        return jax.jvp(lambda p: self.unfold(p, params), (folded,), (tangent,))[1]

    def matrix(self, params: Any) -> Array:
        """The tangents of all generators as a dense matrix, as ``generator_matrix``: for small models."""
        if self.symmetry.is_discrete:
            return jnp.zeros((0, optax.tree.size(params)))
        units = basis(self.symmetry.zero_algebra())
        return ravel_stack(jax.lax.map(lambda v: self.generator(v, params), units, batch_size=64))

    def _multiplied(
        self, params: Any, gains: dict[str, Any], change: Callable[..., Any], *, one: bool
    ) -> Any:
        new = dict(_leaves(params))
        for gain in self.gains:
            for path, axes in gain.readers:
                new[path] = change(new[path], _spread(gains[gain.path], axes, new[path].ndim))
            new[gain.path] = jnp.ones_like(gains[gain.path]) if one else gains[gain.path]
        return jax.tree.unflatten(jax.tree.structure(params), [new[p] for p in leaf_paths(params)])

    def __str__(self) -> str:
        lines = [f"{g.path} folded into {', '.join(path for path, _ in g.readers)}" for g in self.gains]
        return "\n".join([*lines, str(self.symmetry)])


def _leaves(params: Any) -> dict[str, Any]:
    return dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))


def _spread(gain: Any, axes: Sequence[int], ndim: int) -> Any:
    """A gain with its axes at those of a kernel."""
    order = sorted(range(len(axes)), key=axes.__getitem__)
    shape = [1] * ndim
    for k in order:
        shape[axes[k]] = gain.shape[k]
    return jnp.transpose(gain, order).reshape(shape)


def fold_norms(
    apply: Callable[..., Any], params: Any, *inputs: Any, frozen: Sequence[str] = (), verify: bool = True
) -> Folded:
    """Folds the gains and shifts of normalisations into the kernels and biases that read them, by the jaxpr.

    The units of a residual stream are told apart by the gains of the norms that read it: its symmetry is no more than
    permutations. Once they are folded, the stream of root mean square norms has O(n), that of layer norms O(n) fixing
    the ones vector, exactly and at any parameters: ``act`` folds, moves and unfolds.

    A gain is folded where whatever carries it is multiplied by kernels of its own, and its shift, if it has one, is
    absorbed by their biases; a final norm before a tied output layer is not.

    >>> import jax, jax.numpy as jnp
    >>> def apply(p, x):
    ...     h = x @ p["u"]
    ...     return jnp.tanh((h / jnp.sqrt(1 + jnp.sum(h**2, -1, keepdims=True)) * p["gain"][None]) @ p["v"])
    >>> params = {"u": jnp.ones((3, 4)), "gain": jnp.full(4, 2.0), "v": jnp.ones((4, 2))}
    >>> folded = fold_norms(apply, params, jnp.ones((5, 3)))
    >>> [str(group) for group in folded.symmetry.groups.values()], folded.fold(params)["v"][0, 0].item()
    (['O(4)'], 2.0)

    Args:
      apply: a pure function of the parameters and inputs.
      params: a pytree of arrays or ``ShapeDtypeStruct``.
      *inputs: arrays or ``ShapeDtypeStruct``.
      frozen: glob patterns of leaves that must not move: nothing is folded into them, and they have no symmetry.
      verify: where arrays are given, check the symmetry of the folded model with random elements.

    Returns:
      A ``Folded``; print it.

    Raises:
      TypeError: ``frozen`` is one string.
      ValueError: a pattern of ``frozen`` matches no leaf.
      RuntimeError: the self-check failed, which is a mistake of this library.
    """
    paths, treedef = leaf_paths(params), jax.tree.structure(params)
    still = frozen_leaves(paths, frozen)
    like = dict(zip(paths, jax.tree.leaves(params), strict=True))
    moving = [p for p in paths if p not in still and jnp.issubdtype(jnp.result_type(like[p]), jnp.floating)]

    def replaced(constants: dict[str, float]) -> Callable[..., Any]:
        def run(leaves: dict[str, Any], *inputs: Any) -> Any:
            full = [
                jnp.full(jnp.shape(like[p]), constants[p], jnp.result_type(like[p]))
                if p in constants
                else leaves[p]
                for p in paths
            ]
            return apply(jax.tree.unflatten(treedef, full), *inputs)

        return run

    values = read_values(trace(apply, params, *inputs), paths)
    search = Search(values, moving)
    behind = {gain: _shifts_behind(values.algebra, search, gain) for gain in search.gains()}
    shifts: dict[str, Found] = {}
    for path in dict.fromkeys(s for found in behind.values() for s in found):
        result = search.follow(_whole(path, values), set()) if path in moving else None
        if result is not None and set(result.moves) != {path} and _is_finite(values, result):
            shifts[path] = result
    zeros = dict.fromkeys((s for found in behind.values() for s in found if s in shifts), 0.0)
    rest = {p: like[p] for p in paths if p not in zeros}
    without = read_values(trace(replaced(zeros), rest, *inputs), list(rest))
    second = Search(without, [p for p in moving if p in rest])
    gains = []
    for path, found in behind.items():
        if path in rest and path in moving and all(s in shifts for s in found):
            readers = _readers(without, second.follow(_whole(path, without, scaled=True), set()), path)
            if readers:
                gains.append(Gain(path, tuple(found), readers))
    folded = {g.path: 1.0 for g in gains} | {s: 0.0 for g in gains for s in g.shifts}
    remaining = {p: like[p] for p in paths if p not in folded}
    pinned = [_literal(p) for p in remaining if p in still]
    symmetry = infer_symmetry(replaced(folded), remaining, *inputs, frozen=pinned, verify=verify)
    used = dict.fromkeys(s for g in gains for s in g.shifts)
    return Folded(tuple(gains), symmetry, tuple(redundancy(values, shifts[s]) for s in used))


def _literal(path: str) -> str:
    """A glob pattern that matches one path."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def _whole(path: str, values: Values, *, scaled: bool = False) -> Candidate:
    shape = values.shapes[values.paths.index(path)]
    return Candidate(path, tuple((0, n, ((n, True),) if n > 1 else ()) for n in shape), scaled=scaled)


def _is_finite(values: Values, found: Found) -> bool:
    read = (values.algebra.leaves(factors) for move in found.moves.values() for factors, _ in move)
    return not frozenset().union(*read) & set(found.moves)


def _shifts_behind(algebra: Algebra, search: Search, gain: str) -> list[str]:
    """The leaves that are added to what a gain multiplies."""
    found = []
    for parts in algebra.parts.values():
        if any(_multiplies(algebra, term, search.atom[gain]) for term in parts):
            for factors, out in parts:
                found += [
                    search.by_atom[i] for i, es, _ in factors if i in search.by_atom and set(es) <= set(out)
                ]
                if algebra.has_data(factors):
                    found = [p for p in found if p != gain]
    return list(dict.fromkeys(found))


def _multiplies(algebra: Algebra, term: Term, atom: int) -> bool:
    """Whether a product with data has an atom along axes of the result."""
    factors, out = term
    return algebra.has_data(factors) and any(
        i == atom and p == 1 and set(es) <= set(out) for i, es, p in factors
    )


def _readers(values: Values, found: Found | None, gain: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The leaves that absorb a scaling of a gain u by -u, entry by entry; none if one does otherwise."""
    if found is None:
        return ()
    readers = []
    for path, move in found.moves.items():
        if path == gain:
            continue
        leaf, size, places = values.algebra.known["leaf", path], 0, set()
        for (factors, out), c in move.items():
            kinds = {i: (entries, p) for i, entries, p in factors}
            if c != -1 or set(kinds) != {found.symbol, leaf} or kinds[leaf] != (out, 1):
                return ()
            own, power = kinds[found.symbol]
            if power != 1 or any(e not in out for e in own):
                return ()
            places.add(tuple(out.index(e) for e in own))
            size += int(np.prod([extent(e[1]) for e in out]))
        if len(places) != 1 or size != np.prod(values.shapes[values.paths.index(path)]):
            return ()
        readers.append((path, places.pop()))
    return tuple(readers)
