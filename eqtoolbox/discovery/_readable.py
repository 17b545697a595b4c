"""A basis of a null space that can be read: sparse and orthonormal."""

from __future__ import annotations

import numpy as np
import scipy.linalg


def readable_basis(vectors: np.ndarray, sweeps: int = 30, drop: float = 1e-7) -> np.ndarray:
    """An orthonormal basis of the row span with few large entries in each row.

    The reduced row echelon form on the columns that pivoted QR picks finds every basis of disjoint supports exactly;
    where supports overlap it is made orthonormal (the nearest orthonormal basis) and (up to 128 rows) rotated pair
    by pair to the largest sum of fourth powers, Σ v⁴. Rows are signed so that their largest entry is positive.

    Args:
      vectors: independent rows, shape (k, m).
      sweeps: of rotations, at most.
      drop: entries below it, relative to the largest of their row, become 0: rounding.

    Returns:
      Orthonormal rows, shape (k, m), sorted by their largest entry.
    """
    v = np.asarray(vectors, np.float64)
    k = len(v)
    if not k:
        return v
    pivots = np.asarray(scipy.linalg.qr(v, mode="r", pivoting=True)[-1])
    echelon = np.linalg.solve(v[:, pivots[:k]], v)
    echelon[np.abs(echelon) < drop * np.abs(echelon).max(1, keepdims=True)] = 0
    u, _, w = np.linalg.svd(echelon / np.linalg.norm(echelon, axis=1, keepdims=True), full_matrices=False)
    v = u @ w
    overlap = (v * v) @ (v * v).T
    apart = np.max(overlap - np.diag(np.diagonal(overlap)), initial=0.0) < drop**2
    # disjoint supports have nothing to gain, and many generators are too many pairs
    for _ in range(0 if apart or k > 128 else sweeps):
        largest = 0.0
        for i in range(k):
            for j in range(i):
                angle = _angle(v[i], v[j])
                if abs(angle) > 1e-12:
                    c, s = np.cos(angle), np.sin(angle)
                    v[i], v[j] = c * v[i] + s * v[j], c * v[j] - s * v[i]
                largest = max(largest, abs(angle))
        if largest < 1e-9:
            break
    v[np.abs(v) < drop * np.abs(v).max(1, keepdims=True)] = 0
    at = np.abs(v).argmax(1)
    v *= np.sign(v[np.arange(k), at])[:, None]
    return v[np.argsort(at, kind="stable")] + 0.0


def _angle(x: np.ndarray, y: np.ndarray) -> float:
    """The rotation of two rows that makes Σ x⁴ + y⁴ largest (Kaiser's closed form for quartimax)."""
    u, w = x * x - y * y, 2 * x * y
    numerator, denominator = 2 * np.sum(u * w), np.sum(u * u - w * w)
    if abs(numerator) < 1e-14 and denominator >= 0:
        return 0.0
    return float(np.arctan2(numerator, denominator) / 4)
