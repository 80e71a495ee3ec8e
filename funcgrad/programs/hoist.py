"""What a loop returns that is the same at every step, computed once before it and not stacked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from funcgrad import _jax
from funcgrad._jax import Literal
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.flow import independent_of, slice_program, taking, with_outputs
from funcgrad.programs.loop import Loop


def hoist(loop: Loop, outputs: Collection[int]) -> Loop:
    """The loop with those of its ``outputs`` that do not vary returned once instead of as stacks."""
    jaxpr = loop.body.jaxpr
    fixed = independent_of(loop.body, range(loop.num_fixed, len(jaxpr.invars)))
    moved = {i: v for i, v in enumerate(jaxpr.outvars) if i in outputs and (type(v) is Literal or v in fixed)}
    if not moved:
        return loop
    once = taking(slice_program(loop.body, list(moved.values())), jaxpr.invars[: loop.num_fixed])
    body = with_outputs(loop.body, [v for i, v in enumerate(jaxpr.outvars) if i not in moved])
    known = len(loop.before.out_avals) - loop.num_first

    def before(*operands: Any) -> list[Any]:
        first = evaluate(loop.before, *operands)
        return [*first, *evaluate(once, *first[: loop.num_fixed])]

    def after(*given: Any) -> list[Any]:
        single, results = iter(given[known : known + len(moved)]), iter(given[known + len(moved) :])
        outs = [next(single) if i in moved else next(results) for i in range(len(jaxpr.outvars))]
        return evaluate(loop.after, *given[:known], *outs)

    info, avals = _jax.unnamed(loop.body), loop.after.in_avals
    rest = [aval for i, aval in enumerate(avals[known:]) if i not in moved]
    handed = [*avals[:known], *once.out_avals, *rest]
    return loop._replace(
        before=_jax.trace_to_jaxpr(before, loop.before.in_avals, info),
        body=body,
        after=_jax.trace_to_jaxpr(after, handed, info),
    )
