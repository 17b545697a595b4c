"""The pairings ⟨v, X_ξ(θ)⟩ with the generators that have a charge, in the shape of the charges.

A symmetry moves θ along fields X_ξ(θ) = M_ξ θ + c_ξ, linear in the algebra vector ξ. Those with a symmetric matrix
M_ξ have a charge. Which ones these are depends on the group alone, and all pairings with them are the transpose of
ξ -> X_ξ(θ) and a projection: two contractions for each axis of a leaf, whatever the dimension of the group.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.groups import (
    Affine,
    AffineElement,
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    PositiveScaling,
    Product,
    Stabiliser,
    Translation,
    Wreath,
    WreathElement,
)
from eqtoolbox.symmetry import Factor, Symmetry, check_symmetry, is_masked

Params = Any
Charges = Any
Vector = Any
Element = Any

_HIGHEST = jax.lax.Precision.HIGHEST


class FactorCharges(NamedTuple):
    """Which generators of a factor have a symmetric Jacobian, and hence a charge (EQ-5.2).

    Attributes:
      key: the names of the factor's spaces.
      group: its group.
      generators: the dimension of its Lie algebra.
      charges: the dimension of the subspace of the generators with a charge.
      why: what these are, or why there are none.
    """

    key: str
    group: Group
    generators: int
    charges: int
    why: str


def charged(sym: Symmetry) -> tuple[FactorCharges, ...]:
    """For each factor of a symmetry, how many of its generators have a charge, and why.

    >>> from eqtoolbox import Symmetry, groups
    >>> axes = {"a": "_ h k", "b": "h* o", "c": "k* _"}
    >>> own = {"h": groups.GeneralLinear(3), "k": groups.Monomial(4, 1), "o": groups.Orthogonal(2)}
    >>> [(f.key, f.generators, f.charges) for f in charged(Symmetry(axes, own))]
    [('h', 9, 6), ('k', 4, 4), ('o', 1, 0)]

    Args:
      sym: a symmetry.

    Returns:
      One record for each factor. The charges counted are linearly independent as functions of the generator;
      at a point their gradients may still depend on each other (DA-P6).

    Raises:
      TypeError: ``sym`` is no ``Symmetry``.

    Reference:
      Yang & Ziyin, equation (5); Zhao (2026), Corollary A.2.12.
    """
    check_symmetry(sym, "charged")
    records = []
    for f in sym.factors:
        count, why = _count(f.group, _homogeneous(sym, f))
        records.append(FactorCharges(f.key, f.group, f.group.dimension, count, why))
    return tuple(records)


def pairing(sym: Symmetry, params: Params, tangent: Params) -> Charges:
    """⟨v, X_ξ(θ)⟩ for every generator ξ that has a charge.

    Linear in v and affine in θ. With v = θ these are the charges themselves, with v = ∇L the invariance residual,
    and a step θ -> θ + u changes the charges by exactly ``pairing(sym, 2θ + u, u)``.

    Args:
      sym: a symmetry.
      params: the parameters θ.
      tangent: v, like ``params``.

    Returns:
      A dict from factor to charges, in at least float32; factors without charges have no key.

    Raises:
      TypeError: ``sym`` is discrete.
      ValueError: a leaf of ``tangent`` is not like that of ``params``.
    """
    wide = widen(params), widen(tangent)
    return project(sym, sym.pullback(*wide))


def project(sym: Symmetry, covector: Vector) -> Charges:
    """The part of a covector of the algebra on the generators that have a charge."""
    kept = {}
    for f in sym.factors:
        if f.key in covector:
            part = _keep(f.group, covector[f.key], _homogeneous(sym, f))
            if part is not None:
                kept[f.key] = part
    return kept


def widen(tree: Params) -> Params:
    """Every leaf of real numbers in at least float32; integers, keys and masked leaves as they are."""

    def leaf(x: Any) -> Any:
        if is_masked(x) or not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return x
        x = jnp.asarray(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    return jax.tree.map(leaf, tree, is_leaf=is_masked)


def _homogeneous(sym: Symmetry, factor: Factor) -> tuple[bool, ...]:
    """For each space of a factor, whether some leaf holds homogeneous coordinates of an affine group."""
    flags = []
    for i, name in enumerate(factor.spaces):
        atoms = [a for _, label in sym.labels for a in label.atoms if a.space == name]
        weights = [factor.group.weight(i, a.exponent) for a in atoms]
        flags.append(any(isinstance(w, tuple) and w[:1] == ("homogeneous",) for w in weights))
    return tuple(flags)


def _keep(group: Group, mu: Any, homogeneous: tuple[bool, ...]) -> Any:
    """A covector on the algebra restricted to the symmetric generators; None where there are none."""
    match group:
        case GeneralLinear():
            return _symmetrised(mu)
        case Stabiliser() if not group.is_orthogonal and group.dimension:
            unit = group.fixed / np.linalg.norm(group.fixed)
            across = jnp.asarray(np.eye(group.n) - np.outer(unit, unit), mu.dtype)
            return _symmetrised(jnp.matmul(across, group.matrix(mu), precision=_HIGHEST))
        case PositiveScaling() | Translation():
            return mu
        case Monomial() if group.num_scales:
            return mu
        case Affine():
            return AffineElement(_symmetrised(mu.linear), None if homogeneous[0] else mu.shift)  # pyright: ignore
        case Product():
            parts, start = [], 0
            for g, part in zip(group.groups, mu, strict=True):
                parts.append(_keep(g, part, homogeneous[start : start + len(g.sizes)]))
                start += len(g.sizes)
            return None if all(part is None for part in parts) else tuple(parts)
        case Wreath():
            outer = _keep(group.outer, mu.outer, homogeneous[:1])
            inner = None
            if _count(group.inner, homogeneous[1:])[0]:
                inner = jax.vmap(lambda m: _keep(group.inner, m, homogeneous[1:]))(mu.inner)
            if outer is None:
                return inner
            return outer if inner is None else WreathElement(outer, inner)
    return None


def _symmetrised(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _count(group: Group, homogeneous: tuple[bool, ...]) -> tuple[int, str]:
    """The number of symmetric generators, and what they are."""
    n = group.sizes[0]
    match group:
        case GeneralLinear():
            return n * (n + 1) // 2, "symmetric matrices"
        case Stabiliser() if not group.is_orthogonal and group.dimension:
            return n * (n - 1) // 2, "symmetric matrices that take the vector to 0"
        case PositiveScaling():
            return group.dimension, "all: diagonal matrices"
        case Monomial() if group.num_scales:
            return group.dimension, "all: diagonal matrices"
        case Translation():
            return group.dimension, "all: constant fields"
        case Affine():
            shifts = "" if homogeneous[0] else ", and the shifts"
            return n * (n + 1) // 2 + (n if shifts else 0), f"symmetric matrices{shifts}"
        case Orthogonal() | Stabiliser() if group.dimension:
            return 0, "none: antisymmetric matrices, whose currents decay under friction"
        case Product():
            counts, start = [], 0
            for g in group.groups:
                counts.append(_count(g, homogeneous[start : start + len(g.sizes)]))
                start += len(g.sizes)
            return sum(c for c, _ in counts), "; ".join(why for _, why in counts)
        case Wreath():
            outer, inner = _count(group.outer, homogeneous[:1]), _count(group.inner, homogeneous[1:])
            why = [w for count, w in (outer, inner) if count]
            return outer[0] + group.copies * inner[0], "; ".join(why) or inner[1]
    return 0, "none: it is discrete"
