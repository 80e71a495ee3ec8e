"""Constants and conversions that formulas share, in ``lax`` alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from funcgrad import _jax


def const(like: Any, value: Any) -> np.ndarray:
    """A scalar of ``like``'s dtype; ``lax`` broadcasts it."""
    return np.array(value, like.dtype)


def zeros_like(x: Any) -> Any:
    return _jax.zeros(_jax.typeof(x).strip_weak_type())


def full_like(x: Any, value: Any) -> Any:
    return lax.full_like(x, value)


def is_complex(x: Any) -> bool:
    """Whether ``x``, an array or its type, is complex."""
    return np.dtype(x.dtype).kind == "c"


def nonzero(x: Any) -> Any:
    """``x`` with its zeros replaced by ones."""
    return lax.select(lax.eq(x, const(x, 0)), full_like(x, 1), x)


def convert(ct: Any, aval: Any) -> Any:
    """A cotangent in the dtype of its operand."""
    return ct if ct.dtype == aval.dtype else lax.convert_element_type(ct, aval.dtype)


def together(x: Any, y: Any) -> tuple[Any, Any]:
    """``x`` and ``y`` broadcast to their common shape."""
    shape = x.shape or y.shape
    if x.shape and y.shape:
        shape = tuple([m if n == 1 else n for n, m in zip(x.shape, y.shape, strict=True)])
    return broadcast_to(x, shape), broadcast_to(y, shape)


def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    """``x``, of the rank of ``shape`` or a scalar, broadcast to ``shape``."""
    if x.shape == shape:
        return x
    if not x.shape:
        return lax.broadcast(x, shape)
    kept = [i for i, (n, m) in enumerate(zip(x.shape, shape, strict=True)) if n == m]
    return lax.broadcast_in_dim(lax.reshape(x, [x.shape[i] for i in kept]), shape, kept)
