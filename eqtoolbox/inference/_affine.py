"""`affine_redundancies`: what a model has too much of beyond its symmetry, read off its jaxpr."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox.inference._affine_replay import Replay
from eqtoolbox.inference._affine_search import Candidate, Found, Search
from eqtoolbox.inference._affine_shift import Values, read_values
from eqtoolbox.inference._jaxpr import Equation, trace
from eqtoolbox.inference._passes import frozen_leaves, is_concrete
from eqtoolbox.inference._points import change, near
from eqtoolbox.inference._verify import TOLERANCES
from eqtoolbox.linalg import Rank, coarsest_dtype, numerical_rank, ravel_stack, rounding
from eqtoolbox.symmetry import Symmetry, generator_matrix, leaf_paths

#: Largest number of entries of the matrix of tangents that is formed.
DENSE_LIMIT = 2**28


@dataclass(frozen=True)
class AffineRedundancy:
    """One way of moving the parameters by constants, with no effect on the outputs.

    Attributes:
      kind: "killed shift" where an operation does not see the shift of ``leaf``, "absorbed shift" where other leaves
        undo it, "norm null direction" for rows of a kernel against what a norm made orthogonal to the ones vector,
        "unread leaf".
      leaf: the leaf that moves freely.
      along: its axes along which the shift varies; it is constant along the others.
      shape: of the coefficients.
      moves: all leaves that move.
      reasons: what does away with the shift, and where.
      finite: whether ``act`` exists: the tangent is the same all along the line.
    """

    kind: str
    leaf: str
    along: str
    shape: tuple[int, ...]
    moves: tuple[str, ...]
    reasons: tuple[str, ...]
    finite: bool
    _found: Found = field(repr=False, compare=False)
    _values: Values = field(repr=False, compare=False)

    @property
    def directions(self) -> int:
        """How many coefficients there are."""
        return math.prod(self.shape)

    def tangent(self, params: Any, coefficients: Any) -> Any:
        """The direction in which the parameters θ move.

        Args:
          params: the parameters.
          coefficients: an array of shape ``shape``; the tangent is linear in it.

        Returns:
          A pytree like ``params``, zero on leaves that do not move; of NumPy arrays if all that is given is.

        Raises:
          ValueError: the coefficients have another shape, or the parameters other leaves than the model's.
        """
        if jnp.shape(coefficients) != self.shape:
            raise ValueError(
                f"the coefficients of the shift of {self.leaf!r} must have shape {self.shape}, got "
                f"{jnp.shape(coefficients)}"
            )
        leaves, treedef = jax.tree.flatten(params)
        paths = leaf_paths(params)
        _check_leaves(self._values, paths, leaves)
        by_path = dict(zip(paths, leaves, strict=True))
        dtype = jnp.result_type(jnp.float32, *(by_path[p] for p in self.moves))
        replay = Replay(self._values, by_path, {self._found.symbol: coefficients}, dtype)
        moved = [
            replay.poly(self._found.moves[path], jnp.shape(leaf)).astype(jnp.result_type(leaf))
            if path in self._found.moves
            else np.zeros_like(leaf)
            if isinstance(leaf, np.ndarray)
            else jnp.zeros_like(leaf)
            for path, leaf in by_path.items()
        ]
        return jax.tree.unflatten(treedef, moved)

    def act(self, params: Any, coefficients: Any) -> Any:
        """The parameters moved by a finite amount: θ + tangent, since the tangent is constant along that line.

        Args:
          params: the parameters θ.
          coefficients: an array of shape ``shape``.

        Raises:
          ValueError: there is no finite action (``finite`` is False), or as for ``tangent``.
        """
        if not self.finite:
            raise ValueError(
                f"the redundancy of {self.leaf!r} is known as a tangent only: what {', '.join(self.moves)} move by "
                "depends on them"
            )
        return jax.tree.map(
            lambda p, t: p + t if jnp.issubdtype(jnp.result_type(p), jnp.inexact) else p,
            params,
            self.tangent(params, coefficients),
        )

    def __str__(self) -> str:
        along = f"along {self.along}" if self.along else "by one number"
        return f"{self.kind}: {self.leaf} {along}, {self.directions} directions; {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class AffineRedundancies:
    """The affine redundancies of a model.

    Attributes:
      items: one per leaf and way of moving it. They may overlap: ``dimension`` counts what they span.
      stopped: for each leaf without any, the operation at which its shift could not go on.
    """

    items: tuple[AffineRedundancy, ...]
    stopped: tuple[tuple[str, str], ...] = ()

    def __iter__(self) -> Iterator[AffineRedundancy]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> AffineRedundancy:
        return self.items[index]

    @property
    def directions(self) -> int:
        """The number of coefficients of all of them."""
        return sum(item.directions for item in self.items)

    def sample(self, key: Array) -> tuple[Array, ...]:
        """Normal coefficients for each of them."""
        keys = jax.random.split(key, max(1, len(self.items)))
        return tuple(jax.random.normal(k, item.shape) for k, item in zip(keys, self.items, strict=False))

    def tangent(self, params: Any, coefficients: Sequence[Any]) -> Any:
        """The sum of the tangents, with one array of coefficients for each.

        Raises:
          ValueError: there are too few or too many, or as for ``AffineRedundancy.tangent``.
        """
        total: Any = None
        for item, c in zip(self.items, self._checked(coefficients), strict=True):
            tangent = item.tangent(params, c)
            total = tangent if total is None else jax.tree.map(operator.add, total, tangent)
        return jax.tree.map(jnp.zeros_like, params) if total is None else total

    def act(self, params: Any, coefficients: Sequence[Any]) -> Any:
        """All that are finite, one after another; the others are left out."""
        for item, c in zip(self.items, self._checked(coefficients), strict=True):
            params = item.act(params, c) if item.finite else params
        return params

    def matrix(self, params: Any) -> Array:
        """The tangents of all coefficients as a dense matrix: for small models.

        Returns:
          Shape (directions, p), columns in the order of ``jax.flatten_util.ravel_pytree(params)``.

        Raises:
          ValueError: the matrix would have more than ``DENSE_LIMIT`` entries.
        """
        self._check_size(params)
        rows = [jnp.zeros((0, optax.tree.size(params)))]
        for item in self.items:
            units = jnp.eye(item.directions).reshape(item.directions, *item.shape)
            rows.append(ravel_stack(jax.vmap(item.tangent, (None, 0))(params, units)))
        return jnp.concatenate(rows)

    def dimension(self, params: Any, *others: Any, full: bool = False) -> int | Rank:
        """How many independent directions they have at θ, together with those of symmetries if some are given.

        The rank is read off the gap in the singular values, in float64 where the parameters are.

        Args:
          params: the parameters θ.
          *others: what ``infer_symmetry`` or ``fold_norms`` returned.
          full: return the ``linalg.Rank`` with the singular values and their gap.

        Raises:
          TypeError: one of the others has no generators.
          ValueError: the matrix of tangents is too large.
        """
        self._check_size(params)
        host = jax.tree.map(np.asarray, params)
        rows = [np.zeros((0, optax.tree.size(params)))]
        for item in self.items:
            for unit in np.eye(item.directions):
                tangent = jax.tree.leaves(item.tangent(host, unit.reshape(item.shape)))
                rows.append(np.concatenate([np.zeros(0), *(t.reshape(-1) for t in tangent)])[None])
        for other in others:
            if isinstance(other, Symmetry):
                rows += [] if other.is_discrete else [np.asarray(generator_matrix(other, params))]
            elif hasattr(other, "matrix"):
                rows.append(np.asarray(other.matrix(params)))
            else:
                raise TypeError(
                    f"a Symmetry or what fold_norms returns is needed, got {type(other).__name__}"
                )
        matrix = np.concatenate([r.astype(np.float64) for r in rows])
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
        eps = rounding(coarsest_dtype(params))
        noise = min(max(matrix.shape) * eps, eps**0.5)
        rank = numerical_rank(matrix / np.where(lengths > 0, lengths, 1), noise=noise)
        return rank if full else int(rank.rank)

    def __str__(self) -> str:
        rows = [("kind", "leaf", "directions", "varies along", "why")]
        for item in self.items:
            why = "; ".join(item.reasons) + ("" if item.finite else "; tangent only")
            rows.append((item.kind, item.leaf, str(item.directions), item.along or "no axis", why))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows
        ]
        return "\n".join([f"affine redundancies, {self.directions} directions", *(x.rstrip() for x in lines)])

    def _check_size(self, params: Any) -> None:
        size = optax.tree.size(params)
        if self.directions * size > DENSE_LIMIT:
            raise ValueError(
                f"the matrix of {self.directions} tangents on {size} parameters has more than {DENSE_LIMIT} entries"
            )

    def _checked(self, coefficients: Sequence[Any]) -> Sequence[Any]:
        if len(coefficients) != len(self.items):
            raise ValueError(
                f"there must be {len(self.items)} arrays of coefficients, got {len(coefficients)}"
            )
        return coefficients


def affine_redundancies(
    apply: Callable[..., Any],
    params: Any,
    *inputs: Any,
    frozen: Sequence[str] = (),
    verify: bool = True,
) -> AffineRedundancies:
    """Shifts of parameters that ``apply(params, *inputs)`` does not see, beyond what ``infer_symmetry`` finds.

    ``infer_symmetry`` finds what acts linearly on the axes of parameters. Models have more that is exact: what a
    softmax or the mean of a layer norm takes away (the columns of an output layer all shifted alike, everything
    that writes into a normalised residual stream, the bias of keys), what another parameter takes up (a later bias
    that of values, of a layer norm or of a linear layer; positions that of an embedding; a base that of an adapter;
    the affine part of a batch norm its running statistics), and the rows of a kernel behind a layer norm along 1/γ.

    A symbolic shift of each leaf, along as many of its axes as can be, is followed through the program to first
    order. Where a leaf could undo it, that leaf moves too. An operation without a rule ends the shift, so that the
    answer may be too small but never wrong. Entries masked by a number below -1e30 count as minus infinity. Not
    found are directions that only some parameters have (the null space of a wide layer's reader).

    >>> import jax, jax.numpy as jnp
    >>> params = {"u": jnp.ones((3, 4)), "b": jnp.ones(4)}
    >>> found = affine_redundancies(lambda p, x: jax.nn.softmax(x @ p["u"] + p["b"][None]), params, jnp.ones((5, 3)))
    >>> [(item.leaf, item.kind, item.directions) for item in found]
    [('b', 'killed shift', 1), ('u', 'killed shift', 3)]

    Args:
      apply: a pure function of the parameters and inputs, returning a pytree of arrays.
      params: a pytree of arrays or ``ShapeDtypeStruct``.
      *inputs: arrays or ``ShapeDtypeStruct``; batch and sequence axes should be longer than 1.
      frozen: glob patterns of leaves that must not move.
      verify: where arrays are given, check with random coefficients that the outputs do not change.

    Returns:
      ``AffineRedundancies``; print it.

    Raises:
      TypeError: ``frozen`` is one string.
      ValueError: a pattern of ``frozen`` matches no leaf.
      RuntimeError: the self-check failed, which is a mistake of this library.
    """
    paths, leaves = leaf_paths(params), jax.tree.leaves(params)
    still = frozen_leaves(paths, frozen)
    real = {
        p
        for p, leaf in zip(paths, leaves, strict=True)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    }
    values = read_values(trace(apply, params, *inputs), paths)
    search = Search(values, [p for p in paths if p in real and p not in still])
    items = tuple(redundancy(values, found) for found in search.run())
    without = set(search.stopped) - {item.leaf for item in items}
    redundancies = AffineRedundancies(items, tuple((p, r) for p, r in search.stopped.items() if p in without))
    if verify and items and is_concrete(params, inputs):
        _verify(redundancies, apply, params, inputs)
    return redundancies


def redundancy(values: Values, found: Found) -> AffineRedundancy:
    """What was found, with its reasons."""
    a, c = values.algebra, found.candidate
    read = frozenset().union(*(a.leaves(factors) for move in found.moves.values() for factors, _ in move))
    reasons = [f"absorbed by {path} at {_place(eqn)}" for path, eqn in found.absorbed]
    places = dict.fromkeys(
        _place(eqn) for eqn in found.killed if all(eqn is not e for _, e in found.absorbed)
    )
    reasons += [f"gone behind {', '.join(list(places)[:2])}"] if places else []
    kind = "absorbed shift" if found.absorbed else "killed shift" if found.killed else "unread leaf"
    return AffineRedundancy(
        "norm null direction" if c.weight else kind,
        c.path,
        _along(c, values.shapes[values.paths.index(c.path)]),
        c.shape,
        tuple(p for p in values.paths if p in found.moves),
        tuple(reasons) or ("no output depends on it",),
        not read & set(found.moves),
        found,
        values,
    )


def _place(eqn: Equation) -> str:
    return f"{eqn.name} {eqn.source}".strip()


def _along(candidate: Candidate, shape: Sequence[int]) -> str:
    """The axes along which a shift varies: ``0, 1[2:4], 2(3 of 3·2)``."""
    told = []
    for k, (start, stop, parts) in enumerate(candidate.axes):
        text = f"{k}" if (start, stop) == (0, shape[k]) else f"{k}[{start}:{stop}]"
        if all(v for _, v in parts) and (parts or stop - start < shape[k]):
            told.append(text)
        elif any(v for _, v in parts):
            told.append(f"{text} as {'·'.join(str(n) if v else f'({n})' for n, v in parts)}")
        elif (start, stop) != (0, shape[k]):
            told.append(f"({text})")
    return ", ".join(told)


def _check_leaves(values: Values, paths: list[str], leaves: Sequence[Any]) -> None:
    for i, path in enumerate(values.paths):
        if i >= len(paths) or paths[i] != path or jnp.shape(leaves[i]) != values.shapes[i]:
            given = f"{paths[i]!r} of shape {jnp.shape(leaves[i])}" if i < len(paths) else "none"
            raise ValueError(f"the leaf {path!r} of shape {values.shapes[i]} is expected, got {given}")


def _verify(
    found: AffineRedundancies, apply: Callable[..., Any], params: Any, inputs: tuple[Any, ...]
) -> None:
    """Raises if random moves change the outputs, or have a slope, at parameters near those given."""
    # Of the operations too: some softmaxes are in float32 whatever comes in.
    names = {
        str(dtype)
        for item in found.items[:1]
        for eqn in item._values.equations
        for dtype in eqn.output_dtypes
    }
    names |= {str(jnp.result_type(x)) for x in jax.tree.leaves((params, inputs))}
    tolerance = max((t for name, t in TOLERANCES.items() if name in names), default=TOLERANCES["float32"])
    leaves, treedef = jax.tree.flatten(params)
    real = [jnp.issubdtype(jnp.result_type(p), jnp.inexact) for p in leaves]

    def outputs(moving: list[Any]) -> list[jax.Array]:
        given = iter(moving)
        full = [next(given) if r else p for p, r in zip(leaves, real, strict=True)]
        results = jax.tree.leaves(apply(jax.tree.unflatten(treedef, full), *inputs))
        return [y for y in results if jnp.issubdtype(jnp.result_type(y), jnp.inexact)]

    @jax.jit
    def slopes(at: list[Any], tangents: list[list[Any]]) -> tuple[list[jax.Array], list[jax.Array]]:
        values, linear = jax.linearize(outputs, at)
        moved = [jnp.stack([jnp.max(jnp.abs(y), initial=0) for y in linear(t)]).max() for t in tangents]
        return values, moved

    def chosen(tree: Any) -> list[Any]:
        return [x for x, r in zip(jax.tree.leaves(tree), real, strict=True) if r]

    # On the host: nothing but the model is compiled.
    rng = np.random.default_rng(0)
    point = jax.tree.map(np.asarray, near(jax.random.key(0), params))
    coefficients = [rng.standard_normal(item.shape) for item in found.items]
    tangent = chosen(found.tangent(point, coefficients))
    # As long as the tangent on each leaf, in another direction.
    noise = [
        (np.linalg.norm(t.reshape(-1).astype(float)) / t.size**0.5 * rng.choice([-1, 1], t.shape)).astype(
            t.dtype
        )
        for t in tangent
    ]
    values, (slope, size) = slopes(chosen(point), [tangent, noise])
    after, _ = slopes(chosen(found.act(point, coefficients)), [tangent, noise])
    steep = float(slope) / (float(size) + 1e-30)
    worst = float(change(values, after))
    if not max(steep, worst) <= tolerance:
        raise RuntimeError(
            f"the affine redundancies change the outputs by {worst:.1e} (their slope is {steep:.1e}), more than "
            f"{tolerance:.0e}: this is a mistake of eqtoolbox, please report the function. What was found:\n{found}"
        )
