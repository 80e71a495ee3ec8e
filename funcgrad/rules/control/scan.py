"""``scan``: the forward half stacks residuals, the backward half scans over them in reverse.

A residual that does not vary over the loop is not stacked: a constant is handed to the backward loop as it is, and what
is computed from constants alone is computed once, outside. A residual that is an element of ``xs`` or ``ys`` is in a
stack already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var, set_current_trace
from funcgrad.engine.recording import accumulate
from funcgrad.engine.split import Activity, Split, split, typed_cotangents, written_refs
from funcgrad.engine.tape import is_differentiable
from funcgrad.engine.zero import Zero
from funcgrad.programs.flow import evaluate, fixpoint, independent_of, slice_program, with_outputs
from funcgrad.rules.control.ahead import over_steps, split_ahead
from funcgrad.rules.control.deferred import defer
from funcgrad.rules.control.in_place import in_place
from funcgrad.rules.control.residuals import lean, size
from funcgrad.rules.control.turned import turned
from funcgrad.rules.rule import Rule


class Scan(Rule):
    formula = "the backward half of the body, scanned in reverse"
    saved = ("residuals",)

    def record(self, tape, primitive, primals, tracers, params, linear):
        primals = tape.values(primals)
        active = tuple([t is not None for t in tracers])
        halves = split_scan(params["jaxpr"], *_jax.scan_layout(params), active, tape.rules)
        with set_current_trace(tape.parent):
            hoisted = evaluate(halves.invariant, *primals[: halves.num_consts])
            xs = primals[halves.num_consts + halves.num_carry :]
            ahead = over_steps(halves.ahead, xs, hoisted[halves.num_hoisted :])
            forward = _jax.scan_params(params, halves.forward, halves.num_consts, halves.num_carry)
            results = primitive.bind(*primals, *ahead, **forward)
        outs, stacked = results[: halves.num_outs], results[halves.num_outs :]
        places = {"operand": primals, "out": outs, "hoisted": hoisted, "stacked": stacked}
        residuals = tuple([places[kind][i] for kind, i in halves.sources])
        if linear:
            outs = [Zero(_jax.typeof(x)) if a else x for x, a in zip(outs, halves.out_active, strict=True)]
        static = (halves, active)
        outs = tape.emit(self, primitive, params, static, residuals, tracers, outs, active=halves.out_active)
        tape.write(written_refs(halves.split, tracers))
        return outs

    def pullback(self, node, cts):
        halves, active = node.static
        params = node.params
        cts = list(cts)
        for i in (*halves.carry_cts, *halves.content_cts.values()):
            if cts[i] is None:
                cts[i] = _jax.zeros(halves.split.ct_avals[i])
        cts, ct_avals = typed_cotangents(cts, halves.split.ct_avals)
        backward = halves.backward(ct_avals, params)
        fixed = [x for x, stacked in zip(node.residuals, halves.is_stacked, strict=True) if not stacked]
        fixed = [lax.transpose(x, (1, 0)) if i in backward.turned else x for i, x in enumerate(fixed)]
        stacks = [x for x, stacked in zip(node.residuals, halves.is_stacked, strict=True) if stacked]
        at = halves.content_cts
        sums = [cts[at[i]] if i in at else _jax.zeros(aval) for i, aval in backward.sum_avals.items()]
        carries = [cts[i] for i in halves.carry_cts]
        xs = [*stacks, *(cts[i] for i in halves.stacked_cts if cts[i] is not None)]
        steps = backward.steps
        backward_params = _jax.scan_params(params, backward.body, len(fixed), len(sums) + len(carries))
        backward_params["reverse"] = not params["reverse"]
        if steps > 1:
            backward_params |= {"length": params["length"] // steps, "unroll": 1}
            xs = [lax.reshape(x, (x.shape[0] // steps, steps, *x.shape[1:])) for x in xs]
        results = node.primitive.bind(*fixed, *sums, *carries, *xs, **backward_params)
        pulled = backward.place(results)
        # A carry may have become active in the loop only, where the initial value was not.
        operands = [i for i, a in enumerate(halves.active) if a]
        return [ct for i, ct in zip(operands, pulled, strict=True) if active[i]]


class Backward:
    """The backward body and where its results belong.

    Its operands are the residuals that do not vary; as carry the sums of the constants' cotangents and the cotangents
    of the carry; and as elements the residuals that do, and the cotangents of ``ys``. Where a constant is a reference
    that is written to, the cotangent of its content is carried in the place of a sum.

    ``steps`` is how many steps of the loop the body takes at once, and ``turned`` are the numbers of the residuals that
    do not vary which it takes transposed.
    """

    def __init__(self, halves: ScanHalves, ct_avals: tuple, params: Any):
        body = halves.body
        consts = [i for i in range(halves.num_consts) if halves.active[i]]
        const_avals = [_jax.ct_type(body.in_avals[i]) for i in consts]
        carry_avals = [ct_avals[i] for i in halves.carry_cts]
        stacked_cts = [i for i in halves.stacked_cts if ct_avals[i] is not None]
        y_avals = [ct_avals[i] for i in stacked_cts]
        residual_avals = halves.residual_avals
        fixed_avals = [aval for aval, s in zip(residual_avals, halves.is_stacked, strict=True) if not s]
        stacked_avals = [aval for aval, s in zip(residual_avals, halves.is_stacked, strict=True) if s]
        first, last = len(consts), len(consts) + len(carry_avals)
        self.has_sum = [True] * len(consts)
        self.has_x: list[bool] = []

        def step(*args: Any) -> list[Any]:
            rest = iter(args)
            take = lambda avals: [next(rest) for _ in avals]  # noqa: E731
            fixed, sums, carries = iter(take(fixed_avals)), take(const_avals), take(carry_avals)
            stacks, ys = iter(take(stacked_avals)), take(y_avals)
            residuals = [next(stacks) if s else next(fixed) for s in halves.is_stacked]
            cts: list[Any] = [None] * len(ct_avals)
            contents = {at: sums[consts.index(i)] for i, at in halves.content_cts.items()}
            known = zip((*halves.carry_cts, *stacked_cts, *contents), (*carries, *ys, *contents.values()), strict=True)
            for i, ct in known:
                cts[i] = ct
            pulled = halves.split.pull(residuals, cts)
            carry, xs = pulled[first:last], pulled[last:]
            self.has_sum = [ct is not None or i in halves.content_cts for i, ct in zip(consts, pulled, strict=False)]
            self.has_x = [ct is not None for ct in xs]
            sums = [
                carried(ct, aval) if i in halves.content_cts else accumulate(s, ct)
                for i, s, ct, aval in zip(consts, sums, pulled, const_avals, strict=False)
            ]
            carry = [carried(ct, aval) for ct, aval in zip(carry, carry_avals, strict=True)]
            return [*sums, *carry, *(ct for ct in xs if ct is not None)]

        avals = [*fixed_avals, *const_avals, *carry_avals, *stacked_avals, *y_avals]
        whole = _jax.trace_to_jaxpr(step, avals, body.jaxpr.debug_info)
        #: The types of the sums by the number of the constant.
        self.sum_avals = dict(zip(consts, const_avals, strict=True))
        self.num_carry = len(carry_avals)
        whole, self.turned = turned(whole, len(fixed_avals), last, params["length"])
        sums = [k for k, i in enumerate(consts) if i not in halves.content_cts]
        deferred = defer(whole, len(fixed_avals), sums, last)
        self.steps = 1 if deferred is None else deferred.steps(params["length"])
        if deferred is None or self.steps == 1:
            self.body = in_place(whole, [(len(fixed_avals) + i, i) for i in range(last)])
        else:
            self.body = deferred.chunk(params, self.steps)

    def place(self, results: Sequence[Any]) -> list[Any]:
        """Cotangents of the active operands out of what the backward loop returns."""
        sums, rest = results[: len(self.sum_avals)], results[len(self.sum_avals) :]
        carries, xs = rest[: self.num_carry], rest[self.num_carry :]
        if self.steps > 1:
            xs = [lax.reshape(x, (x.shape[0] * self.steps, *x.shape[2:])) for x in xs]
        sums = [ct if has else None for ct, has in zip(sums, self.has_sum, strict=True)]
        x_cts = iter(xs)
        return [*sums, *carries, *(next(x_cts) if has else None for has in self.has_x)]


def carried(ct: Any, aval: Any) -> Any:
    return _jax.zeros(aval) if ct is None else _jax.match(ct, aval)


class ScanHalves:
    """A loop's body split, and where each residual of a step is found when the loop is done."""

    def __init__(self, body: ClosedJaxpr, num_consts: int, num_carry: int, active: tuple[bool, ...], rules: Any):
        self.body, self.num_consts, self.num_carry = body, num_consts, num_carry
        self.num_outs = len(body.out_avals)
        self.out_avals = body.out_avals
        can = [is_differentiable(aval) for aval in body.in_avals]
        first, last = num_consts, num_consts + num_carry

        def halves_for(carry: tuple[bool, ...]):
            mask = (*active[:first], *carry, *active[last:])
            return split(body, tuple([Activity(a and c) for a, c in zip(mask, can, strict=True)]), rules)

        start = tuple([a and c for a, c in zip(active[first:last], can[first:last], strict=True)])
        self.carry_active = fixpoint(start, lambda carry: halves_for(carry).out_active[:num_carry])
        self.split = self._lean(halves_for(self.carry_active))
        self.active = (*active[:first], *self.carry_active, *active[last:])
        self.out_active = [*self.carry_active, *self.split.out_active[num_carry:]]
        # Of the cotangents that the body's backward half takes, those of the carry, those that come in stacks, and, by
        # the number of the constant, those of what references among the constants hold.
        contents = {i: at for at, i in enumerate(self.split.refs, self.num_outs)}
        self.carry_cts = [i for i, a in enumerate(self.carry_active) if a]
        self.stacked_cts = [*range(num_carry, self.num_outs), *(at for i, at in contents.items() if i >= last)]
        self.content_cts = {i: at for i, at in contents.items() if i < first and i in self.split.written}
        self._backwards: dict[tuple, Backward] = {}
        self._place_residuals()

    def _lean(self, halves: Split) -> Split:
        """What is in stacks already costs nothing to keep, nor does what is the same at every step."""
        jaxpr, last = halves.forward.jaxpr, self.num_consts + self.num_carry
        free = independent_of(halves.forward, range(self.num_consts, len(jaxpr.invars)))
        free.update(jaxpr.invars[last:], (v for v in jaxpr.outvars[self.num_carry : self.num_outs] if type(v) is Var))
        return lean(halves, lambda v: 0 if v in free else size(v))

    def _place_residuals(self) -> None:
        program, first, last = self.split.forward, self.num_consts, self.num_consts + self.num_carry
        outvars, invars = program.jaxpr.outvars[: self.num_outs], program.jaxpr.invars
        new = program.jaxpr.outvars[self.num_outs :]
        fixed = independent_of(program, range(first, len(invars)))
        hoisted: list[Any] = []
        stacked: list[Any] = []
        self.sources: list[tuple[str, int]] = []
        self.is_stacked: list[bool] = []
        self.residual_avals: list[Any] = []

        def put(group: list[Any], kind: str, var: Any) -> tuple[str, int]:
            group.append(var)
            return kind, len(group) - 1

        for kind, i in self.split.sources:
            var = {"in": invars, "out": outvars, "new": new}[kind][i]
            if kind == "out":
                # What is carried on may be an output of each step as well, and so in a stack already.
                i = next((k for k in range(self.num_carry, self.num_outs) if outvars[k] is var), i)
            varies = type(var) is not Literal and var not in fixed
            if kind == "in" and (i < first or i >= last):
                source = ("operand", i)
            elif kind == "out" and i >= self.num_carry:
                source, varies = ("out", i), True
            elif not varies:
                source = put(hoisted, "hoisted", var)
            else:
                source = put(stacked, "stacked", var)
            self.sources.append(source)
            self.is_stacked.append(varies)
            self.residual_avals.append(var.aval)
        body, self.ahead = split_ahead(with_outputs(program, [*outvars, *stacked]), last, fixed)
        self.forward = in_place(body, [(first + i, i) for i in range(last - first)])
        self.num_hoisted = len(hoisted)
        invariant = slice_program(program, [*hoisted, *(a.constant for a in self.ahead)])
        self.invariant = invariant.replace(jaxpr=invariant.jaxpr.replace(invars=invars[:first]))

    def backward(self, ct_avals: tuple, params: Any) -> Backward:
        """The backward half for cotangents of the types ``ct_avals``, of a loop with ``params``."""
        key = (ct_avals, *(params[name] for name in ("length", "reverse", "unroll")))
        known = self._backwards.get(key)
        if known is None:
            known = self._backwards[key] = Backward(self, ct_avals, params)
        return known


@_jax.weakref_lru_cache
def split_scan(body, num_consts: int, num_carry: int, active: tuple[bool, ...], rules) -> ScanHalves:
    return ScanHalves(body, num_consts, num_carry, active, rules)


rules = {lax.scan_p: Scan()}
