"""A function of parameters as a function of their factors: constraints without an optimizer of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax import Array

from eqtoolbox.mirror import _factors
from eqtoolbox.mirror._constraints import Constraint
from eqtoolbox.mirror._factors import Factors, flat, is_float

Params = Any


@dataclass(frozen=True)
class Reparametrized:
    """A function of factors; made by ``reparametrize``.

    Attributes:
      apply_params: the function of parameters.
      constraint: how they are made of factors.
    """

    apply_params: Callable[..., Any]
    constraint: Constraint

    def init(self, params: Params) -> Factors:
        """Factors with T(w, u, v) = θ, in at least float32; the decay prefers Oᵀθ = 0.

        Raises:
          TypeError: a leaf does not hold real numbers.
        """
        for path, x in flat(params).items():
            if not is_float(x):
                raise TypeError(f"reparametrize: leaf {path!r} must hold real numbers, got {x!r}")
        return self.constraint.split(params)

    def params(self, factors: Factors) -> Params:
        """θ = T(w, u, v)."""
        return self.constraint.join(factors)

    def apply(self, factors: Factors, *args: Any, **kwargs: Any) -> Any:
        """The function at θ = T(w, u, v)."""
        return self.apply_params(self.constraint.join(factors), *args, **kwargs)

    def penalty(self, factors: Factors) -> Array:
        """‖w‖² + ‖u‖², to be multiplied by α and added to the loss."""
        return _factors.penalty(factors)


def reparametrize(apply: Callable[..., Any], constraint: Constraint) -> Reparametrized:
    """DCS as a function: min over w, u, v of L(T(w, u, v)) + α(‖w‖² + ‖u‖²).

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox.mirror import reparametrize, sparse
    >>> model = reparametrize(lambda theta, x: x @ theta, sparse())
    >>> factors = model.init(jnp.array([2.0, 0.0]))
    >>> loss = lambda f: jnp.sum((model.apply(f, jnp.eye(2)) - 1) ** 2) + 0.1 * model.penalty(f)
    >>> jax.grad(loss)(factors).w.shape
    (2,)

    Args:
      apply: (params, *args) -> anything.
      constraint: a constraint of this room.

    Returns:
      An object with ``init(params) -> factors``, ``apply(factors, *args)``, ``penalty(factors)`` and
      ``params(factors)``. ``dcs`` is the same as an optimizer.

    Raises:
      TypeError: ``apply`` cannot be called, or ``constraint`` is none.

    Reference:
      Ziyin, "Symmetry Induces Structure and Constraint of Learning" (2024), sec. 2.6, equation (7), with the T of
      ``linear``.
    """
    if not callable(apply):
        raise TypeError(f"reparametrize needs a function of parameters, got {apply!r}")
    check_constraint(constraint, "reparametrize")
    return Reparametrized(apply, constraint)


def check_constraint(constraint: Any, what: str) -> None:
    """Checks that it is a constraint.

    Raises:
      TypeError: it is not.
    """
    if not isinstance(constraint, Constraint):
        raise TypeError(f"{what} needs a constraint, such as eqtoolbox.mirror.sparse(), got {constraint!r}")
