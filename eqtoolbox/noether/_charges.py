"""The charges of a symmetry as a function of the parameters, and how they move with a group element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import tree_vdot
from eqtoolbox.noether._field import field_charge_fn
from eqtoolbox.noether._pairing import Charges, Params, pairing, widen
from eqtoolbox.symmetry import Equivariance, Symmetry, check_symmetry

#: Up to this many numbers are copied to one array.
_SMALL = 2**16


def charge_fn(sym: Symmetry | Equivariance) -> Callable[[Params], Charges]:
    """The charges: functions of θ that gradient flow on every invariant loss conserves.

    For a symmetry the charge of a generator with a symmetric matrix is C_ξ(θ) = ⟨θ, X_ξ(θ)⟩, and all of them come at
    once, as a dict from factor to an array:

    ==================================  =============================================================================
    group                               charge
    ==================================  =============================================================================
    ``GeneralLinear(h)``                h x h, symmetric: W₁W₁ᵀ + b₁b₁ᵀ - W₂ᵀW₂, of which C_M is the trace with M
    ``Stabiliser(GeneralLinear(h))``    the same between the projections across the vector
    ``PositiveScaling(h)``              (h,): with degree α, diag(VVᵀ - α UᵀU); ‖w‖² of each unit before BatchNorm
    ``Scaling()``                       (1,): Σ q ‖leaf‖²
    ``Monomial(h, scales=r)``           (r, h): the same for each scaling
    ``Translation(n)``                  (n,): the sum of what is shifted, Σ q leaf
    ``Affine(h)``                       ``AffineElement`` of a matrix and, unless a reader has its bias moved, a vector
    ``Wreath(inner, outer)``            that of the inner group with a leading axis (heads), that of the outer, or both
    ``Product(...)``                    a tuple, None where a group has none
    discrete, O(n)                      none (``charged`` says why)
    ==================================  =============================================================================

    A quadratic charge is ½⟨θ, Aθ⟩ with A twice the matrix of the generator: this is Q_M = ⟨θ, Mθ⟩ of Zhao, and twice
    the C of equation (5), for which ∇C = X. It costs what two products with each leaf axis cost.

    >>> import jax.numpy as jnp
    >>> from eqtoolbox import Symmetry, groups
    >>> sym = Symmetry({"v": "_ h", "u": "h^-2 _"}, {"h": groups.PositiveScaling(2)})       # u · relu(v x)²
    >>> charge_fn(sym)({"v": jnp.array([[3.0, 1.0]]), "u": jnp.array([[1.0], [2.0]])})["h"].tolist()
    [7.0, -7.0]

    For an ``Equivariance`` it is the function of equation (5) itself, by a line integral; see ``field_charge_fn``.

    Args:
      sym: a symmetry with generators, or an equivariance with an identity.

    Returns:
      A function of θ; charges are at least float32 whatever the dtype of the parameters.

    Raises:
      TypeError: ``sym`` is discrete, or neither a symmetry nor an equivariance.
      ValueError: an equivariance names no identity.

    Reference:
      Yang & Ziyin, equation (5); Zhao (2026), section 2.5 and Appendix A.2.
    """
    if isinstance(sym, Equivariance):
        return field_charge_fn(sym)
    check_symmetry(sym, "charge_fn")
    sym.zero_algebra()  # refuses a discrete one

    def charges(params: Params) -> Charges:
        wide = widen(params)
        return pairing(sym, wide, wide)

    return charges


def residual(sym: Symmetry, params: Params, gradient: Params) -> dict[str, Array]:
    """How far a gradient is from that of an invariant loss, factor by factor: ‖⟨g, Xθ⟩‖ / (‖g‖ ‖θ‖).

    All generators count, those without a charge too. At the level of rounding for a true symmetry (the flow
    identity ⟨∇L, M θ⟩ = 0: EQ-T1-i, DA-P1); of order one for a broken one.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      gradient: g, like ``params``.

    Returns:
      A dict from factor to a number; 0 where the gradient vanishes.

    Raises:
      TypeError: ``sym`` is discrete.
      ValueError: a leaf of ``gradient`` is not like that of ``params``.
    """
    params, gradient = widen(params), widen(gradient)
    pulled = sym.pullback(params, gradient)
    slope, size = _lengths(gradient, params)
    moved = {f.key: size if f.group.is_linear else 1 + size for f in sym.factors}
    scales = {key: slope * moved[key] for key in pulled}
    lengths = {key: jnp.sqrt(tree_vdot(part, part)) for key, part in pulled.items()}
    return {key: lengths[key] / jnp.where(scales[key] > 0, scales[key], 1) for key in pulled}


def _lengths(*trees: Any) -> Array:
    """The Euclidean norms of trees of equal size in one pass, for small ones in one kernel: it is in every step."""
    rows = [[x for x in jax.tree.leaves(t) if jnp.issubdtype(x.dtype, jnp.inexact)] for t in trees]
    if sum(x.size for x in rows[0]) > _SMALL:
        return jnp.sqrt(jnp.stack([tree_vdot(row, row) for row in rows]))
    matrix = jnp.concatenate([jnp.ravel(x) for row in rows for x in row]).reshape(len(trees), -1)
    return jnp.sqrt(jnp.sum(matrix * matrix, axis=1))


def currents(sym: Symmetry, params: Params, velocity: Params) -> dict[str, Any]:
    """The Noether currents ⟨v, X_ξ(θ)⟩ of all generators, antisymmetric ones included.

    Under friction, θ'' = -γ θ' - ∇L, the current of an antisymmetric generator (O(n)) decays as e^{-γt}, and for
    heavy ball with buffer m the current ⟨m, X_ξ θ⟩ is multiplied by exactly β in every step. Along gradient flow
    it is 0: V V'ᵀ - V'Vᵀ + UᵀU' - U'ᵀU = 0 for a radial activation (Theorem 2.5.6). For a symmetric generator it is
    half the rate of the charge.

    Args:
      sym: a symmetry with generators.
      params: the parameters θ.
      velocity: θ' or a momentum buffer, like ``params``.

    Returns:
      An algebra vector: for O(n) the entries above the diagonal.

    Raises:
      TypeError: ``sym`` is discrete.

    Reference:
      Zhao (2026), section 2.5 and Appendix A.1; the Lagrangian printed there belongs to θ' + τθ'' = -∇L, that of
      θ' + (τ/2)θ'' = -∇L decays as e^{-2t/τ} (DA-E19).
    """
    return sym.pullback(widen(params), widen(velocity))
