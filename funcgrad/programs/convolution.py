"""Convolutions in the form that XLA's CPU backend has a kernel for.

It brings them into that form itself in the entry computation, and nowhere else: inside of a conditional the gradient of
a convolution takes ten times as long (8 images of 32 x 32 x 16, 3 x 3: 29 ms for 2.9 on 2 cores).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Jaxpr, jit_p
from funcgrad.programs.evaluation import evaluate


def with_plain_convolutions(program: Jaxpr) -> Jaxpr:
    """``program`` with its convolutions of batch, positions and features, in this order; others are turned."""
    if not has_convolutions(program):
        return program

    def run(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
        if eqn.primitive is jit_p:
            return evaluate(eqn.params["jaxpr"], *values, run=run)
        if eqn.primitive is lax.conv_general_dilated_p:
            return [plain_convolution(*values, **eqn.params)]
        return _jax.run_here()(eqn, values)

    closed = _jax.close(program)
    return _jax.opened(
        _jax.trace_to_jaxpr(lambda *xs: evaluate(closed, *xs, run=run), closed.in_avals, program.debug_info)
    )


def has_convolutions(program: Jaxpr) -> bool:
    return any(
        eqn.primitive is lax.conv_general_dilated_p
        or (eqn.primitive is jit_p and has_convolutions(eqn.params["jaxpr"].jaxpr))
        for eqn in program.eqns
    )


def plain_convolution(x: Any, w: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    (batch, features, *places), (made, taken, *offsets), out = dimension_numbers
    last = len(out) - 1
    x = lax.transpose(x, (batch, *places, features))
    w = lax.transpose(w, (*offsets, taken, made))
    plain = (0, last, *range(1, last))
    numbers = lax.ConvDimensionNumbers(plain, (last, last - 1, *range(last - 1)), plain)
    y = lax.conv_general_dilated_p.bind(x, w, dimension_numbers=numbers, **params)
    # Where each axis of the output is among batch, positions and features.
    order = (out[0], *out[2:], out[1])
    return lax.transpose(y, tuple(map(int, np.argsort(order))))
