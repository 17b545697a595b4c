"""CIFAR-10 and CIFAR-100 from local files, binary version. Nothing is downloaded and nothing is unpickled."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from eqtoolbox.zoo._dataset import Dataset
from eqtoolbox.zoo._files import check_sha256, data_root, digests, find, invalid, missing
from eqtoolbox.zoo._images import check_labels, image_dataset

_PIXELS = 3 * 32 * 32


def _read_records(
    path: Path, sha256: str | None, classes: tuple[int, ...]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Images ``(n, 32, 32, 3)`` and one array of labels for each entry of ``classes``."""
    check_sha256(path, sha256)
    record = len(classes) + _PIXELS
    size = path.stat().st_size
    if not size or size % record:
        raise invalid(path, f"the size must be a positive multiple of {record} bytes, one record", size)
    rows = np.fromfile(path, np.uint8).reshape(-1, record)
    names = ("labels",) if len(classes) == 1 else ("coarse labels", "fine labels")
    labels = [
        check_labels(path, rows[:, i], n, name)
        for i, (n, name) in enumerate(zip(classes, names, strict=True))
    ]
    return rows[:, len(classes) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _read_parts(
    root: str | os.PathLike | None,
    folders: tuple[str, ...],
    names: list[str],
    classes: tuple[int, ...],
    label: int,
    sha256: Mapping[str, str] | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and the ``label``-th labels of every file."""
    folder, sha256 = data_root(root, names), digests(sha256, names)
    parts = []
    for name in names:
        path = find(folder, folders, [name])
        if path is None:
            raise missing(folder, folders, [name])
        images, labels = _read_records(path, sha256.get(name), classes)
        parts.append((images, labels[label]))
    return parts


def cifar10(
    root: str | os.PathLike | None = None,
    *,
    standardise: bool = True,
    dtype: Any = jnp.float32,
    sha256: Mapping[str, str] | None = None,
) -> Dataset:
    """CIFAR-10 from local files ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``.

    Args:
      root: The folder, or one that holds ``cifar-10-batches-bin``; by default the one named by the
        environment variable ``EQTOOLBOX_DATA``.
      standardise: Whether every channel gets zero mean and unit deviation over the training images; otherwise
        pixels are in [0, 1].
      dtype: Floating-point dtype of the images.
      sha256: Hexadecimal digests that files must have, by file name.

    Returns:
      The data set: images ``(n, 32, 32, 3)`` and 10 classes.

    Raises:
      FileNotFoundError: If a file is not there; names it and the folders looked at.
      ValueError: If a file is not what it should be (names the file, the rule and the value), or a digest is
        given for a file that is not read.

    Reference:
      Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), binary version.
    """
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    *parts, test = _read_parts(root, ("", "cifar-10-batches-bin"), names, (10,), 0, sha256)
    train = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    return image_dataset("cifar10", "CIFAR-10, binary version", train, test, 10, standardise, dtype)


def cifar100(
    root: str | os.PathLike | None = None,
    *,
    labels: str = "fine",
    standardise: bool = True,
    dtype: Any = jnp.float32,
    sha256: Mapping[str, str] | None = None,
) -> Dataset:
    """CIFAR-100 from local files ``train.bin`` and ``test.bin``.

    Args:
      root: The folder, or one that holds ``cifar-100-binary``; by default the one named by the environment
        variable ``EQTOOLBOX_DATA``.
      labels: "fine" for 100 classes, "coarse" for 20.
      standardise: Whether every channel gets zero mean and unit deviation over the training images; otherwise
        pixels are in [0, 1].
      dtype: Floating-point dtype of the images.
      sha256: Hexadecimal digests that files must have, by file name.

    Returns:
      The data set: images ``(n, 32, 32, 3)``.

    Raises:
      FileNotFoundError: If a file is not there; names it and the folders looked at.
      ValueError: If a file is not what it should be (names the file, the rule and the value), a digest is
        given for a file that is not read, or ``labels`` is neither "fine" nor "coarse".

    Reference:
      Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), binary version.
    """
    if labels not in ("fine", "coarse"):
        raise ValueError(f'`labels` must be "fine" or "coarse", got {labels!r}')
    column = ("coarse", "fine").index(labels)
    names = ["train.bin", "test.bin"]
    train, test = _read_parts(root, ("", "cifar-100-binary"), names, (20, 100), column, sha256)
    source = f"CIFAR-100, binary version, {labels} labels"
    return image_dataset("cifar100", source, train, test, (20, 100)[column], standardise, dtype)
