"""Flat directions that a symmetry promises at a stationary point, and the curvature measured along them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.identities._hessian import hessian_images
from eqtoolbox.identities._identity import relative
from eqtoolbox.identities._position import real_arrays
from eqtoolbox.linalg import rank_from_singular_values, tree_norm, unravel_stack
from eqtoolbox.symmetry import Symmetry, check_symmetry, generator_matrix

Tree = Any


class Degeneracy(NamedTuple):
    """What a symmetry promises of the Hessian, and what was measured.

    Attributes:
      dimension: q, the dimension of the orbit through θ: at a stationary point at least as many Hessian
        eigenvalues are 0.
      directions: an orthonormal basis of the orbit's tangent space, like the parameters with a leading axis of
        length q.
      curvature: ‖∇²L t‖ / ‖∇²L‖_F for each of them; 0 at a stationary point.
      gradient: ‖∇L‖: elsewhere ‖∇²L Xξ‖ = ‖(∂_θ Xξ)ᵀ∇L‖ is of this order.
      hessian: the estimate of ‖∇²L‖_F.
    """

    dimension: int
    directions: Tree
    curvature: Array
    gradient: Array
    hessian: Array


def degeneracy(
    sym: Symmetry, model: Callable[[Tree], Tree], output_loss: Callable[[Tree], Array], params: Tree
) -> Degeneracy:
    """The flat directions promised by a symmetry at a stationary point, and their measured curvature (EQ-5.4).

    Where ∇L = 0, ∇²L X = 0 for all generators. So the Hessian has at least q zero eigenvalues, q the dimension
    of the span of the characteristic directions at θ (the text prints p once); it is less than the dimension
    of the group where a subgroup fixes θ. Works on concrete arrays, and forms the matrix of generators: restrict
    the symmetry to some of its spaces for a large model.

    Args:
      sym: the symmetry; a discrete one promises nothing, q = 0.
      model: θ -> outputs, data closed over.
      output_loss: outputs -> a scalar.
      params: θ, arrays.

    Returns:
      A ``Degeneracy``.

    Raises:
      TypeError: ``sym`` is no symmetry, or a leaf does not hold real numbers.
      ValueError: the matrix of generators would be too large.

    Reference:
      Yang & Ziyin, section 5.4.
    """
    check_symmetry(sym, "degeneracy")
    params = real_arrays(params, "params")
    gradient = tree_norm(jax.grad(lambda p: output_loss(model(p)))(params))
    rows = jnp.zeros((0, sum(leaf.size for leaf in jax.tree.leaves(params))))
    if not sym.is_discrete:
        _, values, rows = np.linalg.svd(np.asarray(generator_matrix(sym, params)), full_matrices=False)
        rows = jnp.asarray(
            rows[: int(rank_from_singular_values(values, shape=(sym.dimension, rows.shape[1])).rank)]
        )
    directions = unravel_stack(rows, params)
    images, size = hessian_images(lambda p: output_loss(model(p)), params, directions)
    curvature = relative(jax.vmap(tree_norm)(images), size)
    return Degeneracy(len(rows), directions, curvature, gradient, size)
