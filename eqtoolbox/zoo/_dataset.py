"""Data sets as pytrees: the split, the scaling, and mini-batches that can be drawn inside a compiled loop."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

PyTree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dataset:
    """A data set, split into training and test examples.

    It is a pytree of its four arrays; the other attributes are static.

    Attributes:
      train_x: Inputs, ``(n_train, ...)``.
      train_y: Integer classes ``(n_train,)``, or real targets ``(n_train, d)``.
      test_x: Inputs, ``(n_test, ...)``.
      test_y: As ``train_y``.
      name: Short name.
      num_classes: Number of classes, None for regression.
      description: Where the numbers come from, how they were split and scaled.
    """

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    name: str = field(metadata={"static": True})
    num_classes: int | None = field(metadata={"static": True})
    description: str = field(metadata={"static": True})

    @property
    def train(self) -> tuple[Array, Array]:
        """The pair ``(train_x, train_y)``."""
        return self.train_x, self.train_y

    @property
    def test(self) -> tuple[Array, Array]:
        """The pair ``(test_x, test_y)``."""
        return self.test_x, self.test_y


def float_dtype(dtype: Any) -> np.dtype:
    """The floating-point dtype that arrays of a data set are to have.

    Raises:
      TypeError: If it is not a floating-point dtype.
      ValueError: If it is float64 and JAX is not in 64-bit mode.
    """
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"`dtype` must be a floating-point dtype, got {dtype}")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"`dtype` must exist in JAX's present mode (jax_enable_x64 is off), got {dtype}")
    return dtype


def split_indices(size: int, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits ``range(size)`` at random into training and test indices.

    The permutation sorts the raw 64-bit stream of PCG64, which NumPy keeps the same in every version.

    Args:
      size: Number of examples.
      test_fraction: Share of test examples, rounded to the nearest count; neither part is empty.
      seed: Seed of the split.

    Returns:
      Training indices and test indices, disjoint and together ``range(size)``.

    Raises:
      ValueError: If ``test_fraction`` is not strictly between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must be strictly between 0 and 1, got {test_fraction!r}")
    order = np.argsort(np.random.PCG64(seed).random_raw(size), kind="stable")
    count = min(max(1, round(test_fraction * size)), size - 1)
    return order[count:], order[:count]


def standardise(train: np.ndarray, *others: np.ndarray, axis: Any = 0) -> tuple[np.ndarray, ...]:
    """Subtracts the mean and divides by the standard deviation of the training examples.

    What is constant over the training examples is only centred.

    Args:
      train: Training examples.
      *others: Arrays scaled in the same way.
      axis: The axes that a mean is over; None for one mean and one deviation of all numbers.

    Returns:
      The scaled arrays, in float64.
    """
    train = np.asarray(train, np.float64)
    mean, std = train.mean(axis, keepdims=True), train.std(axis, keepdims=True)
    std = np.where(std > 0, std, 1.0)
    return tuple((np.asarray(x, np.float64) - mean) / std for x in (train, *others))


def batch_indices(key: Array, size: int, batch_size: int, epochs: int = 1) -> Array:
    """Indices of mini-batches without replacement, freshly shuffled in every epoch.

    Args:
      key: Typed random key.
      size: Number of examples.
      batch_size: Examples of one batch; the remainder of an epoch is dropped.
      epochs: Number of epochs.

    Returns:
      Integer array ``(epochs * (size // batch_size), batch_size)``: the steps to scan over.

    Raises:
      ValueError: If ``batch_size`` is not in ``1..size``, or ``epochs`` is not positive.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from eqtoolbox import zoo
      >>> data = jnp.arange(10.0)
      >>> steps = zoo.batch_indices(jax.random.key(0), 10, batch_size=5, epochs=3)
      >>> total, _ = jax.lax.scan(lambda s, i: (s + zoo.take(data, i).sum(), None), 0.0, steps)
      >>> float(total)
      135.0
    """
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"`batch_size` must be between 1 and the number of examples {size}, got {batch_size!r}"
        )
    if epochs < 1:
        raise ValueError(f"`epochs` must be positive, got {epochs!r}")
    steps = size // batch_size
    orders = jax.vmap(lambda key: jax.random.permutation(key, size))(jax.random.split(key, epochs))
    return orders[:, : steps * batch_size].reshape(epochs * steps, batch_size)


def take(data: PyTree, indices: Array) -> PyTree:
    """The examples ``indices`` of every leaf of ``data``.

    Args:
      data: A pytree of arrays with one leading axis, such as ``dataset.train``.
      indices: Integer array of any shape, within bounds.

    Returns:
      A pytree of arrays with leading axes ``indices.shape``.
    """
    return jax.tree.map(lambda leaf: jnp.take(leaf, indices, axis=0), data)


def batches(key: Array, data: PyTree, batch_size: int, epochs: int = 1) -> PyTree:
    """Shuffled mini-batches of a pytree of arrays, stacked so that ``jax.lax.scan`` runs over them.

    This copies the data ``epochs`` times; ``batch_indices`` with ``take`` inside the loop does not.

    Args:
      key: Typed random key.
      data: A pytree of arrays with one leading axis, such as ``dataset.train``.
      batch_size: Examples of one batch; the remainder of an epoch is dropped.
      epochs: Number of epochs.

    Returns:
      A pytree of arrays ``(epochs * (n // batch_size), batch_size, ...)``.

    Raises:
      ValueError: If the leaves have no common leading axis, or ``batch_size`` or ``epochs`` does not fit.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"`data` must have one leading axis in all leaves, got {sorted(sizes)}")
    ((size,),) = sizes
    return take(data, batch_indices(key, size, batch_size, epochs))
