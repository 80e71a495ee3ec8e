"""Rules by way of other primitives: an equivalent function of operations with rules stands in for one without."""

from __future__ import annotations

from collections.abc import Callable

from funcgrad._jax import set_current_trace, take_current_trace
from funcgrad.engine.recording import Recording
from funcgrad.engine.tape import Tape
from funcgrad.rules.equality import value_of
from funcgrad.rules.plan import check_linear
from funcgrad.rules.rule import Rule


class Rewrite(Rule):
    """The equivalent function runs, and is recorded, in place of the primitive."""

    formula = "the rules of the operations of an equivalent function"

    def __init__(self, function: Callable):
        self.function = function

    def parts(self):
        return value_of(self.function)

    def record(self, tape, primitive, primals, tracers, params, linear):
        with set_current_trace(tape):
            return self.function(*[x if t is None else t for x, t in zip(primals, tracers, strict=True)], **params)


class Recompute(Rule):
    """The primitive runs and its operands are saved; the equivalent function is recorded on the way back."""

    formula = "the rules of the operations of an equivalent function, run on the way back"
    saved = ("xs",)

    def __init__(self, function: Callable):
        self.function = function

    def parts(self):
        return value_of(self.function)

    def record(self, tape, primitive, primals, tracers, params, linear):
        check_linear(primitive, primals)
        outs = tape.evaluate(primitive, primals, params, linear)
        static = (tape.rules, [t is not None for t in tracers])
        return tape.emit(self, primitive, params, static, tuple(primals), tracers, outs)

    def pullback(self, node, cts):
        rules, active = node.static
        with take_current_trace() as parent:
            tape = Tape(parent, rules)
            xs = [tape.activate(x) if a else x for x, a in zip(node.residuals, active, strict=True)]
            with set_current_trace(tape):
                outs = self.function(*xs, **node.params)
        slots = [tape.strip(out)[1] for out in outs]
        pulled = Recording.of(tape, slots).pull(zip(slots, cts, strict=True))
        return [pulled[x.slot] for x, a in zip(xs, active, strict=True) if a]
