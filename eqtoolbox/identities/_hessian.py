"""Products with the true Hessian: the left sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.identities._directions import over
from eqtoolbox.linalg import hvp_fn, random_like, tree_norm

Tree = Any


def hessian_images(loss: Callable[[Tree], Array], params: Tree, stack: Tree) -> tuple[Tree, Array]:
    """∇²L(θ) u for every row u of a stack, and an estimate of the Frobenius norm of ∇²L(θ).

    E‖∇²L z‖² = ‖∇²L‖_F² for a random sign vector z; one z, always the same, gives the order of magnitude that
    a relative residual needs. It rides along as one more row.
    """
    probe = random_like(jax.random.key(0), params, "rademacher")
    rows = jax.tree.map(lambda z, u: jnp.concatenate([z[None], u]), probe, stack)
    images = over(hvp_fn(loss, params), rows)
    return jax.tree.map(lambda x: x[1:], images), tree_norm(jax.tree.map(lambda x: x[0], images))
