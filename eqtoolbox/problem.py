"""`Problem`: a model, a loss and data, as reports, ensembles and experiments take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.symmetry import Symmetry

Params = Any


class Batch(NamedTuple):
    """Examples along the leading axis.

    Attributes:
      inputs: an array or pytree of arrays, n examples each.
      targets: labels or regression targets, n examples; None where the loss needs none.
    """

    inputs: Any
    targets: Any = None

    @property
    def size(self) -> int:
        """The number of examples."""
        return int(jnp.shape(jax.tree.leaves(self.inputs)[0])[0])


@dataclass(frozen=True)
class Problem:
    """What a user's ``make()`` returns, and what every report and experiment runs on.

    Attributes:
      name: shown in reports.
      init: key -> params, a pytree of arrays.
      apply: (params, inputs) -> outputs, deterministic.
      output_loss: (outputs, targets) -> scalar, the mean over the examples.
      train: the training examples; None until ``with_data``.
      test: held-out examples, or None.
      symmetry: the symmetry of ``apply`` in ``params``, or None where it is not known.
      metric: (outputs, targets) -> scalar to show beside the loss, such as an accuracy; or None.
    """

    name: str
    init: Callable[[Array], Params]
    apply: Callable[[Params, Any], Any]
    output_loss: Callable[[Any, Any], Array]
    train: Batch | None = None
    test: Batch | None = None
    symmetry: Symmetry | None = None
    metric: Callable[[Any, Any], Array] | None = None

    def __post_init__(self):
        for name in ("init", "apply", "output_loss"):
            if not callable(getattr(self, name)):
                raise TypeError(f"Problem: {name} must be a function, got {getattr(self, name)!r}")
        if self.symmetry is not None and not isinstance(self.symmetry, Symmetry):
            raise TypeError(f"Problem: symmetry must be an eqtoolbox.Symmetry, got {self.symmetry!r}")
        for name in ("train", "test"):
            batch = getattr(self, name)
            if batch is not None:
                what = f"Problem {self.name!r}, {name}"
                if not isinstance(batch, (tuple, list)) or len(batch) not in (1, 2):
                    raise TypeError(f"{what}: must be a Batch or a pair (inputs, targets), got {type(batch)}")
                object.__setattr__(self, name, check_batch(what, Batch(*batch)))

    def with_data(self, train: Batch, test: Batch | None = None) -> Problem:
        """The same problem on other examples."""
        return replace(self, train=train, test=test)

    def batch_loss(self, params: Params, batch: Batch) -> Array:
        """The loss on one batch."""
        return self.output_loss(self.apply(params, batch.inputs), batch.targets)

    def loss(self, params: Params) -> Array:
        """The loss on all training examples."""
        if self.train is None:
            raise ValueError(f"Problem {self.name!r} has no training examples: give it some by with_data")
        return self.batch_loss(params, self.train)

    def batches(self, key: Array, batch_size: int) -> Iterator[Batch]:
        """One epoch of training batches in random order; the last incomplete one is left out.

        Args:
          key: a typed key.
          batch_size: examples in each batch.

        Returns:
          An iterator over batches, drawn without replacement.

        Raises:
          ValueError: there are fewer examples than ``batch_size``.
        """
        if self.train is None or not 1 <= batch_size <= self.train.size:
            have = "no" if self.train is None else self.train.size
            raise ValueError(
                f"Problem {self.name!r} has {have} training examples, got batch_size={batch_size}"
            )
        order = np.asarray(jax.random.permutation(key, self.train.size))
        starts = range(0, self.train.size - batch_size + 1, batch_size)
        return (_rows(self.train, order[start : start + batch_size]) for start in starts)


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    return jax.tree.map(lambda a: a[rows], batch)


def check_batch(what: str, batch: Batch) -> Batch:
    """Checks that a batch has examples, as many targets as inputs, and no NaN or infinity.

    Raises:
      ValueError: naming the leaf, the rule and the value.
    """
    pairs, _ = jax.tree_util.tree_flatten_with_path(batch)
    if not jax.tree.leaves(batch.inputs):
        raise ValueError(f"{what}: the inputs hold no arrays, got {batch.inputs!r}")
    size = None
    for path, leaf in pairs:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = jnp.shape(leaf)
        if not shape or not shape[0]:
            raise ValueError(f"{what}: {name} must have examples along its first axis, got shape {shape}")
        size = shape[0] if size is None else size
        if shape[0] != size:
            raise ValueError(f"{what}: {name} has {shape[0]} examples, but {size} were given before")
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.inexact) and not np.all(np.isfinite(array)):
            count = int(np.sum(~np.isfinite(array)))
            raise ValueError(f"{what}: {name} has {count} entries that are NaN or infinite")
    return batch
