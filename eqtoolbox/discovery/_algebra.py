"""The Lie algebra of the generators found: structure constants, closure, and what kind of algebra it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.discovery._equations import draw_params
from eqtoolbox.discovery._families import Family, check_fits, real_leaves, with_real
from eqtoolbox.discovery._null_space import NullSpace
from eqtoolbox.linalg import float64, random_like, stack_vdot

Params = Any

#: Random vectors that brackets are paired with, at each point.
_VECTORS = 16
_MOST = 64


@dataclass(frozen=True)
class LieAlgebra:
    """k generators under the bracket [ξ_a, ξ_b] = Dξ_a ξ_b − Dξ_b ξ_a, the commutator of linear fields.

    With the other sign, Dξ_b ξ_a − Dξ_a ξ_b, it is the bracket of vector fields: [ξ_h, ξ_k] = −ξ_[h,k] for a left
    action.

    Attributes:
      constants: f with [ξ_a, ξ_b] ≈ Σ_c f[a, b, c] ξ_c, shape (k, k, k), in the basis of ``NullSpace.basis``.
      residual: the largest |[ξ_a, ξ_b] − Σ_c f ξ_c| relative to |Dξ_a ξ_b| + |Dξ_b ξ_a|: 0 for a Lie algebra.
      jacobi: the largest entry of the Jacobi identity on ``constants``.
    """

    constants: np.ndarray = field(repr=False)
    residual: float
    jacobi: float

    @property
    def dimension(self) -> int:
        """The number k of generators."""
        return len(self.constants)

    @property
    def is_abelian(self) -> bool:
        """Whether all brackets vanish."""
        return bool(np.all(np.abs(self.constants) < 1e-8))

    @property
    def derived(self) -> int:
        """The dimension of the derived algebra, spanned by all brackets."""
        k = self.dimension
        return _count(np.linalg.svd(self.constants.reshape(k * k, k), compute_uv=False)) if k else 0

    @property
    def centre(self) -> int:
        """The dimension of the centre: what commutes with all."""
        k = self.dimension
        return k - _count(np.linalg.svd(self.constants.reshape(k, k * k), compute_uv=False)) if k else 0

    @property
    def killing(self) -> tuple[int, int, int]:
        """The numbers of positive, negative and zero eigenvalues of the Killing form tr(ad_a ad_b).

        Negative on the compact directions of a semisimple algebra: (0, 3, 0) for so(3), (2, 1, 1) for gl(2).
        """
        form = np.einsum("acd,bdc->ab", self.constants, self.constants)
        values = np.linalg.eigvalsh(form) if form.size else np.zeros(0)
        cut = 1e-8 * max(np.abs(values).max(initial=0.0), np.abs(self.constants).max(initial=0.0) ** 2)
        positive, negative = int(np.sum(values > cut)), int(np.sum(values < -cut))
        return positive, negative, len(values) - positive - negative

    def __str__(self) -> str:
        kind = "abelian" if self.is_abelian else f"derived algebra {self.derived}, centre {self.centre}"
        return f"algebra of dimension {self.dimension}: {kind}; closure residual {self.residual:.1e}"


def _count(values: np.ndarray) -> int:
    return int(np.sum(values > 1e-8 * max(1.0, values.max(initial=0.0)))) if values.size else 0


def lie_algebra(found: NullSpace, params: Params, data: Any = None, *, key: Array) -> LieAlgebra:
    """Structure constants and closure of the generators found, by forward derivatives of the fields.

    Both sides of [ξ_a, ξ_b] = Σ_c f_abc ξ_c are paired with the same random vectors at the same random points; the
    least squares on these numbers is the one on the fields. All symmetries of a function that lie in gl close; those
    of a family that is no algebra need not, and the residual says so.

    Args:
      found: from ``null_space``.
      params: the parameters θ, for their scale.
      data: X, for a family that depends on data.
      key: a typed key.

    Returns:
      The algebra, in the basis ``found.basis``.

    Raises:
      ValueError: there are more than 64 generators, whose pairs are too many; or the family does not fit the
        parameters or the data.
    """
    k = found.dimension
    if k > _MOST:
        raise ValueError(f"lie_algebra takes up to {_MOST} generators, got {k}: restrict the family")
    if not k:
        return LieAlgebra(np.zeros((0, 0, 0)), 0.0, 0.0)
    check_fits(found.family, params, data)
    points = -(-(2 * k + 16) // _VECTORS) + 1
    first, second = (np.asarray(i) for i in np.triu_indices(k, 1))
    with float64(params, data, found.basis) as (p, x, basis):
        keys = jax.random.split(key, points)
        drawn = _paired(found.family, p, x, basis, keys, jnp.asarray(first), jnp.asarray(second))
        fields, forward, backward = (np.asarray(a) for a in drawn)
    system = fields.transpose(0, 2, 1).reshape(-1, k)
    constants = np.zeros((k, k, k))
    if not len(first):
        return LieAlgebra(constants, 0.0, 0.0)
    f, b = (a.transpose(0, 2, 1).reshape(-1, len(first)) for a in (forward, backward))
    solution = np.linalg.lstsq(system, f - b, rcond=None)[0]
    errors = np.linalg.norm(system @ solution - (f - b), axis=0)
    size = np.linalg.norm(f, axis=0) + np.linalg.norm(b, axis=0)
    residual = float(np.max(errors / np.where(size > 0, size, 1)))
    constants[first, second], constants[second, first] = solution.T, -solution.T
    constants[np.abs(constants) < 1e-10] = 0
    cycle = np.einsum("abe,ecd->abcd", constants, constants)
    jacobi = cycle + cycle.transpose(1, 2, 0, 3) + cycle.transpose(2, 0, 1, 3)
    return LieAlgebra(constants, residual, float(np.abs(jacobi).max()))


@partial(jax.jit, static_argnames=("family",))
def _paired(
    family: Family, params: Params, data: Any, basis: Array, keys: Array, first: Array, second: Array
) -> tuple[Array, Array, Array]:
    """At each point: ⟨v, ξ_a⟩, ⟨v, Dξ_a ξ_b⟩ and ⟨v, Dξ_b ξ_a⟩ for the pairs (a, b)."""

    def point(key: Array) -> tuple[Array, Array, Array]:
        k_params, k_vectors = jax.random.split(key)
        theta = draw_params(k_params, params, 1.0, 0.0)
        own = real_leaves(theta)
        vectors = jax.vmap(lambda k: random_like(k, own))(jax.random.split(k_vectors, _VECTORS))
        xi = lambda c, p: real_leaves(family.field(c, with_real(theta, p), data))  # noqa: E731
        fields = jax.lax.map(lambda c: stack_vdot(vectors, xi(c, own)), basis)

        def along(c: Array, other: Array) -> Array:
            moved = jax.jvp(lambda p: xi(c, p), (own,), (xi(other, own),))[1]
            return stack_vdot(vectors, moved)

        def pair(index: tuple[Array, Array]) -> tuple[Array, Array]:
            c, d = basis[index[0]], basis[index[1]]
            return along(c, d), along(d, c)

        if not len(first):
            empty = jnp.zeros((0, _VECTORS))
            return fields, empty, empty
        return fields, *jax.lax.map(pair, (first, second))

    return jax.lax.map(point, keys)
