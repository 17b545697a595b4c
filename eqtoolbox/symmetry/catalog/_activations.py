"""Which group a layer of hidden units carries, by its activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from eqtoolbox.groups import (
    GeneralLinear,
    Group,
    Monomial,
    Orthogonal,
    Permutation,
    SignedPermutation,
)


@dataclass(frozen=True)
class ActivationRule:
    r"""The group of a layer whose activation satisfies :math:`\sigma(g z) = \rho(g)\,\sigma(z)`.

    What writes the units (columns of their kernel, their bias) moves with g, what reads them (rows of the next
    kernel) with the inverse transpose of ρ(g).

    Attributes:
      group: makes the group for a number of units.
      writer: the exponent of a writer as a label writes it after the name of the space: ``""`` is 1.
      reader: the exponent of a reader, such as ``"*"`` or ``"^-2"``.

    Reference:
      Zhao, "Symmetry in Neural Networks" (2026), Prop. 1.2.3 (there b_1 is in R^h, misprinted R^n: DA-E1). That
      the rule is sufficient is Prop. 1.2.3; the "only if" of (2.4) needs invariance for all U and X (DA-E6).
    """

    group: Callable[[int], Group]
    writer: str = ""
    reader: str = ""


def homogeneous(degree: int | str | Fraction, parity: str | None = None) -> ActivationRule:
    r"""The rule of :math:`\sigma(c z) = c^p \sigma(z)` for c > 0: permutations with a scaling per unit.

    Args:
      degree: the degree p, any rational (``"3/2"``).
      parity: "odd" (:math:`\sigma(-z) = -\sigma(z)`) or "even" (:math:`\sigma(-z) = \sigma(z)`) where it is
        either: then each unit has a sign too.

    Returns:
      The rule: writers have exponent 1, readers -p; an even activation hides the sign from its readers.

    Raises:
      ValueError: the parity is neither of them.

    Reference:
      Zhao (2026), Example 1.2.4 with the degree of sec. 2.3.
    """
    p = Fraction(degree)
    if parity not in (None, "odd", "even"):
        raise ValueError(f"`parity` must be 'odd', 'even' or None, got {parity!r}")
    power = "*" if p == 1 else f"^{-p}"
    if parity is None:
        return ActivationRule(lambda n: Monomial(n, scales=1), "", power)
    if p.denominator == 1 and parity == ("odd" if p % 2 else "even"):
        return ActivationRule(lambda n: Monomial(n, scales=1, signs=1), "", power)
    sign = ",s:1" if parity == "odd" else ""
    return ActivationRule(
        lambda n: Monomial(n, scales=("a",), signs=("s",)), "{a:1,s:1}", f"{{a:{-p}{sign}}}"
    )


_LINEAR = ActivationRule(GeneralLinear, "", "*")
_RADIAL = ActivationRule(Orthogonal)
_ODD = ActivationRule(SignedPermutation)
_POINTWISE = ActivationRule(Permutation)

_NAMES: MappingProxyType[str, ActivationRule] = MappingProxyType(
    {
        "linear identity": _LINEAR,
        "radial": _RADIAL,
        "odd tanh sin softsign soft_sign hard_tanh arctan erf": _ODD,
        "homogeneous relu leaky_relu": homogeneous(1),
        "relu2": homogeneous(2),
        "square": homogeneous(2, "even"),
        "abs": homogeneous(1, "even"),
        "cube": homogeneous(3, "odd"),
        "pointwise gelu silu swish sigmoid softplus elu selu mish": _POINTWISE,
        "relu6 hard_sigmoid hard_silu log_sigmoid": _POINTWISE,
    }
)
_RULES = MappingProxyType({name: rule for names, rule in _NAMES.items() for name in names.split()})


def activation_rules() -> MappingProxyType[str, ActivationRule]:
    """The rule of each activation known by name.

    ============================================== ======================================================
    names                                          group of n units
    ============================================== ======================================================
    linear, identity                               GL(n)
    radial                                         O(n)
    odd, tanh, sin, softsign, hard_tanh, erf, …    B(n), signed permutations
    homogeneous, relu, leaky_relu                  S(n) ⋉ R₊^n, exponents 1 and -1
    relu2                                          S(n) ⋉ R₊^n, exponents 1 and -2
    abs                                            S(n) ⋉ (R₊ × Z₂)^n, signs on the writers only
    square                                         S(n) ⋉ R*^n, exponents 1 and -2
    cube                                           S(n) ⋉ R*^n, exponents 1 and -3
    pointwise, gelu, silu, sigmoid, softplus, …    S(n)
    ============================================== ======================================================

    Returns:
      A read-only mapping. "pointwise", "odd" and "homogeneous" are for activations that are not listed.
    """
    return _RULES


def activation_rule(activation: str | ActivationRule) -> ActivationRule:
    """The rule of an activation given by name; a rule is returned as it is.

    Raises:
      ValueError: there is none of that name.
      TypeError: it is neither a name nor a rule.
    """
    if isinstance(activation, ActivationRule):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"`activation` must be a name or an ActivationRule, got {activation!r}")
    if activation not in _RULES:
        raise ValueError(
            f"no rule for the activation {activation!r}; say 'pointwise', 'odd' or 'homogeneous', or one of "
            f"{', '.join(sorted(_RULES))}"
        )
    return _RULES[activation]
