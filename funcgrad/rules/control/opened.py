"""Jitted functions whose operations are recorded one by one, so that rules see values where there are any."""

from __future__ import annotations

import os
from collections.abc import Set
from typing import Any

import jax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Primitive
from funcgrad.engine.split import run
from funcgrad.engine.tape import Tape
from funcgrad.programs.memo import memo
from funcgrad.rules.control.jit import Jit

#: Where JAX is.
JAX = os.path.join(os.path.dirname(jax.__file__), "")


class Opened(Jit):
    """``jit`` that opens, when run eagerly, those of JAX's own functions that call one of some primitives."""

    def __init__(self, primitives: Set[Primitive]):
        self.primitives = primitives

    def record(self, tape, primitive, primals, tracers, params, linear):
        program = params["jaxpr"]
        if (
            comes_with_jax(program)
            and runs_eagerly(tape)
            and tape.rules.get(program.jaxpr.debug_info.func_src_info) is None
            and calls(program, self.primitives)
        ):
            return run(tape, program, [x if t is None else t for x, t in zip(primals, tracers, strict=True)])
        return super().record(tape, primitive, primals, tracers, params, linear)


def comes_with_jax(program: ClosedJaxpr) -> bool:
    """Whether it was written in JAX's package: a user's own function is compiled because the user said so."""
    return f" at {JAX}" in program.jaxpr.debug_info.func_src_info


def runs_eagerly(trace: Any) -> bool:
    """Whether operations are run as they are recorded, perhaps on several tapes."""
    while type(trace) is Tape:
        trace = trace.parent
    return trace is _jax.eval_trace


@memo
def calls(program: ClosedJaxpr, primitives: Set[Primitive]) -> bool:
    from jax.extend.core import jaxprs_in_params  # imported late, since that takes longer than importing funcgrad

    def any_in(jaxpr: Any) -> bool:
        return any(eqn.primitive in primitives or any(map(any_in, jaxprs_in_params(eqn.params))) for eqn in jaxpr.eqns)

    return any_in(program.jaxpr)
