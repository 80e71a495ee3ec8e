"""Mutable arrays: references that are read, written and added to.

A reference's slot stands for its content. Reading is the derivative of adding, and writing that of reading: going back,
``ref_ct``, the cotangent of the content after an operation, becomes that of the content before it, and what was written
gets what it finds there.

    y = ref[i]                 ref_ct[i] += y_ct
    ref[i], y = x, ref[i]      x_ct = ref_ct[i];  ref_ct[i] = y_ct
    ref[i] += x                x_ct = ref_ct[i]
    ref = new_ref(x)           x_ct = ref_ct
    y = freeze(ref)            ref_ct = y_ct

A reference made on the tape has a slot from the start, since it cannot be told what will be written to it.
"""

from __future__ import annotations

from typing import Any

from funcgrad import _jax
from funcgrad._jax import set_current_trace, take_current_trace
from funcgrad.engine.recording import Recording, accumulate
from funcgrad.engine.tape import Tape, is_differentiable, typeof_or_zero
from funcgrad.engine.zero import Zero, instantiate
from funcgrad.rules.rule import Rule


def inactive(outs: Any) -> Any:
    return [instantiate(x) for x in outs] if type(outs) in (list, tuple) else instantiate(outs)


class New(Rule):
    """``new_ref(x)`` and ``empty_ref()``."""

    formula = "x_ct = ref_ct"
    always = True

    def record(self, tape, primitive, primals, tracers, params, linear):
        ref = tape.evaluate(primitive, primals, params, linear)
        if not is_differentiable(ref) or _jax.never_differentiated(typeof_or_zero(ref)):
            return ref
        if not any(t is not None for t in tracers):
            return tape.activate(ref)
        return tape.emit(self, primitive, params, None, (), tracers, ref)

    def pullback(self, node, cts):
        return cts


class Access(Rule):
    """An operation on ``ref[index]``, which takes ``operands`` values between the reference and the index."""

    def __init__(self, operands: int):
        self.operands = operands

    def record(self, tape, primitive, primals, tracers, params, linear):
        first, aval = 1 + self.operands, typeof_or_zero(primals[0])
        if _jax.never_differentiated(aval):
            return inactive(tape.evaluate(primitive, primals, params, linear))
        if tracers[0] is None:
            raise ValueError(
                f"'{primitive}' stores a value that depends on what is differentiated in a reference of type "
                f"{aval.str_short()} that does not. Move the array reference to be an argument of the differentiated "
                "function, or make it there."
            )
        outs = tape.evaluate(primitive, primals, params, linear)
        out_aval = None if primitive.multiple_results else typeof_or_zero(outs)
        static = (tape.rules, out_aval, [t is not None for t in tracers[1:first]])
        index = tuple(primals[first:])
        outs = tape.emit(self, primitive, params, static, index, tracers[:first], outs)
        if self.operands or _jax.indices_of(params["tree"], index):
            # Reading part of a reference counts as a write, so that the way back adds to the cotangent in place.
            tape.write(tracers[:1])
        return outs


class Get(Access):
    formula = "ref_ct[index] += ct"
    saved = ("index",)

    def pullback(self, node, cts):
        ct, *content = cts
        if not content:
            return [ct]
        return [content[0] if ct is None else added(node, content[0], ct)]


class Swap(Access):
    formula = "x_ct = ref_ct[index]; ref_ct[index] = ct"
    saved = ("index",)

    def pullback(self, node, cts):
        ct, content = cts
        tree, index, (_, aval, has_x) = node.params["tree"], node.residuals, node.static
        if not _jax.indices_of(tree, index):
            x_ct, content = content, ct
        elif content is None:
            x_ct, content = None, added(node, None, ct)
        else:
            ct = _jax.zeros(aval.to_ct_aval()) if ct is None else ct
            x_ct, content = _jax.replace_at(content, ct, tree, index)
        return [content, x_ct] if any(has_x) else [content]


class AddUpdate(Access):
    formula = "x_ct = ref_ct[index]"
    saved = ("index",)

    def record(self, tape, primitive, primals, tracers, params, linear):
        if tracers[0] is not None and tracers[1] is None:
            # The derivative does not depend on a constant that is added.
            return tape.evaluate(primitive, primals, params, linear)
        return super().record(tape, primitive, primals, tracers, params, linear)

    def pullback(self, node, cts):
        (content,) = cts
        return [content, _jax.read_at(content, node.params["tree"], node.residuals)]


def added(node: Any, content: Any, ct: Any) -> Any:
    """``content``, None for zeros, with ``ct`` added where ``node`` read from it."""
    aval, tree, index = _jax.ct_type(node.avals[0]), node.params["tree"], node.residuals
    if len(_jax.indices_of(tree, index)) == 1:
        return _jax.add_at(_jax.zeros(aval) if content is None else content, ct, tree, index)
    with take_current_trace() as parent:
        tape = Tape(parent, node.static[0])
        x = tape.activate(Zero(aval))
        with set_current_trace(tape):
            slot = tape.strip(_jax.read_at(x, tree, index))[1]
    return accumulate(content, Recording.of(tape, [slot]).pull([(slot, ct)])[x.slot])


class Freeze(Rule):
    """``freeze(ref)``, and the identity ``accum_grad_in_ref(x)``."""

    formula = "ref_ct = ct"

    def record(self, tape, primitive, primals, tracers, params, linear):
        out = tape.evaluate(primitive, primals, params, linear)
        if _jax.never_differentiated(typeof_or_zero(primals[0])):
            return inactive(out)
        return tape.emit(self, primitive, params, None, (), tracers, out)

    def pullback(self, node, cts):
        return cts


class Free(Rule):
    formula = "no derivative"

    def record(self, tape, primitive, primals, tracers, params, linear):
        return tape.evaluate(primitive, primals, params, linear)


def bind_with_contents(tape: Tape, primitive, primals, tracers, params, used: set[int], written: set[int]) -> Any:
    """Bind a primitive that carries a program to what references hold, and write to them what that becomes."""
    operands = [x if t is None else t for x, t in zip(primals, tracers, strict=True)]
    chosen = [i in used for i in range(len(operands))]
    with set_current_trace(tape):
        values = [x[...] if c else x for x, c in zip(operands, chosen, strict=True)]
        contents, outs = _jax.bind_discharged(primitive, chosen, values, params)
        for i in written:
            operands[i][...] = contents[i]
    return outs


rules = {
    **dict.fromkeys([_jax.ref_p, _jax.empty_ref_p], New()),
    **dict.fromkeys([_jax.freeze_p, _jax.accum_grad_in_ref_p], Freeze()),
    _jax.free_ref_p: Free(),
    _jax.get_p: Get(0),
    _jax.swap_p: Swap(1),
    _jax.addupdate_p: AddUpdate(1),
}
