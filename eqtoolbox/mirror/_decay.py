"""Critical weight decays: when the symmetric point is better, attracts gradient descent, or is the only minimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import hvp_fn, leading_size, top_eigenpairs
from eqtoolbox.mirror._mirror import Mirror
from eqtoolbox.mirror._restricted import SHIFT, check_mirror, restrict

Params = Any
Loss = Callable[[Params], Array]


class LocalDecay(NamedTuple):
    """From which weight decay on the symmetric point next to θ is better.

    Attributes:
      value: γ_0 = (ℓ_0(u) - ℓ_0(w)) / s²; not positive where the symmetric point is better without decay.
      symmetric_loss: ℓ_0(u) at u = (I - P)w.
      loss: ℓ_0(w).
      distance: s = ‖Pw‖.
    """

    value: Array
    symmetric_loss: Array
    loss: Array
    distance: Array


def local_weight_decay(loss: Loss, params: Params, mirror: Mirror) -> LocalDecay:
    """For every γ above the value ℓ_γ((I - P)w) < ℓ_γ(w), for the decay γ‖θ‖² (MS-T1.3).

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import mirror
    >>> n = mirror.from_directions({"u": jnp.ones(1), "w": -jnp.ones(1)})
    >>> params = {"u": 2 * jnp.ones(1), "w": jnp.zeros(1)}
    >>> found = local_weight_decay(lambda p: (p["u"] * p["w"] - 1)[0] ** 2, params, n)
    >>> round(float(found.value), 4)  # (0 - 1) / 2: better without any decay
    -0.5

    Args:
      loss: ℓ_0, θ -> a scalar.
      params: w.
      mirror: a mirror of the loss.

    Returns:
      A ``LocalDecay``; its value is NaN at a symmetric point, where s = 0.

    Reference:
      Ziyin, Theorem 1.3; Theorem 4 for an exchange, Theorem 3 for a reflection n.
    """
    symmetric, here, distance = loss(mirror.complement(params)), loss(params), mirror.distance(params)
    return LocalDecay((symmetric - here) / distance**2, symmetric, here, distance)


class Escape(NamedTuple):
    """How gradient descent leaves, or returns to, a symmetric point.

    Attributes:
      weight_decay: γ_c = -ξ*/2: attracted if and only if γ > γ_c; not positive where it attracts without decay.
      curvature: ξ*, the smallest eigenvalue of the Hessian restricted to P.
      direction: its eigenvector, in the form of ``Mirror.order``.
      residual: of the eigenpair: an eigenvalue lies within this of ``curvature``.
      converged: whether Lanczos reached its tolerance.
    """

    weight_decay: Array
    curvature: Array
    direction: Any
    residual: Array
    converged: Array

    def rate(self, weight_decay: float | Array = 0.0) -> Array:
        """-(ξ* + 2γ): ‖Pθ‖ grows as exp(rate · t), t = learning rate · steps, along the direction."""
        return -(self.curvature + SHIFT * weight_decay)


def gd_weight_decay(
    loss: Loss, params: Params, mirror: Mirror, *, key: Array | None = None, tol: float | None = None
) -> Escape:
    """The weight decay from which on gradient descent is attracted to the symmetric point (MS-2.4a).

    ξ* is the smallest eigenvalue of OᵀHO at (I - P)θ, by Lanczos with Hessian-vector products in the order parameter
    alone. Small displacements along it grow as exp(-(ξ* + 2γ) t). The paper's criterion ξ* + γ > 0 leaves out the 2 of
    its own γ‖θ‖².

    Args:
      loss: ℓ_0, θ -> a scalar; without the decay.
      params: θ; the statement is about the symmetric point next to it.
      mirror: a mirror of the loss.
      key: a typed key; key 0 by default.
      tol: relative tolerance of the eigenpair.

    Returns:
      An ``Escape``.

    Raises:
      ValueError: the mirror moves none of the parameters.

    Reference:
      Ziyin, section 2.4.
    """
    at = restrict(loss, params, mirror)
    key = jax.random.key(0) if key is None else key
    pairs, info = top_eigenpairs(at.hessian(), at.zero, 1, key=key, which="smallest", tol=tol)
    xi = pairs.values[0]
    direction = at.unflatten(pairs.vectors[0])
    return Escape(-xi / SHIFT, xi, direction, pairs.residuals[0], info.converged[0])


class GlobalDecay(NamedTuple):
    """From which weight decay on every minimum is symmetric, judged by some points.

    Attributes:
      value: γ_1 = -λ_min/2, 0 where no curvature is negative.
      smallest: λ_min, the smallest eigenvalue over all points.
      curvatures: the smallest eigenvalue at each point.
    """

    value: Array
    smallest: Array
    curvatures: Array


def global_weight_decay(
    loss: Loss, points: Params, mirror: Mirror | None = None, *, key: Array | None = None
) -> GlobalDecay:
    """γ_1 = -λ_min/2, from the smallest curvature over a stack of points (MS-T1.4).

    For γ > -λ_min/2 with λ_min a lower bound of the Hessian everywhere, ℓ_γ is strictly convex and its only minimum is
    symmetric. (The printed proof asks for γ > λ_min.) Less is enough: with a mirror only the curvature along P is
    looked at, because θ_⊥ + Oz -> ℓ_γ, even and strictly convex in z, is smallest at z = 0 for every θ_⊥. The value is
    the theorem's where the points reach the smallest curvature, otherwise it is too small: points cannot prove a bound.

    Args:
      loss: ℓ_0, θ -> a scalar; without the decay.
      points: a stack of θ, along the leading axis of every leaf.
      mirror: if given, only the curvature along P counts.
      key: a typed key for Lanczos; key 0 by default.

    Returns:
      A ``GlobalDecay``.

    Reference:
      Ziyin, Theorem 1.4.
    """
    key = jax.random.key(0) if key is None else key

    def smallest(at: tuple[Params, Array]) -> Array:
        params, start = at
        full = hvp_fn(loss, params)
        product, like = full, params
        if mirror is not None:
            order, lift = mirror.order, mirror.lift
            product, like = (lambda z: order(full(lift(z, params)))), jax.eval_shape(order, params)
        return top_eigenpairs(product, like, 1, key=start, which="smallest")[0].values[0]

    curvatures = jax.lax.map(smallest, (points, jax.random.split(key, leading_size(points, "points"))))
    least = jnp.min(curvatures)
    return GlobalDecay(jnp.maximum(-least / SHIFT, 0), least, curvatures)


def split_gradient(gradient: Params, mirror: Mirror) -> tuple[Params, Params]:
    """The symmetric and the antisymmetric part of a gradient, (I - P)∇ and P∇; the second vanishes where Oᵀθ = 0."""
    check_mirror(mirror)
    return mirror.complement(gradient), mirror.project(gradient)


def hessian_blocks(loss: Loss, params: Params, mirror: Mirror, *, probes: int = 8, key: Array | None = None):
    """The gradient and the Hessian of a loss in the parts P and I - P (MS-T1.1, MS-T1.2).

    ``identities.mirror_blocks`` of the reflection.

    Args:
      loss: θ -> a scalar.
      params: θ; the statement is about symmetric points, see ``Mirror.complement``.
      mirror: a mirror of the loss.
      probes: random vectors for the norms.
      key: a typed key; key 0 by default.

    Returns:
      An ``identities.MirrorBlocks``; at a symmetric point ``gradient`` and ``off_diagonal`` vanish.
    """
    from eqtoolbox.identities import mirror_blocks

    check_mirror(mirror)
    return mirror_blocks(
        mirror.equivariance(), None, loss, lambda value: value, params, probes=probes, key=key
    )
