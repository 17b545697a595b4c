"""Constraints on whole units: neurons, filters, heads, found on all leaves by the labels of a `Symmetry`."""

from __future__ import annotations

import fnmatch
import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import fori_loop
from eqtoolbox.mirror._constraints import IMBALANCE, Constraint, Projected, filled, globs, rest
from eqtoolbox.mirror._factors import Factors, chosen, divided, flat, is_float, larger_factor, unflat, wide
from eqtoolbox.symmetry import Atom, Plan, Symmetry, check_symmetry, cut, is_masked, join_blocks, present

Params = Any

#: Rounds in which the gates of leaves with several gates are balanced; see ``GroupSparse.split``.
ROUNDS = 50


class Cells(NamedTuple):
    """The blocks of a leaf, and which gate is on each of their axes.

    Attributes:
      plan: how the leaf is cut; None where it is one block.
      gates: for each block the name of the gate on each axis, or None.
    """

    plan: Plan | None
    gates: tuple[tuple[str | None, ...], ...]

    def blocks(self, x: Array) -> list[Array]:
        """The blocks of a leaf."""
        return [x] if self.plan is None else cut(x, self.plan)

    def whole(self, blocks: list[Array]) -> Array:
        """The leaf of these blocks."""
        return blocks[0] if self.plan is None else join_blocks(blocks, self.plan)

    def multiply(self, x: Array, gates: Mapping[str, Array]) -> Array:
        """The leaf times the gates along its axes."""
        done = []
        for block, names in zip(self.blocks(x), self.gates, strict=True):
            for axis, name in enumerate(names):
                if name is not None:
                    block = block * jnp.expand_dims(gates[name], _others(block.ndim, axis))
            done.append(block)
        return self.whole(done)

    def squares(self, x: Array, into: dict[str, Array]) -> None:
        """Adds the squares of the entries of each unit to ``into``."""
        for block, names in zip(self.blocks(x), self.gates, strict=True):
            for axis, name in enumerate(names):
                if name is not None:
                    into[name] = into[name] + jnp.sum(jnp.square(block), _others(block.ndim, axis))


@dataclass(frozen=True)
class GroupSparse(Constraint):
    """Made by ``group_sparse``."""

    axis: int | None
    sym: Symmetry | None
    spaces: tuple[str, ...]
    where: tuple[str, ...]

    def cells(self, params: Params) -> dict[str, Cells]:
        """The leaves that have gates."""
        if self.sym is not None:
            return unit_cells(present(self.sym, params), self.spaces, params, gated=True)
        assert self.axis is not None
        found, leaves, reach = {}, flat(params), -self.axis if self.axis < 0 else self.axis + 1
        default = self.where == ("*",)
        for path in chosen(
            params, self.where, "group_sparse", lambda x: jnp.ndim(x) >= max(reach, 2 * default)
        ):
            ndim = jnp.ndim(leaves[path])
            found[path] = Cells(None, (tuple(path if i == self.axis % ndim else None for i in range(ndim)),))
        return found

    def sizes(self, params: Params, cells: Mapping[str, Cells]) -> dict[str, int]:
        """The length of each vector of gates."""
        leaves, sizes = flat(params), {}
        for path, cell in cells.items():
            shapes = [leaves[path].shape] if cell.plan is None else [b.shape for b in cell.plan.blocks]
            for shape, names in zip(shapes, cell.gates, strict=True):
                sizes |= {name: n for n, name in zip(shape, names, strict=True) if name is not None}
        return sizes

    def norms(self, params: Params) -> dict[str, Array]:
        """‖θ_g‖₂ of every unit, by the name of its space or the path of its leaf."""
        cells, leaves = self.cells(params), flat(params)
        into = {name: jnp.zeros(n) for name, n in self.sizes(params, cells).items()}
        for path, cell in cells.items():
            cell.squares(wide(leaves[path]), into)
        return jax.tree.map(jnp.sqrt, into)

    def split(self, params: Params) -> Factors:
        """Gates g and vectors with g² − ‖θ_g/g‖² = ``imbalance``.

        Where leaves have several gates, each depends on the others: found by turns, exactly so in the limit.
        The product is θ after any number of them.
        """
        cells, leaves = self.cells(params), flat(params)
        if not cells:
            raise ValueError(f"group_sparse: no leaf of real numbers has units of {', '.join(self.spaces)}")
        mine = {path: wide(leaves[path]) for path in cells}
        kind = jnp.result_type(*mine.values())
        sizes = self.sizes(params, cells)
        gates = {name: jnp.ones(n, kind) for name, n in sizes.items()}

        def turn(gates: dict[str, Array], name: str) -> dict[str, Array]:
            into = {key: jnp.zeros(n, kind) for key, n in sizes.items()}
            inverse = jax.tree.map(lambda g: divided(jnp.ones_like(g), g), gates)
            for path, cell in cells.items():
                cell.squares(cell.multiply(mine[path], inverse), into)
            norm = gates[name] * jnp.sqrt(into[name])
            return {**gates, name: larger_factor(norm, self.imbalance).astype(kind)}

        def round_of(_: Any, gates: dict[str, Array]) -> dict[str, Array]:
            for name in sizes:
                gates = turn(gates, name)
            return gates

        several = any(sum(n is not None for n in names) > 1 for c in cells.values() for names in c.gates)
        gates = fori_loop(0, ROUNDS, round_of, gates) if several else round_of(0, gates)
        inverse = jax.tree.map(lambda g: divided(jnp.ones_like(g), g), gates)
        u = {path: cell.multiply(mine[path], inverse) for path, cell in cells.items()}
        return Factors(gates, unflat(u, params), rest(params, cells))

    def join(self, factors: Factors) -> Params:
        u = flat(factors.u)
        cells = self.cells(filled(factors.v, {path: x for path, x in u.items() if not is_masked(x)}))
        return filled(factors.v, {path: c.multiply(u[path], factors.w) for path, c in cells.items()})


