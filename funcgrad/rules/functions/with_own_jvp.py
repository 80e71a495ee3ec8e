"""``custom_jvp`` functions: by their own rules, but for some that are known by their source.

The rules of ``logaddexp`` and ``logaddexp2`` give NaN, or more than 1, at infinities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.programs.evaluation import evaluate
from funcgrad.rules.control.custom import CustomJvp
from funcgrad.rules.numbers import const, full_like, is_complex
from funcgrad.rules.rule import Formula
from funcgrad.rules.signature import shape_of, shaped
from funcgrad.rules.special import in_single


def emit(rule: Formula, tape: Any, primitive: Any, primals: Sequence[Any], tracers: Sequence[Any], out: Any) -> Any:
    """A node of ``rule`` for a value that is computed already."""
    active = tuple([t is not None for t in tracers])
    plan = rule.plans.get(active) or rule.plan(active)
    assert plan is not None
    residuals = tuple([save(tape, primitive, primals, out, {}) for save in plan.savers])
    return tape.emit(rule, primitive, {}, plan, residuals, tracers, out)


class KnownFunctions(CustomJvp):
    """``custom_jvp`` functions of which some have a rule here, by their source."""

    def __init__(self, rules: Mapping[Any, Formula]):
        self.rules = {_jax.fun_sourceinfo(function.fun): rule for function, rule in rules.items()}

    def record(self, tape, primitive, primals, tracers, params, linear):
        rule = self.rules.get(params["subfuns"][0].debug_info.func_src_info)
        if rule is None or linear or any(is_complex(x) or _jax.is_reduced(x) for x in map(shaped, primals)):
            return super().record(tape, primitive, primals, tracers, params, linear)
        fun = params["subfuns"][0]
        with set_current_trace(tape.parent):
            if sum(shape_of(x) != () for x in primals) > 1:
                # Batched operands may have their batches in different places, which only the function's own rule knows.
                program = jax.make_jaxpr(lambda *xs: fun.call_wrapped(*xs))(*primals)
                if not is_elementwise(program):
                    return super().record(tape, primitive, primals, tracers, params, linear)
                outs = evaluate(program, *primals)
            else:
                outs = fun.call_wrapped(*primals)
        return emit(rule, tape, primitive, primals, tracers, outs)


def is_elementwise(program: Any) -> bool:
    """Whether no equation moves an entry."""
    shape = program.out_avals[0].shape
    shapes = [v.aval.shape for eqn in program.jaxpr.eqns for v in (*eqn.invars, *eqn.outvars)]
    moved = any(eqn.primitive in (lax.transpose_p, lax.broadcast_in_dim_p) for eqn in program.jaxpr.eqns)
    return not moved and all(s in (shape, ()) for s in shapes)


def of_sum_of_powers(log: float) -> Formula:
    """log(b^x + b^y) / log b, with a half for each of two that are equal, infinite ones among them."""

    @in_single
    def slope(x, y):
        difference = lax.select(lax.eq(x, y), full_like(x, 0), lax.sub(x, y))
        return lax.logistic(difference if log == 1 else lax.mul(difference, const(x, log)))

    def times(ct: Any, x: Any, y: Any) -> Any:
        return lax.mul(ct, slope(x, y))

    slopes: tuple[Callable, ...] = (times, lambda ct, x, y: times(ct, y, x))
    return Formula(slopes, {}, broadcasts=True)


rules = {
    _jax.custom_jvp_call_p: KnownFunctions(
        {
            _jax.logaddexp: of_sum_of_powers(1.0),
            _jax.logaddexp2: of_sum_of_powers(math.log(2)),
        }
    )
}
