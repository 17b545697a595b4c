"""Matrices R_z that carry the first basis vector to z: what turns a non-zero vector into an element of GL(h).

>>> import jax.numpy as jnp
>>> from eqtoolbox.symmetry._rotations import inverse_rotation_to, rotation_to
>>> z = jnp.array([3.0, 0.0, -4.0])
>>> bool(jnp.allclose(rotation_to(z)[:, 0], z, atol=1e-5))
True
>>> bool(jnp.allclose(inverse_rotation_to(z) @ z, jnp.eye(3)[0], atol=1e-5))
True

Reference:
  Zhao, "Symmetry in Neural Networks" (2026), section 2.4 and appendix A.3.1. The matrix is that of
  Definition A.3.1. The piecewise formula of the main text (and of Example 1.3.5) agrees with it only where no sine
  vanishes, and is singular elsewhere. "The first column is z/|z|" there should read "is z".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def spherical_angles(z: Array) -> Array:
    """The angles a of the (reverse) spherical coordinates of z.

    z_i = |z| cos(a_i) sin(a_1) ... sin(a_{i-1}) with a_h = 0. All angles are in [0, pi] but the last, which
    is in (-pi, pi] and carries the sign of z_h. Where z_i, ..., z_h all vanish, a_i is open and set to 0.

    Args:
      z: a vector, shape (h,).

    Returns:
      The angles, shape (h - 1,); NaN for z = 0. A vector with h = 1 has no angle, and so no sign: see
      ``rotation_to``.

    Raises:
      ValueError: z is not a vector.
    """
    h = _require_vector("spherical_angles", z)
    z, dtype = _floating(z)
    u, norm = _scaled(z)
    _, tail, empty = _tails(u)
    rest = tail[1:]
    if h > 1:
        rest = rest.at[-1].set(u[-1])
    # The guarded arguments keep the derivative finite where an angle is left open.
    angles = jnp.arctan2(rest, jnp.where(empty[:-1], 1, u[:-1]))
    return jnp.where(norm > 0, angles, jnp.nan).astype(dtype)


def rotation(beta: Array) -> Array:
    """The rotation R(beta) in SO(h) of h - 1 angles.

    With beta_0 = beta_h = 0, R_ij = cos(beta_{j-1}) sin(beta_j) ... sin(beta_{i-1}) cos(beta_i) for j <= i,
    -sin(beta_i) for j = i + 1, and 0 beyond.

    Args:
      beta: angles, shape (h - 1,).

    Returns:
      An orthogonal matrix of determinant 1, shape (h, h).

    Raises:
      ValueError: ``beta`` is not a vector.

    Reference:
      Definition A.3.1 and Lemma A.3.2.
    """
    n = _require_vector("rotation", beta, least=0)
    beta, dtype = _floating(beta)
    cosine = jnp.append(jnp.cos(beta), jnp.ones((), beta.dtype))
    sine = jnp.sin(beta)
    # products[j, i] = sin(beta_j) ... sin(beta_{i-1}): no division, so vanishing sines do no harm.
    factors = jnp.where(np.arange(n)[None] >= np.arange(n + 1)[:, None], sine[None], 1)
    products = jnp.concatenate([jnp.ones((n + 1, 1), beta.dtype), lax.cumprod(factors, axis=1)], axis=1)
    return _assemble(products.T * cosine[:, None], cosine, sine).astype(dtype)


def rotation_to(z: Array) -> Array:
    """The matrix R_z = |z| R(a), with a the spherical angles of z: R_z e_1 = z and R_z^T R_z = |z|^2 I.

    Its operator norm is |z|. It is found without trigonometric functions (column j is a normalised tail of
    z), so the first column is z to rounding, for degenerate z too (z_h = 0, z = e_1, ...). For h = 1 it is the
    number z itself, so that a negative one is reached. Entries may be so large or small that their squares are
    out of range; one below the largest by more than the smallest normal number counts as 0.

    R is smooth off a null set and only measurable for h >= 3: where a sine vanishes it jumps (errata of
    Proposition A.3.3: a continuous R would trivialise the tangent bundle of the sphere). The derivative is
    exact where R is smooth, and finite elsewhere.

    Args:
      z: a non-zero vector, shape (h,).

    Returns:
      R_z, shape (h, h). All NaN for z = 0, where there is no such matrix, and where z is not finite.

    Raises:
      ValueError: z is not a vector.

    Reference:
      Proposition A.3.3.
    """
    _require_vector("rotation_to", z)
    z, dtype = _floating(z)
    orthogonal, norm = _polar(z)
    return (norm * orthogonal).astype(dtype)


def inverse_rotation_to(z: Array) -> Array:
    """The inverse of ``rotation_to``: R_z^T / |z|^2, of operator norm 1/|z|; all NaN for z = 0."""
    _require_vector("inverse_rotation_to", z)
    z, dtype = _floating(z)
    orthogonal, norm = _polar(z)
    return (orthogonal.T / norm).astype(dtype)


@jax.jit
def _polar(z: Array) -> tuple[Array, Array]:
    """The orthogonal part R(a) and the norm, in at least float32; NaN for a vanishing or infinite z."""
    h = z.shape[0]
    u, norm = _scaled(z)
    unit, tail, empty = _tails(u)
    if h > 1:
        length = jnp.where(empty, 1, tail)
        cosine = jnp.where(empty, 1, u / length).at[-1].set(1)
        sine = tail[1:].at[-1].set(u[-1]) / length[:-1]
        open_ended = empty.at[-1].set(True)
        unit = _assemble(jnp.where(open_ended[None, :], jnp.eye(h, dtype=u.dtype), unit), cosine, sine)
    defined = (norm > 0) & jnp.isfinite(norm)
    return jnp.where(defined, unit, jnp.nan), norm


def _assemble(below: Array, cosine: Array, sine: Array) -> Array:
    """R from its lower triangle without cos(beta_{j-1}), the h cosines (the last is 1) and the h - 1 sines."""
    before = jnp.roll(cosine, 1)
    return jnp.tril(below) * before[None, :] - jnp.diag(sine, 1)


def _scaled(z: Array) -> tuple[Array, Array]:
    """The vector over its largest entry or so (a constant: no function of degree 0 sees it), and its norm."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(z)))
    # XLA may multiply by the reciprocal, which must not be subnormal.
    scale = jnp.where(largest > 0, jnp.minimum(largest, jnp.finfo(z.dtype).max / 256), 1)
    u = z / scale
    u = jnp.where(jnp.abs(u) < jnp.finfo(z.dtype).tiny, 0, u)
    square = jnp.sum(u * u)
    norm = scale * jnp.sqrt(jnp.where(square > 0, square, 1))
    return u, jnp.where(largest > 0, norm, 0)


