"""Distances of arrays, where they are not the obvious ones."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from funcgrad.parity.distances import distance, largest, relative_distance, ulps

pytestmark = pytest.mark.torch

INF, NAN = np.inf, np.nan
FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_ulps_count_the_numbers_between_across_zero_too(dtype):
    info = ml_dtypes.finfo(dtype)
    one = np.array([1.0], dtype)
    assert ulps(one, one) == 0
    assert ulps(one, one + info.eps) == 1
    tiny = np.array([info.smallest_subnormal], dtype)
    assert ulps(-tiny, tiny) == 2 and ulps(-0 * tiny, 0 * tiny) == 0
    bits = 8 * np.dtype(dtype).itemsize
    infinity = int(np.array(INF, dtype).view(f"u{bits // 8}"))
    assert ulps(np.array([-INF], dtype), np.array([INF], dtype)) == 2 * infinity


def test_ulps_pass_over_nan_and_take_arrays_of_any_shape():
    a = np.array([[1.0, NAN], [2.0, 3.0]], np.float32)
    b = np.array([[1.0, 5.0], [2.0, 3.0]], np.float32)
    assert ulps(a, b) == 0 and ulps(a[0, 1], b[0, 1]) == 0 and ulps(a[:0], b[:0]) == 0


@pytest.mark.parametrize(
    ("a", "b", "expected", "of_finite"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5, 0.5),
        ([INF, 1.0], [INF, 2.0], 1.0, 1.0),
        ([NAN, 1.0], [NAN, 1.0], 0.0, 0.0),
        ([INF, 1.0], [-INF, 1.0], INF, 0.0),
        ([INF, 1.0], [3.0, 2.0], INF, 1.0),
        ([NAN, 1.0], [INF, 1.0], INF, 0.0),
        ([], [], 0.0, 0.0),
    ],
)
def test_what_is_not_finite_is_no_distance_away_from_the_same_and_infinitely_far_from_all_else(
    a, b, expected, of_finite
):
    a, b = np.array(a), np.array(b)
    assert distance(a, b) == distance(b, a) == expected
    assert distance(a, b, finite=True) == of_finite


def test_relative_distances_are_by_the_larger_and_those_of_equal_elements_zero():
    assert relative_distance(np.array([0.0, 1.0, INF]), np.array([0.0, 2.0, 1.0])) == 0.5
    assert relative_distance(np.array([0.0]), np.array([1e-300])) == 1
    assert largest([np.array([1.0, -3.0, NAN]), np.array([-INF])]) == 3
