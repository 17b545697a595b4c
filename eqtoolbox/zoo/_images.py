"""Data sets of 8-bit images: labels checked, pixels scaled without copies in float64."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from eqtoolbox.zoo._dataset import Dataset, float_dtype
from eqtoolbox.zoo._files import invalid

_CHUNK = 4096


def check_labels(path: Path, labels: np.ndarray, classes: int, what: str = "labels") -> np.ndarray:
    """Labels as int32.

    Raises:
      ValueError: If one is not in ``0..classes-1``.
    """
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise invalid(path, f"{what} must be in 0..{classes - 1}", f"{labels.min()}..{labels.max()}")
    return labels.astype(np.int32)


def image_dataset(
    name: str,
    source: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: int,
    standardise: bool,
    dtype: Any,
) -> Dataset:
    """A data set of images from uint8 pixels ``(n, height, width, channels)`` and int32 labels ``(n,)``.

    Args:
      name: Short name.
      source: Where the files come from, for the description.
      train: Training images and labels.
      test: Test images and labels.
      classes: Number of classes.
      standardise: Whether every channel gets zero mean and unit deviation over the training images; otherwise
        pixels are divided by 255.
      dtype: Floating-point dtype of the images.

    Returns:
      The data set.

    Raises:
      ValueError: If ``dtype`` needs 64-bit mode.
    """
    dtype = float_dtype(dtype)
    levels = np.arange(256.0)
    table = np.repeat(levels[:, None] / 255, train[0].shape[-1], axis=1)
    if standardise:
        counts = np.stack([_histogram(train[0][..., c]) for c in range(table.shape[1])], axis=1)
        weights = counts / counts.sum(axis=0, keepdims=True)
        mean = (weights * table).sum(axis=0, keepdims=True)
        std = np.sqrt((weights * (table - mean) ** 2).sum(axis=0, keepdims=True))
        table = (table - mean) / np.where(std > 0, std, 1.0)
    table = table.astype(dtype)
    scaling = "standardised by every channel's mean and deviation over the training images"
    return Dataset(
        _scaled(train[0], table),
        jnp.asarray(train[1]),
        _scaled(test[0], table),
        jnp.asarray(test[1]),
        name=name,
        num_classes=classes,
        description=(
            f"{source}, {len(train[0])} training and {len(test[0])} test images as the files split them, "
            f"pixels {scaling if standardise else 'divided by 255'}."
        ),
    )


def _histogram(values: np.ndarray) -> np.ndarray:
    """How often each of 256 values occurs, in chunks (``bincount`` makes 64-bit copies)."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(values), _CHUNK):
        counts += np.bincount(values[start : start + _CHUNK].ravel(), minlength=256)
    return counts


def _scaled(part: np.ndarray, table: np.ndarray) -> Array:
    """Looks pixels ``(n, height, width, c)`` up in ``table`` of shape ``(256, c)``."""
    out = np.empty(part.shape, table.dtype)
    for c in range(part.shape[-1]):
        out[..., c] = table[part[..., c], c]
    return jnp.asarray(out)
