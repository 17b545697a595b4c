"""Whatever was measured as JSON's own types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """JSON's own types: arrays as lists, paths as texts, what is not finite as None.

    >>> import numpy as np
    >>> plain({"a": np.arange(2), "b": (float("inf"), np.float32(0.5))})
    {'a': [0, 1], 'b': [None, 0.5]}
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    return plain(np.asarray(value).tolist())
