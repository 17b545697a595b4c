"""Krylov spaces: the minimum of a quadratic model, with a preconditioner and a known direction; a square root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import scan, tree_vdot

Tree = Any
Map = Callable[[Tree], Tree]


class Minimum(NamedTuple):
    """What was found.

    Attributes:
      step: x.
      slope: gᵀx.
      curvature: xᵀA x.
    """

    step: Tree
    slope: Array
    curvature: Array


def minimize(product: Map, gradient: Tree, precondition: Map, known: Tree | None, iterations: int) -> Minimum:
    """The minimum of gᵀx + ½ xᵀA x over a space that grows by one direction in each iteration.

    The space is that of ``known`` and of preconditioned residuals, which are made conjugate to it, so that the minimum
    stays one over ``known``, too (deflated conjugate gradients). One iteration is the step and the momentum of the
    exact two-dimensional model.

    Args:
      product: x ↦ A x, positive semidefinite. Iterations end at a direction of no, or of negative curvature.
      gradient: g.
      precondition: a positive definite approximation of x ↦ A^{-1} x.
      known: a direction, such as the last step; zeros or None for none.
      iterations: at least 1; one product each, and one for ``known``.

    Returns:
      The minimum.

    Reference:
      Saad, Yeung, Erhel & Guyomarc'h, A deflated version of the conjugate gradient algorithm (2000), algorithm 3.5;
      Martens & Grosse, Optimizing neural networks with Kronecker-factored approximate curvature (2015), section 7.
    """
    x, r = jax.tree.map(jnp.zeros_like, gradient), jax.tree.map(jnp.negative, gradient)
    conjugate: Map = lambda z: z  # noqa: E731
    if known is not None:
        image = product(known)
        curvature = tree_vdot(known, image)
        share = _ratio(tree_vdot(known, r), curvature)
        x, r = _axpy(share, known, x), _axpy(-share, image, r)
        conjugate = lambda z: _axpy(-_ratio(tree_vdot(z, image), curvature), known, z)  # noqa: E731

    def iteration(carry: Any, _: None) -> tuple[Any, None]:
        x, r, q, old = carry
        z = precondition(r)
        new = tree_vdot(r, z)
        q = _axpy(_ratio(new, old), q, conjugate(z))
        image = product(q)
        length = _ratio(new, tree_vdot(q, image))
        return (_axpy(length, q, x), _axpy(-length, image, r), q, new), None

    start = x, r, jax.tree.map(jnp.zeros_like, x), jnp.zeros_like(tree_vdot(x, x))
    (x, r, _, _), _ = scan(iteration, start, None, length=iterations)
    slope = tree_vdot(gradient, x)
    return Minimum(x, slope, -slope - tree_vdot(r, x))  # A x = -g - r


def root_product(product: Callable[[Array], Array], x: Array, steps: int) -> Array:
    """A^{1/2} x for a positive semidefinite A, from the Krylov space of x: exact for as many distinct eigenvalues.

    Lanczos without orthogonalisation, which few steps do not need. Negative Ritz values count as 0.
    """
    size = jnp.linalg.norm(x)
    q, before, beta = x * _ratio(jnp.ones_like(size), size), jnp.zeros_like(x), jnp.zeros_like(size)
    rows, diagonal, beside = [], [], []
    for _ in range(steps):
        image = product(q)
        alpha = q @ image
        rest = image - alpha * q - beta * before
        norm = jnp.linalg.norm(rest)
        norm = jnp.where(norm > 1e-4 * jnp.linalg.norm(image), norm, 0)  # what is less is rounding
        rows.append(q)
        diagonal.append(alpha)
        beside.append(norm)
        before, q, beta = q, rest * _ratio(jnp.ones_like(norm), norm), norm
    off = jnp.diag(jnp.stack(beside)[:-1], 1)
    w, v = jnp.linalg.eigh(jnp.diag(jnp.stack(diagonal)) + off + off.T)
    return size * ((v * jnp.sqrt(jnp.maximum(w, 0))[None]) @ v[0]) @ jnp.stack(rows)


def _ratio(a: Array, b: Array) -> Array:
    """a / b; 0 where b is not positive."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def _axpy(a: Array, x: Tree, y: Tree) -> Tree:
    return jax.tree.map(lambda p, q: a * p + q, x, y)
