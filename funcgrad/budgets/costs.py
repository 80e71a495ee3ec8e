"""What an equation costs to run: floating-point operations, counted as XLA counts them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax import lax
from jax.core import ShapedArray

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Jaxpr
from funcgrad.programs.cut import FREE
from funcgrad.programs.thresholds import OPEN

#: What reads every entry of an operand once.
REDUCTIONS = {
    lax.argmax_p, lax.argmin_p, lax.cummax_p, lax.cummin_p, lax.cumprod_p, lax.cumsum_p, lax.reduce_and_p,
    lax.reduce_max_p, lax.reduce_min_p, lax.reduce_or_p, lax.reduce_p, lax.reduce_prod_p, lax.reduce_sum_p,
}  # fmt: skip


def flops(eqn: Any) -> float:
    """The operations of an equation, those of the programs it carries included; a while loop counts as one step."""
    primitive, params = eqn.primitive, eqn.params
    if primitive in FREE:
        return 0.0
    made = sum(map(count, eqn.outvars))
    if primitive is lax.dot_general_p:
        (contracted, _), _ = params["dimension_numbers"]
        return 2.0 * made * math.prod(length(eqn.invars[0].aval.shape[d]) for d in contracted)
    if primitive is lax.conv_general_dilated_p:
        kernel = eqn.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * made * math.prod(map(length, kernel)) / length(features)
    inside = [sum(map(flops, jaxpr.eqns)) for jaxpr in programs_of(eqn)]
    if inside:
        return max(inside) * length(params["length"]) if primitive is lax.scan_p else max(inside)
    return float(max(made, sum(map(count, eqn.invars))) if primitive in REDUCTIONS else made)


def programs_of(eqn: Any) -> Iterator[Jaxpr]:
    """The programs that an equation carries."""
    for value in eqn.params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, ClosedJaxpr):
                yield x.jaxpr
            elif isinstance(x, Jaxpr):
                yield x


def equations_inside(jaxpr: Jaxpr) -> Iterator[Any]:
    """The equations of a program, and of the programs that they carry."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in programs_of(eqn):
            yield from equations_inside(inner)


def count(v: Any) -> int:
    """How many numbers a variable has."""
    return math.prod(map(length, v.aval.shape)) if isinstance(v.aval, ShapedArray) else 0


def length(d: Any) -> int:
    """The length of an axis; of an open one, about as long as it may be."""
    return int(_jax.evaluated(d, OPEN))
