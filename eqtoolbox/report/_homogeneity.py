"""Is a model homogeneous? Finds weights w and a degree m with f(e^{wλ}θ) = e^{mλ} f(θ), and tests them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eqtoolbox.identities import homogeneous
from eqtoolbox.testing import TOLERANCES, discrepancy

Params = Any

#: Factors e^λ that a candidate is tested at.
FACTORS = (2.0, 2 / 3)
#: Weights are multiples of 1/n for n up to this.
DENOMINATOR = 12


class Degree(NamedTuple):
    """How a model scales.

    Attributes:
      degree: m.
      weights: a pytree like the parameters of one number w for each leaf.
      error: the largest relative error of f(e^{wλ}θ) = e^{mλ} f(θ) that was seen.
    """

    degree: float
    weights: Any
    error: float


def find_degree(model: Callable[[Params], Any], params: Params, dtype: str) -> Degree | None:
    """Looks for weights under which a model is homogeneous.

    By Euler's relation Σ_l w_l ∂_l f·θ_l = m f, where l runs over the leaves: (w, m) is a null vector of a matrix with
    one column for each leaf. Of these the one is taken whose weights are closest to 1 on leaves with two axes
    or more: in a ReLU network with biases, 1 for kernels and l for the bias of layer l. It is rounded to simple
    fractions and then tested at finite λ.

    Args:
      model: θ -> outputs, a pytree of real arrays.
      params: θ, at a generic point: no leaf should be zero.
      dtype: of the coarsest step of the computation.

    Returns:
      The degree, or None if there is none, or if it is 0.
    """
    leaves, treedef = jax.tree.flatten(params)
    tolerance = math.sqrt(TOLERANCES[dtype]) * 1e-1

    @jax.jit
    def columns(params: Params) -> Any:
        def one(chosen: jax.Array) -> Any:
            parts = jax.tree.leaves(params)
            tangent = treedef.unflatten([x * chosen[i].astype(x.dtype) for i, x in enumerate(parts)])
            return jax.jvp(model, (params,), (tangent,))[1]

        return jax.vmap(one)(jnp.eye(len(leaves))), model(params)

    stack, outputs = jax.device_get(columns(params))
    value = _flat(outputs)
    slopes = np.stack([_flat(jax.tree.map(lambda x, i=i: x[i], stack)) for i in range(len(leaves))], axis=1)
    if not value.any() or not np.isfinite(slopes).all():
        return None
    null = _null_space(np.column_stack([slopes, -value]), tolerance)
    kernels = [i for i, leaf in enumerate(leaves) if jnp.ndim(leaf) > 1] or list(range(len(leaves)))
    combination = np.linalg.lstsq(null[kernels], np.ones(len(kernels)), rcond=1e-6)[0] if null.size else None
    if combination is None:
        return None
    simple = [float(Fraction(float(x)).limit_denominator(DENOMINATOR)) for x in null @ combination]
    weights, degree = treedef.unflatten(simple[:-1]), simple[-1]
    if degree == 0:
        return None
    eq = homogeneous(degree, weights)

    @jax.jit
    def both(params: Params, lam: jax.Array) -> tuple[Any, Any]:
        return model(eq.act(params, lam)), eq.act_output(model(params), lam)

    error = max(discrepancy(*both(params, jnp.asarray(math.log(c)))).error for c in FACTORS)
    return Degree(degree, weights, error) if error <= TOLERANCES[dtype] else None


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def _null_space(matrix: np.ndarray, tolerance: float) -> np.ndarray:
    """Null vectors of a matrix as columns; columns of the matrix that vanish get no part in them."""
    scale = np.linalg.norm(matrix, axis=0)
    used = scale > 0
    _, values, rows = np.linalg.svd(matrix[:, used] / scale[used])
    small = np.ones(len(rows), bool)
    small[: len(values)] = values <= tolerance
    null = np.zeros((matrix.shape[1], int(small.sum())))
    null[used] = rows[small].T / scale[used, None]
    return null
