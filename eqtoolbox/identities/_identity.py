"""`Identity`: both sides of an equation, its terms, and how far it is from holding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import tree_norm

Tree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Identity:
    """Both sides of an identity, for one direction or a stack of them.

    Attributes:
      lhs: the left side; for a stack of k directions every array has a leading axis of length k.
      rhs: the right side, the sum of ``terms``.
      terms: the signed contributions to the right side by name, the letters of the paper.
      residual: |lhs - rhs| over ``scale``, one number per direction; 0 where the two are equal.
      scale: the size the difference is compared with: a bound on the sides that does not cancel, stated by
        the function that made the identity.
      solve_residual: the relative residual of the linear solves behind it; exactly 0 where an inverse map, a
        generator or the identity took their place.
    """

    lhs: Any
    rhs: Any
    terms: dict[str, Any]
    residual: Array
    scale: Array
    solve_residual: Array


def identity(lhs: Tree, terms: dict[str, Tree], size: Array, solve_residual: Array) -> Identity:
    """The identity lhs = Σ terms of one direction, on the scale ``size`` + Σ |term|."""
    rhs = total(*terms.values())
    scale = size + sum((tree_norm(term) for term in terms.values()), jnp.float32(0))
    gap = tree_norm(jax.tree.map(jnp.subtract, lhs, rhs))
    return Identity(lhs, rhs, terms, relative(gap, scale), scale, solve_residual)


def relative(gap: Array, scale: Array) -> Array:
    """The quotient, 0 where both vanish and infinite where only the scale does."""
    quotient = gap / jnp.where(scale == 0, 1, scale)
    return jnp.where((scale == 0) & (gap != 0), jnp.inf, quotient)


def distance(tree: Tree, like: Tree) -> Array:
    """‖tree - like‖ / ‖like‖."""
    return relative(tree_norm(jax.tree.map(jnp.subtract, tree, like)), tree_norm(like))


def total(*trees: Tree) -> Tree:
    """The sum of trees."""
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def negative(tree: Tree) -> Tree:
    """Minus a tree."""
    return jax.tree.map(jnp.negative, tree)


def zeros(tree: Tree) -> Tree:
    """Zeros like a tree."""
    return jax.tree.map(jnp.zeros_like, tree)


def first(result: Identity) -> Identity:
    """A stack of one direction as a single one."""
    return jax.tree.map(lambda x: x[0], result)
