"""Splitting a jaxpr into a forward and a backward half.

Whatever carries a program (``jit``, ``scan``, ``cond``, ``remat``, ...) is differentiated by running the engine over
that program once: the forward half returns the outputs and the residuals, the backward half maps residuals and
cotangents of the outputs to cotangents of the inputs. Both are jaxprs, traced once per (program, active inputs, rules)
and shared by every call.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, set_current_trace, take_current_trace
from funcgrad.engine.recording import Recording
from funcgrad.engine.tape import Tape, TapeTracer, is_differentiable
from funcgrad.engine.zero import Zero
from funcgrad.programs.flow import evaluate


class Activity(enum.IntEnum):
    """What is known of an input."""

    NONE = 0  #: a value without a slot
    VALUE = 1  #: a value to differentiate with respect to
    TANGENT = 2  #: a tangent: a slot, and no value


def activity_of(primal: Any, tracer: Any) -> Activity:
    """The activity of an operand, given its value and its tracer, None if it has none."""
    if tracer is None:
        return Activity.NONE
    return Activity.TANGENT if type(primal) is Zero else Activity.VALUE


class Split:
    """The two halves of a program.

    ``forward`` takes the inputs that have values and returns the outputs that have values, then new residuals.
    ``out_active`` says which outputs depend on an active input, ``out_known`` which have a value. ``sources`` says
    where each residual comes from: ``("in", i)`` an input, ``("out", i)`` an output, ``("new", i)`` a new residual.
    ``in_slots`` and ``out_slots`` are the slots of the inputs and outputs in the recording, None where one has none.

    An input may be a reference. ``refs`` are the active ones, ``written`` those among them that get a new content; the
    backward half takes the cotangents of all their last contents after those of the outputs.
    """

    __slots__ = (
        "_backwards", "_debug_info", "_recompute", "_skeleton",
        "active_in", "ct_avals", "forward", "in_avals", "in_slots", "out_active", "out_avals", "out_known",
        "out_slots", "refs", "sources", "written",
    )  # fmt: skip

    def __init__(self, jaxpr: ClosedJaxpr, activity: Sequence[Activity], rules: Any, inlined: bool = False):
        in_avals = self.in_avals = jaxpr.in_avals
        known = [a is not Activity.TANGENT for a in activity]
        self.active_in = [a is not Activity.NONE for a in activity]
        self.out_avals = jaxpr.out_avals
        self.refs = [i for i, v in enumerate(in_avals) if self.active_in[i] and _jax.is_ref(v)]
        #: The types of the cotangents that the backward half takes.
        self.ct_avals = [_jax.ct_type(aval) for aval in (*self.out_avals, *(in_avals[i] for i in self.refs))]
        self._debug_info = jaxpr.jaxpr.debug_info
        self._backwards: dict[tuple, tuple[ClosedJaxpr, list[bool]]] = {}
        #: The program that computes what the recording needs from the residuals, None where that is these.
        self._recompute: ClosedJaxpr | None = None

        def forward(*values: Any) -> list[Any]:
            rest = iter(values)
            primals = [next(rest) if k else Zero(aval) for k, aval in zip(known, in_avals, strict=True)]
            with take_current_trace() as parent:
                tape = Tape(parent, rules)
                args: list[Any] = []
                in_slots: list[int | None] = []
                for primal, aval, a in zip(primals, in_avals, activity, strict=True):
                    active = a is not Activity.NONE and is_differentiable(aval)
                    tracer: Any = tape.activate(primal) if active else primal
                    in_slots.append(tracer.slot if active else None)
                    args.append(tracer)
                outs = run(tape, jaxpr, args, inlined=inlined)
                contents = [tape.strip(args[i])[1] for i in self.refs]
                del args
            stripped = [tape.strip(x) for x in outs]
            self.written = [i for i, slot in zip(self.refs, contents, strict=True) if slot != in_slots[i]]
            self.out_slots = [*(slot for _, slot in stripped), *contents]
            recording = Recording.of(tape, self.out_slots)
            if inlined:
                recording.scope = None
            leaves, self._skeleton = recording.flatten(lambda x: _jax.is_tracer(x) and not isinstance(x, TapeTracer))
            self.in_slots = in_slots
            self.out_known = [type(x) is not Zero for x, _ in stripped]
            known_outs = [x for x, _ in stripped if type(x) is not Zero]
            new: list[Any] = []
            self.sources = [source_of(leaf, values, known_outs, new) for leaf in leaves]
            return [*known_outs, *new]

        values_in = [aval for aval, k in zip(in_avals, known, strict=True) if k]
        self.forward = _jax.trace_to_jaxpr(forward, values_in, self._debug_info)
        self.out_active = [slot is not None for slot in self.out_slots[: len(self.out_avals)]]

    def residuals(self, known_ins: Sequence[Any], known_outs: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
        places = {"in": known_ins, "out": known_outs, "new": new}
        return tuple([places[kind][i] for kind, i in self.sources])

    def backward(self, residual_avals: Sequence[Any], ct_avals: tuple[Any, ...]) -> tuple[ClosedJaxpr, list[bool]]:
        """The backward half for cotangents of the types ``ct_avals``, None where one is zero.

        Returns a program from residuals and the cotangents that are not zero to cotangents of the active inputs, and
        which of the active inputs get one.
        """
        known = self._backwards.get(ct_avals)
        if known is None:
            known = self._backwards[ct_avals] = self._trace_backward(residual_avals, ct_avals)
        return known

    def keeping(self, forward: ClosedJaxpr, sources: Sequence[tuple[str, int]], recompute: ClosedJaxpr) -> Split:
        """The same halves with other residuals, from which ``recompute`` computes these."""
        other = copy.copy(self)
        other.forward, other.sources, other._recompute, other._backwards = forward, list(sources), recompute, {}
        return other

    def rules_used(self) -> list[Any]:
        """The rules of what the program recorded."""
        return [node.rule for node in self._skeleton.nodes]

    def recording(self, residuals: Sequence[Any]) -> Recording:
        """What the program recorded, with these residuals."""
        if self._recompute is not None:
            residuals = evaluate(self._recompute, *residuals)
        return self._skeleton.unflatten(residuals)

    def outline(self, residuals: Sequence[Any]) -> Recording:
        """What the program recorded, to look at: what is computed from the residuals is there as its type."""
        if self._recompute is None:
            return self._skeleton.unflatten(residuals)
        given = dict(zip(self._recompute.jaxpr.invars, residuals, strict=True))
        needed = self._recompute.jaxpr.outvars
        return self._skeleton.unflatten([v.aval if type(v) is Literal else given.get(v, v.aval) for v in needed])

    def pull(self, residuals: Sequence[Any], cts: Sequence[Any], sweep: Callable = Recording.pull) -> list[Any]:
        """Run the backward half in place: cotangents of the active inputs, None for zero.

        ``sweep`` pulls cotangents over a recording as ``Recording.pull`` does.
        """
        pulled = sweep(self.recording(residuals), zip(self.out_slots, cts, strict=True))
        slots = [s for s, active in zip(self.in_slots, self.active_in, strict=True) if active]
        return [None if slot is None else pulled[slot] for slot in slots]

    def _trace_backward(self, residual_avals, ct_avals):
        mask: list[bool] = []

        def backward(*args: Any) -> list[Any]:
            residuals, rest = args[: len(residual_avals)], iter(args[len(residual_avals) :])
            pulled = self.pull(residuals, [None if aval is None else next(rest) for aval in ct_avals])
            mask.extend(ct is not None for ct in pulled)
            return [ct for ct in pulled if ct is not None]

        in_avals = [*residual_avals, *(aval for aval in ct_avals if aval is not None)]
        return _jax.trace_to_jaxpr(backward, in_avals, self._debug_info), mask


def run(tape: Tape, jaxpr: ClosedJaxpr, args: Sequence[Any], *, inlined: bool = False) -> list[Any]:
    """Run a program on the tape, operation by operation. To be called where no trace is current.

    An operation keeps the line and scope of its equation; in an ``inlined`` program the line is the caller's.
    """
    env: dict[Any, Any] = dict(zip(jaxpr.jaxpr.invars, args, strict=True))
    env.update(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    for eqn in jaxpr.jaxpr.eqns:
        values = [x.val if type(x) is Literal else env[x] for x in eqn.invars]
        with _jax.equation_context(eqn, tape.keeps_source, inlined):
            if _jax.is_plain(eqn.primitive):
                outs = tape.process_primitive(eqn.primitive, values, eqn.params)
            else:
                with set_current_trace(tape):
                    outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
        if eqn.primitive.multiple_results:
            env.update(zip(eqn.outvars, outs, strict=True))
        else:
            env[eqn.outvars[0]] = outs
    return [x.val if type(x) is Literal else env[x] for x in jaxpr.jaxpr.outvars]


def emit_halves(
    tape: Tape, rule: Any, primitive, params, halves: Split, values, results, tracers, static=None
) -> list[Any]:
    """Append the node of a program whose forward half has returned ``results`` for the inputs' ``values``."""
    count = sum(halves.out_known)
    residuals = halves.residuals(values, results[:count], results[count:])
    rest = iter(results)
    outs = [next(rest) if k else Zero(aval) for k, aval in zip(halves.out_known, halves.out_avals, strict=True)]
    outs = tape.emit(rule, primitive, params, static or halves, residuals, tracers, outs, active=halves.out_active)
    if halves.refs:
        tape.write(written_refs(halves, tracers))
    return outs


def written_refs(halves: Any, tracers: Sequence[Any]) -> list[Any]:
    """The tracers of the references that a program takes, None for one that it does not write to."""
    return [tracers[i] if i in halves.written else None for i in halves.refs]


def source_of(leaf: Any, ins: Sequence[Any], outs: Sequence[Any], new: list[Any]) -> tuple[str, int]:
    for kind, places in (("in", ins), ("out", outs)):
        for i, x in enumerate(places):
            if x is leaf:
                return kind, i
    new.append(leaf)
    return "new", len(new) - 1


def typed_cotangents(cts: Sequence[Any], ct_avals: Sequence[Any]) -> tuple[list[Any], tuple[Any, ...]]:
    """Cotangents in the very types a backward half expects, and those types; None where one is zero."""
    avals = tuple([None if ct is None else aval for ct, aval in zip(cts, ct_avals, strict=True)])
    return [None if ct is None else _jax.match(ct, aval) for ct, aval in zip(cts, avals, strict=True)], avals


@_jax.weakref_lru_cache
def split(jaxpr: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any, *, inlined: bool = False) -> Split:
    """The halves of ``jaxpr``, made once for each choice of active inputs and rules."""
    return Split(jaxpr, activity, rules, inlined)