def _tails(u: Array) -> tuple[Array, Array, Array]:
    """The tails (u_j, ..., u_h) as unit vectors (columns, shape (h, h)), their norms, and which vanish.

    Each is divided by its own largest entry before it is squared: the entries may differ by any power of ten.
    """
    largest = lax.stop_gradient(lax.cummax(jnp.abs(u), reverse=True))
    empty = largest == 0
    scale = jnp.where(empty, 1, largest)
    ratios = jnp.tril(u[:, None] / scale[None, :])
    squares = jnp.sum(ratios * ratios, axis=0)
    length = jnp.sqrt(jnp.where(empty, 1, squares))
    return ratios / length[None, :], jnp.where(empty, 0, scale * length), empty


def _floating(x: Array) -> tuple[Array, jnp.dtype]:
    """An array in at least float32, and the dtype in which to return the result."""
    x = jnp.asarray(x)
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.result_type(float)
    return x.astype(jnp.promote_types(dtype, jnp.float32)), dtype


def _require_vector(name: str, x: Array, least: int = 1) -> int:
    if jnp.ndim(x) != 1 or jnp.shape(x)[0] < least:
        raise ValueError(f"{name} takes one vector (vmap it for more), got shape {jnp.shape(x)}")
    return jnp.shape(x)[0]
