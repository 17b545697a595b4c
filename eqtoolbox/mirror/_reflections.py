"""The reflections that each group contains: its elements that are orthogonal involutions, in families."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from eqtoolbox.groups import (
    Affine,
    AffineElement,
    GeneralLinear,
    Group,
    Monomial,
    MonomialElement,
    Orthogonal,
    Permutation,
    PositiveScaling,
    Product,
    SignFlip,
    Stabiliser,
    Translation,
    Wreath,
    WreathElement,
)
from eqtoolbox.mirror._concrete import concretely

Element = Any


@dataclass(frozen=True)
class Reflections:
    """Some reflections of one kind in a group.

    Attributes:
      kind: "exchange", "sign flip", "signed exchange" or "reflection".
      space: number of the space of the group whose units they move.
      count: how many.
      element: i -> the element, of NumPy arrays.
      label: i -> a few words, to be followed by the name of the space.
      complete: whether these are all of their kind; else one for each vector of a basis.
    """

    kind: str
    space: int
    count: int
    element: Callable[[int], Element]
    label: Callable[[int], str]
    complete: bool = True


def reflections(group: Group) -> list[Reflections]:
    """The families of reflections of a group; none where it contains no reflection."""
    for kinds, make in _TABLE:
        if isinstance(group, kinds):
            return make(group)
    return []


def why_none(group: Group) -> str:
    """Why a group without reflections has none."""
    if isinstance(group, PositiveScaling):
        return "scalings c > 0 contain no reflection: c = -1 is missing"
    if isinstance(group, Translation):
        return "translations contain no reflection"
    return "contains no reflection"


def pair(index: int, n: int) -> tuple[int, int]:
    """The pair a < b of units with this number: (0, 1), (0, 2), …, (1, 2), ….

    >>> [pair(i, 4) for i in range(6)]
    [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    """
    rest = n * (n - 1) // 2 - 1 - index
    k = (math.isqrt(8 * rest + 1) - 1) // 2
    a = n - 2 - k
    return a, n - 1 - (rest - k * (k + 1) // 2)


def _swapped(n: int, index: int) -> np.ndarray:
    a, b = pair(index, n)
    perm = np.arange(n)
    perm[[a, b]] = b, a
    return perm


def _permutation(group: Permutation) -> list[Reflections]:
    n = group.n
    return _some(
        Reflections(
            "exchange",
            0,
            n * (n - 1) // 2,
            lambda i: _swapped(n, i),
            lambda i: "units {} and {} of".format(*pair(i, n)),
        )
    )


def _signs(group: SignFlip) -> list[Reflections]:
    def element(i: int) -> np.ndarray:
        sign = np.ones(group.n, np.int8)
        sign[i] = -1
        return sign

    return [Reflections("sign flip", 0, group.n, element, lambda i: f"unit {i} of")]


def _monomial(group: Monomial) -> list[Reflections]:
    n, s = group.n, group.num_signs
    pairs = n * (n - 1) // 2
    names = list(group.signs) if len(group.signs) == s else [str(k) for k in range(s)]

    scale: Any = np.ones((group.num_scales, n))

    def make(perm: Any, pattern: int, units: list[int]) -> MonomialElement:
        sign: Any = np.ones((s, n), np.int8)
        for k in range(s):
            if pattern >> k & 1:
                sign[k, units] = -1
        return MonomialElement(perm, scale, sign)

    def of(pattern: int) -> str:
        chosen = [names[k] for k in range(s) if pattern >> k & 1]
        return "" if s == 1 else f" (sign {'·'.join(chosen)})"

    def flip(i: int) -> tuple[int, int]:
        return i % n, i // n + 1

    def signed(i: int) -> tuple[int, int]:
        return i % pairs, i // pairs + 1

    def signed_element(i: int) -> MonomialElement:
        at, pattern = signed(i)
        return make(_swapped(n, at), pattern, list(pair(at, n)))

    patterns = 2**s - 1
    return _some(
        Reflections(
            "exchange",
            0,
            pairs,
            lambda i: make(_swapped(n, i), 0, []),
            lambda i: "units {} and {} of".format(*pair(i, n)),
        ),
        Reflections(
            "sign flip",
            0,
            n * patterns,
            lambda i: make(np.arange(n), flip(i)[1], [flip(i)[0]]),
            lambda i: f"unit {flip(i)[0]}{of(flip(i)[1])} of",
        ),
        Reflections(
            "signed exchange",
            0,
            pairs * patterns,
            signed_element,
            lambda i: "units {} and {}{} of".format(*pair(signed(i)[0], n), of(signed(i)[1])),
        ),
    )


def householder(directions: np.ndarray) -> np.ndarray:
    """I - 2 NᵀN for orthonormal rows N."""
    return np.eye(directions.shape[-1]) - 2 * directions.T @ directions


def _matrix(group: GeneralLinear | Orthogonal | Stabiliser) -> list[Reflections]:
    rows = np.eye(group.n)
    if isinstance(group, Stabiliser):
        unit = group.fixed / np.linalg.norm(group.fixed)
        rows = np.linalg.svd(unit[None])[2][1:]
    name = "n = {}".format if isinstance(group, Stabiliser) else "n = e{}".format
    return _some(
        Reflections(
            "reflection",
            0,
            len(rows),
            lambda i: householder(rows[i : i + 1]),
            lambda i: f"{name(i)} of",
            complete=group.n == 1,
        )
    )


def _affine(group: Affine) -> list[Reflections]:
    n = group.n

    return [
        Reflections(
            "reflection",
            0,
            n,
            lambda i: affine_reflection(np.eye(n)[i : i + 1]),
            "n = e{} of".format,
            complete=False,
        )
    ]


def affine_reflection(directions: np.ndarray) -> AffineElement:
    """The reflection at the origin, by orthonormal rows."""
    shift: Any = np.zeros(directions.shape[-1])
    linear: Any = householder(directions)
    return AffineElement(linear, shift)


def _product(group: Product) -> list[Reflections]:
    found, start = [], 0
    neutral = [numpy_identity(g) for g in group.groups]
    for i, factor in enumerate(group.groups):

        def embed(part: Element, i: int = i) -> tuple:
            return (*neutral[:i], part, *neutral[i + 1 :])

        found += [_embedded(r, start, embed) for r in reflections(factor)]
        start += len(factor.sizes)
    return found


def _wreath(group: Wreath) -> list[Reflections]:
    copies, single = group.copies, numpy_identity(group.inner)
    still = _stack([single] * copies)
    outer = numpy_identity(group.outer)
    found = [_embedded(r, 0, lambda g: WreathElement(g, still)) for r in reflections(group.outer)]
    for r in reflections(group.inner):

        def element(i: int, r: Reflections = r) -> WreathElement:
            parts = [single] * copies
            parts[i % copies] = r.element(i // copies)
            return WreathElement(outer, _stack(parts))

        def label(i: int, r: Reflections = r) -> str:
            return f"copy {i % copies}, {r.label(i // copies)}"

        found.append(Reflections(r.kind, r.space + 1, r.count * copies, element, label, r.complete))
    return found


def _embedded(r: Reflections, start: int, embed: Callable[[Element], Element]) -> Reflections:
    return Reflections(r.kind, r.space + start, r.count, lambda i: embed(r.element(i)), r.label, r.complete)


def embed(group: Group, path: tuple[int, ...], part: Element) -> Element:
    """The element of products and wreath products with ``part`` at a path of factor and copy numbers.

    Every other part is at its identity.
    """
    if not path:
        return part
    i, rest = path[0], path[1:]
    if isinstance(group, Product):
        parts = [numpy_identity(g) for g in group.groups]
        parts[i] = embed(group.groups[i], rest, part)
        return tuple(parts)
    assert isinstance(group, Wreath)
    copies = [numpy_identity(group.inner)] * group.copies
    copies[i] = embed(group.inner, rest, part)
    return WreathElement(numpy_identity(group.outer), _stack(copies))


def _stack(parts: list[Element]) -> Element:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)


@functools.lru_cache(maxsize=1024)
def numpy_identity(group: Group) -> Element:
    """The neutral element, of NumPy arrays."""
    return concretely(lambda: jax.tree.map(np.asarray, group.identity()))


def _some(*families: Reflections) -> list[Reflections]:
    return [r for r in families if r.count]


_TABLE: list[tuple[Any, Callable[[Any], list[Reflections]]]] = [
    (Permutation, _permutation),
    (SignFlip, _signs),
    (Monomial, _monomial),
    ((GeneralLinear, Orthogonal, Stabiliser), _matrix),
    (Affine, _affine),
    (Product, _product),
    (Wreath, _wreath),
]
