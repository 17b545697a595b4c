"""`Symmetry`: a group that acts on the axes of the leaves of a parameter pytree."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox.groups import Group
from eqtoolbox.linalg import linear_transpose
from eqtoolbox.symmetry import _json, _print
from eqtoolbox.symmetry._labels import Atom, LeafLabel, Segment, parse
from eqtoolbox.symmetry._layout import (
    Factor,
    Job,
    Plan,
    SpaceOf,
    act_on_leaf,
    blocks,
    check_block,
    make_plan,
    resolve,
    size_of,
    space_table,
)
from eqtoolbox.symmetry._paths import common_dtype, flatten, is_inexact, join, locate, moving_leaves
from eqtoolbox.symmetry._relabel import drop_terms, fix_spaces, merge

Element = Any  # a pytree: factor key -> element of its group
Vector = Any  # a pytree: factor key -> algebra vector
Params = Any


@jax.tree_util.register_static
@dataclass(frozen=True, init=False)
class Symmetry:
    """A group acting on a parameter pytree by its axes.

    Written down as one label per leaf and one group per space:

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox.symmetry import Symmetry
    >>> from eqtoolbox.groups import GeneralLinear
    >>> axes = {"Dense_0": {"kernel": "_ h", "bias": "h"}, "Dense_1": {"kernel": "h* _"}}
    >>> sym = Symmetry(axes, {"h": GeneralLinear(7)})
    >>> print(sym)
    symmetry of dimension 49
    space  group  size  dim  acts on
    h      GL(7)  7     49   Dense_0/bias[0], Dense_0/kernel[1], Dense_1/kernel[0]*

    Elements and algebra vectors are dicts keyed by space, of plain arrays: they go through ``vmap``, ``jit``,
    ``pmap`` and ``shard_map`` like any other pytree. The object itself holds no arrays; it is hashable,
    comparable and static under ``jit``.

    Labels match leaves by key path, never by tree structure: linen dicts, NNX states (with or without their
    ``/value``), lists and dataclasses of arrays alike. Leaves without a label are left alone. The grammar of
    labels is in ``eqtoolbox.symmetry.parse_label``.

    Attributes:
      labels: pairs (path, label), sorted by path.
      factors: the groups with the spaces they act on, sorted by space.
    """

    labels: tuple[tuple[str, LeafLabel], ...]
    factors: tuple[Factor, ...]

    def __init__(self, axes: Any, groups: Mapping[str | tuple[str, ...], Group]):
        """Makes a symmetry from labels and groups.

        Args:
          axes: a pytree of labels (strings, or parsed ones) whose paths are those of the leaves: a nested
            dict, or a flat one such as ``{"Dense_0/kernel": "_ h"}``.
          groups: the group of each space; a group on several spaces has a tuple of names, as in
            ``{("heads", "dim"): Wreath(GeneralLinear(4), Permutation(3))}``.

        Raises:
          TypeError: a label is not a string, or a group not a group.
          ValueError: a label cannot be read or states the wrong size, a leaf has two labels, a space acts on
            no leaf, an exponent means nothing to its group, or two actions on one leaf do not commute.
        """
        paths, labels, _ = flatten(axes)
        parsed: dict[str, LeafLabel] = {}
        for path, label in zip(paths, labels, strict=True):
            if not isinstance(label, (str, LeafLabel)):
                raise TypeError(f"the label of {path!r} must be a string, got {label!r}")
            if path in parsed:
                raise ValueError(f"leaf {path!r} has two labels: {str(parsed[path])!r} and {str(label)!r}")
            try:
                parsed[path] = parse(label) if isinstance(label, str) else label
            except ValueError as error:
                raise ValueError(f"leaf {path!r}: {error}") from None
        if not isinstance(groups, Mapping):
            raise TypeError(f"groups must be a dict such as {{'hidden': Permutation(8)}}, got {groups!r}")
        factors = []
        for spaces, group in groups.items():
            spaces = (spaces,) if isinstance(spaces, str) else tuple(spaces)
            if not isinstance(group, Group):
                raise TypeError(f"the group of {' '.join(spaces)!r} must be a group, got {group!r}")
            if len(spaces) != len(group.sizes) or len(set(spaces)) != len(spaces):
                raise ValueError(f"{group} acts on {len(group.sizes)} different spaces, got {spaces}")
            factors.append(Factor(spaces, group))
        object.__setattr__(self, "labels", tuple(sorted(parsed.items())))
        object.__setattr__(self, "factors", tuple(sorted(factors, key=lambda f: _natural(f.key))))
        self._validate()

    def _validate(self) -> None:
        used = {atom.space for _, label in self.labels for atom in label.atoms}
        owner: dict[str, Factor] = {}
        for factor in self.factors:
            for i, name in enumerate(factor.spaces):
                if not re.fullmatch(r"[A-Za-z_]\w*", name) or name == "_":
                    raise ValueError(f"a space must be named by an identifier, got {name!r}")
                if name not in used:
                    raise ValueError(f"the space {name!r} of {factor.group} is on no label")
                other = owner.setdefault(name, factor)
                shared = factor.group.is_still(i) and other.group.is_still(other.spaces.index(name))
                if other is not factor and not shared:
                    raise ValueError(f"the space {name!r} has two groups: {other.group} and {factor.group}")
        for path, label in self.labels:
            try:
                for atom in label.atoms:
                    size = size_of(atom, self._table)
                    if atom.size not in (None, size):
                        raise ValueError(
                            f"it states the size {atom.size}, but the group of {atom.space!r} has {size}"
                        )
                sized = label.map_atoms(lambda a: a if a.size else Atom(a.space, 1, a.exponent))
                axes = tuple(axis for axis in sized.axes if axis is not None)
                for places in blocks(axes, label.whole):
                    check_block(self.factors, places)
            except ValueError as error:
                raise ValueError(f"leaf {path!r} with label {str(label)!r}: {error}") from None

    @classmethod
    def from_rules(
        cls,
        params: Params,
        rules: Sequence[tuple[str, str]],
        groups: Mapping[str | tuple[str, ...], Group],
    ) -> Symmetry:
        """Labels the leaves of ``params`` by glob patterns; the first rule that matches a path is used.

        Args:
          params: the parameters (or their shapes).
          rules: pairs (pattern, label), such as ``("*/query/kernel", "emb (heads dim)")``; ``*`` also
            matches ``/``. The ``/value`` that ends the paths of a raw NNX state may be left out.
          groups: as for ``Symmetry``.

        Raises:
          TypeError: a rule is not a pair of strings, or as for ``Symmetry``.
          ValueError: a rule matches no leaf, or as for ``Symmetry``; the labels are checked against the
            shapes.
        """
        paths, _, _ = flatten(params)
        names = [(path, path.removesuffix("/value")) for path in paths]
        axes: dict[str, str] = {}
        for rule in rules:
            if not (isinstance(rule, (tuple, list)) and len(rule) == 2 and isinstance(rule[0], str)):
                raise TypeError(f"a rule must be a pair (pattern, label) of strings, got {rule!r}")
        for pair in names:
            for pattern, label in rules:
                matched = [name for name in pair if fnmatch.fnmatchcase(name, pattern)]
                if matched:
                    axes[matched[0]] = label
                    break
        for pattern, _ in rules:
            if not any(fnmatch.fnmatchcase(name, pattern) for pair in names for name in pair):
                raise ValueError(f"the rule {pattern!r} matches none of the leaves {', '.join(paths)}")
        symmetry = cls(axes, groups)
        symmetry.check(params)
        return symmetry

    # What it is.

    @cached_property
    def _table(self) -> dict[str, SpaceOf]:
        return space_table(self.factors)

    @cached_property
    def _hash(self) -> int:
        return hash((self.labels, self.factors))

    def __hash__(self) -> int:
        return self._hash

    @property
    def groups(self) -> dict[str | tuple[str, ...], Group]:
        """The group of each space, in the form the constructor takes."""
        return {f.spaces[0] if len(f.spaces) == 1 else f.spaces: f.group for f in self.factors}

    @cached_property
    def _acted(self) -> tuple[tuple[str, LeafLabel], ...]:
        """The labels of the leaves that some group acts on."""
        return tuple(
            (path, label) for path, label in self.labels if any(a.space in self._table for a in label.atoms)
        )

    @cached_property
    def _plans(self) -> dict[tuple, Plan]:
        """What ``_plan`` returned before."""
        return {}

    @property
    def axes(self) -> dict[str, str]:
        """The label of each leaf, keyed by path: what the constructor takes."""
        return {path: str(label) for path, label in self.labels}

    @property
    def dimension(self) -> int:
        """Dimension of the group; see ``orbit_dimension`` for that of an orbit."""
        return sum(f.group.dimension for f in self.factors)

    @property
    def order(self) -> int | None:
        """Number of elements, None when infinite."""
        orders = [f.group.order for f in self.factors]
        if any(o is None for o in orders):
            return None
        result = 1
        for o in orders:
            result *= o or 1
        return result

    @property
    def is_discrete(self) -> bool:
        """Whether it has no infinitesimal generators."""
        return self.dimension == 0

    @property
    def is_compact(self) -> bool:
        """Whether it has an invariant probability distribution (Haar)."""
        return all(f.group.is_compact for f in self.factors)

    @property
    def is_linear(self) -> bool:
        """Whether it acts linearly on the parameters."""
        return all(f.group.is_linear for f in self.factors)

    def plans(self, params: Params) -> dict[str, Plan]:
        """How each leaf is cut into blocks and which groups act on their axes, in the order of the leaves.

        Args:
          params: arrays or ``ShapeDtypeStruct``.

        Returns:
          For the path of each leaf its plan; one block without a job where no group acts.

        Raises:
          ValueError: a label has no leaf or does not fit it.
        """
        labels, leaves = self.labels_of(params), flatten(params)[1]
        return {
            path: self._plan(path, label, jnp.shape(leaf), False)
            for (path, label), leaf in zip(labels.items(), leaves, strict=True)
        }

    def labels_of(self, params: Params) -> dict[str, LeafLabel]:
        """The label of each leaf by its path, in the order of the leaves; ``...`` for one without.

        Raises:
          ValueError: a label has no leaf.
        """
        paths = flatten(params)[0]
        found = locate(paths, (path for path, _ in self.labels))
        labels = {paths[found[path]]: label for path, label in self.labels}
        return {path: labels.get(path, LeafLabel((None,))) for path in paths}

    def atoms(self, params: Params) -> dict[str, tuple[tuple[Segment, ...], ...]]:
        """The label of each leaf with all sizes stated: for each axis its segments, each a tuple of atoms.

        Args:
          params: arrays or ``ShapeDtypeStruct``.

        Returns:
          For the path of each leaf one entry per axis; a single fixed atom where it has no label.

        Raises:
          ValueError: a label has no leaf or does not fit it.
        """
        labels, leaves = self.labels_of(params), flatten(params)[1]
        return {
            path: resolve(path, label, jnp.shape(leaf), self._table)
            for (path, label), leaf in zip(labels.items(), leaves, strict=True)
        }

    def check(self, params: Params) -> None:
        """Checks that every label has its leaf and fits its shape, and that named fixed axes agree.

        Args:
          params: arrays or ``ShapeDtypeStruct``.

        Raises:
          ValueError: naming the leaf, its shape and its label.
          TypeError: a group that mixes real numbers acts on a leaf of integers.
        """
        jax.eval_shape(self.act, jax.eval_shape(self.identity), params)
        paths, leaves, _ = flatten(params)
        found = locate(paths, (path for path, _ in self.labels))
        known: dict[str, tuple[int, str]] = {}
        for path, label in self.labels:
            axes = resolve(path, label, jnp.shape(leaves[found[path]]), self._table)
            for atom in (a for segments in axes for segment in segments for a in segment):
                if atom.space is None or atom.space in self._table:
                    continue
                size, first = known.setdefault(atom.space, (atom.size or 1, path))
                if size != atom.size:
                    raise ValueError(
                        f"the axis {atom.space!r} has size {size} on leaf {first!r}, but {atom.size} on {path!r}"
                    )

    # Elements.

    def identity(self, dtype=None) -> Element:
        """The neutral element."""
        return {f.key: f.group.identity(dtype) for f in self.factors}

    def sample(self, key: Array, dtype=None) -> Element:
        """A random element: Haar distributed where a group is compact, else as its class states.

        Args:
          key: a typed key.
          dtype: of the floating arrays; the default float when None.
        """
        keys = jax.random.split(key, max(len(self.factors), 1))
        return {f.key: f.group.sample(k, dtype) for f, k in zip(self.factors, keys, strict=False)}

    def compose(self, a: Element, b: Element) -> Element:
        """The element that acts as ``a`` after ``b``."""
        self._check_element(a)
        self._check_element(b)
        return {f.key: f.group.compose(a[f.key], b[f.key]) for f in self.factors}

    def inverse(self, g: Element) -> Element:
        """The inverse element."""
        self._check_element(g)
        return {f.key: f.group.inverse(g[f.key]) for f in self.factors}

    def with_inverse(self, g: Element) -> Element:
        """The same element with the inverses of its matrices: for acting with it many times.

        GL's inverse transpose (``h*``) then acts by a product instead of a solve, at the speed of its matmuls,
        and ``inverse`` costs two transposes. Accepted wherever an element is.

        Args:
          g: an element.

        Returns:
          The element; in the place of each matrix of GL a pair (matrix, inverse transpose).
        """
        self._check_element(g)
        return {f.key: f.group.with_inverse(g[f.key]) for f in self.factors}

    def contains(self, g: Element, tolerance: float = 1e-5) -> Array:
        """Whether ``g`` is an element, up to ``tolerance``: a boolean scalar (usable under ``jit``)."""
        self._check_keys(g)
        checks = [f.group.contains(g[f.key], tolerance) for f in self.factors]
        return jnp.stack(checks).all() if checks else jnp.asarray(True)

    def act(self, g: Element, params: Params) -> Params:
        """Acts on parameters: ``act(compose(a, b), θ) == act(a, act(b, θ))``.

        Args:
          g: an element.
          params: the parameters θ.

        Returns:
          A pytree like ``params``; every leaf keeps its dtype (bfloat16 leaves are multiplied in float32).

        Raises:
          ValueError: a label has no leaf or does not fit it, or ``g`` is not an element of this symmetry.
          TypeError: a group that mixes real numbers acts on a leaf of integers.
        """
        self._check_element(g)
        return self._map(params, lambda f, x, slots: f.group.act_slots(g[f.key], x, slots))

    def act_dual(self, g: Element, gradient: Params) -> Params:
        """Moves a gradient: ∇L(g θ) = act_dual(g, ∇L(θ)) for an invariant L.

        It is the inverse transpose of the linear part of ``act``; the same as ``act`` for orthogonal
        matrices, permutations and signs.
        """
        self._check_element(g)
        return self._map(gradient, lambda f, x, slots: f.group.act_slots(g[f.key], x, slots), dual=True)

    # Infinitesimal generators.

    def zero_algebra(self, dtype=None) -> Vector:
        """The zero algebra vector λ; factors without generators have no key.

        Raises:
          TypeError: the symmetry is discrete.
        """
        return {f.key: f.group.algebra_zero(dtype) for f in self._continuous()}

    def sample_algebra(self, key: Array, dtype=None) -> Vector:
        """A random algebra vector with normal coordinates of order one in the action.

        Raises:
          TypeError: the symmetry is discrete.
        """
        factors = self._continuous()
        keys = jax.random.split(key, len(factors))
        return {f.key: f.group.algebra_sample(k, dtype) for f, k in zip(factors, keys, strict=True)}

    def exp(self, xi: Vector) -> Element:
        """The exponential; factors without generators, or not in ``xi``, are at their identity."""
        self._check_vector(xi)
        return {
            f.key: f.group.exp(xi[f.key]) if f.key in xi else f.group.identity(common_dtype(xi))
            for f in self.factors
        }

    def log(self, g: Element) -> Vector:
        """The principal logarithm, with NaN where an element of a factor has none."""
        self._check_element(g)
        return {f.key: f.group.log(g[f.key]) for f in self._continuous()}

    def generator(self, xi: Vector, params: Params) -> Params:
        """The characteristic direction X ξ = d/dt act(exp(t ξ), θ) at t = 0, linear in ξ.

        Args:
          xi: an algebra vector; factors left out count as zero.
          params: the parameters θ.

        Returns:
          A pytree like ``params``, zero on leaves nothing acts on.
        """
        self._check_vector(xi)

        def tangent(x: Array, job: Job) -> Array:
            parts = [f.group.tangent_slots(xi[f.key], x, slots) for f, slots in job if f.key in xi]
            return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(x)

        return self._map_blocks(params, tangent, otherwise=jnp.zeros_like)

    def pullback(self, params: Params, gradient: Params) -> Vector:
        """The pairings ⟨gradient, X_k θ⟩ with every generator: the transpose of ξ -> generator(ξ, θ).

        It vanishes when ``gradient`` is that of an invariant function (EQ-T1-i, DA-T8).

        Raises:
          TypeError: the symmetry is discrete.
        """
        _, transpose = self.tangent_map(params)
        leaves = moving_leaves(gradient, params, "the gradient")
        like = moving_leaves(params, params, "the parameters")
        return transpose(
            [jnp.asarray(g).astype(jnp.result_type(p)) for g, p in zip(leaves, like, strict=True)]
        )

    def tangent_map(
        self, params: Params
    ) -> tuple[Callable[[Vector], list[Array]], Callable[[list[Array]], Vector]]:
        """The linear map ξ -> generator(ξ, θ) and its transpose, between algebra vectors and lists of leaves.

        The lists hold the leaves of real numbers in the order of the tree: integers and keys do not move.

        Raises:
          TypeError: the symmetry is discrete.
        """

        def forward(xi: Vector) -> list[Array]:
            return moving_leaves(self.generator(xi, params), params, "the generator")

        transpose = linear_transpose(forward, self.zero_algebra(common_dtype(params)), params)
        return forward, lambda leaves: transpose(leaves)[0]

    # Other symmetries from this one.

    def restrict(self, *spaces: str) -> Symmetry:
        """Keeps only the groups that act on some of ``spaces``; the other spaces become fixed axes."""
        known = [name for f in self.factors for name in f.spaces]
        for name in spaces:
            if name not in known:
                raise ValueError(f"there is no space {name!r}; there are {', '.join(known)}")
        kept: dict[str | tuple[str, ...], Group] = {
            f.spaces: f.group for f in self.factors if set(f.spaces) & set(spaces)
        }
        names = {name for key in kept for name in key}
        labels = {path: fix_spaces(label, names, self._table) for path, label in self.labels}
        return Symmetry(labels, kept)

    def subgroup(self, groups: Mapping[str | tuple[str, ...], Group]) -> Symmetry:
        """Replaces the groups of some spaces, such as GL(n) by O(n), keeping the labels."""
        own = self.groups
        for key, group in groups.items():
            if key not in own:
                raise ValueError(f"no group acts on {key!r}; there are {', '.join(map(repr, own))}")
            if not isinstance(group, Group):
                raise TypeError(f"the group of {key!r} must be a group, got {group!r}")
            if group.sizes != own[key].sizes:
                raise ValueError(f"{group} acts on sizes {group.sizes}, but {own[key]} on {own[key].sizes}")
        return Symmetry(dict(self.labels), {**own, **groups})

    def compact(self) -> Symmetry:
        """A maximal compact subgroup: O for GL, permutations and signs without their scalings.

        Raises:
          ValueError: a leaf holds homogeneous coordinates of an affine group, on which O(n) has no label.
        """
        groups: dict[str | tuple[str, ...], Group] = {f.spaces: f.group.compact() for f in self.factors}
        table = space_table(tuple(Factor(f.spaces, f.group.compact()) for f in self.factors))
        small = Symmetry({path: drop_terms(label, table) for path, label in self.labels}, groups)
        for (path, label), (_, new) in zip(self.labels, small.labels, strict=True):
            for a, b in zip(label.atoms, new.atoms, strict=True):
                if size_of(a, self._table) != size_of(b, table):
                    raise ValueError(
                        f"leaf {path!r}: the compact subgroup does not act on the homogeneous coordinates {a}: "
                        "label the last entry as a fixed part of the axis, as in '(h + 1)'"
                    )
        return small

    def at(self, prefix: str) -> Symmetry:
        """The same symmetry of a tree that holds the parameters under ``prefix``, as in ``"params/encoder"``."""
        if not isinstance(prefix, str):
            raise TypeError(f"the prefix must be a path such as 'params/encoder', got {prefix!r}")
        return Symmetry({join(prefix, path): label for path, label in self.labels}, self.groups)

    def product(self, *others: Symmetry) -> Symmetry:
        """The product with symmetries on other spaces of the same parameters (DA, sec. 1.2: sub-networks).

        Raises:
          ValueError: two of them act on the same space, or label an axis differently.
        """
        result = self
        for other in others:
            check_symmetry(other, "a product")
            labels, groups = dict(result.labels), result.groups
            for key in other.groups:
                if key in groups:
                    raise ValueError(f"both symmetries have a group on {key!r}: rename one of the spaces")
            for path, label in other.labels:
                if path in labels:
                    label = merge(path, labels[path], result._table.keys(), label, other._table.keys())
                labels[path] = label
            result = Symmetry(labels, groups | other.groups)
        return result

    # Reading and writing.

    def to_json(self) -> str:
        """A JSON text that ``Symmetry.from_json`` reads back to an equal object."""
        return json.dumps(_json.encode(self.axes, self.factors), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Symmetry:
        """Reads what ``to_json`` wrote.

        Raises:
          ValueError: the text is not such a JSON.
        """
        return cls(*_json.decode(text))

    def __str__(self) -> str:
        return _print.table(self)

    def __repr__(self) -> str:
        groups = ", ".join(f"{f.key}: {f.group}" for f in self.factors)
        return f"Symmetry({len(self.labels)} leaves; {groups})"

    # Inside.

    def _check_keys(self, g: Element) -> None:
        keys = [f.key for f in self.factors]
        if not isinstance(g, Mapping) or set(g) != set(keys):
            got = sorted(g) if isinstance(g, Mapping) else type(g).__name__
            raise ValueError(f"an element of this symmetry has the keys {keys}, got {got}")

    def _check_element(self, g: Element) -> None:
        """Checks that ``g`` has the keys and array shapes of one element."""
        self._check_keys(g)
        for f in self.factors:
            _named(f, f.group.check_element, g[f.key])

    def _continuous(self) -> tuple[Factor, ...]:
        factors = tuple(f for f in self.factors if f.group.dimension)
        if not factors:
            groups = ", ".join(str(f.group) for f in self.factors) or "no group"
            raise TypeError(
                f"this symmetry is discrete ({groups}): it has no infinitesimal generators. "
                "Use its elements (sample, act) and the discrete identities"
            )
        return factors

    def _check_vector(self, xi: Vector) -> None:
        """Checks that ``xi`` has keys of continuous factors and the array shapes of one algebra vector."""
        factors = {f.key: f for f in self._continuous()}
        unknown = set(xi) - set(factors) if isinstance(xi, Mapping) else {type(xi).__name__}
        if unknown:
            raise ValueError(
                f"an algebra vector of this symmetry has the keys {list(factors)}, got {sorted(unknown)}"
            )
        for key, vector in xi.items():
            _named(factors[key], factors[key].group.check_vector, vector)

    def _map(self, params: Params, act: Callable[..., Array], *, dual: bool = False) -> Params:
        """Applies ``act(factor, block, slots)`` for each factor in turn to each labelled leaf."""

        def block(x: Array, job: Job) -> Array:
            for factor, slots in job:
                x = act(factor, x, slots)
            return x

        return self._map_blocks(params, block, otherwise=lambda x: x, dual=dual)

    def _map_blocks(self, params: Params, block, *, otherwise, dual: bool = False) -> Params:
        """Replaces each labelled leaf block by block by ``block(x, job)``, the others by ``otherwise(x)``.

        Leaves of less than float32 are multiplied in float32 and rounded once, at the end.
        """
        paths, leaves, treedef = flatten(params)
        found = locate(paths, (path for path, _ in self.labels))
        new: list[Any] = [None] * len(leaves)
        for path, label in self._acted:
            i = found[path]
            if isinstance(leaves[i], optax.MaskedNode):
                raise ValueError(
                    f"leaf {path!r} with label {str(label)!r} is masked out (optax.MaskedNode): a symmetry needs "
                    "every leaf of its labels, so mask or partition whole orbits together"
                )
            try:
                x = jnp.asarray(leaves[i])
            except TypeError as error:
                raise TypeError(f"leaf {path!r} must be an array, got {leaves[i]!r}") from error
            plan = self._plan(path, label, x.shape, dual)
            if plan.real is not None and not is_inexact(x):
                raise TypeError(
                    f"leaf {path!r} holds {x.dtype}, but {plan.real} multiplies it by real numbers"
                )
            wide = jnp.promote_types(x.dtype, jnp.float32) if plan.mixes else x.dtype
            try:
                new[i] = act_on_leaf(x.astype(wide), plan, block).astype(x.dtype)
            except ValueError as error:
                raise ValueError(f"leaf {path!r} with label {str(label)!r}: {error}") from error
        for i, leaf in enumerate(leaves):
            if new[i] is None:
                new[i] = leaf if isinstance(leaf, optax.MaskedNode) else otherwise(leaf)
        return jax.tree.unflatten(treedef, new)

    def _plan(self, path: str, label: LeafLabel, shape: tuple[int, ...], dual: bool) -> Plan:
        """``make_plan``, remembered."""
        key = path, shape, dual
        if key not in self._plans:
            self._plans[key] = make_plan(path, label, shape, self.factors, self._table, dual)
        return self._plans[key]


def check_symmetry(sym: Any, what: str) -> None:
    """Checks that ``sym`` is a symmetry.

    Raises:
      TypeError: it is not; says what needs one.
    """
    if not isinstance(sym, Symmetry):
        raise TypeError(f"{what} needs an eqtoolbox.Symmetry, got {sym!r}")


def _named(factor: Factor, check: Callable[[Any], None], value: Any) -> None:
    """Calls ``check`` and names the space in its error."""
    try:
        check(value)
    except ValueError as error:
        raise ValueError(f"on {factor.key!r}: {error}") from None


def _natural(text: str) -> list:
    """A sort key in which h2 comes before h10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
