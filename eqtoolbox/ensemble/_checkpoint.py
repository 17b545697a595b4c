"""Checkpoints of a run: by orbax, asynchronous, atomic, the last few kept, each with a digest of its content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eqtoolbox.ensemble._errors import EnsembleError
from eqtoolbox.ensemble._stream import State


class Checkpoints:
    """The folder ``checkpoints`` of a run, with one folder for each number of chunks done."""

    def __init__(self, folder: Path, run: str, keep: int = 2):
        """Opens the folder, which is made if needed.

        Args:
          folder: of the checkpoints.
          run: what tells this run from others; a checkpoint of another one is refused.
          keep: the number of checkpoints that are kept.

        Raises:
          EnsembleError: the folder cannot be used.
        """
        import orbax.checkpoint as ocp

        self.folder, self.run, self._ocp = folder.absolute(), run, ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except Exception as error:
            raise EnsembleError(f"{folder} cannot be used for checkpoints: {_text(error)}") from error

    def latest(self) -> int | None:
        """The number of chunks of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, done: int, state: State) -> None:
        """Starts saving; waits for the one before.

        Raises:
          EnsembleError: this one or the one before cannot be written; what there was is left as it is.
        """
        arrays = _arrays(state)
        about = {"run": self.run, "digest": _digest(arrays), "chunks": done}
        items = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(arrays), about=self._ocp.args.JsonSave(about)
        )
        try:
            self._manager.check_for_errors()
            self._manager.save(done, args=items, force=True)
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          EnsembleError: it cannot be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, done: int, like: State) -> State:
        """The state of a checkpoint, bit by bit as it was saved, as NumPy arrays.

        Args:
          done: one of those that ``latest`` gives.
          like: a state of the same run.

        Raises:
          EnsembleError: it is damaged or of another run; nothing was changed.
        """
        where = self.folder / str(done)
        advice = (
            "nothing was changed; remove that folder to go on from an older checkpoint, or from the start"
        )
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in _arrays(like).items()}
        try:
            about = self._manager.restore(
                done, args=self._ocp.args.Composite(about=self._ocp.args.JsonRestore())
            )["about"]
        except Exception as error:
            raise EnsembleError(
                f"the checkpoint {where} cannot be read ({_text(error)}): {advice}"
            ) from error
        if not isinstance(about, dict) or about.get("run") != self.run or about.get("chunks") != done:
            raise EnsembleError(f"the checkpoint {where} is of another run: {advice}")
        try:
            arrays = self._manager.restore(
                done, args=self._ocp.args.Composite(state=self._ocp.args.StandardRestore(_zeros(shapes)))
            )["state"]
        except Exception as error:
            raise EnsembleError(
                f"the checkpoint {where} cannot be read ({_text(error)}): {advice}"
            ) from error
        arrays = {name: np.asarray(x) for name, x in arrays.items()}
        if _digest(arrays) != about.get("digest"):
            raise EnsembleError(f"the checkpoint {where} is damaged, its digest is another: {advice}")
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in _names(like)])

    def close(self) -> None:
        """Lets the folder go."""
        self._manager.close()

    def _failed(self, error: Exception) -> EnsembleError:
        last = max((int(p.name) for p in self.folder.iterdir() if p.name.isdigit()), default=None)
        kept = (
            "there is none before it" if last is None else f"the last good one is {self.folder / str(last)}"
        )
        return EnsembleError(
            f"a checkpoint cannot be written to {self.folder}: {_text(error)}; {kept}: "
            "make room, and the same command goes on"
        )


def _names(state: State) -> list[str]:
    """A file name for each leaf."""
    return [f"{i:04d}" for i in range(len(jax.tree.leaves(state)))]


def _arrays(state: State) -> dict[str, np.ndarray]:
    # np.array: a copy, since the arrays of the state are donated to the next step while this is being written.
    return {name: np.array(x) for name, x in zip(_names(state), jax.tree.leaves(state), strict=True)}


def _zeros(shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.zeros(s.shape, s.dtype) for name, s in shapes.items()}


def _digest(arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def _text(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