def group_sparse(
    units: int | Symmetry,
    space: str | Sequence[str] | None = None,
    *,
    where: str | Sequence[str] = (),
    imbalance: float = IMBALANCE,
) -> GroupSparse:
    """Whole units that vanish: θ_g = w_g u_g, a gate w_g for all weights u_g of unit g.

    Decay α(‖w‖² + ‖u‖²) has the minima of L(θ) + 2α Σ_g ‖θ_g‖₂, the group lasso, where no leaf has two gates. A kernel
    between two of the spaces has one on either side, θ_ij = w_i w_j u_ij; then the penalty is the least of the sum of
    squares, which ``norm`` computes: all weights of a unit still vanish together.

    >>> import jax, eqtoolbox as eqt
    >>> from eqtoolbox.mirror import group_sparse
    >>> _, params, inputs, apply = eqt.zoo.build("mlp", jax.random.key(0), activation="relu")
    >>> sym = eqt.infer_symmetry(apply, params, inputs)
    >>> {space: norms.shape for space, norms in group_sparse(sym).norms(params).items()}
    {'h1': (7,), 'h2': (6,)}

    Args:
      units: a symmetry, whose labels say which weights a unit has, in and out; ``prune`` then makes smaller arrays.
        Or an axis, whose slices are the groups of each leaf by itself: −1 for filters and the columns of kernels.
      space: with a symmetry, one or several of its spaces: neurons, channels, heads. By default the first of every
        group that it moves: neurons and, where a group acts on heads and what is in them, heads; but none that is only
        permuted on some leaf ("h^0"), such as a stream whose units are normalised together. In layers stacked by a scan
        a unit is that of all of them, since their arrays become smaller together.
      where: with an axis, globs of leaf paths; by default every leaf with two axes or more.
      imbalance: w_g² − ‖u_g‖² at the start. With 0 a unit that is 0 stays 0.

    Returns:
      The constraint.

    Raises:
      TypeError: ``units`` is neither.
      ValueError: there is no such space, or ``imbalance`` is negative.

    Reference:
      Ziyin (2024), sec. 2.6 and 3.1: O = I on the weights of each unit, of which all change sign at once.
    """
    where = globs(_several(where))
    if isinstance(units, Symmetry):
        return GroupSparse(imbalance, None, units, _spaces(units, space), where)
    try:
        axis = operator.index(units)
    except TypeError:
        raise TypeError(f"group_sparse needs an axis or an eqtoolbox.Symmetry, got {units!r}") from None
    if space is not None:
        raise TypeError(f"group_sparse: a space is that of a symmetry, got {space!r} with axis {axis}")
    return GroupSparse(imbalance, axis, None, (), where)


