"""What every section is given."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from eqtoolbox.pages import SILENT, Progress
from eqtoolbox.problem import Batch, Problem
from eqtoolbox.report._check import Invariance
from eqtoolbox.report._config import Config
from eqtoolbox.report._control import Control
from eqtoolbox.report._train import Run
from eqtoolbox.symmetry import Symmetry

Params = Any


@dataclass(frozen=True)
class Context:
    """The problem, its symmetry, and the training run that the sections share.

    Attributes:
      problem: checked; it has training examples and a symmetry.
      config: the options, with every default filled in.
      params: the initial parameters θ_0.
      data: the training examples, as arrays.
      examples: the first of them, up to 512: a fixed sample to evaluate on.
      indices: the rows of each step's batch, shape (steps, batch_size).
      invariance: the measured invariance of the symmetry at θ_0.
      control: a wrong symmetry, or None.
      run: the training run with the records of all probes; None while probes are made.
      progress: told about training steps.
      memo: what ``once`` remembers.
    """

    problem: Problem
    config: Config
    params: Params
    data: Batch
    examples: Batch
    indices: Array
    invariance: Invariance
    control: Control | None
    run: Run | None = None
    progress: Progress = SILENT
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def symmetry(self) -> Symmetry:
        """The symmetry of the problem."""
        assert self.problem.symmetry is not None
        return self.problem.symmetry

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Plain gradient descent: no momentum and no clipping, so that its drift is what the theory says."""
        return optax.chain(optax.scale_by_learning_rate(self.config.learning_rate))

    @property
    def training(self) -> Run:
        """The training run.

        Raises:
          RuntimeError: asked for by a probe, before training.
        """
        if self.run is None:
            raise RuntimeError("the training run is not there yet: only sections can read it, not probes")
        return self.run

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """``compute()``, computed only once for each name: what a section's probe and its run share."""
        if name not in self.memo:
            self.memo[name] = compute()
        return self.memo[name]

    def elements(self, sym: Symmetry, count: int, purpose: str) -> Any:
        """Random elements of a symmetry with a leading axis, as NumPy arrays.

        They are drawn in float64, so that an orthogonal matrix is one in either precision.
        """
        with jax.enable_x64(True):
            drawn = [jax.device_get(sym.sample(key)) for key in jax.random.split(self.key(purpose), count)]
        return jax.tree.map(lambda *parts: np.stack(parts), *drawn)

    def key(self, purpose: str) -> Array:
        """A random key of its own for each purpose."""
        return jax.random.fold_in(jax.random.key(self.config.seed), zlib.crc32(purpose.encode()))
