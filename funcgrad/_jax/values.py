"""Values, and where the operations on them run."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax import debug_nans
from jax.core import ShapedArray
from jax.interpreters.ad import add_jaxvals
from jax.sharding import SingleDeviceSharding

from funcgrad._jax.names import (
    ArrayImpl,
    TypedNdArray,
    canonicalize_value,
    canonicalize_value_handlers,
    disable_jit,
    eval_trace,
    pytype_aval_mappings,
    trace_ctx,
)


def on_one_device(x: Any) -> bool:
    return type(x) is ArrayImpl and type(x.sharding) is SingleDeviceSharding


def is_local(x: Any) -> bool:
    """Whether a value is an array on one device, or one that is on none yet."""
    return on_one_device(x) or isinstance(x, np.ndarray)


def typeof(x: Any) -> Any:
    """The type of a value. That of an array on one device needs no working out, and is asked for often."""
    return x.aval if on_one_device(x) else jax.typeof(x)


def is_tracer(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def register_tracer(tracer_type: type) -> None:
    """Spare JAX from finding out, each time it meets one, that a tracer of this type is a tracer."""
    pytype_aval_mappings[tracer_type] = operator.attrgetter("aval")
    canonicalize_value_handlers[tracer_type] = lambda x: x


def current_trace() -> Any:
    return trace_ctx.trace


def may_compile() -> bool:
    """Whether nobody has asked for operations to be run one by one."""
    return not (disable_jit.value or debug_nans.value)


def runs_eagerly(values: Iterable[Any]) -> bool:
    """Whether operations on ``values``, here and now, are run one by one on the arrays of one device."""
    return trace_ctx.trace is eval_trace and may_compile() and all(on_one_device(x) for x in values)


def canonicalize(x: Any) -> Any:
    """A user's value as JAX holds it: Python scalars get a dtype."""
    return x if isinstance(x, jax.Array) else canonicalize_value(x)


def typed_scalar(x: Any) -> Any:
    """A Python scalar, which has no shape, as an array of its type."""
    aval = jax.typeof(x)
    return TypedNdArray(np.asarray(x, aval.dtype), aval=aval)


def weak_scalar(x: np.ndarray) -> Any:
    return TypedNdArray(x, aval=ShapedArray((), x.dtype, weak_type=True))


add_arrays = jax.jit(jax.lax.add)


def add_cotangents(x: Any, y: Any) -> Any:
    return add_arrays(x, y) if runs_eagerly((x, y)) else add_jaxvals(x, y)
