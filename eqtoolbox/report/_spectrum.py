"""The spectrum of the Hessian as Lanczos sees it, at points of the training run."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from eqtoolbox.linalg import hvp_fn, lanczos
from eqtoolbox.problem import Batch
from eqtoolbox.report._context import Context, Params

STEPS = 24
#: Random vectors at initialisation and after training, where the density is wanted; elsewhere one.
PROBES = 6


class Spectra(NamedTuple):
    """Ritz values of the Hessian on the fixed examples, from random vectors.

    Attributes:
      steps: of training, before which they were taken; the first 0, the last the end.
      sharpness: the largest Ritz value, a lower bound of the largest eigenvalue and close to it.
      values: at the first and the last point, shape (2, probes, k).
      weights: of the values in the spectral density; they sum to 1 over k.
    """

    steps: np.ndarray
    sharpness: np.ndarray
    values: np.ndarray
    weights: np.ndarray


def spectra(context: Context) -> Spectra:
    """The spectra at the snapshots of training, computed once for all sections."""
    return context.once("spectra", lambda: _spectra(context))


def _spectra(context: Context) -> Spectra:
    size = sum(x.size for x in jax.tree.leaves(context.params))

    @jax.jit
    def ritz(params: Params, examples: Batch, key: Any) -> Any:
        product = hvp_fn(lambda p: context.problem.batch_loss(p, examples), params)
        found = lanczos(product, params, min(STEPS, size), key=key, vectors=False)
        return found.values, found.weights

    points = context.training.snapshots
    found = []
    for i, (step, params) in enumerate(points):
        count = PROBES if i in (0, len(points) - 1) else 1
        keys = jax.random.split(context.key(f"spectrum before step {step}"), count)
        draws = [jax.device_get(ritz(params, context.examples, key)) for key in keys]
        found.append(jax.tree.map(lambda *x: np.stack(x), *draws))
    sharpness = np.array([values.max() for values, _ in found])
    values, weights = (np.stack([found[0][k], found[-1][k]]) for k in (0, 1))
    return Spectra(np.array([step for step, _ in points]), sharpness, values, weights)
