"""Theorem 2: what one transformation, without a derivative in λ, says about the gradient and the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities import _directions
from eqtoolbox.identities._hessian import hessian_images
from eqtoolbox.identities._identity import Identity, distance, first, identity, negative
from eqtoolbox.identities._position import real_arrays
from eqtoolbox.linalg import hvp_fn, random_stack, tree_norm, tree_vdot
from eqtoolbox.symmetry import Equivariance, Symmetry

Tree = Any

#: Random directions where none are given.
PROBES = 4


class DiscreteIdentity(NamedTuple):
    """Theorem 2 at one transformation.

    Attributes:
      first: X̂ᵀ∇L(H(θ)) = ∇L(θ), pytrees like the parameters; one residual.
      second: X̂ᵀ∇²L(H(θ)) X̂ u = ∇²L(θ) u - ∇L(H(θ))·∇²_θH u, one for each direction u; terms "hessian" and
        "correction".
      distance: ‖H(θ) - θ‖ / ‖θ‖, which is 0 on the fixed-point set: there the two are the printed theorem.
    """

    first: Identity
    second: Identity
    distance: Array


def transformation(eq: Equivariance | Symmetry, g: Tree) -> Callable[[Tree], Tree]:
    """θ ↦ H(θ) of a group element or of a λ0."""
    if isinstance(eq, Symmetry):
        return lambda params: eq.act(g, params)
    if not isinstance(eq, Equivariance):
        raise TypeError(f"`eq` must be an Equivariance or a Symmetry, got {eq!r}")
    return lambda params: eq.act(params, g)


def discrete(
    eq: Equivariance | Symmetry,
    g: Tree,
    model: Callable[[Tree], Tree],
    output_loss: Callable[[Tree], Array],
    params: Tree,
    *,
    directions: Tree | None = None,
    key: Array | None = None,
) -> DiscreteIdentity:
    """The identities of a single transformation (EQ-T2-i, EQ-T2-ii).

    With X̂ = ∇_θH(θ) and L∘H = L, differentiating once and twice gives, at any θ,
    X̂ᵀ ∇L(H(θ)) = ∇L(θ) and X̂ᵀ ∇²L(H(θ)) X̂ = ∇²L(θ) - ∇L(H(θ))·∇²_θH.
    The theorem is the case H(θ) = θ, where the same gradient and Hessian stand on both sides and so are
    constrained: see ``mirror_blocks``. The correction is exactly 0 for a linear H. An ``Equivariance`` that
    moves the outputs is taken in the same way, with ℓ(G(f(θ), λ0)) for the loss on the right.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"u": "h", "w": "h"}, {"h": groups.SignFlip(2)})
    >>> params = {"u": jnp.array([0.0, 2.0]), "w": jnp.array([0.0, 1.0])}
    >>> flip = {"h": jnp.array([-1, 1], jnp.int8)}
    >>> result = discrete(sym, flip, lambda p: jnp.vdot(p["u"], p["w"]), jnp.sin, params)
    >>> float(result.distance), float(result.first.residual)
    (0.0, 0.0)

    Args:
      eq: a symmetry, discrete or not, or an equivariance.
      g: a group element of the symmetry, or λ0 of the equivariance.
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ, on the fixed-point set (``project_fixed``) or off it.
      directions: u, a pytree like ``params`` or a stack of them; None for four random ones.
      key: a typed key for these; key 0 by default.

    Returns:
      A ``DiscreteIdentity``. Scales: ‖X̂ᵀ∇L(H(θ))‖ + ‖∇L(θ)‖, and ‖∇²L(θ)‖_F ‖u‖ + Σ ‖term‖.

    Raises:
      TypeError: a leaf does not hold real numbers.
      ValueError: directions of the wrong shape.

    Reference:
      Yang & Ziyin, Theorem 2.
    """
    params = real_arrays(params, "params")
    act = transformation(eq, g)

    def loss(p: Tree) -> Array:
        return output_loss(model(p))

    def moved_loss(p: Tree) -> Array:
        y = model(p)
        return output_loss(eq.act_output(y, g) if isinstance(eq, Equivariance) else y)

    if directions is None:
        probes = random_stack(jax.random.key(0) if key is None else key, params, PROBES)
        stacked, single = probes, False
    else:
        stacked, single = _directions.stack(directions, params)

    moved, tangent = jax.linearize(act, params)
    transpose = jax.linear_transpose(tangent, params)
    slope, there = jax.linearize(jax.grad(loss), moved)
    lhs, here = transpose(slope)[0], jax.grad(moved_loss)(params)
    gradients = identity(lhs, {"gradient": here}, tree_norm(lhs), jnp.float32(0))
    images, size = hessian_images(moved_loss, params, stacked)
    bend = hvp_fn(lambda p: tree_vdot(act(p), slope), params)

    def second(row: Tree) -> Identity:
        u, image = row
        terms = {"hessian": image, "correction": negative(bend(u))}
        return identity(transpose(there(tangent(u)))[0], terms, size * tree_norm(u), jnp.float32(0))

    seconds = _directions.over(second, (stacked, images))
    return DiscreteIdentity(gradients, first(seconds) if single else seconds, distance(moved, params))
