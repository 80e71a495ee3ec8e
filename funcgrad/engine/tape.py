"""The tape: a trace that records, for each operation on a value that depends on the inputs, how to go back.

JAX offers every primitive operation of a program to the current *trace*. This one does three things with it: it lets
the parent trace compute the output, it looks up the rule, and it appends a ``Node``. Nothing else happens on the way
forward. The parent may evaluate eagerly, stage out a jaxpr, batch, or be another tape, which is why gradients nest and
compose with ``jit``, ``vmap`` and ``jvp`` without a second mechanism.

A value on the tape is a ``TapeTracer``: the parent's value and a *slot*, the index under which its cotangent will be
collected. Operations on values without a slot never touch the tape. A tangent has the slot of the value it belongs to,
and a ``Zero`` for a value: so custom JVP rules are recorded too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from jax.core import AbstractValue, Trace, Tracer

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad._jax import typeof as typeof
from funcgrad.engine.zero import Zero, instantiate

#: The static parameters of a primitive.
Params = dict[str, Any]


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """One recorded operation, as plain data."""

    #: The table's, which knows the way back.
    rule: Any
    primitive: Any
    #: The primitive's static parameters, and what else the rule wants to remember.
    params: Params
    static: Any
    #: The values that the rule saved.
    residuals: tuple[Any, ...]
    #: The slots of the active operands, and their types.
    parents: list[int]
    avals: list[Any]
    #: The slots of the outputs, None where one is not differentiable.
    outs: list[int | None]
    #: Line and name scope, and the settings: the mesh, metadata for XLA, what it is computed on.
    source: Any
    settings: Any
    #: Of which parents somebody asks the cotangents, None for all.
    wanted: tuple[bool, ...] | None = None
    #: An observer's.
    note: Any = None

    def replace(
        self, rule: Any = None, residuals: tuple[Any, ...] | None = None, wanted: tuple[bool, ...] | None = None
    ) -> Node:
        """This node with another rule, other residuals or other parents asked for."""
        return Node(
            rule or self.rule, self.primitive, self.params, self.static,
            self.residuals if residuals is None else residuals,
            self.parents, self.avals, self.outs, self.source, self.settings, wanted or self.wanted, self.note,
        )  # fmt: skip


class TapeTracer(Tracer["Tape"]):
    __slots__ = ("primal", "slot")

    def __init__(self, tape: Tape, primal: Any, slot: int):
        self._trace = tape
        self.primal = primal
        self.slot = slot

    def __getattr__(self, name: str) -> Any:
        # The type of a concrete array takes as long to make as an operation, so it is asked for if somebody wants it.
        if name == "aval":
            self.aval = typeof_or_zero(self.primal)
            return self.aval
        return super().__getattr__(name)  # type: ignore[no-untyped-call]

    def to_concrete_value(self) -> Any:
        return None if type(self.primal) is Zero else _jax.to_concrete_value(self.primal)

    def get_referent(self) -> Any:
        return self if type(self.primal) is Zero else _jax.get_referent(self.primal)

    def cur_qdd(self) -> Any:
        return _jax.cur_qdd(self.primal)

    def _contents(self) -> list[tuple[str, Any]]:
        return [("primal", self.primal), ("tangent", _jax.PERTURBED)]

    def _short_repr(self) -> str:
        inner = self.primal._short_repr() if isinstance(self.primal, Tracer) else str(self.primal)
        return f"GradTracer(primal={inner}, typeof(tangent)={self.aval.to_tangent_aval().str_short(True)})"


_jax.register_tracer(TapeTracer)


class Tape(Trace):
    """A trace that records a tape over ``parent`` under the derivative rules ``rules``."""

    def __init__(self, parent: Trace, rules: Any, outer: Tape | None = None):
        super().__init__()  # type: ignore[no-untyped-call]
        self.requires_low = False
        self.parent = parent
        self.rules = rules
        self.nodes: list[Node] = []
        self.slots = 0
        # Eager operations carry no source information, so there is none to hand on to the way back: only to look at.
        self.keeps_source = parent is not _jax.eval_trace or rules.keeps_source or _jax.looks_for_nans()
        self.scope = _jax.scope_depth()
        #: The tape around this one, for a function that closes over values on it, and those values by slot.
        self.outer = outer
        self.captured: dict[int, tuple[TapeTracer, int]] = {}

    def activate(self, primal: Any) -> TapeTracer:
        """A tracer of ``primal`` with a slot of its own."""
        self.slots += 1
        return TapeTracer(self, primal, self.slots - 1)

    def owned(self, x: Any) -> TapeTracer | None:
        """``x`` as a tracer of this tape, None if it is not on it."""
        if type(x) is not TapeTracer:
            return None
        if x._trace is self:
            return x
        outside = None if self.outer is None else self.outer.owned(x)
        if outside is None:
            return None
        if outside.slot not in self.captured:
            self.captured[outside.slot] = outside, self.activate(outside.primal).slot
        return TapeTracer(self, outside.primal, self.captured[outside.slot][1])

    def values(self, primals: Sequence[Any]) -> list[Any]:
        """``primals``, with the zeros that tangents have for values made arrays of the parent trace."""
        if all(type(x) is not Zero for x in primals):
            return list(primals)
        with set_current_trace(self.parent):
            return [instantiate(x) for x in primals]

    def strip(self, x: Any) -> tuple[Any, int | None]:
        """The parent's value of ``x`` and its slot, None where ``x`` is not on this tape."""
        tracer = self.owned(x)
        return (x, None) if tracer is None else (tracer.primal, tracer.slot)

    def process_primitive(self, primitive: Any, args: Sequence[Any], params: Params, /) -> Any:
        primals: list[Any] = []
        tracers: list[TapeTracer | None] = []
        active = linear = False
        for x in args:
            tracer = None
            if type(x) is TapeTracer:
                tracer = x if x._trace is self else self.owned(x)
                if tracer is not None:
                    x = tracer.primal
                    linear = linear or type(x) is Zero
                    active = True
            tracers.append(tracer)
            primals.append(x)
        rule = self.rules.of_primitive(primitive)
        if not active and (rule is None or not rule.always):
            return primitive.bind_with_trace(self.parent, primals, [typeof(x) for x in primals], params)
        if rule is None:
            rule = self.rules.missing(primitive)
        if linear:
            # A tangent is never mixed with the values it is a tangent of: only it is differentiated here.
            tracers = [t if type(x) is Zero else None for x, t in zip(primals, tracers, strict=True)]
        return rule.record(self, primitive, primals, tracers, params, linear)

    def emit(
        self, rule: Any, primitive: Any, params: Params, static: Any, residuals: tuple[Any, ...],
        tracers: Sequence[TapeTracer | None], outs: Any, *, active: Sequence[bool] | None = None, carries: bool = False,
    ) -> Any:  # fmt: skip
        """Append a node and give its outputs their tracers.

        ``tracers`` are the operands on this tape, None where one is not. ``outs`` is a list for a primitive of multiple
        results; an output that is a ``Zero`` stays a tangent. ``active`` says which outputs depend on an active
        operand: all of those that can, if None. With ``carries`` an output whose type has no tangents has a slot too,
        to pass on a cotangent of another type.
        """
        multiple = type(outs) in (list, tuple)
        results: list[Any] = []
        slots: list[int | None] = []
        for i, value in enumerate(outs if multiple else (outs,)):
            if (active is None or active[i]) and (carries or is_differentiable(value)):
                slots.append(self.slots)
                results.append(TapeTracer(self, value, self.slots))
                self.slots += 1
            else:
                slots.append(None)
                results.extend(self.values([value]))
        parents = [t.slot for t in tracers if t is not None]
        avals = [t.aval for t in tracers if t is not None]
        source, settings = _jax.current_source() if self.keeps_source else None, _jax.current_settings()
        self.nodes.append(Node(rule, primitive, params, static, residuals, parents, avals, slots, source, settings))
        return results if multiple else results[0]

    def write(self, refs: Iterable[TapeTracer | None]) -> None:
        """Make new contents of the references ``refs`` outputs of the last node; None for one it leaves as it was.

        A slot stands for one content of a reference, so on the way back a write is an operation like any other: it
        takes the cotangent of the content after it to that of the content before.
        """
        for ref in refs:
            if ref is None:
                self.nodes[-1].outs.append(None)
            else:
                ref.slot = self.slots
                self.nodes[-1].outs.append(self.slots)
                self.slots += 1

    def stage_value(self, val: Any) -> Any:
        primal, slot = self.strip(val)
        if type(primal) is Zero:
            return val
        staged = self.parent.stage_value(primal)
        return staged if slot is None else TapeTracer(self, staged, slot)

    def cur_qdd(self, x: Any) -> Any:
        with set_current_trace(self.parent):
            return _jax.cur_qdd(self.strip(x)[0])

    def process_call(self, call_primitive: Any, f: Any, tracers: Sequence[Any], params: Params, /) -> Any:
        with set_current_trace(self):
            return f.call_wrapped(*tracers)

    def process_functions(self, primitive: Any, *functions_and_args: Any, **params: Any) -> Any:
        """Record a primitive that takes functions not traced yet, which its rule has as the parameter ``subfuns``."""
        *functions, args = functions_and_args
        params["subfuns"] = tuple(functions)
        tracers = [self.owned(x) for x in args]
        primals = [x if t is None else t.primal for x, t in zip(args, tracers, strict=True)]
        rule = self.rules.of_primitive(primitive) or self.rules.missing(primitive)
        if all(t is None for t in tracers) and not rule.always:
            return primitive.bind_with_trace(self.parent, primals, [typeof(x) for x in primals], params)
        return rule.record(self, primitive, primals, tracers, params, any(type(x) is Zero for x in primals))

    process_shard_map = process_custom_jvp_call = process_custom_vjp_call = process_functions

    def evaluate(self, primitive: Any, primals: Sequence[Any], params: Params, linear: bool) -> Any:
        """The outputs in the parent trace; along tangents, the zeros of their types."""
        if linear:
            outs = [Zero(aval) for aval in abstract_outputs(primitive, primals, params)]
            return outs if primitive.multiple_results else outs[0]
        if _jax.is_plain(primitive):
            return self.parent.process_primitive(primitive, primals, params)
        return primitive.bind_with_trace(self.parent, primals, [typeof(x) for x in primals], params)


_differentiable: dict[Any, bool] = {}


def is_differentiable(x: Any) -> bool:
    """Whether values of the type of ``x``, a value or an abstract one, have a tangent space of more than one point."""
    if type(x) is Zero:
        x = x.aval
    dtype = getattr(x, "dtype", None)
    known = _differentiable.get(dtype)
    if known is None:
        aval = x if isinstance(x, AbstractValue) else typeof(x)
        known = _jax.has_tangents(aval)
        if dtype is not None:
            _differentiable[dtype] = known
    return known


def typeof_or_zero(x: Any) -> Any:
    return x.aval if type(x) is Zero else typeof(x)


def abstract_outputs(primitive: Any, operands: Sequence[Any], params: Params) -> list[Any]:
    """The types of a primitive's outputs, given its operands, their zeros or their types."""
    avals = [x if isinstance(x, AbstractValue) else typeof_or_zero(x) for x in operands]
    outs, _ = primitive.abstract_eval(*avals, **params)
    return list(outs) if primitive.multiple_results else [outs]
