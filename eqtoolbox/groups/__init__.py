"""Groups that can act on parameters: elements as pytrees, algebra, sampling, vector representation.

Every group is a frozen dataclass without arrays, so it is hashable and static under ``jit``; elements and
algebra vectors are plain pytrees.

>>> import jax, jax.numpy as jnp
>>> from eqtoolbox import groups
>>> group = groups.GeneralLinear(3)
>>> g = group.sample(jax.random.key(0))
>>> x = jnp.ones((2, 3))
>>> bool(jnp.allclose(group.act(group.inverse(g), group.act(g, x)), x, atol=1e-5))
True
>>> group.dimension, groups.Monomial(4, scales=1).dimension, groups.Permutation(4).order
(9, 4, 24)
"""

from eqtoolbox.groups._affine import Affine, AffineElement, Translation
from eqtoolbox.groups._base import Group, Isotypic, Slot
from eqtoolbox.groups._compound import Product, Wreath, WreathElement
from eqtoolbox.groups._discrete import Permutation, SignFlip, Trivial
from eqtoolbox.groups._exponent import Exponent, Term
from eqtoolbox.groups._matrix import GeneralLinear, Orthogonal, Stabiliser
from eqtoolbox.groups._monomial import Monomial, MonomialElement, SignedPermutation
from eqtoolbox.groups._scaling import PositiveScaling, Scaling

__all__ = [
    "Affine",
    "AffineElement",
    "Exponent",
    "GeneralLinear",
    "Group",
    "Isotypic",
    "Monomial",
    "MonomialElement",
    "Orthogonal",
    "Permutation",
    "PositiveScaling",
    "Product",
    "Scaling",
    "SignFlip",
    "SignedPermutation",
    "Slot",
    "Stabiliser",
    "Term",
    "Translation",
    "Trivial",
    "Wreath",
    "WreathElement",
]
