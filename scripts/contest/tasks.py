"""What the optimizers are tried on: models of the zoo, data that need no network, and how long they train.

Every seed of a task draws its own data or split, initial parameters and batches; all optimizers get the same ones, so
that results are compared in pairs. There are three sets of examples: one trains, one chooses learning rates, the last
is only reported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from eqtoolbox import Batch, Symmetry, infer_symmetry, zoo

#: Seeds that choose learning rates start here; results are of seeds from 0 on.
FIRST_SELECTION = 1000


class Instance(NamedTuple):
    """One seed's data and initial parameters; a pytree."""

    train: Batch
    valid: Batch
    test: Batch
    params: Any


class Horizon(NamedTuple):
    """A length of training, which schedules know.

    Attributes:
      steps: how many.
      every: steps between two looks at the losses.
      budgets: steps at which losses are reported.
      schedules: names of those that are tried, see ``schedules``.
    """

    steps: int
    every: int
    budgets: tuple[int, ...]
    schedules: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One thing to train.

    Attributes:
      name: of the task.
      title: for people.
      group: tasks of one group share a figure and the ranges of learning rates.
      make: seed -> instance.
      data: what that draws, in words.
      module: the network.
      kind: "squared" for ½ squared error, summed over outputs, or "categorical" for the cross-entropy.
      batch: examples of a step, None for all.
      horizons: lengths of training.
      seeds: how many the results are of.
      selection: how many others choose the learning rate.
      stopped: whether a result is that at the step of the least validation loss; otherwise each budget chooses its
        own learning rate, and its result is at that step.
    """

    name: str
    title: str
    group: str
    make: Callable[[int], Instance]
    data: str
    module: nn.Module
    kind: str
    batch: int | None
    horizons: tuple[Horizon, ...]
    seeds: int
    selection: int
    stopped: bool

    def apply(self, params: Any, inputs: Array) -> Array:
        """The outputs."""
        return self.module.apply({"params": params}, inputs)  # pyright: ignore[reportReturnType]

    def output_loss(self, outputs: Array, targets: Array) -> Array:
        """The mean loss over examples."""
        if self.kind == "squared":
            return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1)) / 2
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, targets))

    def loss(self, params: Any, batch: Batch) -> Array:
        """The mean loss of a batch."""
        return self.output_loss(self.apply(params, batch.inputs), batch.targets)

    def settings(self) -> dict[str, Any]:
        """What a stored result depends on, beside the trial."""
        return {"module": repr(self.module), "kind": self.kind, "batch": self.batch, "data": self.data}

    def symmetry(self) -> Symmetry:
        """That of the network, as inferred."""
        return _symmetry(self)

    def indices(self, seed: int, count: int, steps: int) -> Array:
        """The rows of every step's batch, shape (steps, batch); (steps, 0) for full batches."""
        if self.batch is None:
            return jnp.zeros((steps, 0), jnp.int32)
        epochs = -(-steps // (count // self.batch))
        key = jax.random.fold_in(jax.random.key(seed), 1)
        return zoo.batch_indices(key, count, self.batch, epochs)[:steps]


@functools.cache
def _symmetry(task: Task) -> Symmetry:
    instance = task.make(0)
    given = instance.params, instance.train.inputs[:8]
    return infer_symmetry(
        task.apply, *jax.eval_shape(lambda: given)
    )  # shapes: nothing is run to check itself


class RowsTransformer(nn.Module):
    """A pre-norm transformer that reads an image row by row and classifies the mean over rows."""

    d: int = 32
    heads: int = 2
    ff: int = 64
    layers: int = 2
    classes: int = 10

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images (n, rows, columns) to logits (n, classes)."""
        h = nn.Dense(self.d, name="embed")(x)
        h = h + self.param("position", nn.initializers.normal(0.02), (x.shape[1], self.d))[None]
        for i in range(self.layers):
            h, _ = zoo.Block(self.heads, self.d // self.heads, self.ff, name=f"block_{i}")(h, None)
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="norm")(h).mean(axis=1))


def _teacher(activation: str, points: int, seed: int) -> Instance:
    made = zoo.teacher_student(
        jax.random.key(seed), (100, 70, 40), activation, train=points, test=2 * points, decades=5.0
    )
    x, y = made.dataset.test
    return Instance(
        Batch(*made.dataset.train),
        Batch(x[:points], y[:points]),
        Batch(x[points:], y[points:]),
        made.student,
    )


def _split(load: Callable[[int], zoo.Dataset], shape: tuple[int, ...], module: nn.Module, seed: int):
    """A fifth to test, a quarter of the rest to choose with."""
    data = load(seed)
    x, y = data.train_x.reshape(-1, *shape), data.train_y
    part = len(x) // 4
    params = module.init(jax.random.key(seed), x[:1])["params"]
    test = Batch(data.test_x.reshape(-1, *shape), data.test_y)
    return Instance(Batch(x[part:], y[part:]), Batch(x[:part], y[:part]), test, params)


def _digits(seed: int) -> zoo.Dataset:
    return zoo.digits(seed=seed)


def _diabetes(seed: int) -> zoo.Dataset:
    return zoo.diabetes(seed=seed)


ALL_SCHEDULES = ("constant", "cosine", "decay 1e-1", "decay 1e-2", "decay 1e-4", "decay 1e-8")


def _teacher_task(activation: str, horizons: tuple[Horizon, ...], points: int, seeds: int) -> Task:
    return Task(
        activation,
        f"{activation} teacher–student",
        "teacher",
        functools.partial(_teacher, activation, points),
        f"{points} points each to train, choose and test",
        zoo.MLP((70, 40), activation, use_bias=False),
        "squared",
        None,
        horizons,
        seeds,
        1,
        False,
    )


def tasks(quick: bool = False) -> dict[str, Task]:
    """All tasks by name.

    Args:
      quick: the same models with few points, steps and seeds: whether everything runs, not who wins.

    Returns:
      The tasks, in the order in which they run.
    """
    seeds, splits, selection = (1, 2, 1) if quick else (5, 10, 5)
    points = 60 if quick else 5000
    if quick:
        short = Horizon(4, 2, (2, 4), ("constant", "cosine"))
        teacher = {"linear": (short,), "tanh": (short,)}
        lengths = dict.fromkeys((200, 300), Horizon(4, 2, (2, 4), ("cosine",)))
    else:
        short = Horizon(200, 5, (25, 50, 100, 200), ALL_SCHEDULES)
        long = Horizon(1000, 25, (1000,), ("cosine", "decay 1e-2"))
        teacher = {"linear": (short,), "tanh": (short, long)}
        lengths = {
            200: Horizon(200, 5, (25, 50, 100, 200), ("cosine",)),
            300: Horizon(300, 5, (50, 100, 200, 300), ("cosine",)),
        }
    out = {name: _teacher_task(name, horizons, points, seeds) for name, horizons in teacher.items()}

    def add(name, title, group, load, shape, module, kind, batch, steps):
        make = functools.partial(_split, load, shape, module)
        horizons = (lengths[steps],)
        data = f"{name.split('-')[0]}, random splits 3 : 1 : 1"
        out[name] = Task(
            name, title, group, make, data, module, kind, batch, horizons, splits, selection, stopped=True
        )

    relu, tanh = (zoo.MLP((128, 128, 10), name) for name in ("relu", "tanh"))
    mlp, flat = "digits", (64,)
    add("digits-tanh", "digits, tanh, batch 128", mlp, _digits, flat, tanh, "categorical", 128, 200)
    add("digits-relu", "digits, ReLU, batch 128", mlp, _digits, flat, relu, "categorical", 128, 200)
    add("digits-tanh-full", "digits, tanh, full batch", mlp, _digits, flat, tanh, "categorical", None, 200)
    add("digits-relu-full", "digits, ReLU, full batch", mlp, _digits, flat, relu, "categorical", None, 200)
    rows = RowsTransformer()
    add("transformer", "digits, transformer", "models", _digits, (8, 8), rows, "categorical", 128, 300)
    cnn = zoo.CNN((8, 16), 32, 10)
    add("cnn", "digits, CNN", "models", _digits, (8, 8, 1), cnn, "categorical", 128, 200)
    regression = zoo.MLP((64, 64, 1), "tanh")
    add("diabetes", "diabetes, tanh", "models", _diabetes, (10,), regression, "squared", None, 200)
    return out
