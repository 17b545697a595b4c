"""The R factor of a tall matrix whose rows come in blocks: singular values at rounding, where a Gram has its root."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def triangular_factor(blocks: Iterable[np.ndarray], columns: int) -> tuple[np.ndarray, int]:
    """R with RᵀR = BᵀB, B the rows of all blocks, without forming B or BᵀB.

    Rows are gathered until there are as many as columns, then folded into R by a QR of [R; rows]. A Gram matrix
    would square the singular values: those below √ε of the largest would be lost.

    Args:
      blocks: arrays of shape (rows, columns), in float64.
      columns: m.

    Returns:
      (R of shape (min(rows, m), m), the number of rows that are not all zero).
    """
    factor = np.zeros((0, columns))
    waiting: list[np.ndarray] = []
    held = count = 0

    def fold(factor: np.ndarray) -> np.ndarray:
        if not waiting:
            return factor
        return np.asarray(np.linalg.qr(np.concatenate([factor, *waiting]), mode="r"))

    for block in blocks:
        block = np.asarray(block, np.float64)
        block = block[np.any(block != 0, axis=1)]
        count += len(block)
        waiting.append(block)
        held += len(block)
        if held >= columns:
            factor, waiting, held = fold(factor), [], 0
    return fold(factor), count
