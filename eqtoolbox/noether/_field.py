"""Charges of any equivariance: which generator fields are gradients, and of what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.identities import characteristic_direction, first_order
from eqtoolbox.linalg import basis, random_stack, ravel_stack, tree_norm, tree_vdot, unravel_stack
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any

#: Nodes of the line integral: exact for fields that are polynomials of degree up to 31.
NODES = 16


def field_charge_fn(
    eq: Equivariance, *, direction: Tree | None = None, origin: Tree | None = None, nodes: int = NODES
) -> Callable[[Tree], Array]:
    """The charge of equation (5): C with ∇C = X, X the field ∂_λH(·, λ₀) v of an equivariance.

    C(θ) = ∫₀¹ ⟨θ - o, X(o + t(θ - o))⟩ dt, which is a charge where the Jacobian of X is symmetric
    (``asymmetry``) on the segments from the origin o; C(o) = 0. For a linear field it is ½⟨θ, Xθ⟩.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Equivariance
    >>> rescale = Equivariance(lambda p, s: (p[0] * jnp.exp(s), p[1] * jnp.exp(-s)), identity=0.0)
    >>> round(float(field_charge_fn(rescale)((jnp.array([3.0]), jnp.array([1.0])))), 4)
    4.0

    Args:
      eq: an equivariance with an identity. Where its outputs move too, C is not conserved: see ``flow_rate``.
      direction: v, a tangent at λ₀; may be left out where λ is one number.
      origin: o, like the parameters; 0 when None.
      nodes: of the Gauss-Legendre rule.

    Returns:
      A function of θ to a number.

    Raises:
      ValueError: the equivariance names no identity, or λ has several numbers and there is no direction.

    Reference:
      Yang & Ziyin, equation (5): C exists if and only if the Jacobian is symmetric (Poincaré's lemma).
    """
    v = _direction(eq, direction)
    points, weights = np.polynomial.legendre.leggauss(nodes)

    def charge(params: Tree) -> Array:
        start = jax.tree.map(jnp.zeros_like, params) if origin is None else origin
        offset = jax.tree.map(jnp.subtract, params, start)

        def integrand(t: Array) -> Array:
            at = jax.tree.map(lambda o, d: o + t.astype(d.dtype) * d, start, offset)
            return tree_vdot(offset, characteristic_direction(eq, at, directions=v).value)

        values = jax.vmap(integrand)(jnp.asarray((points + 1) / 2, jnp.result_type(float)))
        return jnp.sum(jnp.asarray(weights / 2, values.dtype) * values)

    return charge


def _direction(eq: Equivariance, direction: Tree | None) -> Tree:
    point = _identity(eq)
    if direction is not None:
        return direction
    size = sum(leaf.size for leaf in jax.tree.leaves(point))
    if size != 1:
        raise ValueError(f"λ has {size} numbers: choose a direction v in it")
    return jax.tree.map(jnp.ones_like, point)


def asymmetry(
    eq: Equivariance | Symmetry,
    params: Tree,
    *,
    directions: Tree | None = None,
    key: Array,
    probes: int = 4,
) -> Array:
    """How far the Jacobian J of each generator field is from symmetric at θ: 0 for those with a charge.

    ‖(J - Jᵀ)u‖ / (‖Ju‖ + ‖Jᵀu‖) over random u; 1 for an antisymmetric one, 0 for a constant field.

    Args:
      eq: an equivariance with an identity, or a symmetry with generators.
      params: θ.
      directions: tangents at λ₀, stacked along a leading axis; every basis vector of λ when None.
      key: a typed key of the probes.
      probes: their number.

    Returns:
      One number for each direction.

    Raises:
      TypeError: a discrete symmetry.
      ValueError: the equivariance names no identity.
    """
    apart, size = _antisymmetric(eq, params, directions, key, probes)
    norms = jax.vmap(tree_norm)(apart)
    return norms / jnp.where(size > 0, size, 1)


class ChargedDirections(NamedTuple):
    """The combinations of generators of an equivariance whose Jacobian is symmetric.

    Attributes:
      directions: orthonormal tangents at λ₀, a stack of as many as there are charges.
      singular_values: of the map from tangents to antisymmetric parts, relative to the size of the generators:
        zero, up to rounding, as often as there are charges.
    """

    directions: Tree
    singular_values: np.ndarray


def charged_directions(
    eq: Equivariance | Symmetry, params: Tree, *, key: Array, probes: int = 4, tolerance: float | None = None
) -> ChargedDirections:
    """Which combinations of the generators have a symmetric Jacobian, and hence a charge (EQ-5.2).

    For a ``Symmetry`` the answer is known without measuring: ``charged``. For any other equivariance it is the
    null space of the map from tangents v at λ₀ to the antisymmetric part of the Jacobian of X v at a generic θ. One
    point decides for a linear action; a field that is not linear should be looked at in several.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox import Equivariance
    >>> turn = lambda p, lam: jax.scipy.linalg.expm(lam) @ p                # GL(2) on vectors, λ a 2 x 2 matrix
    >>> found = charged_directions(Equivariance(turn, identity=jnp.zeros((2, 2))), jnp.ones(2), key=jax.random.key(0))
    >>> found.directions.shape
    (3, 2, 2)

    Args:
      eq: an equivariance with an identity, or a symmetry with generators.
      params: θ.
      key: a typed key of the probes.
      probes: how many random vectors the antisymmetric parts act on.
      tolerance: relative singular values below it count as zero; by default 1000 roundings.

    Returns:
      A ``ChargedDirections``; not for ``jit``.

    Raises:
      TypeError: a discrete symmetry.
      ValueError: the equivariance names no identity.
    """
    point = _identity(eq)
    apart, size = _antisymmetric(eq, params, None, key, probes)
    matrix = np.asarray(ravel_stack(apart), np.float64)
    scale = float(jnp.max(size, initial=0)) or 1.0
    u, s, _ = np.linalg.svd(matrix / scale)
    values = np.zeros(len(matrix))
    values[: len(s)] = s
    if tolerance is None:
        tolerance = 1e3 * float(jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).eps)
    null = u[:, values <= tolerance].T
    return ChargedDirections(unravel_stack(jnp.asarray(null, jnp.result_type(float)), point), values)


def _identity(eq: Equivariance | Symmetry) -> Tree:
    if isinstance(eq, Symmetry):
        return eq.zero_algebra()
    if eq.identity is None:
        raise ValueError("a charge needs the identity λ₀ of the equivariance: Equivariance(..., identity=λ₀)")
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), eq.identity)


def _antisymmetric(
    eq: Equivariance | Symmetry, params: Tree, directions: Tree | None, key: Array, probes: int
) -> tuple[Tree, Array]:
    """(J - Jᵀ)u for each direction and probe u, a stack of trees with a second axis; ‖Ju‖ + ‖Jᵀu‖ over the probes."""
    stack = basis(_identity(eq)) if directions is None else directions
    us = random_stack(key, params, probes)

    def one(v: Tree) -> tuple[Tree, Array]:
        _, forward = jax.linearize(lambda p: characteristic_direction(eq, p, directions=v).value, params)
        backward = jax.linear_transpose(forward, params)
        ju, jtu = jax.vmap(forward)(us), jax.vmap(lambda u: backward(u)[0])(us)
        return jax.tree.map(jnp.subtract, ju, jtu), tree_norm(ju) + tree_norm(jtu)

    return jax.lax.map(one, stack)


def flow_rate(
    eq: Equivariance | Symmetry,
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    *,
    directions: Tree | None = None,
) -> Array:
    """The rate of a charge along gradient flow, dC/dt = -⟨∇ℓ, Y⟩ by the first-order identity, for ∇C = X.

    It is 0 for a symmetry. For an m-homogeneous model C = ½‖θ‖² and dC/dt = -m⟨∇ℓ, f⟩ (EQ-4.2).

    Args:
      eq: an equivariance, or a symmetry.
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ.
      directions: as for ``identities.first_order``.

    Returns:
      One number for each direction; a scalar for a single one.
    """
    return -first_order(eq, model, output_loss, params, directions=directions).rhs
