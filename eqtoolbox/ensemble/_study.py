"""`Study`: what a run averages over the models of a problem, and what it makes of the averages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from eqtoolbox.curvature import Commutant
from eqtoolbox.ensemble._config import EnsembleConfig
from eqtoolbox.ensemble._ensemble import Ensemble, Sums
from eqtoolbox.ensemble._law import Law, functional, gradient_noise, hessian_noise, law
from eqtoolbox.ensemble._net import Net
from eqtoolbox.ensemble._statistics import (
    Model,
    Statistic,
    charges,
    covariance_blocks,
    factors,
    flat_gradients,
    full_covariance,
    gradients,
    hessians,
    losses,
    second_moment,
)
from eqtoolbox.ensemble._stream import Functional, Stream
from eqtoolbox.inference import infer_symmetry
from eqtoolbox.linalg import Estimate, Moments, moments_estimate, moments_mean
from eqtoolbox.noether import charge_fn
from eqtoolbox.problem import Problem

#: Largest number of parameters of a model whose whole p × p matrices are averaged too.
TINY = 256


@dataclass(frozen=True)
class Study:
    """A problem and the options of a run.

    Attributes:
      config: with every option filled in.
      problem: with training examples.
      net: the bundled network, or None.
    """

    config: EnsembleConfig
    problem: Problem
    net: Net | None = None

    @cached_property
    def com(self) -> Commutant:
        """The commutant of the symmetry, which is inferred where the problem has none."""
        shapes = jax.eval_shape(self.problem.init, jax.random.key(0))
        sym = self.problem.symmetry
        if sym is None:
            assert self.problem.train is not None
            sym = infer_symmetry(self.problem.apply, shapes, self.problem.train.inputs)
        return Commutant(sym, shapes)

    @property
    def tiny(self) -> bool:
        """Whether whole matrices are averaged too."""
        return self.com.size <= TINY

    @cached_property
    def ensemble(self) -> Ensemble:
        """The ensemble, with all statistics."""
        found: dict[str, Statistic] = {
            "loss": losses(),
            "gradient": gradients(),
            "factors": factors(self.com),
        }
        if self.tiny:
            found |= {"flat": flat_gradients(), "squares": flat_gradients(2)}
        if self.config.hessian:
            found["hessian"] = Statistic(self._both) if self.tiny else hessians(self.com)
        sym = self.problem.symmetry
        if sym is not None and not sym.is_discrete:
            shapes = jax.eval_shape(self.problem.init, jax.random.key(0))
            if jax.tree.leaves(jax.eval_shape(charge_fn(sym), shapes)):
                found["charges"] = charges(sym)
        return Ensemble.of(
            self.problem, self.config.transformation(), times=self.config.times, statistics=found
        )

    def _both(self, model: Model) -> dict[str, Any]:
        """The whole Hessian and its blocks."""
        matrix = hessians().function(model)
        return {"matrix": matrix, "blocks": self.com.project(matrix)}

    @cached_property
    def functionals(self) -> dict[str, Functional]:
        """What is recorded over sub-ensembles, for tiny models."""
        found = {}
        if self.tiny:
            for time in map(str, self.config.times):
                found[f"covariance {time}"] = functional(
                    self.com, lambda sums, t=time: second_moment(sums[t]["flat"])
                )
                if self.config.hessian:
                    found[f"hessian {time}"] = functional(
                        self.com, lambda sums, t=time: moments_mean(sums[t]["hessian"])["matrix"]
                    )
        return found

    # What follows.

    def factor_estimates(self, sums: dict[str, Moments]) -> dict[str, Estimate]:
        """The blocks of the gradient covariance, of the uncentred one, and of the Hessian, at one time."""
        uncentred = moments_estimate(sums["factors"])
        found = {
            "covariance": covariance_blocks(self.com, sums["factors"]),
            "second-moment": Estimate(
                uncentred.value["gram"], uncentred.standard_error["gram"], uncentred.samples
            ),
        }
        if self.config.hessian:
            hessian = moments_estimate(sums["hessian"])
            found["hessian"] = (
                Estimate(hessian.value["blocks"], hessian.standard_error["blocks"], hessian.samples)
                if self.tiny
                else hessian
            )
        return found

    def matrices(self, sums: dict[str, Moments]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For tiny models the whole matrices and their projections, in the order of the figures."""
        if not self.tiny:
            return {}
        estimates = {"covariance": full_covariance(sums["flat"], sums["squares"])}
        if self.config.hessian:
            mean = moments_mean(sums["hessian"])["matrix"]
            estimates["hessian"] = Estimate(mean, None, sums["hessian"].count)
        order = np.ix_(self.order, self.order)
        project = jax.jit(lambda a: self.com.to_dense(self.com.project(a)))
        return {
            k: (np.asarray(e.value)[order], np.asarray(project(e.value))[order]) for k, e in estimates.items()
        }

    def laws(self, stream: Stream, state: Any, total: Sums) -> dict[str, Law]:
        """For tiny models how the errors depend on the number of models, by ``"covariance 20"`` and the like."""
        found = {}
        for name, levels in stream.scaling(state).items():
            what, time = name.split()
            noise = gradient_noise if what == "covariance" else hessian_noise
            if levels and int(levels[0][1].samples) > 1:
                found[name] = law(self.com, levels, noise(self.com, total[time]))
        return found

    @property
    def order(self) -> np.ndarray:
        """The entries of ``ravel_pytree`` in the order of the figures."""
        return np.arange(self.com.size) if self.net is None else self.net.order()

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Names and sizes of the pieces of ``order``."""
        if self.net is not None:
            return self.net.parts()
        return [(path, int(np.prod(shape))) for path, shape in self.com.leaves]
