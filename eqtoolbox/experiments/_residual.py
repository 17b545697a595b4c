"""ResNet18 and smaller nets of its kind, trained on CIFAR-10 or on the bundled digits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eqtoolbox import zoo
from eqtoolbox.experiments._errors import ExperimentError
from eqtoolbox.experiments._store import Store
from eqtoolbox.experiments._trees import load_tree
from eqtoolbox.pages import save_tree

Params = Any


class ResidualNet(nn.Module):
    """A residual net for small images (He et al., 2016): ResNet18 with the default settings and no ``penultimate``.

    Attributes:
      width: channels of the first stage; each further one has twice as many and halves the image.
      stages: blocks of each stage.
      penultimate: units of a dense layer with ReLU before the last one; 0 for none.
      classes: outputs.
    """

    width: int = 64
    stages: tuple[int, ...] = (2, 2, 2, 2)
    penultimate: int = 0
    classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Array]:
        """Maps images (batch, height, width, c) to logits and the preactivations of the penultimate layer."""
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        conv = partial(nn.Conv, use_bias=False)
        h = nn.relu(norm(name="stem_norm")(conv(self.width, (3, 3), name="stem")(x)))
        for i, count in enumerate(self.stages):
            for j in range(count):
                features, name = self.width * 2**i, f"stage{i}_block{j}"
                strides = (2, 2) if i and not j else (1, 1)
                y = conv(features, (3, 3), strides, name=f"{name}_conv0")(h)
                y = nn.relu(norm(name=f"{name}_norm0")(y))
                y = norm(name=f"{name}_norm1")(conv(features, (3, 3), name=f"{name}_conv1")(y))
                if h.shape != y.shape:
                    h = norm(name=f"{name}_norm2")(
                        conv(features, (1, 1), strides, name=f"{name}_shortcut")(h)
                    )
                h = nn.relu(h + y)
        h = jnp.mean(h, axis=(1, 2))
        if self.penultimate:
            h = nn.Dense(self.penultimate, name="penultimate")(h)
        before = h
        return nn.Dense(self.classes, name="head")(nn.relu(h) if self.penultimate else h), before


class Images(NamedTuple):
    """Training and test images with their classes, and whether they are cropped and flipped in training."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    augment: bool


def images(data: str, root: str) -> Images:
    """The bundled digits, or CIFAR-10 in its binary version.

    Args:
      data: "digits" or "cifar10".
      root: the folder with ``data_batch_1.bin`` … and ``test_batch.bin``, or with ``cifar-10-batches-bin``; the one
        of $EQTOOLBOX_DATA when it is empty.

    Raises:
      ExperimentError: the data are unknown, or a file is missing or not what it should be.
    """
    if data == "digits":
        found = zoo.digits(image=True)
    elif data == "cifar10":
        try:
            found = zoo.cifar10(root or None)
        except (FileNotFoundError, ValueError) as error:
            raise ExperimentError(str(error)) from error
    else:
        raise ExperimentError(f"data must be 'digits' or 'cifar10', got {data!r}")
    return Images(*found.train, *found.test, data == "cifar10")


