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

A permutation is an index vector p and acts as ``new = old[p]``; a matrix as
``new[i] = sum_j g[i, j] old[j]``, with exponent -1 as its inverse transpose.

>>> groups.Permutation(3).act(jnp.array([2, 0, 1]), jnp.array([10.0, 20.0, 30.0]))
Array([30., 10., 20.], dtype=float32)

Heads of attention, each with a linear group of its own, permuted together:

>>> heads = groups.Wreath(groups.GeneralLinear(4), groups.Permutation(3))
>>> print(heads, heads.sizes, heads.dimension)
GL(4)≀S(3) (3, 4) 48
>>> query = jnp.ones((8, 3, 4))
>>> heads.act(heads.identity(), query, axis=(1, 2)).shape
(8, 3, 4)
"""

from eqtoolbox.groups._affine import Affine, AffineElement, Translation
from eqtoolbox.groups._base import Group, Slot, UnitGroup, WithInverse, without_inverse
from eqtoolbox.groups._compound import Product, Wreath, WreathElement
from eqtoolbox.groups._discrete import Permutation, SignFlip, Trivial
from eqtoolbox.groups._exponent import Exponent, Term
from eqtoolbox.groups._isotypic import Isotypic
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
    "UnitGroup",
    "WithInverse",
    "Wreath",
    "WreathElement",
    "without_inverse",
]