@dataclass(frozen=True)
class Merged(Projected):
    """Made by ``merged``."""

    sym: Symmetry
    space: str
    pairs: tuple[tuple[int, int], ...]
    outgoing: tuple[str, ...]

    def order(self, params: Params) -> dict[str, tuple[Array, ...]]:
        leaves, first, second = flat(params), *zip(*self.pairs, strict=True)
        found = {}
        for path, cell in self.cells(params).items():
            parts = []
            for block, names in zip(cell.blocks(leaves[path]), cell.gates, strict=True):
                if self.space in names:
                    rows = jnp.moveaxis(block, names.index(self.space), 0)
                    parts.append((rows[jnp.array(first)] - rows[jnp.array(second)]) / jnp.sqrt(2.0))
            found[path] = tuple(parts)
        return found

    def lift(self, z: Any, like: Params) -> Params:
        leaves, first, second = flat(like), *zip(*self.pairs, strict=True)
        found = {p: jnp.zeros_like(x) for p, x in leaves.items() if not is_masked(x)}
        for path, cell in self.cells(like).items():
            parts, blocks = iter(z[path]), cell.blocks(found[path])
            for i, names in enumerate(cell.gates):
                if self.space in names:
                    axis, part = names.index(self.space), next(parts) / jnp.sqrt(2.0)
                    rows = jnp.moveaxis(blocks[i], axis, 0).astype(part.dtype)
                    rows = rows.at[jnp.array(first)].set(part).at[jnp.array(second)].set(-part)
                    blocks[i] = jnp.moveaxis(rows, 0, axis)
            found[path] = cell.whole(blocks)
        return unflat(found, like)

    def halves(self, z: Any) -> tuple[Any, Any]:
        gate = larger_factor(self.norms(z), self.imbalance)
        return gate, jax.tree.map(lambda x: divided(x, _along(gate, x)), z)

    def product(self, w: Any, u: Any) -> Any:
        return jax.tree.map(lambda x: x * _along(w, x), u)

    def norms(self, z: Any) -> Array:
        """‖z‖₂ of each pair."""
        return jnp.sqrt(sum(jnp.sum(jnp.square(x), tuple(range(1, x.ndim))) for x in jax.tree.leaves(z)))

    def cells(self, params: Params) -> dict[str, Cells]:
        """The leaves that the space is on."""
        cells = unit_cells(present(self.sym, params), (self.space,), params, gated=True)
        for path, cell in cells.items():
            if any(names.count(self.space) > 1 for names in cell.gates):
                raise ValueError(
                    f"merged: {self.space!r} is on two axes of leaf {path!r}: an exchange is no difference there"
                )
        return cells


def merged(
    sym: Symmetry,
    space: str,
    pairs: Sequence[tuple[int, int]] | None = None,
    *,
    outgoing: str | Sequence[str] | None = None,
    imbalance: float = IMBALANCE,
) -> Merged:
    """Neurons that are equal in pairs: all weights of unit i minus those of unit j vanish together.

    Decay α(‖w‖² + ‖u‖²) has the minima of L(θ) + 2α Σ ‖θ_i − θ_j‖₂/√2 over the pairs: a gate for each difference.

    Args:
      sym: a symmetry that permutes the units.
      space: theirs.
      pairs: (i, j), disjoint; by default (0, 1), (2, 3), …
      outgoing: globs of the leaves that read the units, which ``prune`` adds up when two become one. By default those
        on which the space has a negative exponent ("h*"); a group without scalings leaves none, so state them then.
      imbalance: of gate² and ‖difference‖² at the start.

    Returns:
      The constraint.

    Raises:
      TypeError: ``sym`` is not a symmetry, or ``pairs`` holds no pairs.
      ValueError: there is no such space, or a unit is in two pairs or does not exist.

    Reference:
      Ziyin (2024), sec. 3.3 and Theorem 4.
    """
    check_symmetry(sym, "merged")
    (space,) = _spaces(sym, space)
    n = _units(sym)[space]
    if pairs is not None and not (
        isinstance(pairs, Iterable) and all(isinstance(p, Iterable) for p in pairs)
    ):
        raise TypeError(f"merged: pairs must be pairs of units, got {pairs!r}")
    found = [(i, i + 1) for i in range(0, n - 1, 2)] if pairs is None else [tuple(p) for p in pairs]
    units = [i for pair in found for i in pair]
    ok = found and all(len(p) == 2 for p in found) and len(set(units)) == len(units)
    if not ok or not all(hasattr(i, "__index__") and 0 <= operator.index(i) < n for i in units):
        raise ValueError(
            f"merged: pairs must be disjoint pairs of units below {n} of {space!r}, got {pairs!r}"
        )
    if outgoing is None:
        read = {path for path, label in sym.labels for a in label.atoms if a.space == space and _negative(a)}
        globbed = tuple(sorted(read))
    else:
        globbed = globs(_several(outgoing))
    return Merged(imbalance, sym, space, tuple((int(i), int(j)) for i, j in found), globbed)


