"""Small networks in great numbers: those whose curvature the experiments average over initialisations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.groups import Group
from eqtoolbox.symmetry import Symmetry, catalog

Params = Any


@dataclass(frozen=True)
class Net:
    """An MLP on a teacher's data, to be drawn many times.

    Attributes:
      widths: (d_0, …, d_L).
      activation: of the hidden layers.
      bias: whether layers have biases.
      examples: of the data, all of them one batch.
      decades: powers of ten that the eigenvalues of the inputs span.
      seed: of inputs and teacher; the teacher has the same widths and no biases.
    """

    widths: tuple[int, ...]
    activation: str = "tanh"
    bias: bool = True
    examples: int = 100
    decades: float = 1.0
    seed: int = 0

    @cached_property
    def module(self) -> zoo.MLP:
        """The Flax module."""
        return zoo.MLP(self.widths[1:], self.activation, use_bias=self.bias)

    @cached_property
    def shapes(self) -> Params:
        """The shapes of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(x.size for x in jax.tree.leaves(self.shapes))

    def data(self) -> tuple[Array, Array]:
        """Inputs and the teacher's outputs, in the precision that is on."""
        dtype = jnp.zeros(()).dtype

        @jax.jit
        def draw(key: Array) -> tuple[Array, Array]:
            options = {"train": self.examples, "test": 1, "decades": self.decades, "dtype": dtype}
            return zoo.teacher_student(key, self.widths, self.activation, **options).dataset.train

        return draw(jax.random.key(self.seed))

    def init(self, key: Array) -> Params:
        """Parameters, all N(0, 1/fan-in): a distribution that every orthogonal group of units leaves alone."""
        params = {}
        for i, (fan_in, fan_out) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            a, b = jax.random.split(jax.random.fold_in(key, i))
            layer = {"kernel": jax.random.normal(a, (fan_in, fan_out))}
            if self.bias:
                layer["bias"] = jax.random.normal(b, (fan_out,))
            params[f"Dense_{i}"] = jax.tree.map(lambda x, d=fan_in: x / np.sqrt(d).astype(x.dtype), layer)
        return params

    def symmetry(self, group: Callable[[int], Group] | None = None) -> Symmetry:
        """The symmetry of the hidden units: that of the activation, or that of ``group``."""
        layers = [f"Dense_{i}" for i in range(len(self.widths) - 1)]
        return catalog.mlp(self.shapes, layers, self.activation, group).compact()

    def loss_on(self, data: tuple[Array, Array]) -> Callable[[Params], Array]:
        """θ -> half the squared error, mean over the examples."""
        x, y = data

        def loss(params: Params) -> Array:
            outputs = jnp.asarray(self.module.apply({"params": params}, x))
            return jnp.sum((outputs - y) ** 2) / (2 * len(x))

        return loss

    def order(self) -> np.ndarray:
        """The entries of ``ravel_pytree`` in the order of the paper: W_1, b_1, …, W_L, b_L."""
        leaves, treedef = jax.tree.flatten(self.shapes)
        ends = np.cumsum([leaf.size for leaf in leaves])
        numbers = treedef.unflatten(
            [np.arange(end - x.size, end) for x, end in zip(leaves, ends, strict=True)]
        )
        return np.concatenate(
            [layer[name] for layer in numbers.values() for name in ("kernel", "bias") if name in layer]
        )

    def parts(self) -> list[tuple[str, int]]:
        """Names and sizes of the pieces of ``order``."""
        pairs = []
        for i, layer in enumerate(self.shapes.values(), 1):
            pairs += [(f"{s}{i}", layer[k].size) for s, k in (("W", "kernel"), ("b", "bias")) if k in layer]
        return pairs


def gradient_descent(loss: Callable[[Params], Array], params: Params, rate: float, steps: int) -> Params:
    """The parameters after some steps of gradient descent."""

    def step(params: Params, _: Any) -> tuple[Params, None]:
        return jax.tree.map(
            lambda x, g: x - jnp.asarray(rate, x.dtype) * g, params, jax.grad(loss)(params)
        ), None

    return jax.lax.scan(step, params, None, length=steps)[0]


def in_chunks(
    function: Callable[[Array], Any], key: Array, models: int, chunks: int, batch_size: int = 256
) -> Any:
    """Means of a function of a key over ``chunks`` disjoint sets of ``models / chunks`` keys.

    Args:
      function: key -> tree of arrays.
      key: split into one key per model.
      models: how many keys.
      chunks: how many means.
      batch_size: models taken together, at most.

    Returns:
      The means with a leading axis ``chunks``.

    Raises:
      ValueError: ``models`` is not a multiple of ``chunks``.
    """
    if models % chunks:
        raise ValueError(f"models must be a multiple of {chunks}, got {models}")
    size = models // chunks
    batch = max(b for b in range(1, min(size, batch_size) + 1) if size % b == 0)
    keys = jax.random.split(key, (chunks, size // batch, batch))

    @jax.jit
    def mean(keys: Array) -> Any:
        def add(total: Any, some: Array) -> tuple[Any, None]:
            return jax.tree.map(lambda t, x: t + jnp.sum(x, 0), total, jax.vmap(function)(some)), None

        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, keys[0, 0]))
        total, _ = jax.lax.scan(add, zero, keys)
        return jax.tree.map(lambda t: t / size, total)

    means = [jax.device_get(mean(some)) for some in keys]
    return jax.tree.map(lambda *x: np.stack(x), *means)


def halved(means: np.ndarray) -> list[np.ndarray]:
    """The means over 1, 2, 4, … chunks: a stack of disjoint ones for each size, the last of all chunks."""
    levels = [means]
    while len(levels[-1]) > 1:
        levels.append((levels[-1][0::2] + levels[-1][1::2]) / 2)
    return levels


def slope(models: np.ndarray, values: np.ndarray, counts: np.ndarray) -> float:
    """The exponent of a power law through log-values, each the mean of some independent ones."""
    return float(np.polyfit(np.log(models), np.log(values), 1, w=np.sqrt(counts))[0])
