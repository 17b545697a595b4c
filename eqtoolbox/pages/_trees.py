"""Nested dicts, lists and tuples of arrays as .npz files, written whole or not at all.

Every array is an entry named by its path, ``np.load(file)["train/loss"]``; the entry ``__tree__`` holds the rest as
JSON: structure, numbers, texts, and what NumPy's format does not know (bfloat16, typed keys).
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_TREE = "__tree__"


class DamagedError(Exception):
    """A file is not whole; the message names it."""


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: a temporary file beside it, moved into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_tree(path: Path, tree: Any) -> None:
    """Saves a tree, whole or not at all.

    Args:
      path: of the .npz file.
      tree: dicts with texts as keys, lists, tuples, None, numbers, texts and arrays (bfloat16 and typed keys too).

    Raises:
      TypeError: something else is in it; names where.
    """
    arrays: dict[str, np.ndarray] = {}
    skeleton = _encode(tree, "", arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **{_TREE: np.asarray(json.dumps(skeleton))}, **arrays)  # pyright: ignore[reportArgumentType]
    write_bytes(path, buffer.getvalue())


def load_tree(path: Path) -> Any:
    """The tree of a file written by ``save_tree``, with NumPy arrays.

    Raises:
      DamagedError: the file is damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return _decode(json.loads(str(file[_TREE])), file)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path} is damaged ({error})") from error


def _encode(tree: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if tree is None or (isinstance(tree, (bool, int, float, str)) and not isinstance(tree, np.generic)):
        return {"value": tree}
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, str) or not key or "/" in key or key == _TREE:
                raise TypeError(
                    f"the keys of a saved dict are texts without '/', got {key!r} at {path or 'top'}"
                )
        return {"dict": {k: _encode(v, f"{path}/{k}".lstrip("/"), arrays) for k, v in tree.items()}}
    if isinstance(tree, (list, tuple)) and not hasattr(tree, "_fields"):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_encode(v, f"{path}/{i}".lstrip("/"), arrays) for i, v in enumerate(tree)]}
    name = path or "array"
    if isinstance(tree, jax.Array) and jnp.issubdtype(tree.dtype, jax.dtypes.prng_key):
        arrays[name] = np.asarray(jax.random.key_data(tree))
        return {"array": name, "key": str(jax.random.key_impl(tree))}
    if not isinstance(tree, (jax.Array, np.ndarray, np.generic)):
        raise TypeError(
            "what is saved must be made of dicts, lists, tuples, arrays, numbers and texts, "
            f"got {type(tree).__name__} at {path or 'top'}"
        )
    array = np.asarray(tree)
    if array.dtype.hasobject:
        raise TypeError(f"arrays of objects cannot be saved, got one at {path or 'top'}")
    if array.dtype.kind == "V":  # bfloat16 and the like, which the .npy format forgets
        arrays[name] = array.view(f"u{array.dtype.itemsize}")
        return {"array": name, "dtype": str(array.dtype)}
    arrays[name] = array
    return {"array": name}


def _decode(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    if "value" in node:
        return node["value"]
    if "dict" in node:
        return {k: _decode(v, arrays) for k, v in node["dict"].items()}
    if "list" in node:
        return [_decode(v, arrays) for v in node["list"]]
    if "tuple" in node:
        return tuple(_decode(v, arrays) for v in node["tuple"])
    array = arrays[node["array"]]
    if "key" in node:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=node["key"])
    return array.view(jnp.dtype(node["dtype"])) if "dtype" in node else array
