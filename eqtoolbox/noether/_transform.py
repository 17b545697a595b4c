"""How charges move when a group element moves the parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eqtoolbox.groups import (
    Affine,
    AffineElement,
    GeneralLinear,
    Group,
    Product,
    Stabiliser,
    UnitGroup,
    Wreath,
)
from eqtoolbox.groups import WreathElement as Pair
from eqtoolbox.noether._laws import linear_charges
from eqtoolbox.noether._pairing import Charges, Element, Params, Vector, pairing, widen
from eqtoolbox.symmetry import Symmetry, check_symmetry


def act_on_charges(sym: Symmetry, g: Element, charges: Charges) -> Charges:
    """C(gθ) from C(θ), for an element of the maximal compact subgroup: g C gᵀ, and a permutation of units.

    Only there is the charge of the moved parameters a function of the charge. Footnote 8 of Zhao prints that gᵀMg
    stays in the Lie algebra, which needs gᵀ = g⁻¹: in GL(h),

        Q_M(Ug⁻¹, gV) = Tr[VVᵀ gᵀMg] - Tr[UᵀU g⁻¹Mg⁻ᵀ],

    which reads VVᵀ and UᵀU apart. For any other element take ``charge_fn(sym)(sym.act(g, params))``.

    Args:
      sym: the symmetry the charges are those of.
      g: an element of ``sym.compact()``.
      charges: of ``charge_fn(sym)``.

    Returns:
      The charges of the moved parameters; shifts are not in the compact subgroup.

    Raises:
      TypeError: ``sym`` is no ``Symmetry``.
      ValueError: ``g`` is not an element of ``sym.compact()``.

    Reference:
      Zhao (2026), section 2.5, the paragraph of footnote 8 (DA-P5, DA-E12).
    """
    check_symmetry(sym, "act_on_charges")
    small = {f.key: f.group.compact() for f in sym.factors}
    if set(g) != set(small):
        raise ValueError(f"an element of the compact subgroup has the keys {sorted(small)}, got {sorted(g)}")
    for key, group in small.items():
        group.check_element(g[key])
    groups = {f.key: f.group for f in sym.factors}
    return {key: _moved(groups[key], g[key], charge) for key, charge in charges.items()}


def _moved(group: Group, g: Any, charge: Any) -> Any:
    small = group.compact()
    match group:
        case GeneralLinear() | Stabiliser():
            return small.act(g, small.act(g, charge, axis=0), axis=1)
        case Affine():
            linear = small.act(g, small.act(g, charge.linear, axis=0), axis=1)
            shift = None if charge.shift is None else small.act(g, charge.shift, axis=0)
            return AffineElement(linear, shift)  # pyright: ignore[reportArgumentType]
        case Product():
            parts = zip(group.groups, g, charge, strict=True)
            return tuple(None if c is None else _moved(h, x, c) for h, x, c in parts)
        case Wreath():
            outer, inner = (charge.outer, charge.inner) if isinstance(charge, Pair) else (None, charge)
            if group.outer.dimension and not isinstance(charge, Pair):
                return _moved(group.outer, g.outer, charge)
            index = group.outer.permutation(g.outer)
            inner = jax.tree.map(lambda c: c[index], inner)
            inner = jax.vmap(lambda x, c: _moved(group.inner, x, c))(g.inner, inner)
            return inner if outer is None else Pair(_moved(group.outer, g.outer, outer), inner)
        case UnitGroup():
            # Scalings of units: their charges are permuted with the units, signs drop out.
            index = group.compact().permutation(g)
            return jnp.take(charge, index, axis=-1) if charge.shape[-1] == group.n else charge
    return charge


def charge_rate(sym: Symmetry, params: Params, xi: Vector) -> Charges:
    """d/dt C(exp(tξ)θ) at t = 0: how charges change along the orbit, to first order.

    2⟨X_ξ θ, Mθ⟩ for every charge at once; for two layers Tr[VVᵀ(M'ᵀM + MM')] + Tr[UᵀU(M'M + MM'ᵀ)] (DA-P5).

    Args:
      sym: a symmetry with generators.
      params: θ.
      xi: ξ, an algebra vector.

    Returns:
      Charges.

    Raises:
      TypeError: ``sym`` is discrete.
    """
    wide = widen(params)
    found = pairing(sym, wide, sym.generator(xi, wide))
    return jax.tree.map(lambda c, one: c if one else 2 * c, found, linear_charges(sym, found))
