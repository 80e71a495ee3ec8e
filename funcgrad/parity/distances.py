"""How far two arrays lie apart."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def distance(a: np.ndarray, b: np.ndarray, *, finite: bool = False) -> float:
    """The largest absolute difference of two elements: infinite where only one of them is finite or they are different
    infinities, 0 where both are the same or both NaN; of elements finite on both sides alone, if ``finite``."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    if not finite and not np.array_equal(a[~both], b[~both], equal_nan=True):
        return float("inf")
    return float(np.max(np.abs(a[both] - b[both]), initial=0))


def relative_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two finite elements, by the larger of them."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    differ = np.isfinite(a) & np.isfinite(b) & (a != b)
    a, b = a[differ], b[differ]
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a), np.abs(b)), initial=0))


def ulps(a: np.ndarray, b: np.ndarray) -> int:
    """How many floating-point numbers, at most, two elements that are not NaN lie apart."""
    known = ~np.isnan(a) & ~np.isnan(b)
    x, y = place(a)[known], place(b)[known]
    # As unsigned numbers, since two of opposite signs may be more than the largest int64 apart.
    return int(np.max(np.maximum(x, y).astype(np.uint64) - np.minimum(x, y).astype(np.uint64), initial=0))


def place(x: np.ndarray) -> np.ndarray:
    """The position of each number among all of its dtype. Without the sign, bits count up from zero."""
    bits = np.ascontiguousarray(x).reshape(x.shape).view(f"i{x.dtype.itemsize}").astype(np.int64)
    magnitude = bits & ((1 << (8 * x.dtype.itemsize - 1)) - 1)
    return np.where(bits < 0, -magnitude, magnitude)


def largest(arrays: Iterable[np.ndarray]) -> float:
    return max((float(np.max(np.abs(x), initial=0, where=np.isfinite(x))) for x in arrays), default=0.0)
