"""`Store`: the folder of one run, in which finished pieces are kept so that a killed run can go on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eqtoolbox.experiments._errors import ExperimentError
from eqtoolbox.experiments._trees import load_tree
from eqtoolbox.pages import SILENT, Progress, plain, save_tree, write_bytes

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass
class Store:
    """The folder of one experiment with one configuration.

    Attributes:
      folder: of this configuration and version alone, see ``open_store``.
      progress: told what is going on.
      seconds: spent by earlier runs on the pieces that were read instead of computed.
    """

    folder: Path
    progress: Progress = field(default=SILENT, repr=False)
    seconds: float = 0.0

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """``compute()``, computed only once for each name, also if the run is killed and started again.

        What is returned is what was saved, with NumPy arrays: the same now and after a restart.

        Args:
          name: of the piece; ``"seed-3/train"`` is fine.
          compute: gives dicts, lists, tuples, arrays, numbers and texts.

        Returns:
          The piece.

        Raises:
          TypeError: what was computed cannot be saved; names where.
        """
        path = self.path(name)
        if not path.exists():
            start = time.perf_counter()
            value = compute()
            save_tree(path, {"piece": value, "seconds": time.perf_counter() - start})
            return load_tree(path)["piece"]
        found = load_tree(path)
        self.seconds += found["seconds"]
        return found["piece"]

    def path(self, name: str) -> Path:
        """The file of a piece.

        Raises:
          ValueError: the name is not made of letters, digits, ``.``, ``_``, ``-`` and ``/``.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"a piece is named by letters, digits, '.', '_', '-' and '/', got {name!r}")
        return self.folder / "pieces" / f"{name}.npz"

    def clear(self) -> None:
        """Deletes the pieces."""
        shutil.rmtree(self.folder / "pieces", ignore_errors=True)


def configuration_hash(name: str, version: int, config: Any) -> str:
    """Eight hexadecimal digits that tell configurations and versions of an experiment apart."""
    text = json.dumps([name, version, plain(asdict(config))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def open_store(
    out: Path,
    name: str,
    version: int,
    size: str,
    config: Any,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> Store:
    """The store of a configuration, ``OUT/NAME/SIZE-HASH``: another configuration or version has another folder.

    Args:
      out: the folder of all results.
      name: of the experiment.
      version: of the experiment.
      size: ``"quick"``, ``"full"`` or ``"custom"``.
      config: the configuration, a dataclass.
      force: deletes what is there first.
      progress: told what is going on.

    Raises:
      ExperimentError: the folder cannot be written, or holds something else.
    """
    digest = configuration_hash(name, version, config)
    folder = out / name / f"{size}-{digest}"
    manifest = {"experiment": name, "version": version, "hash": digest, "config": plain(asdict(config))}
    path = folder / "manifest.json"
    try:
        if force:
            shutil.rmtree(folder, ignore_errors=True)
        if not path.exists():
            write_bytes(path, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"--out {out} cannot be written: {error}") from error
    except ValueError as error:
        raise ExperimentError(f"{path} is damaged: run again with --force") from error
    if found != manifest:
        raise ExperimentError(f"{path} is of another configuration: run again with --force, or another --out")
    return Store(folder, progress)
