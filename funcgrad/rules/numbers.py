"""Constants and conversions that formulas share, in ``lax`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad import _jax


def const(like: Any, value: Any) -> np.ndarray:
    """A scalar of ``like``'s dtype, weak if that is; ``lax`` broadcasts it."""
    scalar = np.array(value, like.dtype)
    return _jax.weak_scalar(scalar) if getattr(like, "weak_type", False) else scalar


def zeros_like(x: Any) -> Any:
    return _jax.zeros(_jax.typeof(x).strip_weak_type())


def full_like(x: Any, value: Any) -> Any:
    return lax.full_like(x, value)


def scaled(ct: Any, factor: float) -> Any:
    return lax.mul(ct, _jax.factor_of(ct, const(ct, factor)))


def negative(ct: Any) -> Any:
    """-ct. JAX has products of what is unreduced, and no negative."""
    return scaled(ct, -1) if _jax.is_unreduced(ct) else lax.neg(ct)


def is_complex(x: Any) -> bool:
    """Whether ``x``, an array or its type, is complex."""
    return np.dtype(x.dtype).kind == "c"


def nonzero(x: Any) -> Any:
    """``x`` with its zeros replaced by ones."""
    return lax.select(lax.eq(x, const(x, 0)), full_like(x, 1), x)


def convert(ct: Any, aval: Any) -> Any:
    """A cotangent in the dtype of its operand; of a real one, the real part."""
    if ct.dtype == aval.dtype:
        return ct
    return lax.convert_element_type(lax.real(ct) if is_complex(ct) and not is_complex(aval) else ct, aval.dtype)


def zeros_for(ct: Any, aval: Any) -> Any:
    """Zeros of the type of the cotangents of an ``aval``, to put ``ct`` in: an 8-bit float's may be wider."""
    ct_aval = aval.to_ct_aval()
    return _jax.zeros(ct_aval if ct_aval.dtype == ct.dtype else ct_aval.update(dtype=ct.dtype))


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


# Of the operations that nearly every pullback makes, the thin forms: what they are given is in canonical form already,
# and the checks of their lax namesakes cost more than the operation.


def reshaped(ct: Any, aval: Any) -> Any:
    """``ct`` in the shape of ``aval``, and where shardings are types laid out as the cotangent of such a value."""
    return reshaped_to(ct, aval.shape, _jax.ct_sharding(aval))


def reshaped_to(x: Any, shape: Sequence[int], sharding: Any) -> Any:
    """``x`` in another shape, its dimensions sharded as those of ``sharding``, if that is not None."""
    if sharding is not None:
        # A reshape leaves alone what is unreduced or reduced.
        spec = _jax.typeof(x).sharding.spec
        sharding = sharding.update(spec=sharding.spec.update(unreduced=spec.unreduced, reduced=spec.reduced))
    return lax.reshape_p.bind(x, new_sizes=tuple(shape), dimensions=None, sharding=sharding)


def transposed(x: Any, permutation: Sequence[int]) -> Any:
    return lax.transpose_p.bind(x, permutation=tuple(permutation))


def summed(x: Any, axes: Sequence[int], sharding: Any = None) -> Any:
    return lax.reduce_sum_p.bind(x, axes=tuple(axes), out_sharding=sharding)


def summed_to(x: Any, shape: tuple[int, ...]) -> Any:
    """``x`` summed over the dimensions in which an array of ``shape`` was broadcast; None if it was not."""
    if x.shape == shape:
        return x
    extra = x.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, x.shape[extra:], strict=True)):
        return None
    axes = [*range(extra), *(d + extra for d, n in enumerate(shape) if n != x.shape[d + extra])]
    return lax.reshape(summed(x, axes), shape)


def extent(n: Any, dilation: int) -> Any:
    """The length of ``n`` entries set ``dilation`` apart."""
    return n if dilation == 1 else jax.core.max_dim((n - 1) * dilation + 1, 0)


def counting(n: Any, small: Any = np.int32, large: Any = np.int64) -> Any:
    """The dtype that numbers up to ``n`` have: the large one if ``n`` is, or if it is open."""
    if isinstance(n, int) and n <= np.iinfo(small).max:
        return small
    return jax.dtypes.canonicalize_dtype(large)


def inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    places = [0] * len(permutation)
    for i, d in enumerate(permutation):
        places[d] = i
    return tuple(places)
