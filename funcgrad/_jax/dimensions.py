"""Dimensions, which may be open: expressions of variables that are known when an exported program is called."""

from __future__ import annotations

from typing import Any

import jax


def evaluated(dim: Any, value: int) -> int:
    """A dimension, with ``value`` for each of the variables in it."""
    if isinstance(dim, int):
        return dim
    return max(0, int(dim._evaluate(dict.fromkeys(dim._get_vars(), value))))


def is_at_least(dim: Any, bound: int) -> bool:
    """Whether a dimension is ``bound`` or more, whatever the variables in it are."""
    try:
        return bool(dim >= bound)
    except jax.errors.InconclusiveDimensionOperation:
        return False
