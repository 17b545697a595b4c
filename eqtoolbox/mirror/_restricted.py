"""The loss around a symmetric point as a function of the order parameter alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import check_number, unravel_stack, vary_with
from eqtoolbox.mirror._mirror import Mirror

Params = Any

#: The convention of weight decay in this room, that of the paper: ℓ_γ = ℓ_0 + γ‖θ‖². Its gradient is 2γθ, and it
#: shifts every eigenvalue of the Hessian by 2γ (where the paper writes ξ + γ, that is ξ + 2γ in this convention).
SHIFT = 2.0


def optax_weight_decay(weight_decay: float) -> float:
    """The decay 2γ to give to optax for the term γ‖θ‖² of this room: it adds decay · θ to the gradient.

    ``optax.add_decayed_weights(d)`` and PyTorch's ``weight_decay=d`` are the gradient of d‖θ‖²/2. So d = 2γ, and d
    is also what is added to every eigenvalue of the Hessian.

    >>> optax_weight_decay(0.25)
    0.5
    """
    check_rates(weight_decay=weight_decay)
    return SHIFT * weight_decay


class Restricted(NamedTuple):
    """A loss at u + O z, u the symmetric point next to θ.

    Attributes:
      loss: (z, *batch) -> the loss, z a vector of r numbers.
      zero: z = 0, shape (r,).
      unflatten: z -> the pytree of ``Mirror.order``.
      point: u = (I - P)θ.
    """

    loss: Callable[..., Array]
    zero: Array
    unflatten: Callable[[Array], Any]
    point: Params

    def hessian(self, *batch: Any) -> Callable[[Array], Array]:
        """v -> OᵀHO v for the Hessian of the loss at u, linearised once."""
        return jax.linearize(jax.grad(lambda z: self.loss(z, *batch)), vary_with(self.zero, batch))[1]


def restrict(loss: Callable[..., Array], params: Params, mirror: Mirror) -> Restricted:
    """The loss as a function of the order parameter around (I - P)θ."""
    check_mirror(mirror)
    like = jax.eval_shape(mirror.order, params)
    size = mirror.dimension(params)
    if size == 0:
        raise ValueError(f"mirror {mirror.name} moves none of the parameters: its dimension is 0")
    point = mirror.complement(params)

    def unflatten(z: Array) -> Any:
        return unravel_stack(z, like)

    def at(z: Array, *batch: Any) -> Array:
        moved = mirror.lift(unflatten(z), params)
        return loss(jax.tree.map(jnp.add, point, moved), *batch)

    zero = vary_with(jnp.zeros(size, jnp.result_type(*jax.tree.leaves(like))), params)
    return Restricted(at, zero, unflatten, point)


def check_mirror(mirror: Any) -> None:
    """Checks that it is a mirror.

    Raises:
      TypeError: it is not.
    """
    if not isinstance(mirror, Mirror):
        raise TypeError(f"`mirror` must be a Mirror, got {mirror!r}")


def check_rates(**values: Any) -> None:
    """Checks that these are real numbers, or arrays of them."""
    for name, value in values.items():
        if jnp.ndim(value) == 0:
            check_number(value, f"`{name}`")
