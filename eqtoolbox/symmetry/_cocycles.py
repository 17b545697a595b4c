"""Cocycles c(g, Z): how the features sigma(Z) of a hidden layer move when its pre-activations move to g Z.

A linear symmetry has sigma(g z) = pi(g) sigma(z), which few activations satisfy, for small groups. Letting
the right hand side depend on the data, sigma(g Z) = c(g, Z) sigma(Z), gives every activation a GL(h): the
outgoing weights of the layer are multiplied by c(g, Z)^-1. What makes this a group action is

    c(1, Z) = 1,    c(g1, g2 Z) c(g2, Z) = c(g1 g2, Z).

Samples are rows, as in Flax: Z has shape (k, h), or (h,) for one sample, and g Z is ``Z @ g.T``.

Reference:
  Zhao, "Symmetry in Neural Networks" (2026), section 2.4 ("general equivariance", equation 2.9) and appendix
  A.3.4 (equations A.18-A.20).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eqtoolbox.linalg import scan
from eqtoolbox.symmetry._rotations import inverse_rotation_to, rotation_to

Activation = Callable[[Array], Array]

_HIGHEST = lax.Precision.HIGHEST


class Laws(NamedTuple):
    """Which identities hold for generic pre-activations of k samples in h units.

    Attributes:
      unit: c(1, Z) = 1 (A.18).
      composition: c(g1, g2 Z) c(g2, Z) = c(g1 g2, Z) (A.19).
      equivariance: c(g, Z) sigma(Z) = sigma(g Z) (2.9, A.20), so that the outputs are preserved.
    """

    unit: bool
    composition: bool
    equivariance: bool

    @property
    def group_action(self) -> bool:
        """Whether the map on parameters satisfies the axioms of a group action."""
        return self.unit and self.composition


@dataclass(frozen=True)
class Cocycle:
    """A map c(g, Z) into the matrices of the hidden layer, for one activation.

    Made by ``linear_cocycle``, ``rotation_cocycle``, ``batch_cocycle`` and ``pseudo_inverse_map``. It is static
    and hashable; two are equal when they are of one kind and have the same activation.

    Attributes:
      name: the kind.
      activation: sigma, on the last axis of an array.
      representation: pi of a linear cocycle, None for the others.
      between: (A, B) -> a matrix M with M A = B, for features as columns (h, k); None for a linear cocycle.
      regular: A -> whether ``between`` is defined at the features A.
      laws: (k, h) -> ``Laws``.
    """

    name: str
    activation: Activation
    representation: Callable[[Array], Array] | None = None
    between: Callable[[Array, Array], Array] | None = field(default=None, compare=False, repr=False)
    regular: Callable[[Array], Array] | None = field(default=None, compare=False, repr=False)
    laws: Callable[[int, int], Laws] = field(
        default=lambda k, h: Laws(True, True, True), compare=False, repr=False
    )

    def __call__(self, g: Array, z: Array) -> Array:
        """The matrix c(g, Z), which moves features as ``sigma(Z) @ c.T``.

        Args:
          g: a matrix, shape (h, h).
          z: pre-activations, shape (h,) or (k, h).

        Returns:
          A matrix, shape (h, h), in at least float32; NaN where it is not defined, see ``defined``.

        Raises:
          ValueError: the shapes do not fit, or there are too many samples for this kind of cocycle.
        """
        g, z = _arguments(self.name, g, z)
        if self.representation is not None:
            return self.representation(g)
        assert self.between is not None
        return self.between(self._features(z), self._features(_move(g, z)))

    def inverse(self, g: Array, z: Array) -> Array:
        """What multiplies the outgoing weights: c(g, Z)^-1 = c(g^-1, g Z), shape (h, h).

        It carries sigma(g Z) back to sigma(Z). No matrix is inverted but that of a linear cocycle. For
        ``pseudo_inverse_map`` this is pi(g, Z) of equation 2.54, which need not be invertible.
        """
        g, z = _arguments(self.name, g, z)
        if self.representation is not None:
            return jnp.linalg.inv(self.representation(g))
        assert self.between is not None
        return self.between(self._features(_move(g, z)), self._features(z))

    def tangent(self, m: Array, z: Array) -> Array:
        """The derivative of c(exp(t M), Z) at t = 0, shape (h, h); d pi(M) for a linear cocycle.

        Where sigma is differentiable and (2.9) holds, (d sigma)_z (M z) = tangent(M, z) sigma(z) (A.11).
        """
        m, z = _arguments(self.name, m, z)
        one = jnp.eye(m.shape[0], dtype=m.dtype)
        return jax.jvp(lambda g: self(g, z), (one,), (m,))[1]

    def defined(self, g: Array, z: Array) -> Array:
        """Whether c(g, Z) is defined: a boolean scalar, usable under ``jit``.

        False where the features of Z or of g Z vanish (rotation) or have deficient rank (batch, pseudo-inverse).
        """
        g, z = _arguments(self.name, g, z)
        if self.regular is None:
            return jnp.asarray(True)
        return self.regular(self._features(z)) & self.regular(self._features(_move(g, z)))

    def residual(self, g: Array, z: Array) -> Array:
        """The relative error of c(g, Z) sigma(Z) = sigma(g Z), with which to test a linear cocycle."""
        g, z = _arguments(self.name, g, z)
        moved = self._features(_move(g, z))
        error = jnp.matmul(self(g, z), self._features(z), precision=_HIGHEST) - moved
        return jnp.max(jnp.abs(error)) / jnp.max(jnp.abs(moved))

    def _features(self, z: Array) -> Array:
        """sigma(Z) as columns, shape (h, k)."""
        return self.activation(z).T


def linear_cocycle(activation: Activation, representation: Callable[[Array], Array] | None = None) -> Cocycle:
    """The cocycle c(g, Z) = pi(g) of an equivariant activation: sigma(g z) = pi(g) sigma(z), any batch.

    The caller vouches for that equation on the group it is used with (``Cocycle.residual`` tests it):
    LeakyReLU and positive diagonal matrices with pi(g) = g, relu(z)^p with pi(g) = g^p, a radial activation
    and O(h), any pointwise activation and permutations.

    Args:
      activation: sigma, on the last axis.
      representation: pi, from matrices (h, h) to matrices (h, h), multiplicative; the identity map when None.

    Reference:
      Equations 2.4 and A.9. The printed "iff" holds in one direction only: equivariance is sufficient. It is
      necessary when the outputs are to be kept for all outgoing weights and all inputs.
    """
    return Cocycle("linear", activation, _itself if representation is None else representation)


def rotation_cocycle(activation: Activation) -> Cocycle:
    """The cocycle c(g, z) = R_{sigma(g z)} R_{sigma(z)}^-1 of one sample, for all of GL(h).

    It needs sigma(z) != 0 for all z != 0 (tanh, LeakyReLU, GELU, ...), and for all z (sigmoid) to be defined
    everywhere; otherwise where z != 0. ReLU is refused. Its operator norm is |sigma(g z)| / |sigma(z)|.

    Raises:
      ValueError: the activation vanishes at a vector that is not 0.

    Reference:
      Theorems 2.4.1 and A.3.4.
    """
    _refuse_vanishing("rotation_cocycle", activation)

    def between(a: Array, b: Array) -> Array:
        return jnp.matmul(rotation_to(b[:, 0]), inverse_rotation_to(a[:, 0]), precision=_HIGHEST)

    def laws(k: int, h: int) -> Laws:
        if k != 1:
            raise ValueError(
                f"rotation_cocycle is for one sample, got {k}: batch_cocycle takes up to h = {h} of them"
            )
        return Laws(True, True, True)

    return Cocycle("rotation", activation, None, _checked(between, laws), _not_zero, laws)


def batch_cocycle(activation: Activation) -> Cocycle:
    """The cocycle c(g, Z) = E(sigma(g Z)) E(sigma(Z))^-1 of up to h samples, for all of GL(h).

    E(A) = [A | N(A)] completes the features, as columns of A, by an orthonormal basis N(A) of the complement
    of their span (from k Householder reflections: differentiable off a null set). Exact where the features of
    Z and of g Z have rank k. No common activation keeps the rank of *every* matrix (Example A.3.7), but it
    does so for almost every one. For k > h GL(h) is not transitive and no such cocycle exists.

    Raises:
      ValueError: the activation vanishes at a vector that is not 0.

    Reference:
      Lemma A.3.6, whose proof is omitted there; its domain should be the Z with sigma(Z) and sigma(g Z) of
      full rank, not all non-zero Z.
    """
    _refuse_vanishing("batch_cocycle", activation)

    def between(a: Array, b: Array) -> Array:
        matrix = jnp.matmul(b, _left_inverse(a), precision=_HIGHEST)
        if a.shape[1] < a.shape[0]:
            matrix += jnp.matmul(_complement(b), _complement(a).T, precision=_HIGHEST)
        return jnp.where(_full_rank(a) & _full_rank(b), matrix, jnp.nan)

    def laws(k: int, h: int) -> Laws:
        if k > h:
            raise ValueError(
                f"batch_cocycle takes at most as many samples as units, got {k} samples and {h} units: "
                "GL(h) cannot carry more than h feature vectors to where they should go"
            )
        return Laws(True, True, True)

    return Cocycle("batch", activation, None, _checked(between, laws), _full_rank, laws)


def pseudo_inverse_map(activation: Activation) -> Cocycle:
    """The map pi(g, H) = sigma(H) sigma(g H)^+ on the outgoing weights, of the ensembles of section 2.9.

    It is NOT a cocycle unless k = h, so that it does not give a group action; ``Cocycle.laws`` says what holds:

    ========  =======================================  ===========  ========================
    samples   unit                                     composition  outputs
    ========  =======================================  ===========  ========================
    k < h     fails: pi(1, H) is a projector, rank k   holds        exact
    k = h     holds                                    holds        exact
    k > h     holds                                    fails        nearest in least squares
    ========  =======================================  ===========  ========================

    ``batch_cocycle`` is exact and a group action for all k <= h.

    Reference:
      Equation 2.54, which is not the c^-1 of Theorem 2.4.1.
    """

    def between(a: Array, b: Array) -> Array:
        return jnp.matmul(b, jnp.linalg.pinv(a), precision=_HIGHEST)

    def laws(k: int, h: int) -> Laws:
        return Laws(unit=k >= h, composition=k <= h, equivariance=k <= h)

    return Cocycle("pseudo-inverse", activation, None, between, _full_rank, laws)


def _itself(g: Array) -> Array:
    return g


def _move(g: Array, z: Array) -> Array:
    """The pre-activations g Z, with samples as rows."""
    return jnp.matmul(z, g.T, precision=_HIGHEST)


def _arguments(name: str, g: Array, z: Array) -> tuple[Array, Array]:
    """Both in one dtype of at least float32, Z of shape (k, h)."""
    g, z = jnp.asarray(g), jnp.asarray(z)
    if z.ndim not in (1, 2) or g.shape != z.shape[-1:] * 2:
        raise ValueError(
            f"{name} cocycle: need g of shape (h, h) and z of shape (h,) or (k, h), got {g.shape}, {z.shape}"
        )
    dtype = jnp.result_type(jnp.float32, g.dtype, z.dtype)
    return g.astype(dtype), jnp.atleast_2d(z).astype(dtype)


def _checked(between: Callable[[Array, Array], Array], laws: Callable[[int, int], Laws]):
    """``between`` after the check of the number of samples that ``laws`` makes."""

    def checked(a: Array, b: Array) -> Array:
        laws(a.shape[1], a.shape[0])
        return between(a, b)

    return checked


def _not_zero(a: Array) -> Array:
    return jnp.all(jnp.isfinite(a)) & jnp.any(a != 0)


@jax.jit
def _full_rank(a: Array) -> Array:
    """Whether the rank of ``a`` is the smaller of its sizes, to rounding; a constant of differentiation."""
    s = jnp.linalg.svd(lax.stop_gradient(a), compute_uv=False)
    return (s[-1] > s[0] * max(a.shape) * jnp.finfo(a.dtype).eps) & jnp.all(jnp.isfinite(a))


@jax.jit
def _left_inverse(a: Array) -> Array:
    """The pseudo-inverse R^-1 Q^T of a matrix (h, k) of rank k <= h."""
    q, r = jnp.linalg.qr(a)
    return jax.scipy.linalg.solve_triangular(r, q.T)


@jax.jit
def _complement(a: Array) -> Array:
    """An orthonormal basis of the complement of the columns of ``a`` (h, k), shape (h, h - k).

    The last columns of the product of the k Householder reflections that triangularise ``a``. Written out,
    because JAX does not differentiate a complete QR.
    """
    h, k = a.shape
    rows = jnp.arange(h)

    def reduce(columns: Array, j: Array) -> tuple[Array, Array]:
        x = jnp.where(rows >= j, jnp.take(columns, j, axis=1), 0)
        sign = jnp.where(jnp.take(x, j) < 0, -1, 1).astype(x.dtype)
        v = x.at[j].add(sign * jnp.linalg.norm(x))
        v = v / jnp.linalg.norm(v)
        return _reflect(v, columns), v

    _, vectors = lax.scan(reduce, a, jnp.arange(k))
    last = jnp.eye(h, dtype=a.dtype)[:, k:]
    return scan(lambda q, v: (_reflect(v, q), None), last, vectors, reverse=True)[0]


def _reflect(v: Array, x: Array) -> Array:
    """(I - 2 v v^T) x for a unit vector v."""
    return x - 2 * jnp.outer(v, jnp.matmul(v, x, precision=_HIGHEST))


def _refuse_vanishing(name: str, activation: Activation) -> None:
    """Raises ValueError where sigma(z) = 0 at one of some z != 0 of moderate size (ReLU, hard shrinkage)."""
    signs = 2 * np.indices((2,) * 4).reshape(4, -1).T - 1
    directions = np.concatenate([signs, np.eye(4), -np.eye(4)])
    with jax.ensure_compile_time_eval():
        for scale in (0.1, 1.0, 4.0):
            z = jnp.asarray(scale * directions, jnp.float32)
            empty = np.asarray(jnp.all(activation(z) == 0, axis=-1))
            if empty.any():
                at = [round(float(v), 3) for v in np.asarray(z)[empty][0]]
                raise ValueError(
                    f"{name} needs an activation with sigma(z) != 0 for z != 0, but it vanishes at z = {at} "
                    "(as ReLU does wherever no unit is active): use linear_cocycle with positive scalings"
                )
