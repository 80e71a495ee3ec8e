"""A ``while`` loop as a ``scan``: once its operands are known, so is how often it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, set_current_trace
from funcgrad.engine.split import Activity, split
from funcgrad.engine.tape import is_differentiable
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.flow import size
from funcgrad.programs.memo import memo
from funcgrad.rules.control.body import split_at
from funcgrad.rules.control.while_loop import with_one_predicate

#: A ``while`` loop is opened up to so many iterations, and so many bytes of what they keep.
MOST_ITERATIONS, MOST_BYTES = 10_000, 2**30


def as_scan(tape: Any, primals: Sequence[Any], tracers: Sequence[Any], params: dict) -> tuple | None:
    """The operands and parameters of a ``while`` as a ``scan``, None where its length is not known or too large."""
    if params["cond_jaxpr"].out_avals[0].shape:
        primals, tracers, params = with_one_predicate(primals, tracers, params)
    if any(_jax.is_ref(_jax.typeof(x)) or _jax.to_concrete_value(x) is None for x in primals):
        return None
    cond, body, first = params["cond_jaxpr"], params["body_jaxpr"], params["cond_nconsts"]
    with set_current_trace(_jax.eval_trace):
        length = int(count_iterations(cond, body, first, params["body_nconsts"])(*primals))
    if not can_be_opened(body, length, tracers[first:], tape.rules):
        return None
    count = params["body_nconsts"]
    scan = _jax.scan_params(_jax.empty_scan(), body, count, len(primals) - first - count)
    return primals[first:], tracers[first:], {**scan, "length": length}


def can_be_opened(body: ClosedJaxpr, length: Any, tracers: Sequence[Any], rules: Any) -> bool:
    """Whether all that the way back of a loop's steps needs is little enough to be kept."""
    if not isinstance(length, int) or length > MOST_ITERATIONS:
        return False
    halves = split(body, tuple([Activity(t is not None and is_differentiable(t.aval)) for t in tracers]), rules)
    kept = halves.forward.jaxpr.outvars[sum(halves.out_known) :]
    return length * sum(map(size, kept)) <= MOST_BYTES


@memo
def count_iterations(cond: Any, body: Any, first: int, count: int) -> Callable:
    def run(*operands: Any) -> Any:
        cond_consts, consts, carry = split_at(operands, first, count)

        def proceeds(state):
            return evaluate(cond, *cond_consts, *state[0])[0]

        return lax.while_loop(proceeds, lambda s: (evaluate(body, *consts, *s[0]), s[1] + 1), (carry, 0))[1]

    return jax.jit(run)
