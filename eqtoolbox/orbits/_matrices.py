"""The best matrix: Procrustes for O(n), least squares and Gauss-Newton steps by Sylvester's equation for GL(n)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.groups import GeneralLinear, Orthogonal, Stabiliser
from eqtoolbox.linalg import while_loop
from eqtoolbox.orbits._assignment import assignment
from eqtoolbox.orbits._blocks import Pair, outer, unit_rows

STEPS = 30


class Grams(NamedTuple):
    """All that the squared distance ‖gB - A‖² + ‖g⁻ᵀC - D‖² depends on, but for a constant.

    Attributes:
      bb: B Bᵀ.
      ab: A Bᵀ.
      cc: C Cᵀ.
      dc: D Cᵀ.
    """

    bb: Array
    ab: Array
    cc: Array
    dc: Array


def grams(n: int, pairs: Sequence[Pair]) -> Grams:
    """The products of the blocks on which g acts (B) and on which its inverse transpose acts (C)."""
    dtype = jnp.result_type(*(pair.moved for pair in pairs))
    found = {sign: [jnp.zeros((n, n), dtype), jnp.zeros((n, n), dtype)] for sign in (1, -1)}
    for pair in pairs:
        for slot in pair.slots:
            a, b = unit_rows(pair.wanted, slot.axis), unit_rows(pair.moved, slot.axis)
            same = found[slot.weight]
            same[0], same[1] = same[0] + outer(b, b), same[1] + outer(a, b)
    return Grams(*found[1], *found[-1])


def permutation_matrix(n: int, pairs: Sequence[Pair]) -> Array:
    """The best permutation, as a matrix: the inverse transpose is the same."""
    g = grams(n, pairs)
    return jnp.eye(n, dtype=g.bb.dtype)[assignment(g.ab + g.dc)]


def orthogonal(group: Orthogonal | Stabiliser, pairs: Sequence[Pair]) -> Array:
    """Procrustes: the polar factor of A Bᵀ; in a stabiliser, of its part on the complement of the vector."""
    total = grams(group.n, pairs)
    product = total.ab + total.dc
    if isinstance(group, Stabiliser):
        basis, unit = group._frame(product.dtype)
        return basis @ polar(basis.T @ product @ basis) @ basis.T + jnp.outer(unit, unit)
    return polar(product)


def polar(matrix: Array) -> Array:
    """The orthogonal Q with the largest ⟨Q, M⟩."""
    u, _, v = jnp.linalg.svd(matrix)
    return u @ v


def general(group: GeneralLinear, pairs: Sequence[Pair]) -> Array:
    """The best invertible matrix from several starts, by damped Gauss-Newton steps that never go up.

    Starts: the identity, least squares on the blocks of g and on those of its inverse transpose, and the
    polar factor between the balanced forms of both, exact on an orbit.

    Args:
      group: GL(n).
      pairs: blocks with one slot each.
    """
    total = grams(group.n, pairs)
    one = jnp.eye(group.n, dtype=total.bb.dtype)
    # The identity is first, for where nothing else is better.
    starts = jnp.stack([one, _least_squares(total), _dual_least_squares(total), _balanced(total, pairs)])
    costs, _ = jax.vmap(lambda g: _cost(total, g))(starts)
    return _descend(total, starts[jnp.argmin(costs)])


def _ridge(gram: Array) -> Array:
    n = gram.shape[0]
    return (jnp.finfo(gram.dtype).eps * 10 * jnp.trace(gram) / n + jnp.finfo(gram.dtype).tiny) * jnp.eye(
        n, dtype=gram.dtype
    )


def _least_squares(total: Grams) -> Array:
    ridge = _ridge(total.bb)
    return jnp.linalg.solve(total.bb + ridge, (total.ab + ridge).T).T


def _dual_least_squares(total: Grams) -> Array:
    ridge = _ridge(total.cc)
    dual = jnp.linalg.solve(total.cc + ridge, (total.dc + ridge).T).T
    return jnp.linalg.inv(dual).T


def _balanced(total: Grams, pairs: Sequence[Pair]) -> Array:
    """S_a⁻¹ Q S_b, with S S the geometric mean that makes the Grams of both kinds of blocks equal."""
    n = total.bb.shape[0]
    wanted = [p._replace(moved=p.wanted) for p in pairs]
    target = grams(n, wanted)
    own, other = _balance(total.bb, total.cc), _balance(target.bb, target.cc)
    back = jnp.linalg.inv(own)
    cross = other @ total.ab @ own.T + jnp.linalg.inv(other).T @ total.dc @ back
    return jnp.linalg.solve(other, polar(cross) @ own)


def _balance(bb: Array, cc: Array) -> Array:
    """The symmetric S with S B Bᵀ S = S⁻¹ C Cᵀ S⁻¹; the identity where one of the two is missing."""
    missing = (jnp.trace(bb) == 0) | (jnp.trace(cc) == 0)
    one = jnp.eye(bb.shape[0], dtype=bb.dtype)
    bb, cc = (jnp.where(missing, one, x + _ridge(x)) for x in (bb, cc))
    root = _power(bb, 0.5)
    back = _power(bb, -0.5)
    mean = back @ _power(root @ cc @ root, 0.5) @ back
    return _power((mean + mean.T) / 2, 0.5)


def _power(matrix: Array, power: float) -> Array:
    values, vectors = jnp.linalg.eigh(matrix)
    floor = jnp.finfo(matrix.dtype).eps * values[-1] + jnp.finfo(matrix.dtype).tiny
    return (vectors * jnp.maximum(values, floor)[None, :] ** power) @ vectors.T


def _cost(total: Grams, g: Array) -> tuple[Array, Array]:
    """The squared distance but for a constant, infinite where g is no matrix to invert, and g⁻ᵀ."""
    h = jnp.linalg.inv(g).T
    first = jnp.sum(g * (g @ total.bb - 2 * total.ab))
    cost = first + jnp.sum(h * (h @ total.cc - 2 * total.dc))
    condition = jnp.sqrt(jnp.sum(g**2) * jnp.sum(h**2))
    return jnp.where(condition < jnp.finfo(g.dtype).eps ** -0.5, cost, jnp.inf), h


def _descend(total: Grams, start: Array) -> Array:
    """Levenberg-Marquardt steps g -> (1 + δ) g, with δ from δ XXᵀ + YYᵀ δ + μ δ = -gradient."""

    def body(state):
        g, h, cost, mu, step, _ = state
        xx, yy = g @ total.bb @ g.T, h @ total.cc @ h.T
        right = (yy - (total.dc @ h.T).T) - (xx - total.ab @ g.T)
        (a, b), (u, v) = jnp.linalg.eigh(jnp.stack([xx, yy]), symmetrize_input=True)
        a, b = jnp.maximum(a, 0), jnp.maximum(b, 0)
        scale = (a[-1] + b[-1]) * mu + jnp.finfo(g.dtype).tiny
        delta = v @ ((v.T @ right @ u) / (a[None, :] + b[:, None] + scale)) @ u.T
        new = g + delta @ g
        found, dual = _cost(total, new)
        size = jnp.max(jnp.abs(delta))
        # Close to the minimum rounding hides the difference of two costs, but not the step.
        better = (found < cost) | ((size < 1e-3) & (found <= cost + 1e-6 * jnp.abs(cost)))
        mu = jnp.where(better, mu * 0.1, jnp.maximum(mu * 10, 1e-6))
        small = (size < 4 * jnp.finfo(g.dtype).eps) | (mu > 1e6)
        g, h = jnp.where(better, new, g), jnp.where(better, dual, h)
        return g, h, jnp.where(better, found, cost), mu, step + 1, small

    def going(state):
        return (state[4] < STEPS) & ~state[5]

    cost, dual = _cost(total, start)
    return while_loop(going, body, (start, dual, cost, jnp.asarray(1e-3, start.dtype), 0, False))[0]
