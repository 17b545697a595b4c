"""The characteristic direction and output, and whether the point and the equivariance are what they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities import _directions
from eqtoolbox.identities._identity import distance, relative
from eqtoolbox.identities._position import outputs_side, params_side, real_arrays, settle
from eqtoolbox.identities._side import Side
from eqtoolbox.linalg import lanczos, to_dense
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any

#: Up to this many entries the singular values come from the matrix itself.
DENSE_LIMIT = 1000
#: Lanczos steps above.
STEPS = 64


class Characteristic(NamedTuple):
    """Characteristic directions or outputs.

    Attributes:
      value: X v or Y v, like the parameters or outputs; with a leading axis for a stack of directions.
      residual: of the linear solves, relative; exactly 0 where an inverse map or a generator was used.
    """

    value: Tree
    residual: Array


def characteristic_direction(
    eq: Equivariance | Symmetry,
    params: Tree,
    lam: Tree | None = None,
    *,
    directions: Tree | None = None,
) -> Characteristic:
    """The characteristic direction X v = (∇_θH)⁻¹ ∇_λH v (EQ-D2).

    At ``eq.identity`` it is ∂_λH v; with an inverse map it is d/dε H⁻¹(H(θ, λ + εv), λ); else a linear solve,
    which never forms ∇_θH above 1000 parameters. For a symmetry at λ = 0 it is the generator.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Equivariance
    >>> scale = Equivariance(lambda p, lam: lam * p, lambda y, lam: lam**2 * y)
    >>> characteristic_direction(scale, jnp.array([2.0, 4.0]), 2.0, directions=1.0).value.tolist()
    [1.0, 2.0]

    Args:
      eq: the equivariance, or a symmetry (λ an algebra vector).
      params: θ, a pytree of real arrays.
      lam: λ; None for 0 or ``eq.identity``.
      directions: tangents v at λ, as for ``first_order``.

    Returns:
      X v and the residual of the solve.

    Raises:
      TypeError: a discrete symmetry, or a leaf that does not hold real numbers.
      ValueError: no λ, directions of the wrong shape or too many, or not a good position (NaN under ``jit``).

    Reference:
      Yang & Ziyin, Definition 2.
    """
    params = real_arrays(params, "params")
    point = _directions.point(eq, params, lam)
    return _characteristic(params_side(eq, params, lam, point), point, directions)


def characteristic_output(
    eq: Equivariance | Symmetry,
    outputs: Tree,
    lam: Tree | None = None,
    *,
    directions: Tree | None = None,
) -> Characteristic:
    """The characteristic output Y v = (∇_yG)⁻¹ ∇_λG v (EQ-D2); exactly 0 for a symmetry.

    Args:
      eq: the equivariance, or a symmetry.
      outputs: y = f(θ), a pytree of real arrays.
      lam: λ; None for 0 or ``eq.identity``.
      directions: tangents v at λ, as for ``first_order``.

    Returns:
      Y v and the residual of the solve.

    Raises:
      TypeError: a discrete symmetry, or a leaf that does not hold real numbers.
      ValueError: as for ``characteristic_direction``.

    Reference:
      Yang & Ziyin, Definition 2.
    """
    outputs = real_arrays(outputs, "outputs")
    point = _directions.point(eq, outputs, lam)
    return _characteristic(outputs_side(eq, outputs, lam, point), point, directions)


def _characteristic(side: Side, point: Tree, directions: Tree | None) -> Characteristic:
    stacked, single = _directions.stack(directions, point)
    value, residual = _directions.over(side.direction, stacked)
    result = settle(Characteristic(value, residual), residual, side)
    return jax.tree.map(lambda x: x[0], result) if single else result


class SingularValues(NamedTuple):
    """The extreme singular values of a Jacobian.

    Attributes:
      smallest: σ_min. By Lanczos an upper bound of it, within ``error`` of some singular value.
      largest: σ_max.
      error: the bound of the Lanczos value; 0 where the matrix was formed.
    """

    smallest: Array
    largest: Array
    error: Array


class GoodPosition(NamedTuple):
    """How far (θ, λ) is from a bad position, where one of the Jacobians is singular.

    Attributes:
      params: of ∇_θH(θ, λ).
      outputs: of ∇_yG(f(θ), λ).
    """

    params: SingularValues
    outputs: SingularValues


def good_position(
    eq: Equivariance | Symmetry, params: Tree, outputs: Tree, lam: Tree | None = None
) -> GoodPosition:
    """The smallest and largest singular values of ∇_θH and ∇_yG (EQ-D1b).

    The identities hold where both are invertible. Up to 1000 entries the matrix is formed, above 64 Lanczos
    steps on MᵀM see it.

    Args:
      eq: the equivariance, or a symmetry (λ an algebra vector).
      params: θ.
      outputs: y = f(θ).
      lam: λ; None for 0 or ``eq.identity``.

    Returns:
      A ``GoodPosition``.

    Raises:
      TypeError: a discrete symmetry, or a leaf that does not hold real numbers.
      ValueError: there is no λ.

    Reference:
      Yang & Ziyin, Definition 1.
    """
    params, outputs = real_arrays(params, "params"), real_arrays(outputs, "outputs")
    point = _directions.point(eq, params, lam)
    eq = Equivariance.of(eq) if isinstance(eq, Symmetry) else eq
    return GoodPosition(
        _singular_values(lambda p: eq.act(p, point), params),
        _singular_values(lambda y: eq.act_output(y, point), outputs),
    )


def _singular_values(function: Callable[[Tree], Tree], at: Tree) -> SingularValues:
    _, forward = jax.linearize(function, at)
    size = sum(leaf.size for leaf in jax.tree.leaves(at))
    if size <= DENSE_LIMIT:
        values = jnp.linalg.svd(to_dense(forward, at), compute_uv=False)
        return SingularValues(values[-1], values[0], jnp.zeros_like(values[0]))
    backward = jax.linear_transpose(forward, at)
    ritz = lanczos(
        lambda v: backward(forward(v))[0], at, min(STEPS, size), key=jax.random.key(0), vectors=False
    )
    smallest, largest = (jnp.sqrt(jnp.maximum(ritz.values[i], 0)) for i in (-1, 0))
    error = jnp.minimum(jnp.sqrt(ritz.bounds[-1]), relative(ritz.bounds[-1], smallest))
    return SingularValues(smallest, largest, error)


def equivariance_error(
    eq: Equivariance | Symmetry, model: Callable[[Tree], Tree], params: Tree, lam: Tree
) -> Array:
    """The relative error ‖f(H(θ, λ)) - G(f(θ), λ)‖ / ‖G(f(θ), λ)‖ of the equivariance (EQ-D1).

    ``jax.vmap`` it over random θ and λ for the largest one; ``testing.assert_equivariant`` asserts on it.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox.identities import homogeneous
    >>> float(equivariance_error(homogeneous(3), lambda p: p**2, jnp.array([1.0]), 0.0))
    0.0
    >>> float(equivariance_error(homogeneous(2), lambda p: p**2, jnp.array([1.0]), 1.0)) < 1e-6
    True
    >>> float(equivariance_error(homogeneous(3), lambda p: p**2, jnp.array([1.0]), 1.0)) > 0.5
    True

    Args:
      eq: the equivariance, or a symmetry (λ an algebra vector).
      model: θ -> outputs, data closed over.
      params: θ.
      lam: λ.

    Returns:
      A scalar.

    Reference:
      Yang & Ziyin, Definition 1.
    """
    point = _directions.point(eq, params, lam)
    eq = Equivariance.of(eq) if isinstance(eq, Symmetry) else eq
    return distance(model(eq.act(params, point)), eq.act_output(model(params), point))
