"""The tape: a trace that records, for each operation on a value that depends on the inputs, how to go back.

JAX offers every primitive operation of a program to the current *trace*. This one does three things with it: it lets
the parent trace compute the output, it looks up the rule, and it appends a ``Node``. Nothing else happens on the way
forward. The parent may evaluate eagerly, stage out a jaxpr, batch, or be another tape, which is why gradients nest and
compose with ``jit``, ``vmap`` and ``jvp`` without a second mechanism.

A value on the tape is a ``TapeTracer``: the parent's value and a *slot*, the index under which its cotangent will be
collected. Operations on values without a slot never touch the tape.

Custom JVP rules need one more idea. Such a rule maps tangents linearly, and the transpose of that map is what reverse
mode is after. So the rule runs on this same tape with tangents that have the slots of the primals they belong to, and a
symbolic ``Zero`` for a value, since a linear map takes zero to zero. Recording it records the transpose; no separate
transposition rules exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.core import AbstractValue, Trace, Tracer
from jax.custom_derivatives import SymbolicZero

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.engine.zero import Zero, instantiate

typeof = _jax.typeof


class Node:
    """One recorded operation, as plain data.

    ``rule`` knows the way back; ``params`` are the primitive's static parameters and ``static`` what else the rule
    wants to remember; ``residuals`` are the values it saved. ``parents`` are the slots of the active operands,
    ``avals`` their types, and ``outs`` the slots of the outputs (None where an output is not differentiable).
    """

    __slots__ = ("avals", "outs", "params", "parents", "primitive", "residuals", "rule", "source", "static")

    def __init__(self, rule, primitive, params, static, residuals, parents, avals, outs, source):
        self.rule = rule
        self.primitive = primitive
        self.params = params
        self.static = static
        self.residuals = residuals
        self.parents = parents
        self.avals = avals
        self.outs = outs
        self.source = source

    def _with(self, rule: Any, residuals: tuple) -> Node:
        return Node(
            rule,
            self.primitive,
            self.params,
            self.static,
            residuals,
            self.parents,
            self.avals,
            self.outs,
            self.source,
        )

    def with_residuals(self, residuals: tuple) -> Node:
        return self._with(self.rule, residuals)

    def with_rule(self, rule: Any) -> Node:
        return self._with(rule, self.residuals)


class TapeTracer(Tracer):
    __slots__ = ("primal", "slot")

    def __init__(self, tape: Tape, primal: Any, slot: int):
        self._trace = tape
        self.primal = primal
        self.slot = slot

    def __getattr__(self, name: str) -> Any:
        # The type of a concrete array is made anew each time it is asked for, which costs as much as the operation: so
        # it is asked for once, and only if somebody wants to know.
        if name == "aval":
            self.aval = typeof_or_zero(self.primal)
            return self.aval
        return super().__getattr__(name)

    def to_concrete_value(self):
        return None if type(self.primal) is Zero else _jax.to_concrete_value(self.primal)

    def get_referent(self):
        return self if type(self.primal) is Zero else _jax.get_referent(self.primal)

    def cur_qdd(self):
        return _jax.cur_qdd(self.primal)

    def _contents(self):
        return [("primal", self.primal), ("tangent", _jax.PERTURBED)]

    def _short_repr(self) -> str:
        inner = self.primal._short_repr() if isinstance(self.primal, Tracer) else str(self.primal)
        return f"GradTracer(primal={inner})"


_jax.register_tracer(TapeTracer)


class Tape(Trace):
    """A trace that records a tape over ``parent`` under the derivative rules ``rules``."""

    def __init__(self, parent: Trace, rules: Any, outer: Tape | None = None):
        super().__init__()
        self.requires_low = False
        self.parent = parent
        self.rules = rules
        self.nodes: list[Node] = []
        self.slots = 0
        # Eager operations carry no source information, so there is none to hand on to the way back: only to look at.
        self.keeps_source = parent is not _jax.eval_trace or rules.keeps_source
        self.scope = _jax.scope_depth()
        #: The tape around this one, for a function that closes over values on it, and those values by slot.
        self.outer = outer
        self.captured: dict[int, tuple[TapeTracer, int]] = {}

    # Values on and off the tape.

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

    # What JAX asks of a trace.

    def process_primitive(self, primitive, args, params, /):
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
        rule = self.rules.get(primitive)
        if not active and (rule is None or not rule.always):
            return primitive.bind_with_trace(self.parent, primals, [typeof(x) for x in primals], params)
        if rule is None:
            rule = self.rules.missing(primitive)
        if linear:
            # A tangent is never mixed with the values it is a tangent of: only it is differentiated here.
            tracers = [t if type(x) is Zero else None for x, t in zip(primals, tracers, strict=True)]
        return rule.record(self, primitive, primals, tracers, params, linear)

    def emit(self, rule, primitive, params, static, residuals, tracers, outs, *, active=None):
        """Append a node and give its outputs their tracers.

        ``tracers`` are the operands on this tape, None where one is not. ``outs`` is a list for a primitive of multiple
        results; an output that is a ``Zero`` stays a tangent. ``active`` says which outputs depend on an active
        operand: all of those that can, if None.
        """
        multiple = type(outs) in (list, tuple)
        results: list[Any] = []
        slots: list[int | None] = []
        for i, value in enumerate(outs if multiple else (outs,)):
            if (active is None or active[i]) and is_differentiable(value):
                slots.append(self.slots)
                results.append(TapeTracer(self, value, self.slots))
                self.slots += 1
            else:
                slots.append(None)
                results.extend(self.values([value]))
        parents = [t.slot for t in tracers if t is not None]
        avals = [t.aval for t in tracers if t is not None]
        source = _jax.current_source() if self.keeps_source else None
        self.nodes.append(Node(rule, primitive, params, static, residuals, parents, avals, slots, source))
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

    def stage_value(self, val):
        primal, slot = self.strip(val)
        if type(primal) is Zero:
            return val
        staged = self.parent.stage_value(primal)
        return staged if slot is None else TapeTracer(self, staged, slot)

    def cur_qdd(self, x):
        with set_current_trace(self.parent):
            return _jax.cur_qdd(self.strip(x)[0])

    def process_call(self, call_primitive, f, tracers, params, /):
        with set_current_trace(self):
            return f.call_wrapped(*tracers)

    def process_shard_map(self, primitive, fun, args, /, **params):
        tracers = [self.owned(x) for x in args]
        primals = [x if t is None else t.primal for x, t in zip(args, tracers, strict=True)]
        linear = any(type(x) is Zero for x in primals)
        rule = self.rules.get(primitive) or self.rules.missing(primitive)
        return rule.record(self, primitive, primals, tracers, {**params, "fun": fun}, linear)

    def process_custom_jvp_call(self, primitive, fun, jvp, args, /, *, symbolic_zeros):
        tracers = [self.owned(x) for x in args]
        primals = [x if t is None else t.primal for x, t in zip(args, tracers, strict=True)]
        if all(t is None for t in tracers):
            params = dict(subfuns=(fun, jvp), symbolic_zeros=symbolic_zeros)
            return primitive.bind_with_trace(self.parent, primals, [typeof(x) for x in primals], params)
        with set_current_trace(self):
            if self.runs_inside(fun, primals):
                return fun.call_wrapped(*args)
            tangents = [self.tangent(x, t, symbolic_zeros) for x, t in zip(primals, tracers, strict=True)]
            outs = jvp.call_wrapped(*primals, *tangents)
        follow(tracers, tangents)
        values, tangents_out = outs[: len(outs) // 2], outs[len(outs) // 2 :]
        return [self.with_tangent(x, t) for x, t in zip(values, tangents_out, strict=True)]

    def runs_inside(self, fun, primals: Sequence[Any]) -> bool:
        """Whether a function with a derivative rule of its own is to be recorded as what is inside it.

        Applied to a tangent the function must be linear, hence its own derivative; and the rule table may have another
        rule for the jitted function inside.
        """
        return any(type(x) is Zero for x in primals) or self.rules.get(fun.debug_info.func_src_info) is not None

    def tangent(self, primal: Any, tracer: TapeTracer | None, symbolic_zeros: bool) -> Any:
        """What a JVP rule gets for the tangent of ``primal``: a linear tracer in its slot, or a zero."""
        aval = typeof(primal).to_tangent_aval()
        if tracer is not None:
            return TapeTracer(self, Zero(aval), tracer.slot)
        return SymbolicZero(aval) if symbolic_zeros else _jax.zeros(aval)

    def with_tangent(self, primal: Any, tangent: Any) -> Any:
        """``primal`` on the tape, in the slot of ``tangent``."""
        tracer = self.owned(tangent)
        return primal if tracer is None else TapeTracer(self, _jax.canonicalize(self.strip(primal)[0]), tracer.slot)

    def process_custom_vjp_call(self, primitive, fun, fwd, bwd, args, /, *, out_trees, symbolic_zeros):
        tracers = [self.owned(x) for x in args]
        primals = [x if t is None else t.primal for x, t in zip(args, tracers, strict=True)]
        if all(t is None for t in tracers):
            params = dict(subfuns=(fun, fwd, bwd), out_trees=out_trees, symbolic_zeros=symbolic_zeros)
            return primitive.bind_with_trace(self.parent, primals, [typeof(x) for x in primals], params)
        if self.runs_inside(fun, primals):
            with set_current_trace(self):
                return fun.call_wrapped(*args)
        active = [t is not None for t in tracers]
        with set_current_trace(self.parent):
            results = fwd.call_wrapped(*(y for pair in zip(primals, active, strict=True) for y in pair))
        _, residual_tree, forwarded = out_trees()
        count = residual_tree.num_leaves - sum(i is not None for i in forwarded)
        saved, outs = iter(results[:count]), [_jax.canonicalize(x) for x in results[count:]]
        residuals = tuple([next(saved) if i is None else primals[i] for i in forwarded])
        rule = CustomPullback(bwd, symbolic_zeros, [typeof(x).to_ct_aval() for x in outs], active)
        return self.emit(rule, primitive, {}, None, residuals, tracers, outs)


class CustomPullback:
    """The backward half of a ``custom_vjp`` function: the user's own ``bwd``."""

    def __init__(self, bwd: Any, symbolic_zeros: bool, out_avals: Sequence[Any], active: Sequence[bool]):
        self.bwd = bwd
        self.zero: Callable = SymbolicZero if symbolic_zeros else _jax.zeros
        self.out_avals = out_avals
        self.active = active

    def narrowed(self, wanted: tuple[bool, ...]) -> CustomPullback:
        return self

    def pullback(self, node: Node, cts: Sequence[Any]) -> Sequence[Any]:
        cts = [self.zero(aval) if ct is None else ct for ct, aval in zip(cts, self.out_avals, strict=True)]
        pulled = _jax.call_bwd(self.bwd, *node.residuals, *cts)
        pairs = zip(pulled, self.active, strict=True)
        return [None if isinstance(ct, _jax.JaxZero | SymbolicZero) else ct for ct, active in pairs if active]


def follow(tracers: Sequence[TapeTracer | None], tangents: Sequence[Any]) -> None:
    """Give tracers the slots of their tangents after a JVP rule, which writes to a reference and to its tangent."""
    for tracer, tangent in zip(tracers, tangents, strict=True):
        if tracer is not None:
            tracer.slot = tangent.slot


_differentiable: dict[Any, bool] = {}


def is_differentiable(x: Any) -> bool:
    """Whether values of the type of ``x``, a value or an abstract one, have a tangent space of more than one point."""
    if type(x) is Zero:
        x = x.aval
    dtype = getattr(x, "dtype", None)
    known = _differentiable.get(dtype)
    if known is None:
        aval = x if isinstance(x, AbstractValue) else typeof(x)
        known = _jax.is_differentiable_dtype(getattr(aval.to_tangent_aval(), "dtype", None))
        if dtype is not None:
            _differentiable[dtype] = known
    return known


def typeof_or_zero(x: Any) -> Any:
    return x.aval if type(x) is Zero else typeof(x)
