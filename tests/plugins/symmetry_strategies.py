"""Random symmetries for tests, with an independent dense form of their actions.

A leaf is drawn as a tree of parts (axes of segments of atoms); its label is printed from that, and its action
is `np.einsum` with one matrix per axis: `block_diag` of `kron` of the matrices of the atoms, each written down here
from the group's definition.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce

import numpy as np
from group_strategies import representations
from hypothesis import strategies as st

from eqtoolbox.groups import (
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    PositiveScaling,
    Scaling,
    SignFlip,
    Stabiliser,
    Trivial,
)
from eqtoolbox.symmetry import Atom, LeafLabel, Symmetry

#: A space of each kind of linear group on one space, and the exponents that mean something on it. All but one have
#: size 2, so that random leaves share the shapes JAX has compiled for already.
SPACES: dict[str, tuple[Group, tuple[str, ...]]] = {
    "p": (Permutation(2), ("", "*", "^2")),
    "z": (SignFlip(2), ("", "^2", "^-1/3")),
    "c": (PositiveScaling(2), ("", "*", "^0", "^-3/2")),
    "t": (Scaling(1), ("", "^-2")),
    "u": (Scaling(2), ("*", "^1/2")),
    "g": (GeneralLinear(2), ("", "*")),
    "o": (Orthogonal(2), ("", "*")),
    "s": (Stabiliser(GeneralLinear(2)), ("", "*")),
    "m": (Monomial(2, scales=("a", "b"), signs=("a", "s")), ("", "^0", "{a:1,b:-2}", "{b:1/2,s:1}", "*")),
    "i": (Trivial(2), ("",)),
}


@dataclass(frozen=True)
class Part:
    """An atom of a random label: a space with an exponent, or a fixed size, stated or not."""

    size: int
    space: str | None = None
    exponent: str = ""
    stated: bool = True

    def __str__(self) -> str:
        if self.space is not None:
            return self.space + self.exponent
        return str(self.size) if self.stated else "_"


@dataclass(frozen=True)
class Leaf:
    """A random leaf: axes of segments of parts, and parts on the whole."""

    axes: tuple[tuple[tuple[Part, ...], ...], ...]
    whole: tuple[Part, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(sum(math.prod(p.size for p in seg) for seg in axis) for axis in self.axes)

    @property
    def spaces(self) -> set[str]:
        parts = [p for axis in self.axes for seg in axis for p in seg]
        return {p.space for p in (*parts, *self.whole) if p.space is not None}

    def __str__(self) -> str:
        text = " ".join("(" + " + ".join(" ".join(map(str, seg)) for seg in axis) + ")" for axis in self.axes)
        return text + (" | " + " ".join(map(str, self.whole)) if self.whole else "")


def matrix(space: str, g, exponent: str) -> np.ndarray:
    """The matrix by which an element of one of ``SPACES`` acts on an axis, from the definition of the group."""
    group, _ = SPACES[space]
    if isinstance(group, Trivial):
        return np.eye(group.n)
    if isinstance(group, Permutation):
        return np.eye(group.n)[np.asarray(g)]
    if isinstance(group, Monomial):
        powers = {name: Fraction(1 if exponent == "" else -1) for name in "abs"}
        if exponent == "^0":
            powers = {}
        elif exponent.startswith("{"):
            powers = {k: Fraction(v) for k, v in (term.split(":") for term in exponent[1:-1].split(","))}
        scale, sign = np.asarray(g.scale, float), np.asarray(g.sign, float)
        factor = np.ones(group.n)
        for name, row in (("a", scale[0]), ("b", scale[1])):
            factor = factor * row ** float(powers.get(name, 0))
        for name, row in (("a", sign[0]), ("s", sign[1])):
            factor = factor * row ** int(powers.get(name, 0))
        return np.diag(factor) @ np.eye(group.n)[np.asarray(g.perm)]
    power = {"": Fraction(1), "*": Fraction(-1)}.get(exponent)
    power = Fraction(exponent[1:]) if power is None else power
    g = np.asarray(g, float)
    if isinstance(group, SignFlip):
        return np.diag(g if power.numerator % 2 else np.ones_like(g))
    if isinstance(group, Scaling):
        return g[0] ** float(power) * np.eye(group.n)
    if isinstance(group, PositiveScaling):
        return np.diag(g ** float(power))
    return g if power == 1 else np.linalg.inv(g).T


def dense_act(leaf: Leaf, g, x: np.ndarray, *, dual: bool = False) -> np.ndarray:
    """The action on a leaf as a sum over axes with dense matrices; ``dual`` takes their inverse transposes."""

    def of(part: Part) -> np.ndarray:
        if part.space is None:
            return np.eye(part.size)
        m = matrix(part.space, g[part.space], part.exponent)
        return np.linalg.inv(m).T if dual else m

    for axis, segments in enumerate(leaf.axes):
        blocks = [reduce(np.kron, map(of, seg)) for seg in segments]
        full = np.zeros((x.shape[axis],) * 2)
        start = 0
        for block in blocks:
            full[start : start + len(block), start : start + len(block)] = block
            start += len(block)
        x = np.moveaxis(np.tensordot(full, x, axes=(1, axis)), 0, axis)
    return x * reduce(operator.mul, (of(p)[0, 0] for p in leaf.whole), 1.0)


@st.composite
def leaves(draw, names: tuple[str, ...]) -> Leaf:
    """A random leaf on which some of the spaces ``names`` act."""
    acted = st.sampled_from(names).flatmap(
        lambda name: st.sampled_from(SPACES[name][1]).map(lambda e: Part(SPACES[name][0].n, name, e))
    )
    fixed = st.integers(1, 2).map(Part)
    axes = []
    for _ in range(draw(st.integers(0, 2))):
        segments = draw(
            st.lists(st.lists(acted | acted | fixed, min_size=1, max_size=2), min_size=1, max_size=2)
        )
        if draw(st.booleans()):
            segments.append([Part(2, stated=False)])
        axes.append(tuple(tuple(segment) for segment in segments))
    whole = draw(st.lists(st.sampled_from(SPACES["t"][1]), max_size=1)) if "t" in names else []
    return Leaf(tuple(axes), tuple(Part(1, "t", e) for e in whole))


@st.composite
def trees(draw, max_leaves: int = 3) -> tuple[dict[str, Leaf], Symmetry]:
    """A tree of random leaves and its symmetry."""
    names = tuple(draw(st.lists(st.sampled_from(list(SPACES)), min_size=1, max_size=3, unique=True)))
    drawn = draw(st.lists(leaves(names), min_size=1, max_size=max_leaves))
    tree = {f"leaf_{i}": leaf for i, leaf in enumerate(drawn)}
    used = sorted(set().union(*(leaf.spaces for leaf in drawn)))
    labels = {path: str(leaf) for path, leaf in tree.items()}
    return tree, Symmetry(labels, {name: SPACES[name][0] for name in used})


@st.composite
def any_symmetry(draw, groups: st.SearchStrategy) -> Symmetry:
    """A symmetry of random groups of any kind, with a leaf for each of their representations."""
    drawn = draw(st.lists(groups, min_size=1, max_size=2))
    return symmetry_of(*drawn)


def symmetry_of(*groups: Group) -> Symmetry:
    """Groups side by side, each with one leaf for every space and exponent, next to the spaces it depends on."""
    labels, factors = {}, {}
    for i, group in enumerate(groups):
        names = tuple(f"s{i}_{j}" for j in range(len(group.sizes)))
        factors[names] = group
        for j, rep in enumerate(representations(group)):
            pairs = zip(rep.spaces, rep.exponents, strict=True)
            atoms = tuple(Atom(names[space], None, exponent) for space, exponent in pairs)
            labels[f"layer_{i}/{j}"] = LeafLabel((((Atom(None),),), (atoms,)))
    return Symmetry(labels, factors)
