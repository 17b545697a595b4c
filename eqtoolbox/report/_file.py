"""report.json read again: its schema, and a reader that says what is wrong with a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eqtoolbox.report._errors import ReportError
from eqtoolbox.report._report import FORMAT, FORMAT_VERSION

#: What a reader relies on, with its type; `schema` says the rest.
_TOP: dict[str, type] = {
    "created": str,
    "device": str,
    "versions": dict,
    "problem": dict,
    "config": dict,
    "training": dict,
    "summary": list,
    "sections": dict,
}
_CHECK = {"statement": str, "at_least": bool, "passed": bool}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of report.json, in the version that this release writes."""
    return json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))


def load_report(path: Path) -> dict[str, Any]:
    """A report.json.

    Args:
      path: the file, or the folder it is in.

    Returns:
      Its content, as ``schema`` describes it.

    Raises:
      ReportError: there is no such file, it cannot be read, or it is something else, of a later version, or damaged.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"there is no file {str(file)!r}") from None
    except OSError as error:
        raise ReportError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{file} is not JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        what = f"its format is {found!r}" if found is not None else "it names no format"
        raise ReportError(f"{file} is not a report.json of eqtoolbox report: {what}")
    version = content.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ReportError(f"{file} is damaged: format_version must be a positive integer, got {version!r}")
    if version > FORMAT_VERSION:
        raise ReportError(
            f"{file} was written by a later eqtoolbox: its format version is {version}, and this one reads up to "
            f"{FORMAT_VERSION}; install a later eqtoolbox"
        )
    _check(file, content)
    return content


def _check(file: Path, content: Mapping[str, Any]) -> None:
    def require(where: str, value: Any, keys: Mapping[str, type]) -> None:
        if not isinstance(value, dict):
            raise ReportError(f"{file} is damaged: {where} must be an object")
        for key, kind in keys.items():
            if not isinstance(value.get(key), kind):
                name = f"{where}/{key}".lstrip("/")
                raise ReportError(f"{file} is damaged: {name} is missing, or not of type {kind.__name__}")

    require("", content, _TOP)
    require("problem", content["problem"], {"name": str})
    for i, number in enumerate(content["summary"]):
        require(f"summary/{i}", number, {"label": str})
    for name, section in content["sections"].items():
        require(f"sections/{name}", section, {"title": str, "checks": list, "data": dict})
        for i, check in enumerate(section["checks"]):
            require(f"sections/{name}/checks/{i}", check, _CHECK)
