"""`Net`: the bundled model, a multilayer perceptron that learns from a random teacher."""

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
from eqtoolbox.problem import Batch, Problem
from eqtoolbox.symmetry import Symmetry, catalog

Params = Any


@dataclass(frozen=True)
class Net:
    """A multilayer perceptron on a teacher's data, to be drawn many times (GC, sec. 4).

    The loss is half the squared error, summed over outputs, a mean over the examples.

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

    def problem(self) -> Problem:
        """As a problem, with the symmetry of the hidden units."""

        def output_loss(outputs: Array, targets: Array) -> Array:
            return jnp.sum((outputs - targets) ** 2) / (2 * len(targets))

        return Problem(
            f"{self.activation} {'-'.join(map(str, self.widths))}",
            self.init,
            lambda params, x: jnp.asarray(self.module.apply({"params": params}, x)),
            output_loss,
            train=Batch(*self.data()),
            symmetry=self.symmetry(),
        )
