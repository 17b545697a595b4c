"""Approximate symmetries along training: the spectrum of the generator equations as a function of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from eqtoolbox.discovery._families import Family, check_family
from eqtoolbox.discovery._null_space import null_space
from eqtoolbox.linalg import leading_size
from eqtoolbox.symmetry import Symmetry

Params = Any


@dataclass(frozen=True)
class Course:
    """Spectra at T checkpoints.

    Attributes:
      spectrum: singular values in descending order, shape (T, m); divided by the root mean square of each row of
        them, so that checkpoints compare.
      dimension: of the exact symmetries at each checkpoint, shape (T,).
      gap: that decided it, shape (T,).
    """

    spectrum: np.ndarray
    dimension: np.ndarray
    gap: np.ndarray

    def count(self, tolerance: float) -> np.ndarray:
        """How many generators are symmetries up to ``tolerance``, relative, at each checkpoint."""
        return np.sum(self.spectrum <= tolerance, axis=1)


def symmetry_course(
    family: Family | Symmetry,
    function: Callable[[Params, Any], Any],
    trajectory: Params,
    inputs: Any,
    targets: Any = None,
    *,
    key: Array,
    spread: float = 0.0,
    **options: Any,
) -> Course:
    """``null_space`` around each checkpoint of a training run.

    Args:
      family: the generators.
      function: (θ, inputs) -> outputs.
      trajectory: checkpoints stacked along a leading axis of length T.
      inputs: as for ``null_space``.
      targets: as for ``null_space``.
      key: a typed key; the same draws at each checkpoint, so that differences are those of θ.
      spread: of the θ_i around each checkpoint, relative; 0 for the checkpoint alone, where a family of more
        generators than parameters is degenerate.
      **options: as for ``null_space``.

    Returns:
      The spectra.

    Raises:
      ValueError: the leaves of ``trajectory`` disagree about T, or as for ``null_space``.
    """
    family = check_family(family, "symmetry_course")
    times = leading_size(trajectory, "trajectory")
    spectra, dimensions, gaps = [], [], []
    for t in range(times):
        at = jax.tree.map(lambda x, t=t: x[t], trajectory)
        key_t = jax.random.clone(key)
        found = null_space(family, function, at, inputs, targets, key=key_t, spread=spread, **options)
        size = np.sqrt(np.mean(found.spectrum**2))
        spectra.append(found.spectrum / (size if size > 0 else 1))
        dimensions.append(found.dimension)
        gaps.append(found.gap)
    return Course(np.stack(spectra), np.array(dimensions), np.array(gaps))
