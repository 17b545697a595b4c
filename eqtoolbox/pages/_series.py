"""Series along training: thinned for plots and files."""

from __future__ import annotations

import numpy as np

#: Points kept of a series in a figure or in the JSON.
POINTS = 600


def kept(count: int, points: int = POINTS) -> np.ndarray:
    """At most ``points`` indices of ``range(count)``, evenly spread, the first and last among them.

    >>> kept(5).tolist(), kept(10, 4).tolist()
    ([0, 1, 2, 3, 4], [0, 3, 6, 9])
    """
    return np.unique(np.linspace(0, count - 1, min(count, points)).round().astype(int))
