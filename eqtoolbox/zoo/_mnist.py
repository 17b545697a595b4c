"""MNIST from local files, IDX or Keras' npz. Nothing is downloaded and nothing is unpickled."""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from eqtoolbox.zoo._dataset import Dataset
from eqtoolbox.zoo._files import (
    check_end,
    check_sha256,
    data_root,
    digests,
    find,
    invalid,
    missing,
    open_binary,
    read_exactly,
)
from eqtoolbox.zoo._images import check_labels, image_dataset

_IDX_DTYPES = MappingProxyType({0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"})
_MAX_NDIM = 32
_MNIST_FOLDERS = ("", "mnist", "MNIST", "MNIST/raw")
_MNIST_STEMS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
_NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read_idx(path: str | os.PathLike, *, sha256: str | None = None) -> np.ndarray:
    """Reads an array from an IDX file, compressed with gzip if its name ends in ``.gz``.

    The format is two zero bytes, a dtype code, the number of dimensions, the dimensions as unsigned 32-bit
    integers, and the data in row-major order; everything is big-endian.

    Args:
      path: The file.
      sha256: Hexadecimal digest that the bytes on disk must have.

    Returns:
      The array, in native byte order.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is not of this format, is truncated, has bytes left over, or has another digest.

    Reference:
      LeCun, Cortes and Burges, "The MNIST database of handwritten digits", file formats.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    check_sha256(path, sha256)
    with open_binary(path) as stream:
        zeros, code, ndim = struct.unpack(">HBB", read_exactly(stream, path, 4, "the magic number"))
        if zeros:
            raise invalid(path, "the magic number must begin with two zero bytes", f"{zeros:#06x}")
        if code not in _IDX_DTYPES:
            raise invalid(path, f"the dtype code must be one of {[hex(c) for c in _IDX_DTYPES]}", hex(code))
        if ndim > _MAX_NDIM:
            raise invalid(path, f"the number of dimensions must be at most {_MAX_NDIM}", ndim)
        header = read_exactly(stream, path, 4 * ndim, f"the header of {ndim} dimensions")
        shape = struct.unpack(f">{ndim}I", header)
        dtype = np.dtype(_IDX_DTYPES[code])
        size = dtype.itemsize * math.prod(shape)
        data = read_exactly(stream, path, size, f"the data of shape {shape}")
        check_end(stream, path)
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _check_mnist(paths: list[Path], images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
        got = f"{images.dtype} {images.shape}"
        raise invalid(paths[0], "images must be uint8 of shape (n, 28, 28) with n > 0", got)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {labels.shape}"
        raise invalid(paths[1], f"labels must be integers of shape {images.shape[:1]}, one an image", got)
    return images[..., None], check_labels(paths[1], labels, 10)


def _idx_names(stem: str) -> list[str]:
    rank = 3 if stem.endswith("images") else 1
    return [f"{stem}{mark}idx{rank}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz")]


def _read_npz(path: Path) -> list[np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise invalid(path, "must be an npz archive", "no zip directory")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _NPZ_ARRAYS if name in archive}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise invalid(path, "must be a complete npz archive of plain arrays", repr(error)) from error
    if len(arrays) < len(_NPZ_ARRAYS):
        raise invalid(path, f"must hold the arrays {list(_NPZ_ARRAYS)}", sorted(arrays))
    return list(arrays.values())


def mnist(
    root: str | os.PathLike | None = None,
    *,
    standardise: bool = True,
    dtype: Any = jnp.float32,
    sha256: Mapping[str, str] | None = None,
) -> Dataset:
    """MNIST, or a data set in its format such as Fashion-MNIST, from local files.

    Looks in ``root`` and its folders ``mnist``, ``MNIST`` and ``MNIST/raw`` for the four IDX files
    (``train-images-idx3-ubyte`` and so on, also with ``.`` instead of ``-`` before ``idx``, with or without
    ``.gz``) and, if they are not all there, for Keras' ``mnist.npz``.

    Args:
      root: The folder; by default the one named by the environment variable ``EQTOOLBOX_DATA``.
      standardise: Whether pixels get zero mean and unit deviation over the training images; otherwise they
        are in [0, 1].
      dtype: Floating-point dtype of the images.
      sha256: Hexadecimal digests that files must have, by file name.

    Returns:
      The data set: images ``(n, 28, 28, 1)`` and 10 classes.

    Raises:
      FileNotFoundError: If the files are not there; names them and the folders looked at.
      ValueError: If a file is not what it should be (names the file, the rule and the value), or a digest is
        given for a file that is not read.
    """
    root = data_root(root, [_idx_names(stem)[0] for stem in _MNIST_STEMS] + ["mnist.npz"])
    paths = [find(root, _MNIST_FOLDERS, _idx_names(stem)) for stem in _MNIST_STEMS]
    archive = find(root, _MNIST_FOLDERS, ["mnist.npz"])
    homes = [path for path in paths if path]
    if len(homes) == len(paths):
        sha256 = digests(sha256, [path.name for path in homes])
        arrays = [read_idx(path, sha256=sha256.get(path.name)) for path in homes]
    elif archive:
        sha256 = digests(sha256, [archive.name])
        check_sha256(archive, sha256.get(archive.name))
        arrays, homes = _read_npz(archive), [archive] * 4
    else:
        absent = _MNIST_STEMS[paths.index(None)]
        raise missing(root, _MNIST_FOLDERS, [*_idx_names(absent), "mnist.npz"])
    train = _check_mnist(homes[:2], arrays[0], arrays[1])
    test = _check_mnist(homes[2:], arrays[2], arrays[3])
    return image_dataset("mnist", f"MNIST format, from {homes[0].name}", train, test, 10, standardise, dtype)
