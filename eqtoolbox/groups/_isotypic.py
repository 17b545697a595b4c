"""Isotypic components: the irreducible pieces of a representation on one axis, as orthonormal rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import _arrays


@dataclass(frozen=True)
class Isotypic:
    """An isotypic component of a real representation on R^n: ``multiplicity`` copies of one irreducible.

    The components of one representation are orthogonal and span R^n. In the coordinates of ``coordinates``
    an element acts by the same orthogonal (for a compact group) matrix on each copy.

    Attributes:
      name: ``"trivial"`` for the trivial representation and only for it; ``"standard"``, ``"vector"``,
        ``"scalar"``, or ``"unit i"`` for a character of one coordinate.
      dimension: of the irreducible.
      multiplicity: number of copies.
      size: n.
      rows: a function without arguments that returns an orthonormal basis, a float64 NumPy array of shape
        (multiplicity, dimension, n).
    """

    name: str
    dimension: int
    multiplicity: int
    size: int
    rows: Callable[[], np.ndarray]

    def coordinates(self, x: Array, axis: int = -1) -> Array:
        """The orthonormal coordinates of ``x`` in this component.

        Args:
          x: an array with ``x.shape[axis] == size``.
          axis: the axis the group acts on.

        Returns:
          ``x`` with ``axis`` replaced by two axes (multiplicity, dimension), in the dtype of ``x``.

        Raises:
          ValueError: the axis has another size.
        """
        axis = self._checked(x, axis)
        rows = self.rows().reshape(-1, self.size)
        y = _arrays.transform(jnp.asarray(rows, _arrays.float_dtype(x.dtype)), x, axis)
        shape = (*x.shape[:axis], self.multiplicity, self.dimension, *x.shape[axis + 1 :])
        return y.reshape(shape).astype(x.dtype)

    def project(self, x: Array, axis: int = -1) -> Array:
        """The orthogonal projection of ``x`` on this component, along ``axis``.

        Args:
          x: an array with ``x.shape[axis] == size``.
          axis: the axis the group acts on.

        Returns:
          An array of the shape and dtype of ``x``.

        Raises:
          ValueError: the axis has another size.
        """
        axis = self._checked(x, axis)
        count = self.dimension * self.multiplicity
        if count == self.size:
            return x
        if self.name == "standard" and count == self.size - 1:
            y = x.astype(_arrays.working_dtype(x.dtype))
            return (y - jnp.mean(y, axis, keepdims=True)).astype(x.dtype)
        rows = jnp.asarray(self.rows().reshape(count, self.size), _arrays.float_dtype(x.dtype))
        return _arrays.transform(rows.T, _arrays.transform(rows, x, axis), axis).astype(x.dtype)

    def _checked(self, x: Array, axis: int) -> int:
        shape = jnp.shape(x)
        if not -len(shape) <= axis < len(shape) or shape[axis] != self.size:
            raise ValueError(
                f"component {self.name!r} needs an axis of size {self.size}, got shape {shape} at axis {axis}"
            )
        return axis % len(shape)


def vector_component(n: int) -> Isotypic:
    """R^n itself, irreducible and not trivial."""
    return Isotypic("vector", n, 1, n, lambda: np.eye(n)[None])


def trivial_component(n: int) -> Isotypic:
    """R^n as n copies of the trivial representation."""
    return Isotypic("trivial", 1, n, n, lambda: np.eye(n)[:, None, :])


def unit_components(n: int) -> tuple[Isotypic, ...]:
    """R^n as n different one-dimensional representations, one for each coordinate."""
    return tuple(Isotypic(f"unit {i}", 1, 1, n, lambda i=i: np.eye(n)[None, i : i + 1]) for i in range(n))


def permutation_components(n: int) -> tuple[Isotypic, ...]:
    """The trivial and the standard representation of S(n) in R^n."""
    mean = Isotypic("trivial", 1, 1, n, lambda: np.full((1, 1, n), 1 / math.sqrt(n)))
    if n == 1:
        return (mean,)
    return mean, Isotypic("standard", n - 1, 1, n, lambda: complement(np.ones(n)).T[None])


def complement(vector: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the complement of ``vector`` in R^n, shape (n, n - 1), by a reflection."""
    v = np.asarray(vector, np.float64)
    w = v / np.linalg.norm(v)
    w[0] += 1.0 if w[0] >= 0 else -1.0
    return (np.eye(len(v)) - 2 * np.outer(w, w) / (w @ w))[:, 1:]


def tensor(large: Isotypic, small: Isotypic) -> Isotypic:
    """A component of an outer group times a trivial one of an inner group, on the row-major product axis."""

    def rows() -> np.ndarray:
        product = np.einsum("mdh,pek->mpdehk", large.rows(), small.rows())
        return product.reshape(multiplicity, large.dimension, size)

    multiplicity, size = large.multiplicity * small.multiplicity, large.size * small.size
    return Isotypic(large.name, large.dimension, multiplicity, size, rows)


def induced(small: Isotypic, copies: int) -> Isotypic:
    """A nontrivial component of an inner group in all copies, which an outer group permutes: irreducible."""

    def rows() -> np.ndarray:
        basis = np.einsum("hg,mdk->mhdgk", np.eye(copies), small.rows())
        return basis.reshape(small.multiplicity, copies * small.dimension, size)

    size = copies * small.size
    return Isotypic(small.name, copies * small.dimension, small.multiplicity, size, rows)


def in_copy(small: Isotypic, copy: int, copies: int) -> Isotypic:
    """A component of an inner group in one copy of several that stay where they are."""

    def rows() -> np.ndarray:
        basis = np.einsum("g,mdk->mdgk", np.eye(copies)[copy], small.rows())
        return basis.reshape(small.multiplicity, small.dimension, size)

    size = copies * small.size
    return Isotypic(f"{small.name} in copy {copy}", small.dimension, small.multiplicity, size, rows)
