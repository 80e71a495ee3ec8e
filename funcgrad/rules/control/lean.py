"""The halves of a program with the residuals that cost least, the others computed from them on the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from funcgrad._jax import ClosedJaxpr, Var, jit_p
from funcgrad.engine.split import Activity, Split, source_of, split
from funcgrad.programs.cut import cut, price
from funcgrad.programs.evaluation import inline_jits
from funcgrad.programs.flow import size, slice_program, taking, with_outputs
from funcgrad.programs.memo import memo


def lean(halves: Split, cost: Callable[[Var], int]) -> Split:
    """``halves`` keeping what costs least, at ``cost`` for a variable of its forward half."""
    program = halves.forward
    if program.effects or halves.refs:
        return halves
    if any(eqn.primitive is jit_p and price(eqn) is None for eqn in program.jaxpr.eqns):
        program = inline_jits(program)
    invars, results = program.jaxpr.invars, program.jaxpr.outvars
    outvars = results[: sum(halves.out_known)]
    wanted = halves.residuals(invars, results)
    kept = cut(program, wanted, cost)
    if kept is None:
        return halves
    fresh: list[Any] = []
    sources = [source_of(v, invars, outvars, fresh) for v in kept]
    again = taking(slice_program(program, wanted, kept), kept)
    return halves.keeping(with_outputs(program, [*outvars, *fresh]), sources, again)


@memo
def split_lean(program: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any) -> Split:
    """The halves of ``program`` with the residuals that cost least where operands and outputs cost nothing."""
    halves = split(program, activity, rules)
    own = halves.forward.jaxpr
    free = {v for v in (*own.constvars, *own.invars, *own.outvars[: sum(halves.out_known)]) if type(v) is Var}
    return lean(halves, lambda v: 0 if v in free else size(v))
