"""The phase diagram of SGD at a symmetric point: where it collapses, over rates, batch sizes, decays and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eqtoolbox.linalg import check_integer, leading_size
from eqtoolbox.mirror._lyapunov import BatchLoss, lyapunov
from eqtoolbox.mirror._mirror import Mirror

Params = Any


class PhaseDiagram(NamedTuple):
    """Λ on a grid; the axes of the arrays are (noise, batch size, learning rate, weight decay).

    Attributes:
      value: Λ.
      standard_error: its standard error.
      noise: the levels of the noise.
      batch_sizes: the batch sizes.
      learning_rates: η.
      weight_decays: γ of γ‖θ‖².
    """

    value: Array
    standard_error: Array
    noise: Array
    batch_sizes: Array
    learning_rates: Array
    weight_decays: Array

    def phase(self, errors: float = 2.0) -> Array:
        """-1 where SGD collapses, 1 where it leaves the symmetric point, 0 where Λ is within the errors of 0.

        Args:
          errors: how many standard errors.
        """
        certain = jnp.abs(self.value) > errors * self.standard_error
        return jnp.where(certain, jnp.sign(self.value), 0).astype(int)


def phase_diagram(
    loss: BatchLoss,
    params: Params,
    mirror: Mirror,
    data: Any,
    *,
    learning_rates: Sequence[float] | Array,
    batch_sizes: Sequence[int],
    weight_decays: Sequence[float] | Array = (0.0,),
    noise: Sequence[float] | Array = (0.0,),
    corrupt: Callable[[Array, Any, Array], Any] | None = None,
    steps: int = 2000,
    key: Array | None = None,
) -> PhaseDiagram:
    """The Lyapunov exponent of SGD on your model and data, at a point (MS-2.4c).

    For each noise and batch size ``steps`` batches are drawn, and each is linearised once for the whole grid of
    learning rates and weight decays.

    >>> import jax, jax.numpy as jnp
    >>> from eqtoolbox import mirror
    >>> x = jax.random.normal(jax.random.key(0), (64,))
    >>> loss = lambda p, batch: jnp.mean((p["u"] * p["w"] * batch["x"] - batch["y"]) ** 2) / 2
    >>> params = {"u": jnp.array(0.0), "w": jnp.array(0.0)}
    >>> n = mirror.from_directions({"u": jnp.array(1.0), "w": jnp.array(1.0)})
    >>> found = mirror.phase_diagram(
    ...     loss, params, n, {"x": x, "y": 0.1 * x}, learning_rates=[0.1, 1.5], batch_sizes=[1, 64], steps=500)
    >>> found.value.shape, found.phase()[0, 1, :, 0].tolist()  # large batches escape
    ((1, 2, 2, 1), [1, 1])

    Args:
      loss: (θ, batch) -> a scalar, the mean over the leading axis of the batch, without the decay.
      params: θ; the statement is about the symmetric point next to it.
      mirror: a mirror of the loss of every batch.
      data: a pytree of examples along a leading axis.
      learning_rates: η.
      batch_sizes: sizes of the batches, drawn from the data without replacement.
      weight_decays: γ of γ‖θ‖².
      noise: levels handed to ``corrupt``.
      corrupt: (key, batch, level) -> batch, such as noise on the labels; not needed where there is no noise.
      steps: batches for each noise and batch size.
      key: a typed key; key 0 by default.

    Returns:
      A ``PhaseDiagram``.

    Raises:
      ValueError: a batch size is larger than the data, or there are levels of noise but no ``corrupt``.
    """
    rates, decays, levels = (jnp.asarray(x, float) for x in (learning_rates, weight_decays, noise))
    if corrupt is None and bool(jnp.any(levels != 0)):
        raise ValueError(
            f"`noise` needs `corrupt`, a function (key, batch, level) -> batch, got noise={noise!r}"
        )
    count = leading_size(data, "data")
    grid = jnp.meshgrid(rates, decays, indexing="ij")
    key = jax.random.key(0) if key is None else key
    values, errors = [], []
    for i, size in enumerate(batch_sizes):
        size = check_integer(size, "each batch size", 1, count, "the number of examples")
        draw, start = jax.random.split(jax.random.fold_in(key, i))
        keys = jax.random.split(draw, steps)
        row = []
        for level in levels:
            # the same batches for every level, drawn where they are used: none is kept
            def of_key(p: Params, k: Array, size: int = size, level: Array = level) -> Array:
                which, spoil = jax.random.split(k)
                batch = _draw(which, data, count, size)
                return loss(p, batch if corrupt is None else corrupt(spoil, batch, level))

            run = jax.random.clone(keys), jax.random.clone(start)
            row.append(
                lyapunov(
                    of_key, params, mirror, run[0], learning_rate=grid[0], weight_decay=grid[1], key=run[1]
                )
            )
        values.append(jnp.stack([r.value for r in row]))
        errors.append(jnp.stack([r.standard_error for r in row]))
    return PhaseDiagram(
        jnp.stack(values, axis=1), jnp.stack(errors, axis=1), levels, jnp.asarray(batch_sizes), rates, decays
    )


def draw_batches(key: Array, data: Any, batch_size: int, steps: int) -> Any:
    """``steps`` random batches of examples, each without replacement, stacked along a leading axis.

    Args:
      key: a typed key.
      data: a pytree of examples along a leading axis.
      batch_size: examples per batch.
      steps: how many batches.

    Returns:
      A pytree like ``data`` with two leading axes (steps, batch_size).

    Raises:
      ValueError: the batch is larger than the data.
    """
    count = leading_size(data, "data")
    batch_size = check_integer(batch_size, "batch_size", 1, count, "the number of examples")
    steps = check_integer(steps, "steps", 1)
    return jax.lax.map(lambda k: _draw(k, data, count, batch_size), jax.random.split(key, steps))


def _draw(key: Array, data: Any, count: int, size: int) -> Any:
    if size == 1:
        index = jax.random.randint(key, (1,), 0, count)
    else:
        index = jax.random.choice(key, count, (size,), replace=False)
    return jax.tree.map(lambda x: jnp.asarray(x)[index], data)
