"""Cotangents on the way between JAX's derivatives and ours."""

from __future__ import annotations

from typing import Any

from jax.core import ShapedArray
from jax.interpreters.ad import Zero
from jax.interpreters.partial_eval import DynamicJaxprTracer

from funcgrad._jax.names import (
    DidntWant,
    DontWant,
    DynamicJaxprTrace,
    GradAccum,
    GradRef,
    NullAccum,
    ValAccum,
    Var,
    dtypes,
)
from funcgrad._jax.refs import is_ref_value

#: A tracer that JAX takes for one under differentiation, for where it looks inside tracers to tell.
PERTURBED = DynamicJaxprTracer(
    DynamicJaxprTrace(None), ShapedArray((), dtypes.dtype(1.0)), Var(ShapedArray((), dtypes.dtype(1.0)))
)


def is_symbolic_zero(x) -> bool:
    return isinstance(x, Zero)


def accumulator(aval, wanted: bool):
    """What a hijax primitive's ``vjp_bwd`` adds a cotangent to."""
    return ValAccum(aval) if wanted else NullAccum(aval)


def deliver(ct, target, replace: bool) -> Any:
    """Give a cotangent to what asked for it; returns what stands in its place."""
    if isinstance(target, DontWant | NullAccum):
        return DidntWant()
    if isinstance(target, GradAccum):
        target.accum(ct)
    elif not is_ref_value(target):
        return ct
    elif replace:
        target[...] = ct
    else:
        target.addupdate(ct)
    return GradRef()
