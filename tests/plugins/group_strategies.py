"""Groups for tests: a fixed list of every kind, hypothesis strategies, and dense matrices of their actions.

The matrices are the independent check: they are read off the action on unit vectors, and everything else
(products, inverses, duals, generators, irreducible pieces) is then plain linear algebra in NumPy.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from eqtoolbox.groups import (
    Affine,
    Exponent,
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    PositiveScaling,
    Product,
    Scaling,
    SignedPermutation,
    SignFlip,
    Slot,
    Stabiliser,
    Term,
    Translation,
    Trivial,
    Wreath,
)

#: One or more of every kind.
LINEAR = (
    Trivial(3),
    Permutation(1),
    Permutation(4),
    SignFlip(3),
    PositiveScaling(3),
    Scaling(3),
    SignedPermutation(3),
    Monomial(3, scales=["a", "c"], signs=["a", "b"]),
    Monomial(2, scales=["a", "gain[3]"], signs=["flip[2]"]),
    GeneralLinear(3),
    Orthogonal(1),
    Orthogonal(4),
    Stabiliser(Orthogonal(1)),
    Stabiliser(Orthogonal(2)),
    Stabiliser(Orthogonal(4)),
    Stabiliser(GeneralLinear(1)),
    Stabiliser(GeneralLinear(3)),
    Stabiliser(GeneralLinear(2), (0.0, 3.0)),
    Product(Product(SignFlip(2), Scaling(2)), Trivial(2)),
    Wreath(GeneralLinear(2), Permutation(3)),
    Wreath(Permutation(3), Permutation(2)),
    Wreath(Permutation(2), Monomial(2, scales=1, signs=1)),
    Wreath(Trivial(2), Permutation(3)),
    Wreath(SignFlip(2), Trivial(3)),
    Wreath(Monomial(2, scales=1), SignFlip(2)),
    Wreath(Scaling(2), PositiveScaling(2)),
    Wreath(Product(GeneralLinear(1), Orthogonal(2)), Permutation(2)),
    Wreath(Product(Trivial(2), Permutation(2)), Permutation(2)),
    Wreath(Wreath(SignFlip(1), Permutation(2)), Permutation(2)),
    Wreath(Wreath(Orthogonal(2), Trivial(2)), SignedPermutation(2)),
    Product(Wreath(SignFlip(2), Permutation(2)), Orthogonal(2)),
)

AFFINE = (Translation(3), Affine(2), Product(Affine(1), Permutation(2)))

GROUPS = LINEAR + AFFINE


def unit_groups(max_size: int = 3) -> st.SearchStrategy:
    """Groups that act unit by unit."""
    n = st.integers(1, max_size)
    names = st.sampled_from([(), ("a",), ("a", "b"), ("g[2]",), ("a", "g[2]")])
    return st.one_of(
        *[st.builds(kind, n) for kind in (Trivial, Permutation, SignFlip, PositiveScaling, Scaling)],
        st.builds(Monomial, n, names, names),
    )


def matrix_groups(max_size: int = 3) -> st.SearchStrategy:
    """GL(n), O(n) and the stabilisers in them."""
    full = st.builds(
        lambda kind, n: kind(n), st.sampled_from([GeneralLinear, Orthogonal]), st.integers(1, max_size)
    )

    def with_vector(group):
        entry = st.integers(-3, 3).map(float)
        vector = st.tuples(*[entry] * group.n).filter(any)
        return st.builds(Stabiliser, st.just(group), st.none() | vector)

    return full | full.flatmap(with_vector)


def linear_groups(max_size: int = 3, max_total: int = 12) -> st.SearchStrategy:
    """Groups that act linearly, with nested products and wreath products.

    ``max_total`` bounds the size of the largest representation (``representations``).
    """
    single = unit_groups(max_size) | matrix_groups(max_size)

    def compound(inner):
        return st.builds(Wreath, inner, unit_groups(2)) | st.builds(Product, inner, inner)

    return st.recursive(single, compound, max_leaves=3).filter(lambda g: largest(g) <= max_total)


def groups(max_size: int = 3, max_total: int = 12) -> st.SearchStrategy:
    """All groups: linear ones, translations, affine groups, and products of them."""
    n = st.integers(1, max_size)
    moving = st.builds(Translation, n) | st.builds(Affine, n)
    linear = linear_groups(max_size, max_total)
    return linear | moving | st.builds(Product, moving, linear)


class Representation(NamedTuple):
    """An action on an array with one axis for each of some spaces: a space and those it depends on."""

    spaces: tuple[int, ...]
    exponents: tuple[Exponent, ...]

    def weights(self, group: Group) -> tuple:
        return tuple(group.weight(s, q) for s, q in zip(self.spaces, self.exponents, strict=True))

    def shape(self, group: Group) -> tuple[int, ...]:
        return tuple(group.axis_size(s, w) for s, w in zip(self.spaces, self.weights(group), strict=True))

    def slots(self, group: Group, *, dual: bool = False, offset: int = 1) -> tuple[Slot, ...]:
        slots = []
        for i, (space, weight) in enumerate(zip(self.spaces, self.weights(group), strict=True)):
            weight = group.dual(space, weight) if dual else weight
            parent = group.parents[space]
            axis = None if parent is None else offset + self.spaces.index(parent)
            slots.append(Slot(space, offset + i, weight, axis))
        return tuple(slots)

    def weight(self, group: Group):
        """The weight that ``isotypic`` takes for the last space: nested pairs."""
        *outer, weight = self.weights(group)
        for w in reversed(outer):
            weight = (w, weight)
        return weight


def representations(group: Group) -> list[Representation]:
    """Every space with its ancestors, with enough exponents for the sum of all to be faithful."""
    found = []
    for space in range(len(group.sizes)):
        chain = [space]
        while (parent := group.parents[chain[0]]) is not None:
            chain.insert(0, parent)
        choices = [exponents(group, s) for s in chain]
        for i in range(max(map(len, choices))):
            found.append(Representation(tuple(chain), tuple(c[i % len(c)] for c in choices)))
    return found


def exponents(group: Group, space: int) -> list[Exponent]:
    """Exponents to test for a space of a group."""
    if isinstance(group, Product):
        i, space = group.locate(space)
        return exponents(group.groups[i], space)
    if isinstance(group, Wreath):
        return exponents(group.outer, 0) if space == 0 else exponents(group.inner, space - 1)
    if isinstance(group, Monomial):
        names = dict.fromkeys([n.split("[")[0] for n in group.scales + group.signs])
        terms = []
        for name in names:
            count = max((s[1] for b in group._blocks if (s := b.get(name))), default=1)
            signed = name in group._blocks[1]
            power = Fraction(-1) if signed else Fraction(-3, 2)
            terms += [(Term(name, power, i if count > 1 else None),) for i in range(count)]
        flat = [Exponent.of(0)] + [Exponent.of(t) for t in terms]
        return flat if any("[" in n for n in group.scales + group.signs) else [*flat, Exponent.of(1)]
    if isinstance(group, Affine):
        named = [Exponent.of([Term(n, Fraction(p))]) for n in ("linear", "homogeneous") for p in (1, -1)]
        return [Exponent.of(1), Exponent.of(-1), *named]
    if isinstance(group, SignFlip):
        return [Exponent.of(1), Exponent.of(2), Exponent.of(Fraction(-1, 3))]
    if isinstance(group, (PositiveScaling, Translation)):
        return [Exponent.of(1), Exponent.of(0), Exponent.of(Fraction(-3, 2)), Exponent.of(Fraction(2, 3))]
    if isinstance(group, GeneralLinear) or (isinstance(group, Stabiliser) and not group.is_orthogonal):
        return [Exponent.of(1), Exponent.of(-1)]
    return [Exponent.of(1)]


def largest(group: Group) -> int:
    """The size of the largest representation."""
    return max(math.prod(r.shape(group)) for r in representations(group))


def dense(group: Group, g, slots: tuple[Slot, ...], shape: tuple[int, ...]) -> jax.Array:
    """The affine map by which an element acts, as a homogeneous matrix of size N + 1; axis 0 is the batch."""
    return _homogeneous(group.act_slots(g, _points(shape), slots), 1.0)


def dense_tangent(group: Group, xi, slots: tuple[Slot, ...], shape: tuple[int, ...]) -> jax.Array:
    """The vector field by which an algebra vector acts, as a homogeneous matrix of size N + 1."""
    return _homogeneous(group.tangent_slots(xi, _points(shape), slots), 0.0)


def _points(shape: tuple[int, ...]) -> jax.Array:
    """The unit vectors and 0."""
    size = math.prod(shape)
    return jnp.eye(size + 1, size).reshape(size + 1, *shape)


def _homogeneous(images: jax.Array, corner: float) -> jax.Array:
    images = images.reshape(len(images), -1)
    top = jnp.concatenate([images[:-1] - images[-1:], images[-1:]]).T
    return jnp.concatenate([top, corner * jnp.eye(1, len(images), len(images) - 1)])


def quick_jit(f):
    """``jit`` that spends little time on optimising: each test compiles many small functions and runs them once."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(f, compiler_options=options)


def mapped(f, *args, count: int):
    """``vmap`` that also takes elements without arrays."""
    return jax.vmap(f, axis_size=count)(*args)


def flat(tree) -> np.ndarray:
    """All numbers of a pytree of arrays."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate([np.zeros(0), *leaves])
