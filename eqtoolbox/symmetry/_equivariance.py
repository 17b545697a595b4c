"""`Equivariance`: any pair of maps (H, G) with f(H(θ, λ)) = G(f(θ), λ), given by functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eqtoolbox.symmetry._symmetry import Symmetry, check_symmetry


def _unchanged(outputs: Any, lam: Any) -> Any:
    return outputs


@dataclass(frozen=True)
class Equivariance:
    """An (H, G)-equivariance, Definition 1 of Yang & Ziyin (EQ-D1): f(H(θ, λ)) = G(f(θ), λ).

    Nothing is assumed of H and G: no group, no linearity in θ or λ. A symmetry is the case where G leaves
    the outputs alone. Every feature that takes an ``Equivariance`` says which of the optional maps it needs.

    >>> import jax.numpy as jnp
    >>> rescale = Equivariance(lambda p, lam: {"u": p["u"] * jnp.exp(lam), "w": p["w"] * jnp.exp(-lam)})
    >>> rescale.is_symmetry
    True

    Attributes:
      act: H(params, lam), a pytree like ``params``.
      act_output: G(outputs, lam), like ``outputs``; leaves them alone by default.
      act_inverse: H⁻¹(params, lam), undoing ``act`` at the same lam.
      output_inverse: G⁻¹(outputs, lam).
      identity: a lam at which H and G are the identity, where there is one.
    """

    act: Callable[[Any, Any], Any]
    act_output: Callable[[Any, Any], Any] = _unchanged
    act_inverse: Callable[[Any, Any], Any] | None = None
    output_inverse: Callable[[Any, Any], Any] | None = None
    identity: Any = None

    def __post_init__(self):
        for name in ("act", "act_output", "act_inverse", "output_inverse"):
            value = getattr(self, name)
            optional = name in ("act_inverse", "output_inverse") and value is None
            if not callable(value) and not optional:
                raise TypeError(f"Equivariance: {name} must be a function (tree, lam) -> tree, got {value!r}")
        if self.act_output is _unchanged and self.output_inverse is None:
            object.__setattr__(self, "output_inverse", _unchanged)

    @property
    def is_symmetry(self) -> bool:
        """Whether the outputs do not move."""
        return self.act_output is _unchanged

    @classmethod
    def of(cls, sym: Symmetry) -> Equivariance:
        """A symmetry with λ an algebra vector: H(θ, λ) = act(exp λ, θ).

        Raises:
          TypeError: it is not a ``Symmetry``, or discrete.
        """
        check_symmetry(sym, "Equivariance.of")
        return cls(
            act=lambda params, lam: sym.act(sym.exp(lam), params),
            act_inverse=lambda params, lam: sym.act(sym.inverse(sym.exp(lam)), params),
            identity=sym.zero_algebra(),
        )
