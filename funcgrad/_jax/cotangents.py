"""Cotangents on the way between JAX's derivatives and ours."""

from __future__ import annotations

from typing import Any

from jax.interpreters.ad import JVPTracer, Zero

from funcgrad._jax.names import DidntWant, DontWant, GradAccum, GradRef, NullAccum, ValAccum
from funcgrad._jax.types import is_ref_value

#: What makes a tracer that contains it one under differentiation in the eyes of ``jax.closure_convert``.
PERTURBED = JVPTracer(None, 0.0, 0.0)


def is_symbolic_zero(x: Any) -> bool:
    return isinstance(x, Zero)


def accumulator(aval: Any, wanted: bool) -> GradAccum:
    """What a hijax primitive's ``vjp_bwd`` adds a cotangent to."""
    return ValAccum(aval) if wanted else NullAccum(aval)


def deliver(ct: Any, target: Any, replace: bool) -> Any:
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
