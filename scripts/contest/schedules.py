"""One family of learning-rate schedules for all optimizers, traced, so that a program is compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array


class Shape(NamedTuple):
    """A schedule as numbers: whether it is the cosine, and the logarithm of the last over the first rate."""

    cosine: float
    log_decay: float


def shape(name: str) -> Shape:
    """The numbers of a schedule by name: "constant", "cosine" (to zero), or "decay 1e-2" (exponential, to that)."""
    if name == "constant":
        return Shape(0.0, 0.0)
    if name == "cosine":
        return Shape(1.0, 0.0)
    word, _, last = name.partition(" ")
    if word != "decay":
        raise ValueError(f"schedule must be constant, cosine or 'decay RATIO', got {name!r}")
    return Shape(0.0, float(np.log(float(last))))


def schedule(rate: Array, form: Shape, steps: int) -> Callable[[Array], Array]:
    """Step -> learning rate; every argument may be traced, but the number of steps."""

    def at(count: Array) -> Array:
        t = jnp.minimum(count, steps) / steps
        return rate * jnp.where(form.cosine > 0, (1 + jnp.cos(jnp.pi * t)) / 2, jnp.exp(form.log_decay * t))

    return at