def unit_cells(sym: Symmetry, spaces: Sequence[str], params: Params, *, gated: bool) -> dict[str, Cells]:
    """The blocks of every leaf that the spaces are on.

    Args:
      sym: the symmetry.
      spaces: some of its spaces.
      params: the parameters.
      gated: leave out what is permuted only ("h^0") and leaves that hold no real numbers.

    Raises:
      ValueError: a label does not fit, or a space is on homogeneous coordinates, which are no units.
    """
    leaves, sizes = {path: x for path, x in flat(params).items() if not is_masked(x)}, _units(sym)
    plans, atoms, labels = sym.plans(leaves), sym.atoms(leaves), sym.labels_of(leaves)
    found = {}
    for path, plan in plans.items():
        if gated and not is_float(leaves[path]):
            continue
        gates = tuple(
            tuple(a.space if a.space in spaces and not (gated and _permuted_only(a)) else None for a in block)
            for block in _blocks(atoms[path], labels[path].whole)
        )
        if not any(name is not None for names in gates for name in names):
            continue
        for block, kinds in zip(plan.blocks, gates, strict=True):
            for n, s in zip(block.shape, kinds, strict=True):
                if s is not None and n != sizes[s]:
                    raise ValueError(
                        f"leaf {path!r}: {s!r} has {sizes[s]} units, but an axis of {n}: homogeneous coordinates"
                    )
        found[path] = Cells(plan, gates)
    return found


def matches(path: str, where: Sequence[str]) -> bool:
    """Whether a path matches one of the globs."""
    return any(fnmatch.fnmatchcase(name, g) for g in where for name in (path, path.removesuffix("/value")))


def _units(sym: Symmetry) -> dict[str, int]:
    return {name: n for f in sym.factors for name, n in zip(f.spaces, f.group.sizes, strict=True)}


def _spaces(sym: Symmetry, space: str | Sequence[str] | None) -> tuple[str, ...]:
    known = _units(sym)
    if space is None:
        fixed = {a.space for _, label in sym.labels for a in label.atoms if _permuted_only(a)}
        moved = [[n for i, n in enumerate(f.spaces) if not f.group.is_still(i)] for f in sym.factors]
        found = tuple(names[0] for names in moved if names and names[0] not in fixed)
        if not found:
            raise ValueError(
                f"every space is only permuted somewhere ('h^0') or fixed: name one of {', '.join(known)}"
            )
        return found
    names = (space,) if isinstance(space, str) or not isinstance(space, Iterable) else tuple(space)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no space {name!r}; there are {', '.join(known)}")
    return names


def _blocks(axes: Sequence[Sequence[Sequence[Atom]]], whole: Sequence[Atom]) -> list[list[Atom]]:
    """The atoms of each block of a leaf, those of the last axis fastest."""
    return [[a for part in parts for a in part] + list(whole) for parts in itertools.product(*axes)]


def _permuted_only(atom: Atom) -> bool:
    return atom.exponent.uniform == 0


def _several(where: Any) -> tuple[Any, ...]:
    return (where,) if isinstance(where, str) or not isinstance(where, Iterable) else tuple(where)


def _negative(atom: Atom) -> bool:
    return any(term.power < 0 for term in atom.exponent.terms)


def _along(gate: Array, x: Array) -> Array:
    return jnp.expand_dims(gate, tuple(range(1, x.ndim)))


def _others(ndim: int, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(ndim) if i != axis)
