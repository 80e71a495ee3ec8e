"""Functions with derivative rules of their own: ``custom_jvp`` and ``custom_vjp``.

A JVP rule maps tangents linearly, and the transpose of that map is what reverse mode is after. So the rule runs on the
tape, with tangents in the slots of the values they belong to and a symbolic zero for a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.custom_derivatives import SymbolicZero

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.engine.tape import Node, Tape, TapeTracer, typeof
from funcgrad.engine.zero import Zero
from funcgrad.rules.rule import Rule


class Custom(Rule):
    """A function that is recorded by its own rule, or as what is inside it."""

    def record(self, tape, primitive, primals, tracers, params, linear):
        fun, *own = params["subfuns"]
        # Applied to a tangent the function must be linear, hence its own derivative; and the table may have another
        # rule for the jitted function inside.
        if linear or tape.rules.has_rule_of(fun):
            with set_current_trace(tape):
                return fun.call_wrapped(*[x if t is None else t for x, t in zip(primals, tracers, strict=True)])
        return self.record_own(tape, primitive, own, primals, tracers, params)

    def record_own(self, tape: Tape, primitive, own: Sequence[Any], primals, tracers, params) -> Any:
        """Record by the function's own rules ``own``."""
        raise NotImplementedError


class CustomJvp(Custom):
    formula = "the transpose of the function's own jvp"

    def record_own(self, tape, primitive, own, primals, tracers, params):
        (jvp,) = own
        with set_current_trace(tape):
            tangents = [tangent(tape, x, t, params["symbolic_zeros"]) for x, t in zip(primals, tracers, strict=True)]
            outs = jvp.call_wrapped(*primals, *tangents)
        follow(tracers, tangents)
        values, tangents_out = outs[: len(outs) // 2], outs[len(outs) // 2 :]
        return [with_tangent(tape, x, t) for x, t in zip(values, tangents_out, strict=True)]


class CustomVjp(Custom):
    formula = "the function's own bwd"
    saved = ("residuals",)
    # What it returns may be more than a derivative: a scale, the sum of what it has seen.
    of_zeros = True

    def record_own(self, tape, primitive, own, primals, tracers, params):
        fwd, bwd = own
        active = [t is not None for t in tracers]
        with set_current_trace(tape.parent):
            results = fwd.call_wrapped(*(y for pair in zip(primals, active, strict=True) for y in pair))
        _, residual_tree, forwarded = params["out_trees"]()
        count = residual_tree.num_leaves - sum(i is not None for i in forwarded)
        saved, outs = iter(results[:count]), [_jax.canonicalize(x) for x in results[count:]]
        residuals = tuple([next(saved) if i is None else primals[i] for i in forwarded])
        zero: Callable = SymbolicZero if params["symbolic_zeros"] else _jax.zeros
        static = (bwd, zero, [typeof(x).to_ct_aval() for x in outs], active)
        return tape.emit(self, primitive, {}, static, residuals, tracers, outs)

    def pullback(self, node: Node, cts: Sequence[Any]) -> Sequence[Any]:
        bwd, zero, out_avals, active = node.static
        cts = [zero(aval) if ct is None else ct for ct, aval in zip(cts, out_avals, strict=True)]
        pairs = zip(_jax.call_bwd(bwd, *node.residuals, *cts), active, strict=True)
        return [None if isinstance(ct, _jax.JaxZero | SymbolicZero) else ct for ct, a in pairs if a]


def tangent(tape: Tape, primal: Any, tracer: TapeTracer | None, symbolic_zeros: bool) -> Any:
    """What a JVP rule gets for the tangent of ``primal``: a linear tracer in its slot, or a zero."""
    aval = typeof(primal).to_tangent_aval()
    if tracer is not None:
        return TapeTracer(tape, Zero(aval), tracer.slot)
    return SymbolicZero(aval) if symbolic_zeros else _jax.zeros(aval)


def with_tangent(tape: Tape, primal: Any, tangent: Any) -> Any:
    """``primal`` on the tape, in the slot of ``tangent``."""
    tracer = tape.owned(tangent)
    return primal if tracer is None else TapeTracer(tape, _jax.canonicalize(tape.strip(primal)[0]), tracer.slot)


def follow(tracers: Sequence[TapeTracer | None], tangents: Sequence[Any]) -> None:
    """Give tracers the slots of their tangents after a JVP rule, which writes to a reference and to its tangent."""
    for tracer, tangent in zip(tracers, tangents, strict=True):
        if tracer is not None:
            tracer.slot = tangent.slot


rules = {_jax.custom_vjp_call_p: CustomVjp()}
