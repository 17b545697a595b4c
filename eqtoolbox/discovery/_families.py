"""Families of infinitesimal generators: vector fields on parameter space that are linear in coefficients."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.linalg import check_like, linear_transpose, unravel_stack, vary_with
from eqtoolbox.symmetry import DataDependentAction, Symmetry, check_symmetry, leaf_paths

Params = Any
Field = Callable[[Array, Params, Any], Params]

_HIGHEST = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class Family:
    """m vector fields A_a(θ, X) on parameter space, and their combinations Σ_a c_a A_a(θ, X).

    Nothing of size m x p is formed: ``field`` applies a combination, ``pairing`` its transpose.

    Attributes:
      name: what it is, in a few words.
      dimension: m, the number of generators.
      field: (c, θ, X) -> Σ_a c_a A_a(θ, X), a pytree like θ; linear in c of shape (m,).
      label: a -> what generator a does, in words.
      depends_on_data: whether the fields depend on X.
    """

    name: str
    dimension: int
    field: Field
    label: Callable[[int], str]
    depends_on_data: bool = False

    def pairing(self, params: Params, cotangent: Params, data: Any = None) -> Array:
        """The numbers ⟨v, A_a(θ, X)⟩ for all a, shape (m,): the transpose of c -> field(c, θ, X) at v."""
        real = real_leaves(params)
        zeros = jnp.zeros(self.dimension, jnp.result_type(float, *real))
        places = [i for i, x in enumerate(jax.tree.leaves(params)) if is_real(x)]
        pick = lambda tree: [jax.tree.leaves(tree)[i] for i in places]  # noqa: E731
        transpose = linear_transpose(lambda c: pick(self.field(c, params, data)), zeros, (params, cotangent))
        return transpose(pick(cotangent))[0]

    def __str__(self) -> str:
        return f"{self.name} ({self.dimension} generators)"


def is_real(x: Any) -> bool:
    """Whether a leaf is of real numbers; all others (counters, keys, masks) are left alone."""
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.floating))


def real_leaves(tree: Any) -> list[Any]:
    """The leaves of real numbers."""
    return [x for x in jax.tree.leaves(tree) if is_real(x)]


def with_real(tree: Any, leaves: Sequence[Any]) -> Any:
    """``tree`` with its leaves of real numbers replaced."""
    following = iter(leaves)
    return jax.tree.map(lambda x: next(following) if is_real(x) else x, tree)


def check_fits(family: Family, params: Params, data: Any) -> None:
    """Checks that a family moves these parameters.

    Raises:
      ValueError: it was made for others, or the data do not fit.
    """
    shapes = jax.eval_shape(lambda p: p, params)
    try:
        moved = jax.eval_shape(
            family.field, jax.ShapeDtypeStruct((family.dimension,), jnp.result_type(float)), params, data
        )
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"the family {family} does not fit the parameters and the data: {error}") from error
    check_like(moved, shapes, f"the field of {family.name}", "params")


def check_family(family: Any, what: str) -> Family:
    """A ``Family``, made of a ``Symmetry`` if it is one.

    Raises:
      TypeError: it is neither.
    """
    if isinstance(family, Symmetry):
        return symmetry_family(family)
    if not isinstance(family, Family):
        raise TypeError(f"{what} needs a discovery.Family or an eqtoolbox.Symmetry, got {family!r}")
    return family


@dataclass(frozen=True)
class _Slots:
    """The chosen leaves of a tree, as one vector of q numbers."""

    paths: tuple[str, ...]
    places: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        return sum(math.prod(s) for s in self.shapes)

    def gather(self, params: Params) -> Array:
        leaves = jax.tree.leaves(params)
        return jnp.concatenate([jnp.ravel(leaves[i]) for i in self.places])

    def scatter(self, params: Params, vector: Array) -> Params:
        leaves, treedef = jax.tree.flatten(params)
        moved = [jnp.zeros_like(leaf) for leaf in leaves]
        start = 0
        for i, shape in zip(self.places, self.shapes, strict=True):
            end = start + math.prod(shape)
            moved[i] = vector[start:end].reshape(shape).astype(jnp.result_type(leaves[i]))
            start = end
        return jax.tree.unflatten(treedef, moved)

    def name(self, entry: int) -> str:
        for path, shape in zip(self.paths, self.shapes, strict=True):
            size = math.prod(shape)
            if entry < size:
                index = ",".join(str(int(i)) for i in np.unravel_index(entry, shape))
                return f"{path}[{index}]" if shape else path
            entry -= size
        raise IndexError(entry)


def _choose(params: Params, leaves: Sequence[str] | None) -> _Slots:
    """The real leaves whose paths match one of the patterns; all of them for None."""
    if isinstance(leaves, str):
        raise TypeError(f"`leaves` must be a sequence of paths or patterns, got the string {leaves!r}")
    paths, arrays = leaf_paths(params), jax.tree.leaves(params)
    real = [i for i, leaf in enumerate(arrays) if is_real(leaf)]
    for pattern in leaves or ():
        if not any(fnmatch.fnmatchcase(paths[i], pattern) for i in real):
            raise ValueError(f"`leaves`: {pattern!r} matches none of {', '.join(paths[i] for i in real)}")
    chosen = [i for i in real if leaves is None or any(fnmatch.fnmatchcase(paths[i], p) for p in leaves)]
    if not chosen:
        raise ValueError("the parameters have no leaf of real numbers")
    shapes = tuple(jnp.shape(arrays[i]) for i in chosen)
    return _Slots(tuple(paths[i] for i in chosen), tuple(chosen), shapes)


def linear_family(params: Params, leaves: Sequence[str] | None = None) -> Family:
    """gl(q) on the q entries of the chosen leaves: ξ(θ) = Cθ, all linear data-independent generators.

    Args:
      params: the parameters θ, or their shapes.
      leaves: paths, or patterns with ``*``; None for all leaves of real numbers.

    Returns:
      A family of q² generators E_ij (entry i moves by entry j), (6.2) of Zhao (2026) for matrix groups.

    Raises:
      TypeError: ``leaves`` is a string.
      ValueError: a pattern matches no leaf.
    """
    slots = _choose(params, leaves)
    q = slots.size

    def field(c: Array, params: Params, data: Any) -> Params:
        del data
        return slots.scatter(params, jnp.matmul(c.reshape(q, q), slots.gather(params), precision=_HIGHEST))

    def label(a: int) -> str:
        return f"{slots.name(a // q)} moves by {slots.name(a % q)}"

    return Family(f"gl({q})", q * q, field, label)


def translation_family(params: Params, leaves: Sequence[str] | None = None) -> Family:
    """Constant fields ξ(θ) = c, one per entry of the chosen leaves; arguments as for ``linear_family``."""
    slots = _choose(params, leaves)

    def field(c: Array, params: Params, data: Any) -> Params:
        del data
        return slots.scatter(params, c)

    return Family(
        f"translations of {slots.size} numbers", slots.size, field, lambda a: f"{slots.name(a)} moves"
    )


def affine_family(params: Params, leaves: Sequence[str] | None = None) -> Family:
    """Affine fields ξ(θ) = Cθ + c, q² + q of them; arguments as for ``linear_family``."""
    return direct_sum(linear_family(params, leaves), translation_family(params, leaves))


@lru_cache(maxsize=32)
def symmetry_family(sym: Symmetry) -> Family:
    """The generators of a symmetry, as a family: c is an algebra vector, flattened.

    One object per symmetry, so that what was compiled for it is used again.

    Raises:
      TypeError: ``sym`` is no symmetry, or discrete.
    """
    check_symmetry(sym, "symmetry_family")
    like = jax.eval_shape(sym.zero_algebra)
    entries = [
        f"{'/'.join(str(k) for k in _keys(path))}{list(map(int, index))}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(like)[0]
        for index in np.ndindex(leaf.shape)
    ]

    def field(c: Array, params: Params, data: Any) -> Params:
        del data
        typed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, c.dtype), like)
        return sym.generator(unravel_stack(c, typed), params)

    spaces = ", ".join(f"{f.group} on {f.key}" for f in sym.factors[:3])
    more = ", …" if len(sym.factors) > 3 else ""
    return Family(f"the algebra of {spaces}{more}", len(entries), field, lambda a: entries[a])


def _keys(path: tuple) -> list:
    return [getattr(k, "key", getattr(k, "idx", k)) for k in path]


def feature_family(
    params: Params,
    features: Callable[[Params, Any], Array],
    data: Any,
    leaves: Sequence[str] | None = None,
) -> Family:
    """Fields ξ(θ, X) = C φ(θ, X) with features φ that may depend on the data: q numbers moved by r features.

    Args:
      params: the parameters θ, or their shapes.
      features: φ: (θ, X) -> r numbers.
      data: X, or its shapes.
      leaves: what moves; as for ``linear_family``.

    Returns:
      A family of q r generators.

    Raises:
      ValueError: the features are not a vector, or a pattern matches no leaf.
    """
    slots = _choose(params, leaves)
    if data is None:
        raise ValueError("feature_family needs `data`, or its shapes, to know the number of features")
    shape = jax.eval_shape(features, params, data)
    if not isinstance(shape, jax.ShapeDtypeStruct) or len(shape.shape) != 1:
        raise ValueError(f"`features` must return one vector, got {shape}")
    q, r = slots.size, shape.shape[0]

    def field(c: Array, params: Params, data: Any) -> Params:
        phi = features(params, data)
        return slots.scatter(params, jnp.matmul(c.reshape(q, r), phi.astype(c.dtype), precision=_HIGHEST))

    def label(a: int) -> str:
        return f"{slots.name(a // r)} moves by feature {a % r}"

    return Family(f"{q} numbers moved by {r} features", q * r, field, label, depends_on_data=True)


def action_family(action: DataDependentAction, params: Params) -> Family:
    """The generators of a data-dependent action: d/dt act(exp(tξ), θ, X) at t = 0, by one forward pass.

    Args:
      action: acts on (θ, X).
      params: the parameters θ, or their shapes: the leaves that the action names must be there.

    Raises:
      TypeError: ``action`` is no ``DataDependentAction``.
    """
    if not isinstance(action, DataDependentAction):
        raise TypeError(f"action_family needs a symmetry.DataDependentAction, got {action!r}")
    del params
    shapes = {h.space: jax.eval_shape(h.group.algebra_zero).shape for h in action.hidden}
    sizes = {space: math.prod(shape) for space, shape in shapes.items()}
    entries = [f"{space}{list(map(int, i))}" for space, shape in shapes.items() for i in np.ndindex(shape)]

    def field(c: Array, params: Params, data: Any) -> Params:
        start, xi = 0, {}
        for space, size in sizes.items():
            xi[space] = c[start : start + size].reshape(shapes[space])
            start += size

        def moved(v: dict[str, Array]) -> Params:
            return action.act({h.space: h.group.exp(v[h.space]) for h in action.hidden}, params, data)

        # at the zero vector, in the direction ξ: linear in c for the transpose, too
        at = vary_with(jax.tree.map(jnp.zeros_like, xi), params, data)
        return jax.jvp(moved, (at,), (vary_with(xi, at),))[1]

    return Family("a data-dependent action", len(entries), field, lambda a: entries[a], depends_on_data=True)


def direct_sum(*families: Family | Symmetry) -> Family:
    """All generators of several families, in order; a ``Symmetry`` stands for its own.

    Raises:
      TypeError: one is neither.
      ValueError: there is none.
    """
    if not families:
        raise ValueError("direct_sum needs at least one family")
    families = tuple(check_family(f, "direct_sum") for f in families)
    ends = np.cumsum([f.dimension for f in families]).tolist()
    starts = [0, *ends[:-1]]

    def field(c: Array, params: Params, data: Any) -> Params:
        parts = [f.field(c[i:j], params, data) for f, i, j in zip(families, starts, ends, strict=True)]
        return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)

    def label(a: int) -> str:
        k = int(np.searchsorted(ends, a, side="right"))
        return families[k].label(a - starts[k])

    name = " + ".join(f.name for f in families)
    return Family(name, ends[-1], field, label, any(f.depends_on_data for f in families))
