"""What a loop returns that is the same at every step, computed once before it and not stacked."""

from __future__ import annotations

from collections.abc import Collection

from funcgrad._jax import Literal, Var
from funcgrad.programs.evaluation import spelled
from funcgrad.programs.flow import independent_of, slice_program, taking, with_outputs
from funcgrad.programs.loop import Loop, program


def hoist(loop: Loop, outputs: Collection[int]) -> Loop:
    """The loop with those of its ``outputs`` that do not vary returned once instead of as stacks."""
    jaxpr = loop.body.jaxpr
    fixed = independent_of(loop.body, range(loop.num_fixed, len(jaxpr.invars)))
    moved = {i: v for i, v in enumerate(jaxpr.outvars) if i in outputs and (type(v) is Literal or v in fixed)}
    if not moved:
        return loop
    once = taking(slice_program(loop.body, list(moved.values())), jaxpr.invars[: loop.num_fixed])
    body = with_outputs(loop.body, [v for i, v in enumerate(jaxpr.outvars) if i not in moved])
    eqns, values = loop.first_of(once)
    before = program(
        loop.before, loop.before.jaxpr.invars, [*loop.before.jaxpr.outvars, *values], [*loop.before.jaxpr.eqns, *eqns]
    )
    known = len(loop.before.out_avals) - loop.num_first
    given = loop.after.jaxpr.invars
    single = {given[known + i]: Var(v.aval) for i, v in moved.items()}
    rest = [v for v in given[known:] if v not in single]
    eqns, outs = spelled(loop.after, [single.get(v, v) for v in given])
    after = program(loop.after, [*given[:known], *single.values(), *rest], outs, eqns)
    return loop._replace(before=before, body=body, after=after)
