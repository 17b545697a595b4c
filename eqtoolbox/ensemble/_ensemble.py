"""`Ensemble`: how a model is made, trained and measured, and how a batch of them is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox.ensemble._models_last import models_last
from eqtoolbox.ensemble._statistics import Model, Statistic, losses
from eqtoolbox.linalg import Moments, check_integer, moments_init, moments_update_batch
from eqtoolbox.problem import Problem

Params = Any
Sums = dict[str, dict[str, Moments]]  # time -> statistic -> moments

#: How a batch of models is laid out: "last" has them along the last axis of every array, "first" along the
#: leading one (``jax.vmap``), "loop" takes one after the other.
LAYOUTS = ("last", "first", "loop")


@dataclass(frozen=True)
class Ensemble:
    """Models that differ in their random initialisation only, trained by the same optimizer on the same examples.

    Model i is drawn with the key ``fold_in(key, i)``: the same model, to rounding, whatever the size of a batch, the
    number of devices and the layout.

    Attributes:
      init: key -> params.
      loss: params -> scalar; with ``data``, (params, data) -> scalar, a mean over the examples.
      optimizer: of optax; it sees the gradient of the loss on all examples.
      times: numbers of steps after which statistics are taken, ascending; training ends at the last.
      statistics: by name.
      data: a pytree of arrays with examples along the leading axes, which a mesh may split; or None.
    """

    init: Callable[[Array], Params]
    loss: Callable[..., Array]
    optimizer: optax.GradientTransformation
    times: tuple[int, ...] = (0,)
    statistics: Mapping[str, Statistic] = field(default_factory=lambda: {"loss": losses()})
    data: Any = None

    def __post_init__(self):
        for name in ("init", "loss"):
            if not callable(getattr(self, name)):
                raise TypeError(f"Ensemble: {name} must be a function, got {getattr(self, name)!r}")
        if not hasattr(self.optimizer, "update"):
            raise TypeError(f"Ensemble: optimizer must be a GradientTransformation, got {self.optimizer!r}")
        object.__setattr__(self, "times", tuple(self.times))
        for time in self.times:
            check_integer(time, "times", 0)
        if not self.times or list(self.times) != sorted(set(self.times)):
            raise ValueError(f"Ensemble: times must be ascending numbers of steps, got {self.times}")
        for name, statistic in self.statistics.items():
            if not isinstance(statistic, Statistic):
                raise TypeError(f"Ensemble: statistic {name!r} must be a Statistic, got {statistic!r}")
        if not self.statistics:
            raise ValueError("Ensemble: there must be at least one statistic, got none")

    @classmethod
    def of(cls, problem: Problem, optimizer: optax.GradientTransformation, **options: Any) -> Ensemble:
        """The ensemble of a problem on its training examples; options as for the class."""
        if problem.train is None:
            raise ValueError(f"Problem {problem.name!r} has no training examples: give it some by with_data")
        return cls(problem.init, problem.batch_loss, optimizer, data=problem.train, **options)

    def replace(self, **changes: Any) -> Ensemble:
        """The same ensemble with other settings."""
        return dataclasses.replace(self, **changes)

    @property
    def shapes(self) -> Params:
        """The shapes of the parameters of one model."""
        return jax.eval_shape(self.init, jax.random.key(0))

    # One model.

    def samples(self, key: Array, data: Any = None) -> dict[str, dict[str, Any]]:
        """Draws one model, trains it, and takes every statistic at every time.

        Args:
          key: of this model.
          data: in the place of ``self.data``.

        Returns:
          time -> statistic -> value.
        """
        state = self._start(key)
        found, before = {}, 0
        for time in self.times:
            state = self._advance(lambda f, *a: f(*a), state, data, time - before)
            found[str(time)] = self._measure(state[0], data)
            before = time
        return found

    def trained(self, key: Array, index: Any, data: Any = None) -> Params:
        """The parameters of model ``index`` at the end of training; ``jax.vmap`` for several.

        Args:
          key: of the ensemble.
          index: the number of the model.
          data: in the place of ``self.data``.
        """
        state = self._start(jax.random.fold_in(key, index))
        return self._advance(lambda f, *a: f(*a), state, data, self.times[-1])[0]

    def _loss_on(self, data: Any) -> Callable[[Params], Array]:
        data = self.data if data is None else data
        if data is None:
            return self.loss
        return lambda params: self.loss(params, data)

    def _start(self, key: Array) -> tuple[Params, Any]:
        params = self.init(key)
        return params, self.optimizer.init(params)

    def _step(self, data: Any, state: tuple[Params, Any]) -> tuple[Params, Any]:
        params, opt_state = state
        loss = self._loss_on(data)
        value, gradient = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": gradient, "value_fn": loss}
        update = optax.with_extra_args_support(self.optimizer).update
        updates, opt_state = update(gradient, opt_state, params, **extra)
        return optax.apply_updates(params, updates), opt_state

    def _advance(self, batched: Callable[..., Any], state: Any, data: Any, steps: int) -> Any:
        """Some steps of training of one model, or of a batch: ``batched`` calls a function of (state, data)."""

        def step(state: Any, _: Any) -> tuple[Any, None]:
            return batched(lambda s, d: self._step(d, s), state, data), None

        return jax.lax.scan(step, state, None, length=steps)[0] if steps else state

    def _measure(self, params: Params, data: Any) -> dict[str, Any]:
        loss = self._loss_on(data)
        value, gradient = jax.value_and_grad(loss)(params)
        model = Model(params, value, gradient, loss)
        return {name: statistic.function(model) for name, statistic in self.statistics.items()}

    # A batch of models.

    def batch(self, keys: Array, data: Any = None, layout: str = "last") -> dict[str, dict[str, Any]]:
        """``samples`` of a batch of models, with models along the leading axis of every leaf.

        Args:
          keys: one for each model.
          data: in the place of ``self.data``.
          layout: one of ``LAYOUTS``.

        Raises:
          ValueError: there is no such layout.
        """
        if layout not in LAYOUTS:
            raise ValueError(f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        data = self.data if data is None else data
        if layout == "loop":
            return jax.lax.map(lambda key: self.samples(key, data), keys)
        if layout == "first":
            return jax.vmap(lambda key: self.samples(key, data))(keys)

        def batched(function: Callable[..., Any], state: Any, data: Any) -> Any:
            return models_last(function, (-1, None))(state, data)

        state = jax.vmap(self._start, out_axes=-1)(keys)
        found, before = {}, 0
        for time in self.times:
            state = self._advance(batched, state, data, time - before)
            found[str(time)] = batched(self._measure, state[0], data)
            before = time
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), found)

    # Sums over models.

    def empty(self) -> Sums:
        """The moments of no models."""
        one = jax.eval_shape(self.samples, jax.random.key(0), self.data)
        return {
            time: {k: moments_init(x, covariance=self.statistics[k].covariance) for k, x in found.items()}
            for time, found in one.items()
        }

    def add(self, sums: Sums, samples: dict[str, dict[str, Any]], where: Array) -> Sums:
        """The moments with a batch of samples; ``where`` says which of them count."""
        return {
            time: {k: moments_update_batch(s, samples[time][k], where=where) for k, s in own.items()}
            for time, own in sums.items()
        }
