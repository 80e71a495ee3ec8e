"""Splitting a program into a forward and a backward half.

Whatever carries a program (a call, a loop, a branch) is differentiated by running the engine over that program once:
the forward half returns the outputs and the residuals, the backward half maps residuals and cotangents of the outputs
to cotangents of the inputs. Both are programs, traced once for each choice of active inputs and rules.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, set_current_trace, take_current_trace
from funcgrad.engine.recording import Recording
from funcgrad.engine.tape import Tape, TapeTracer, is_differentiable
from funcgrad.engine.zero import Zero
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.memo import kept, memo


class Activity(enum.IntEnum):
    """What is known of an input."""

    NONE = 0  #: a value without a slot
    VALUE = 1  #: a value to differentiate with respect to
    TANGENT = 2  #: a tangent: a slot, and no value


class Split:
    """The two halves of a program.

    ``forward`` takes the inputs that have values and returns the outputs that have values, then new residuals.
    ``out_active`` says which outputs depend on an active input, ``out_known`` which have a value. ``sources`` says
    where each residual comes from: ``("in", i)`` an input, ``("out", i)`` an output, ``("new", i)`` a new residual.
    ``in_slots`` and ``out_slots`` are the slots of the inputs and outputs in the recording, None where one has none.

    An input may be a reference. ``refs`` are the active ones, ``written`` those among them that get a new content; the
    backward half takes the cotangents of all their last contents after those of the outputs.
    """

    def __init__(self, program: ClosedJaxpr, activity: Sequence[Activity], rules: Any, inlined: bool = False):
        in_avals = self.in_avals = program.in_avals
        known = [a is not Activity.TANGENT for a in activity]
        self.active_in = [a is not Activity.NONE for a in activity]
        self.out_avals = program.out_avals
        self.refs = [i for i, v in enumerate(in_avals) if self.active_in[i] and _jax.is_ref(v)]
        #: The types of the cotangents that the backward half takes.
        self.ct_avals = [_jax.ct_type(aval) for aval in (*self.out_avals, *(in_avals[i] for i in self.refs))]
        self.debug_info = program.jaxpr.debug_info
        #: The backward halves that have been made.
        self.known: dict[tuple[Any, ...], Any] = {}
        #: The program that computes what the recording needs from the residuals, None where that is these.
        self._recompute: ClosedJaxpr | None = None

        def forward(*values: Any) -> list[Any]:
            rest = iter(values)
            primals = [next(rest) if k else Zero(aval) for k, aval in zip(known, in_avals, strict=True)]
            with take_current_trace() as parent:
                tape = Tape(parent, rules)
                args = [
                    tape.activate(primal) if active and is_differentiable(aval) else primal
                    for primal, aval, active in zip(primals, in_avals, self.active_in, strict=True)
                ]
                in_slots = self.in_slots = [tape.strip(x)[1] for x in args]
                outs = run(tape, program, args, inlined=inlined)
                contents = [tape.strip(args[i])[1] for i in self.refs]
                del args
            stripped = [tape.strip(x) for x in outs]
            self.written = [i for i, slot in zip(self.refs, contents, strict=True) if slot != in_slots[i]]
            self.out_slots = [*(slot for _, slot in stripped), *contents]
            recording = Recording.of(tape, self.out_slots)
            if inlined:
                recording.scope = None
            leaves, self.skeleton = recording.flatten(lambda x: _jax.is_tracer(x) and not isinstance(x, TapeTracer))
            self.out_known = [type(x) is not Zero for x, _ in stripped]
            known_outs = [x for x, _ in stripped if type(x) is not Zero]
            new: list[Any] = []
            self.sources = [source_of(leaf, values, known_outs, new) for leaf in leaves]
            return [*known_outs, *new]

        values_in = [aval for aval, k in zip(_jax.in_types(program), known, strict=True) if k]
        self.forward = _jax.trace_to_jaxpr(forward, values_in, self.debug_info)
        self.out_active = [slot is not None for slot in self.out_slots[: len(self.out_avals)]]

    def residuals(self, ins: Sequence[Any], results: Sequence[Any]) -> tuple[Any, ...]:
        """The residuals, given what the forward half took and what it returned."""
        count = sum(self.out_known)
        places = {"in": ins, "out": results[:count], "new": results[count:]}
        return tuple([places[kind][i] for kind, i in self.sources])

    def keeping(self, forward: ClosedJaxpr, sources: Sequence[tuple[str, int]], recompute: ClosedJaxpr) -> Split:
        """The same halves with other residuals, from which ``recompute`` computes these."""
        other = copy.copy(self)
        other.forward, other.sources, other._recompute, other.known = forward, list(sources), recompute, {}
        return other

    def recording(self, residuals: Sequence[Any], run: Callable[..., list[Any]] = evaluate) -> Recording:
        """What the program recorded, with these residuals. ``run`` computes those from them that are not kept."""
        if self._recompute is not None:
            residuals = run(self._recompute, *residuals)
        return self.skeleton.unflatten(residuals)

    def pull(
        self,
        residuals: Sequence[Any],
        cts: Sequence[Any],
        wanted: Sequence[bool] | None = None,
        sweep: Callable[..., list[Any]] = Recording.pull,
    ) -> list[Any]:
        """Run the backward half in place: a cotangent for each input, None for zero, and for one not ``wanted``.

        ``sweep`` pulls cotangents over a recording as ``Recording.pull`` does.
        """
        recording, slots = self.recording(residuals), self._wanted_slots(wanted)
        if wanted is not None:
            recording, _ = recording.towards(slot for slot in slots if slot is not None)
        pulled = sweep(recording, zip(self.out_slots, cts, strict=True))
        return [None if slot is None else pulled[slot] for slot in slots]

    def leading_to(self, wanted: Sequence[bool]) -> list[bool]:
        """Of which outputs the cotangents are needed for those of the inputs that are ``wanted``."""
        _, needed = self.skeleton.towards(slot for slot in self._wanted_slots(wanted) if slot is not None)
        return [slot in needed for slot in self.out_slots]

    def _wanted_slots(self, wanted: Sequence[bool] | None) -> list[int | None]:
        wanted = wanted or self.active_in
        return [slot if w else None for slot, w in zip(self.in_slots, wanted, strict=True)]

    @kept
    def backward(
        self, residual_avals: tuple[Any, ...], ct_avals: tuple[Any, ...], wanted: tuple[bool, ...] | None = None
    ) -> tuple[ClosedJaxpr, list[bool]]:
        """The backward half for cotangents of the types ``ct_avals``, None where one is zero.

        Returns a program from residuals and the cotangents that are not zero to cotangents of inputs, and which of the
        inputs get one.
        """
        mask: list[bool] = []

        def backward(*args: Any) -> list[Any]:
            residuals, rest = args[: len(residual_avals)], iter(args[len(residual_avals) :])
            pulled = self.pull(residuals, [None if aval is None else next(rest) for aval in ct_avals], wanted)
            mask.extend(ct is not None for ct in pulled)
            return [ct for ct in pulled if ct is not None]

        in_avals = [*residual_avals, *(aval for aval in ct_avals if aval is not None)]
        return _jax.trace_to_jaxpr(backward, in_avals, self.debug_info), mask


def run(tape: Tape, program: ClosedJaxpr, args: Sequence[Any], *, inlined: bool = False) -> list[Any]:
    """Run a program on the tape, operation by operation. To be called where no trace is current.

    An operation keeps the line and scope of its equation; in an ``inlined`` program the line is the caller's.
    """

    def record(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
        with _jax.equation_context(eqn, tape.keeps_source, inlined):
            if _jax.is_plain(eqn.primitive):
                outs = tape.process_primitive(eqn.primitive, values, eqn.params)
            else:
                with set_current_trace(tape):
                    outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
        return outs if eqn.primitive.multiple_results else [outs]

    return evaluate(program, *args, run=record)


def source_of(leaf: Any, ins: Sequence[Any], outs: Sequence[Any], new: list[Any]) -> tuple[str, int]:
    """Where a residual is had from; one that is neither an input nor an output is put with the ``new`` ones."""
    for kind, places in (("in", ins), ("out", outs)):
        for i, x in enumerate(places):
            if x is leaf:
                return kind, i
    new.append(leaf)
    return "new", len(new) - 1


@memo
def split(program: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any, inlined: bool = False) -> Split:
    """The halves of ``program``, made once for each choice of active inputs and rules."""
    return Split(program, activity, rules, inlined)