class Net(NamedTuple):
    """A trained net.

    Attributes:
      params: its parameters.
      stats: the running statistics of its normalisations.
      accuracy: per cent right on the test images, after each piece of the run.
      epochs: when that was.
      seconds: per epoch, the first one (with compilation) left out.
    """

    params: Params
    stats: Params
    accuracy: np.ndarray
    epochs: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Recipe:
    """How nets are trained: SGD with momentum 0.9 in epochs of whole batches.

    Attributes:
      module: the net.
      data: its images.
      epochs: of training.
      every: epochs between two measurements, at which the run can go on if it is stopped.
      batch: examples of a step.
      seed: of weights and batches.
    """

    module: ResidualNet
    data: Images
    epochs: int
    every: int
    batch: int
    seed: int = 0

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.epochs * (len(self.data.train_x) // self.batch)

    def outputs(self, params: Params, stats: Params) -> tuple[np.ndarray, np.ndarray]:
        """Logits and preactivations of the penultimate layer on the test images."""
        parts = []
        for start in range(0, len(self.data.test_x), 1000):
            parts.append(_evaluate(self.module, params, stats, self.data.test_x[start : start + 1000]))
        return tuple(np.concatenate([np.asarray(p[i]) for p in parts]) for i in range(2))  # pyright: ignore

    def accuracy(self, params: Params, stats: Params) -> float:
        """Per cent right on the test images."""
        return 100 * float(np.mean(self.outputs(params, stats)[0].argmax(-1) == np.asarray(self.data.test_y)))

    def train(self, store: Store, name: str, tx: optax.GradientTransformation) -> Net:
        """A run, or the rest of one that was stopped."""
        start, order = jax.random.split(jax.random.key(self.seed))
        variables = self.module.init(start, self.data.train_x[:1])
        carry = (variables["params"], variables["batch_stats"], tx.init(variables["params"]))
        treedef = jax.tree.structure(carry)
        done, accuracy, seconds, path = 0, [], [], store.path(f"{name}/state")
        if path.exists():
            saved = load_tree(path)
            done, accuracy, seconds = saved["done"], list(saved["accuracy"]), list(saved["seconds"])
            carry = treedef.unflatten([jnp.asarray(x) for x in saved["leaves"]])
            store.seconds += saved["spent"]
        epoch, begin = epoch_of(self.module, tx, self.batch, self.data.augment), time.perf_counter()
        store.progress.expect(self.epochs)
        store.progress.advance(done)
        while done < self.epochs:
            for _ in range(min(self.every, self.epochs - done)):
                key, before = jax.random.fold_in(order, done), time.perf_counter()
                carry = jax.block_until_ready(epoch(carry, key, self.data.train_x, self.data.train_y))
                seconds.append(time.perf_counter() - before)
                store.progress.advance(1)
                done += 1
            accuracy.append(self.accuracy(*carry[:2]))
            spent = store.seconds + time.perf_counter() - begin
            content = {"done": done, "accuracy": accuracy, "seconds": seconds, "spent": spent}
            save_tree(path, {**content, "leaves": jax.device_get(jax.tree.leaves(carry))})
        times = np.minimum(np.arange(1, len(accuracy) + 1) * self.every, self.epochs)
        return Net(carry[0], carry[1], np.array(accuracy), times, float(np.median(seconds[1:] or seconds)))


def epoch_of(
    module: ResidualNet, tx: optax.GradientTransformation, batch: int, augment: bool
) -> Callable[[Any, Array, Array, Array], Any]:
    """One epoch, compiled: (params, stats, state), key, images, classes -> the same three."""

    def epoch(carry: Any, key: Array, x: Array, y: Array) -> Any:
        order, noise = jax.random.split(key)
        count = len(x) // batch
        rows = jax.random.permutation(order, len(x))[: count * batch].reshape(count, batch)

        def step(carry: Any, now: tuple[Array, Array]) -> tuple[Any, None]:
            rows, key = now
            inputs = cropped(key, x[rows]) if augment else x[rows]
            return step_of(module, tx, carry, inputs, y[rows]), None

        return jax.lax.scan(step, carry, (rows, jax.random.split(noise, count)))[0]

    return jax.jit(epoch, donate_argnums=0)


def step_of(module: ResidualNet, tx: optax.GradientTransformation, carry: Any, x: Array, y: Array) -> Any:
    """One step of training."""
    params, stats, state = carry

    def loss(params: Params) -> tuple[Array, Params]:
        variables = {"params": params, "batch_stats": stats}
        (logits, _), new = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y)), new["batch_stats"]

    grads, stats = jax.grad(loss, has_aux=True)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), stats, state


def cropped(key: Array, x: Array) -> Array:
    """Images padded by four pixels, cropped at random and flipped at random."""
    n, height, width, channels = x.shape
    corner, flip = jax.random.split(key)
    corners = jax.random.randint(corner, (n, 2), 0, 9)
    padded = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))

    def one(image: Array, at: Array, turn: Array) -> Array:
        part = jax.lax.dynamic_slice(image, (at[0], at[1], 0), (height, width, channels))
        return jnp.where(turn, part[:, ::-1], part)

    return jax.vmap(one)(padded, corners, jax.random.bernoulli(flip, 0.5, (n,)))


@partial(jax.jit, static_argnums=0)
def _evaluate(module: ResidualNet, params: Params, stats: Params, x: Array) -> Any:
    return module.apply({"params": params, "batch_stats": stats}, x)
