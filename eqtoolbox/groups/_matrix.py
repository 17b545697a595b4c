"""Groups of matrices: GL(n), O(n), and the subgroups of both that fix a vector."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from eqtoolbox.groups import _arrays
from eqtoolbox.groups._base import Group, Slot, WithInverse, all_true, without_inverse
from eqtoolbox.groups._exponent import Exponent
from eqtoolbox.groups._isotypic import Isotypic, complement, vector_component
from eqtoolbox.groups._log import log_matrix
from eqtoolbox.groups._scaling import LOG_SPREAD

_HIGHEST = jax.lax.Precision.HIGHEST

Matrix = Array | WithInverse  # an element


class MatrixGroup(Group):
    """What the groups of n x n matrices share: an element is the matrix itself, shape (n, n).

    The pair of it and its inverse that ``with_inverse`` makes is an element too. Exponent 1 acts as
    ``new[i] = sum_j g[i, j] old[j]``, exponent -1 with the inverse transpose; a group of orthogonal matrices
    ignores exponents.
    """

    is_orthogonal: ClassVar[bool]

    @property
    def is_compact(self) -> bool:
        return self.is_orthogonal or self.dimension == 0

    def weight(self, space: int, exponent: Exponent) -> int:
        if self.is_orthogonal:
            return 1
        power = exponent.uniform
        if power not in (1, -1):
            raise ValueError(f"{self} acts with exponent 1 or -1 (inverse transpose), got {exponent}")
        return int(power)

    def dual(self, space: int, weight: int) -> int:
        return weight if self.is_orthogonal else -weight

    def identity(self, dtype: DTypeLike | None = None) -> Array:
        return jnp.eye(self.n, dtype=_arrays.float_dtype(dtype))

    def compose(self, a: Matrix, b: Matrix) -> Matrix:
        if isinstance(a, WithInverse) and isinstance(b, WithInverse):
            return WithInverse(_product(a.matrix, b.matrix), _product(a.dual, b.dual))
        return _product(without_inverse(a), without_inverse(b))

    def inverse(self, g: Matrix) -> Matrix:
        if isinstance(g, WithInverse):
            return WithInverse(g.dual.T, g.matrix.T)
        return g.T if self.is_orthogonal else jnp.linalg.inv(g)

    def with_inverse(self, g: Matrix) -> Matrix:
        if self.is_orthogonal or isinstance(g, WithInverse):
            return g
        return WithInverse(g, jnp.linalg.inv(g).T)

    def _contains(self, g: Matrix, tolerance: float) -> Array:
        if isinstance(g, WithInverse):
            product = _product(g.matrix, g.dual.T)
            mutual = jnp.abs(product - jnp.eye(self.n, dtype=product.dtype)) <= tolerance
            return all_true(self._contains(g.matrix, tolerance), mutual)
        g = g.astype(jnp.promote_types(g.dtype, jnp.float32))
        if self.is_orthogonal:
            gram = _product(g, g.T)
            return jnp.all(jnp.abs(gram - jnp.eye(self.n, dtype=g.dtype)) <= tolerance)
        s = jnp.linalg.svd(g, compute_uv=False)
        return all_true(jnp.isfinite(g), s[-1] > s[0] * self.n * jnp.finfo(g.dtype).eps)

    def _act(self, g: Matrix, x: Array, slots: tuple[Slot, ...]) -> Array:
        for slot in slots:
            if slot.weight == 1:
                x = _arrays.transform(without_inverse(g), x, slot.axis)
            elif isinstance(g, WithInverse):
                x = _arrays.transform(g.dual, x, slot.axis)
            else:
                x = _arrays.solve(g.T, x, slot.axis)
        return x

    @abc.abstractmethod
    def matrix(self, xi: Array) -> Array:
        """The n x n matrix of an algebra vector."""

    @abc.abstractmethod
    def coordinates(self, matrix: Array) -> Array:
        """The algebra vector of a matrix in the Lie algebra: the inverse of ``matrix``."""

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        """The shape of an algebra vector."""
        return (self.dimension,)

    def algebra_zero(self, dtype: DTypeLike | None = None) -> Array:
        return jnp.zeros(self.algebra_shape, _arrays.float_dtype(dtype))

    def algebra_sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        xi = jax.random.normal(key, self.algebra_shape, _arrays.float_dtype(dtype))
        return xi / float(np.sqrt(self.n))

    def exp(self, xi: Array) -> Array:
        return jax.scipy.linalg.expm(self.matrix(xi))

    def log(self, g: Matrix) -> Array:
        if self.dimension == 0:
            return super().log(g)
        return self.coordinates(log_matrix(without_inverse(g)))

    def _tangent(self, xi: Array, x: Array, slots: tuple[Slot, ...]) -> Array:
        m, total = self.matrix(xi), jnp.zeros_like(x)
        for slot in slots:
            total = total + _arrays.transform(m if slot.weight == 1 else -m.T, x, slot.axis)
        return total


@dataclass(frozen=True)
class GeneralLinear(MatrixGroup):
    """The group GL(n) of invertible real matrices.

    Exponent 1 acts as ``new[i] = sum_j g[i, j] old[j]``, exponent -1 with the inverse transpose. Sampled as
    Q1 diag(exp u) Q2 with Q1, Q2 Haar orthogonal and u uniform in [-log 2, log 2]: condition number at most
    4, both signs of the determinant. An algebra vector is any matrix, shape (n, n); its random entries are
    normal of variance 1/n. Not compact: averages over the group go through O(n).

    Attributes:
      n: the number of units.
    """

    n: int
    is_orthogonal: ClassVar[bool] = False

    @property
    def dimension(self) -> int:
        return self.n**2

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (self.n, self.n)

    def compact(self) -> Orthogonal:
        return Orthogonal(self.n)

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        turn, spread = jax.random.split(key)
        dtype = _arrays.float_dtype(dtype)
        u = jax.random.uniform(spread, (self.n,), dtype, -LOG_SPREAD, LOG_SPREAD)
        q1, q2 = jax.random.orthogonal(turn, self.n, (2,), dtype)
        return _product(q1 * jnp.exp(u)[None, :], q2)

    def matrix(self, xi: Array) -> Array:
        return xi

    def coordinates(self, matrix: Array) -> Array:
        return matrix

    def _isotypic(self, weight: int) -> tuple[Isotypic, ...]:
        return (vector_component(self.n),)

    def __str__(self) -> str:
        return f"GL({self.n})"


@dataclass(frozen=True)
class Orthogonal(MatrixGroup):
    """The group O(n). An element is an orthogonal matrix, sampled from Haar measure.

    An algebra vector holds the n(n-1)/2 entries above the diagonal of a skew matrix, row by row; at random
    they are normal of variance 1/n. Exponents are ignored: the inverse transpose of an orthogonal matrix is
    itself. Rotations by less than π have a logarithm, reflections none.

    Attributes:
      n: the number of units.
    """

    n: int
    is_orthogonal: ClassVar[bool] = True

    @property
    def dimension(self) -> int:
        return self.n * (self.n - 1) // 2

    @property
    def order(self) -> int | None:
        return 2 if self.n == 1 else None

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        return jax.random.orthogonal(key, self.n, dtype=_arrays.float_dtype(dtype))

    def matrix(self, xi: Array) -> Array:
        return skew(xi, self.n)

    def coordinates(self, matrix: Array) -> Array:
        return skew_coordinates(matrix)

    def _isotypic(self, weight: int) -> tuple[Isotypic, ...]:
        return (vector_component(self.n),)

    def _elements(self) -> Array:
        return jnp.array([[[1.0]], [[-1.0]]])

    def __str__(self) -> str:
        return f"O({self.n})"


@dataclass(frozen=True)
class Stabiliser(MatrixGroup):
    """The matrices of GL(n) or O(n) that fix a vector v: A v = v.

    ``Stabiliser(Orthogonal(n))`` fixes the all-ones vector and is isomorphic to O(n-1): what a mean over the
    axis leaves of O(n). With exponent -1 the inverse transpose acts, which fixes the functional vᵀ instead.

    In O(n) an algebra vector holds the (n-1)(n-2)/2 entries above the diagonal of a skew matrix on the
    complement of v; in GL(n) it is an (n, n-1) matrix X, whose generator is X Nᵀ with N an orthonormal basis
    of the complement; random entries are normal of variance 1/n. Sampled as A = u uᵀ + N B Nᵀ + u (N s)ᵀ with
    u = v/|v|, B a sample of the group of the complement and, in GL(n), s normal of variance 1/n: Haar in
    O(n), well conditioned in GL(n).

    Attributes:
      of: the full group.
      vector: v as a tuple of n numbers; None for the all-ones vector.
    """

    of: GeneralLinear | Orthogonal
    vector: tuple[float, ...] | None = None

    def __post_init__(self):
        if not isinstance(self.of, (GeneralLinear, Orthogonal)):
            raise TypeError(f"Stabiliser: the group must be GeneralLinear or Orthogonal, got {self.of!r}")
        if self.vector is not None:
            v = np.asarray(self.vector, np.float64)
            if v.shape != (self.of.n,) or not np.all(np.isfinite(v)) or not np.any(v):
                raise ValueError(f"Stabiliser: need {self.of.n} finite numbers, not all 0; got {self.vector}")
            object.__setattr__(self, "vector", tuple(v.tolist()))

    @property
    def n(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The number of units."""
        return self.of.n

    @property
    def is_orthogonal(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether its matrices are orthogonal."""
        return self.of.is_orthogonal

    @property
    def fixed(self) -> np.ndarray:
        """The vector v, shape (n,)."""
        return np.ones(self.n) if self.vector is None else np.asarray(self.vector)

    @property
    def dimension(self) -> int:
        m = self.n - 1
        return m * (m - 1) // 2 if self.is_orthogonal else self.n * m

    @property
    def order(self) -> int | None:
        return 1 if self.n == 1 else 2 if self.n == 2 and self.is_orthogonal else None

    @property
    def algebra_shape(self) -> tuple[int, ...]:
        return (self.dimension,) if self.is_orthogonal else (self.n, self.n - 1)

    def compact(self) -> Stabiliser:
        return Stabiliser(Orthogonal(self.n), self.vector)

    def fixes_constants(self, space: int, weight: int) -> bool:
        return len(set(self.fixed)) == 1 and weight == 1

    def sample(self, key: Array, dtype: DTypeLike | None = None) -> Array:
        dtype = _arrays.float_dtype(dtype)
        if self.n == 1:
            return jnp.ones((1, 1), dtype)
        block_key, shear_key = jax.random.split(key)
        basis, unit = self._frame(dtype)
        block = type(self.of)(self.n - 1).sample(block_key, dtype)
        g = _conjugate(basis, block) + jnp.outer(unit, unit)
        if self.is_orthogonal:
            return g
        shear = jax.random.normal(shear_key, (self.n - 1,), dtype) / float(np.sqrt(self.n))
        return g + jnp.outer(unit, _product(basis, shear))

    def _contains(self, g: Matrix, tolerance: float) -> Array:
        unit, matrix = self.fixed / np.linalg.norm(self.fixed), without_inverse(g)
        v = jnp.asarray(unit, jnp.promote_types(matrix.dtype, jnp.float32))
        fixes = jnp.abs(_product(matrix, v) - v) <= tolerance
        return all_true(super()._contains(g, tolerance), fixes)

    def matrix(self, xi: Array) -> Array:
        basis, _ = self._frame(xi.dtype)
        if self.is_orthogonal:
            return _conjugate(basis, skew(xi, self.n - 1))
        return _product(xi, basis.T)

    def coordinates(self, matrix: Array) -> Array:
        basis, _ = self._frame(matrix.dtype)
        right = _product(matrix, basis)
        if self.is_orthogonal:
            return skew_coordinates(_product(basis.T, right))
        return right

    def _isotypic(self, weight: int) -> tuple[Isotypic, ...]:
        """The line of v and its complement; in GL(n) the complement has no complement that is invariant."""
        if self.dimension and not self.is_orthogonal:
            raise TypeError(f"{self} is not a sum of irreducible pieces; use those of its compact() subgroup")
        v = self.fixed / np.linalg.norm(self.fixed)
        line = Isotypic("trivial", 1, 1, self.n, lambda: v[None, None])
        if self.n == 1:
            return (line,)
        return line, Isotypic("vector", self.n - 1, 1, self.n, lambda: complement(v).T[None])

    def _frame(self, dtype) -> tuple[Array, Array]:
        v = self.fixed
        return jnp.asarray(complement(v), dtype), jnp.asarray(v / np.linalg.norm(v), dtype)

    def _elements(self) -> Array:
        basis, unit = self._frame(_arrays.float_dtype(None))
        line = jnp.outer(unit, unit)
        if self.n == 1:
            return line[None]
        reflected = _product(basis, basis.T)
        return jnp.stack([line + reflected, line - reflected])

    def __str__(self) -> str:
        return f"{self.of} fixing {'1' if self.vector is None else 'v'}"


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=_HIGHEST)


def skew(xi: Array, n: int) -> Array:
    """The skew matrix with the entries ``xi`` above the diagonal, row by row."""
    i, j = np.triu_indices(n, 1)
    upper = jnp.zeros((n, n), xi.dtype).at[i, j].set(xi, unique_indices=True)
    return upper - upper.T


def skew_coordinates(matrix: Array) -> Array:
    """The entries above the diagonal of the skew part of ``matrix``, row by row."""
    i, j = np.triu_indices(matrix.shape[-1], 1)
    return ((matrix - matrix.T) / 2)[i, j]


def _conjugate(basis: Array, block: Array) -> Array:
    """The product basis @ block @ basis.T."""
    left = _product(basis, block)
    return _product(left, basis.T)
