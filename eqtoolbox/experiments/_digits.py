"""Networks on the bundled digits, as the experiments on homogeneity and last layers train them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox import zoo

Params = Any


@dataclass(frozen=True)
class DigitsNet:
    """An MLP without biases on some digits.

    Attributes:
      params: θ at initialisation.
      apply: (θ, inputs) -> outputs, shape (examples, outputs).
      loss_of: (outputs, labels) -> the mean loss.
      degree: m such that f(cθ) = c^m f(θ) for c > 0, for relu, leaky_relu and linear.
      inputs: shape (examples, 64).
      labels: the digits, shape (examples,).
    """

    params: Params
    apply: Callable[[Params, Array], Array]
    loss_of: Callable[[Array, Array], Array]
    degree: int
    inputs: Array
    labels: Array

    def model(self, params: Params) -> Array:
        """The outputs on all examples."""
        return self.apply(params, self.inputs)

    def output_loss(self, outputs: Array) -> Array:
        """The loss of the outputs on all examples."""
        return self.loss_of(outputs, self.labels)

    def loss(self, params: Params, rows: Array | None = None) -> Array:
        """The loss on all examples, or on those of ``rows``."""
        if rows is None:
            return self.output_loss(self.model(params))
        return self.loss_of(self.apply(params, self.inputs[rows]), self.labels[rows])


def squared(outputs: Array, labels: Array) -> Array:
    """Half the squared distance to the one-hot label, mean over the examples."""
    return jnp.mean(jnp.sum((outputs - jax.nn.one_hot(labels, 10, dtype=outputs.dtype)) ** 2, -1)) / 2


def cross_entropy(outputs: Array, labels: Array) -> Array:
    """The mean cross-entropy of ten logits."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))


def logistic(outputs: Array, labels: Array) -> Array:
    """The mean logistic loss of one output that tells odd digits from even ones."""
    return jnp.mean(jax.nn.softplus((1 - 2 * (labels % 2)) * outputs[:, 0]))


LOSSES = {"squared": (squared, 10), "cross_entropy": (cross_entropy, 10), "logistic": (logistic, 1)}


def digits_net(
    widths: tuple[int, ...],
    loss: str,
    *,
    examples: int,
    scale: float = 1.0,
    activation: str = "relu",
    seed: int = 0,
) -> DigitsNet:
    """An MLP without biases on the first training digits, in the present precision.

    Args:
      widths: of the hidden layers.
      loss: "squared" or "cross_entropy" (ten outputs), or "logistic" (odd or even, one output).
      examples: how many digits, at most 1438.
      scale: of the initial weights, times Flax's own of variance 1 / fan-in.
      activation: of the zoo.
      seed: of the initial weights.

    Returns:
      The network, its loss and its data.
    """
    loss_of, outputs = LOSSES[loss]
    data = zoo.digits(dtype=jnp.result_type(float))
    inputs, labels = data.train_x[:examples], data.train_y[:examples]
    module = zoo.MLP((*widths, outputs), activation, use_bias=False)
    params = module.init(jax.random.key(seed), inputs[:1])["params"]
    return DigitsNet(
        params=jax.tree.map(lambda w: scale * w.astype(inputs.dtype), params),
        apply=partial(_apply, module),
        loss_of=loss_of,
        degree=len(widths) + 1,
        inputs=inputs,
        labels=labels,
    )


def _apply(module: Any, params: Params, inputs: Array) -> Array:
    """The outputs of a Flax module."""
    return module.apply({"params": params}, inputs)
