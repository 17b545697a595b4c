"""First- and second-order identities that an equivariance forces on the gradient and the Hessian of a loss.

Whenever f(H(θ, λ)) = G(f(θ), λ), the loss L = ℓ∘f satisfies, at every point and exactly,

* ∇L·X = ∇ℓ·Y (``first_order``),
* ∇²L·X = a right side without second derivatives of f (``second_order``, ``quadratic``; ``hvp_along`` for its value),

with the characteristic direction X = (∇_θH)⁻¹∇_λH and output Y = (∇_yG)⁻¹∇_λG. Each takes an ``Equivariance`` or
a ``Symmetry`` and returns both sides, every named term and a residual.

Reference:
  Yang & Ziyin, "An Equivariance Toolbox for Learning Dynamics" (2025).
"""

from eqtoolbox.identities._fast import hvp_along
from eqtoolbox.identities._first_order import first_order
from eqtoolbox.identities._homogeneous import (
    Alignment,
    Homogeneity,
    alignment,
    homogeneity,
    homogeneous,
    radial_hvp,
    sharpness_bound,
)
from eqtoolbox.identities._identity import Identity
from eqtoolbox.identities._quadratic import quadratic
from eqtoolbox.identities._second_order import second_order

__all__ = [
    "Alignment",
    "Homogeneity",
    "Identity",
    "alignment",
    "first_order",
    "homogeneity",
    "homogeneous",
    "hvp_along",
    "quadratic",
    "radial_hvp",
    "second_order",
    "sharpness_bound",
]
