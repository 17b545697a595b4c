"""The model and data of ``eqtoolbox report`` without arguments."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.problem import Batch, Problem
from eqtoolbox.report._errors import ReportError

WIDTHS = (32, 32)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean cross-entropy of integer labels."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def accuracy(logits: Array, labels: Array) -> Array:
    """The share of examples whose largest logit is that of the label."""
    return jnp.mean(jnp.argmax(logits, -1) == labels)


def _init(shapes: Any, key: Array) -> Any:
    """Normal weights of variance 1 / fan-in and zero biases: Flax's own, but for the tails it cuts off."""
    noise = zoo.perturb(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), scale=1.0)
    return jax.tree.map(lambda z: z / math.sqrt(len(z)) if z.ndim > 1 else jnp.zeros_like(z), noise)


def _apply(module: zoo.MLP, params: Any, inputs: Array) -> Array:
    return module.apply({"params": params}, inputs)  # pyright: ignore[reportReturnType]


def digits_problem(activation: str = "relu", widths: tuple[int, ...] = WIDTHS) -> Problem:
    """A Flax MLP with biases on the 8 x 8 handwritten digits that scikit-learn carries along.

    It states no symmetry: the report infers it, for relu a permutation and a positive scaling of each hidden unit.

    Args:
      activation: one of ``zoo.activations()``.
      widths: of the hidden layers.

    Returns:
      The problem, with training and test examples.

    Raises:
      ReportError: there is no such activation.
    """
    if activation not in zoo.activations():
        raise ReportError(f"--activation must be one of {', '.join(zoo.activations())}, got {activation!r}")
    data = zoo.digits()
    module = zoo.MLP((*widths, 10), activation)
    x = jnp.zeros((1, data.train_x.shape[1]))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x)["params"])
    return Problem(
        name=f"MLP {'–'.join(map(str, (x.shape[1], *widths, 10)))}, {activation}, on {data.name}",
        init=partial(_init, shapes),
        apply=partial(_apply, module),
        output_loss=cross_entropy,
        metric=accuracy,
        train=Batch(*data.train),
        test=Batch(*data.test),
    )


def digits_description() -> str:
    """Where the digits come from."""
    return zoo.digits().description
