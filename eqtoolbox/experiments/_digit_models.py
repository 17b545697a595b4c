"""Three small networks that classify the bundled digits: an MLP, a CNN and a transformer, trained from many seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.symmetry import Symmetry, catalog

Params = Any

#: A token is the mean of 2 x 2 pixels, rounded: 0 to 16, in rows of four.
TOKENS, LENGTH = 17, 16


class DigitsModel(NamedTuple):
    """A network, its data and its symmetry.

    Attributes:
      name: "mlp", "cnn" or "transformer".
      init: key -> θ.
      logits: (θ, inputs) -> shape (examples, 10).
      symmetry: of the logits.
      data: what the network reads, (train inputs, train labels, test inputs, test labels).
      rate: the peak learning rate of Adam.
    """

    name: str
    init: Callable[[Array], Params]
    logits: Callable[[Params, Array], Array]
    symmetry: Symmetry
    data: tuple[Array, Array, Array, Array]
    rate: float

    def loss(self, params: Params, inputs: Array, labels: Array) -> Array:
        """The mean cross-entropy."""
        outputs = self.logits(params, inputs)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))


def digits_model(name: str, width: int) -> DigitsModel:
    """A network of that kind; ``width`` scales its hidden layers.

    The MLP is 64-width-width-10 with ReLU, the CNN has ``width`` and 2 ``width`` channels (3 x 3) and a dense layer
    of 2 ``width``; the transformer is pre-norm with one block, a stream of ``width``, two heads of ``width``/2 and
    ``width``·2 hidden units, and averages its outputs over positions.
    """
    data = zoo.digits(image=name == "cnn")
    train, test = data.train_x, data.test_x
    if name == "mlp":
        module: nn.Module = zoo.MLP((width, width, 10), "relu")
        label = lambda p: catalog.mlp(p, ["Dense_0", "Dense_1", "Dense_2"], "relu")  # noqa: E731
        rate = 3e-3
    elif name == "cnn":
        module = zoo.CNN((width, 2 * width), 2 * width, 10)
        label = lambda p: catalog.cnn(p, ["Conv_0", "Conv_1", "Dense_0", "Dense_1"], "relu")  # noqa: E731
        rate = 3e-3
    elif name == "transformer":
        module = zoo.Transformer(TOKENS, width, 2, width // 2, 1, 2 * width, LENGTH)
        label = lambda p: catalog.transformer(  # noqa: E731
            p, ["block_0"], embeddings=("embed/embedding", "position"), head="head", final_norm="norm"
        )
        train, test, rate = _tokens(train), _tokens(test), 1e-2
    else:
        raise ValueError(f"`name` must be 'mlp', 'cnn' or 'transformer', got {name!r}")

    def init(key: Array) -> Params:
        return module.init(key, train[:1])["params"]

    def logits(params: Params, inputs: Array) -> Array:
        outputs = module.apply({"params": params}, inputs)
        return jnp.mean(outputs, 1)[:, :10] if name == "transformer" else outputs  # pyright: ignore[reportArgumentType, reportReturnType, reportIndexIssue, reportCallIssue]

    shapes = jax.eval_shape(init, jax.random.key(0))
    return DigitsModel(name, init, logits, label(shapes), (train, data.train_y, test, data.test_y), rate)


def _tokens(inputs: Array) -> Array:
    """Whole numbers from standardised pixels, by the quantiles of a linear scale."""
    images = inputs.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, LENGTH)
    low, high = jnp.min(images), jnp.max(images)
    return jnp.clip(jnp.round((TOKENS - 1) * (images - low) / (high - low)), 0, TOKENS - 1).astype(jnp.int32)


def train_models(model: DigitsModel, seeds: int, steps: int, batch: int) -> tuple[Params, Array]:
    """Trains one network per seed, all at once, by Adam with a cosine schedule and weight decay 1e-4.

    Returns:
      The parameters with a leading axis of length ``seeds``, and the loss by step, shape (seeds, steps).
    """
    inputs, labels, _, _ = model.data
    tx = optax.adamw(optax.cosine_decay_schedule(model.rate, steps), weight_decay=1e-4)

    def one(key: Array) -> tuple[Params, Array]:
        start, order = jax.random.split(key)
        params = model.init(start)

        def step(carry: Any, key: Array) -> tuple[Any, Array]:
            params, state = carry
            rows = jax.random.randint(key, (batch,), 0, len(inputs))
            value, slope = jax.value_and_grad(model.loss)(params, inputs[rows], labels[rows])
            updates, state = tx.update(slope, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(order, steps))
        return params, losses

    return jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), seeds))
