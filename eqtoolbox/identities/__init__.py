"""First- and second-order identities that an equivariance forces on the gradient and the Hessian of a loss.

Whenever f(H(θ, λ)) = G(f(θ), λ), the loss L = ℓ∘f satisfies, at every point and exactly,

* ∇L·X = ∇ℓ·Y (``first_order``),
* ∇²L·X = a right side without second derivatives of f (``second_order``, ``quadratic``; ``hvp_along`` for its value),

with the characteristic direction X = (∇_θH)⁻¹∇_λH and output Y = (∇_yG)⁻¹∇_λG. Each takes an ``Equivariance`` or
a ``Symmetry`` and returns both sides, every named term and a residual. They are functions like any other of JAX:
``jax.jit(lambda params: second_order(eq, model, output_loss, params))`` compiles one program.

=============================  ====================================================================================
needs                          functions
=============================  ====================================================================================
any Equivariance or Symmetry   ``first_order``, ``second_order``, ``quadratic``, ``hvp_along``, ``defects``,
with a continuous λ            ``characteristic_direction``, ``characteristic_output``, ``good_position``
one transformation             ``discrete``
one of finite order            ``project_fixed`` (affine), ``mirror_blocks`` (linear)
a Symmetry                     ``degeneracy``
a homogeneous model            ``homogeneity``, ``radial_hvp``, ``alignment``, ``sharpness_bound``
a last layer                   ``last_layer``, ``softmax_variance``
=============================  ====================================================================================

Reference:
  Yang & Ziyin, "An Equivariance Toolbox for Learning Dynamics" (2025).
"""

from eqtoolbox.identities._characteristic import (
    Characteristic,
    GoodPosition,
    SingularValues,
    characteristic_direction,
    characteristic_output,
    equivariance_error,
    good_position,
)
from eqtoolbox.identities._defects import Defects, defects
from eqtoolbox.identities._degeneracy import Degeneracy, degeneracy
from eqtoolbox.identities._discrete import DiscreteIdentity, discrete
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
from eqtoolbox.identities._last_layer import last_layer, softmax_variance
from eqtoolbox.identities._mirror import MirrorBlocks, mirror_blocks, project_fixed
from eqtoolbox.identities._quadratic import quadratic
from eqtoolbox.identities._second_order import second_order

__all__ = [
    "Alignment",
    "Characteristic",
    "Defects",
    "Degeneracy",
    "DiscreteIdentity",
    "GoodPosition",
    "Homogeneity",
    "Identity",
    "MirrorBlocks",
    "SingularValues",
    "alignment",
    "characteristic_direction",
    "characteristic_output",
    "defects",
    "degeneracy",
    "discrete",
    "equivariance_error",
    "first_order",
    "good_position",
    "homogeneity",
    "homogeneous",
    "hvp_along",
    "last_layer",
    "mirror_blocks",
    "project_fixed",
    "quadratic",
    "radial_hvp",
    "second_order",
    "sharpness_bound",
    "softmax_variance",
]
