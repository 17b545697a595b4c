"""A symmetry as JSON: labels as written, groups by class name and fields."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from eqtoolbox import groups as _groups
from eqtoolbox.groups import Group

FORMAT = "eqtoolbox.symmetry/1"


def encode(axes: dict[str, str], factors) -> dict[str, Any]:
    """The JSON object of labels and factors."""
    return {
        "format": FORMAT,
        "axes": axes,
        "groups": [{"spaces": list(f.spaces), "group": _encode_group(f.group)} for f in factors],
    }


def decode(text: str) -> tuple[dict[str, str], dict[str | tuple[str, ...], Group]]:
    """The arguments of ``Symmetry`` from a JSON text.

    Raises:
      ValueError: the text is not JSON of this format.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"expected the format {FORMAT!r}, got {found!r}")
    try:
        return data["axes"], {tuple(f["spaces"]): _decode_group(f["group"]) for f in data["groups"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"a symmetry needs axes and groups; {type(error).__name__}: {error}") from None


def _encode_group(group: Group) -> dict[str, Any]:
    fields = {}
    for field in dataclasses.fields(group):  # pyright: ignore[reportArgumentType]
        value = getattr(group, field.name)
        if isinstance(value, Group):
            value = _encode_group(value)
        elif isinstance(value, tuple):
            value = [_encode_group(v) if isinstance(v, Group) else v for v in value]
        fields[field.name] = value
    return {"class": type(group).__name__, **fields}


def _decode_group(data: dict[str, Any]) -> Group:
    name = data["class"]
    cls = getattr(_groups, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Group)):
        raise ValueError(f"there is no group of class {name!r}")
    fields = {k: _decode_value(v) for k, v in data.items() if k != "class"}
    if cls is _groups.Product:
        return _groups.Product(*fields["groups"])
    return cls(**fields)


def _decode_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _decode_group(value)
    if isinstance(value, list):
        return tuple(_decode_value(v) for v in value)
    return value
