"""Writing a report whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from eqtoolbox.report._errors import ReportError


def check_target(out: Path) -> None:
    """Checks that a folder can be written, before any work is done.

    Raises:
      ReportError: it is a file, or not writable, or its parents cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise ReportError(f"--out {out} is a file, not a folder")
    ancestor = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not ancestor.is_dir():
        raise ReportError(f"--out {out}: {ancestor} is a file, not a folder")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise ReportError(f"--out {out}: {ancestor} is not writable")


def write(files: Mapping[str, str], out: Path) -> None:
    """Writes files into a folder so that either all are new or all are as before.

    They are written to a temporary folder beside the target first and then moved into place; what they
    replace is put back if anything goes wrong, Ctrl-C included. Other files of the folder are left alone.

    Args:
      files: the text of each file by name.
      out: the folder, made if needed.

    Raises:
      ReportError: the folder cannot be written.
    """
    out = out.absolute()
    made = [p for p in (out, *out.parents) if not p.exists()]
    replaced: list[str] = []
    placed: list[str] = []
    staging: Path | None = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        for name, text in files.items():
            (staging / name).write_text(text, encoding="utf-8")
        (staging / "before").mkdir()
        for name in files:
            if (out / name).exists():
                os.replace(out / name, staging / "before" / name)
                replaced.append(name)
        for name in files:
            os.replace(staging / name, out / name)
            placed.append(name)
    except BaseException as error:
        for name in placed:
            (out / name).unlink(missing_ok=True)
        if staging is not None:
            for name in replaced:
                os.replace(staging / "before" / name, out / name)
            shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise ReportError(f"the report cannot be written to {out}: {error}") from error
        raise
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
