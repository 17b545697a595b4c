"""Reading local files: what is expected is checked, and an error names the file, the rule and the value."""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ENVIRONMENT = "EQTOOLBOX_DATA"
Stream = io.BufferedReader | gzip.GzipFile
_CHUNK = 1 << 20


def invalid(path: Path, rule: str, got: object) -> ValueError:
    """The error for a file that breaks a rule."""
    return ValueError(f"{path}: {rule}, got {got}")


def data_root(root: str | os.PathLike | None, expected: Sequence[str]) -> Path:
    """The folder to look in: ``root``, or the one named by the environment variable ``EQTOOLBOX_DATA``.

    Raises:
      FileNotFoundError: If neither is given or there is no such folder; names the expected files.
    """
    names = ", ".join(expected)
    folder = root if root is not None else os.environ.get(ENVIRONMENT)
    if not folder:
        raise FileNotFoundError(f"no folder to look in for {names}: pass `root` or set ${ENVIRONMENT}")
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path} to look in for {names}")
    return path


def find(root: Path, folders: Iterable[str], names: Sequence[str]) -> Path | None:
    """The first existing file among ``root / folder / name``, folders first, or None."""
    for folder in folders:
        for name in names:
            if (path := root / folder / name).is_file():
                return path
    return None


def missing(root: Path, folders: Iterable[str], names: Sequence[str]) -> FileNotFoundError:
    """The error for a file that is in none of the folders."""
    looked = ", ".join(str(root / folder) for folder in folders)
    return FileNotFoundError(f"none of {', '.join(names)} in {looked}")


def check_sha256(path: Path, sha256: str | None) -> None:
    """Compares the SHA-256 digest of the bytes on disk.

    Raises:
      ValueError: If it differs.
    """
    if sha256 is None:
        return
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256.lower():
        raise invalid(path, f"sha256 must be {sha256.lower()}", digest)


def digests(sha256: Mapping[str, str] | None, names: Iterable[str]) -> Mapping[str, str]:
    """The digests to compare, by file name.

    Raises:
      ValueError: If one is for a file that is not read: it would never be compared.
    """
    sha256, names = sha256 or {}, sorted(names)
    if unknown := sorted(set(sha256) - set(names)):
        raise ValueError(f"`sha256` must be for files that are read, {names}, got {unknown}")
    return sha256


def open_binary(path: Path) -> Stream:
    """Opens a file for reading, decompressing it if its name ends in ``.gz``."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def read_exactly(stream: Stream, path: Path, count: int, what: str) -> bytes:
    """The next ``count`` bytes of the file ``path``.

    No more is read than that, and no more is set aside than there is: neither a wrong header nor a small file
    that decompresses to a huge one can fill the memory.

    Raises:
      ValueError: If there are fewer, or the compression is corrupt.
    """
    parts, left = [], count
    while left and (part := _read(stream, path, min(left, _CHUNK))):
        parts.append(part)
        left -= len(part)
    if left:
        raise invalid(path, f"{what} must have {count} bytes", count - left)
    return b"".join(parts)


def check_end(stream: Stream, path: Path) -> None:
    """Checks that nothing is left of the file ``path``.

    Raises:
      ValueError: If there is, or the compression is corrupt.
    """
    if _read(stream, path, 1):
        raise invalid(path, "the file must end with its data", "more bytes")


def _read(stream: Stream, path: Path, count: int) -> bytes:
    try:
        return stream.read(count)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise invalid(path, "must be a complete gzip file", repr(error)) from error
