"""The halves of a ``scan``: forward it stacks residuals, backward it scans over them in reverse.

A residual that does not vary over the loop is not stacked: a constant is handed to the backward loop as it is, and what
is computed from constants alone is computed once, outside. A residual that is an element of ``xs`` or ``ys`` is in a
stack already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal, Var
from funcgrad.engine.recording import Recording, accumulate
from funcgrad.engine.split import Split
from funcgrad.programs.ahead import ahead
from funcgrad.programs.defer import defer
from funcgrad.programs.flow import independent_of, size, size_of, with_outputs
from funcgrad.programs.hoist import hoist
from funcgrad.programs.in_place import in_place
from funcgrad.programs.loop import Loop
from funcgrad.programs.memo import kept, memo
from funcgrad.programs.turn import turn
from funcgrad.programs.waiting import begun_at_once
from funcgrad.rules.control.body import needed, split_at, split_body
from funcgrad.rules.control.carrier import Halves, carried, present
from funcgrad.rules.control.lean import lean


class Steps(NamedTuple):
    """How a loop goes."""

    length: Any
    reverse: bool
    unroll: Any


class ScanHalves(Halves):
    """A loop's body split, and where each residual of a step is found when the loop is done."""

    def __init__(
        self, body: ClosedJaxpr, num_consts: int, num_carry: int, steps: Steps, activity: Sequence[Any], rules: Any
    ):
        self.num_consts, self.num_carry, self.steps = num_consts, num_carry, steps
        self.num_outs = len(body.out_avals)
        halves, self.carry_active = split_body(body, num_consts, num_carry, activity, rules)
        super().__init__(self._lean(halves), [*self.carry_active, *halves.out_active[num_carry:]])
        # Of the cotangents that the body's backward half takes, those of the carry, those that come in stacks, and, by
        # the number of the constant, those of what references among the constants hold.
        last = num_consts + num_carry
        contents = {i: at for at, i in enumerate(self.split.refs, self.num_outs)}
        self.carry_cts = [i for i, a in enumerate(self.carry_active) if a]
        self.stacked_cts = [*range(num_carry, self.num_outs), *(at for i, at in contents.items() if i >= last)]
        self.content_cts = {i: at for i, at in contents.items() if i < num_consts and i in self.split.written}
        self._place_residuals()

    def _lean(self, halves: Split) -> Split:
        """What is in stacks already costs nothing to keep, nor does what is the same at every step."""
        jaxpr, last = halves.forward.jaxpr, self.num_consts + self.num_carry
        free = independent_of(halves.forward, range(self.num_consts, len(jaxpr.invars)))
        free.update(jaxpr.invars[last:], (v for v in jaxpr.outvars[self.num_carry : self.num_outs] if type(v) is Var))
        return lean(halves, lambda v: 0 if v in free else size(v))

    def _place_residuals(self) -> None:
        program, first, last = self.split.forward, self.num_consts, self.num_consts + self.num_carry
        invars, outvars = program.jaxpr.invars, program.jaxpr.outvars[: self.num_outs]
        fixed = independent_of(program, range(first, len(invars)))
        types = _jax.in_types(program)
        new: list[Any] = []
        self.sources: list[tuple[str, int]] = []
        self.is_stacked: list[bool] = []
        self.residual_avals: list[Any] = []
        for (kind, i), var in zip(self.split.sources, self.split.residuals(invars, program.jaxpr.outvars), strict=True):
            self.residual_avals.append(types[i] if kind == "in" else var.aval)
            if kind == "out":
                # What is carried on may be an output of each step as well, and so in a stack already.
                i = next((k for k in range(self.num_carry, self.num_outs) if outvars[k] is var), i)
            is_stack = kind == "out" and i >= self.num_carry
            if not is_stack and not (kind == "in" and (i < first or i >= last)):
                kind, i = "new", len(new)
                new.append(var)
            self.sources.append((kind, i))
            self.is_stacked.append(is_stack or (type(var) is not Literal and var not in fixed))
        loop = Loop.of(with_outputs(program, [*outvars, *new]), first, self.num_carry, *self.steps)
        loop = hoist(loop, range(self.num_outs, self.num_outs + len(new)))
        self.loop = in_place(ahead(loop))
        stacked = [i for i, is_stack in enumerate(self.is_stacked) if is_stack]
        #: The bytes that a step leaves in stacks for its way back, and those of them in stacks that are made for it.
        self.row = sum(size_of(self.residual_avals[i]) for i in stacked)
        self.own_row = sum(size_of(self.residual_avals[i]) for i in stacked if self.sources[i][0] == "new")

    def run(self, *operands: Any) -> tuple[list[Any], tuple]:
        """The outputs, and the residuals."""
        results = self.loop.run(*operands)
        outs, new = results[: self.num_outs], results[self.num_outs :]
        places = {"in": operands, "out": outs, "new": new}
        return outs, tuple([places[kind][i] for kind, i in self.sources])

    def pull(self, residuals: Sequence[Any], cts: Sequence[Any], wanted: tuple[bool, ...]) -> list[Any]:
        """Cotangents of the operands, of those that are ``wanted`` at least."""
        cts = self.filled(cts)
        return self.backward(tuple([ct is not None for ct in cts]), wanted).run(self, residuals, cts)[0]

    def filled(self, cts: Sequence[Any]) -> list[Any]:
        """Cotangents with arrays for what is carried, None where another one is zero."""
        held = {*self.carry_cts, *self.content_cts.values()}
        return [carried(ct, self.ct_avals[i]) if i in held else ct for i, ct in enumerate(cts)]

    @kept
    def backward(self, nonzero: tuple[bool, ...], wanted: tuple[bool, ...]) -> Backward:
        """The way back for the cotangents that are not zero, to those that are wanted."""
        return Backward(self, nonzero, wanted)


class Backward:
    """The backward loop, and where its results belong.

    Its operands are the residuals that do not vary; as carry the sums of the constants' cotangents and the cotangents
    of the carry; and as elements the residuals that do, and the cotangents of ``ys``. Where a constant is a reference
    that is written to, the cotangent of its content is carried in the place of a sum.

    ``sweep`` pulls cotangents over the recording of a step as ``Recording.pull`` does, and ``more`` is what each step
    is to return then besides, in stacks.
    """

    def __init__(
        self,
        halves: ScanHalves,
        nonzero: tuple[bool, ...],
        wanted: tuple[bool, ...] | None,
        sweep: Callable = Recording.pull,
        more: Callable[[], list[Any]] = list,
    ):
        body, first = halves.split, halves.num_consts
        last = first + halves.num_carry
        asked, carry = needed(body, first, halves.carry_active, wanted) if wanted else (None, halves.carry_active)
        reached = asked or body.active_in
        #: The constants that have sums, the carried cotangents, and the stacks of cotangents that come in.
        consts = self.consts = [i for i in range(first) if reached[i] and body.in_slots[i] is not None]
        carry_cts = self.carry_cts = [i for i in halves.carry_cts if carry[i]]
        stacked_cts = self.stacked_cts = [i for i in halves.stacked_cts if nonzero[i]]
        contents = halves.content_cts
        fixed = [aval for aval, s in zip(halves.residual_avals, halves.is_stacked, strict=True) if not s]
        stacked = [aval for aval, s in zip(halves.residual_avals, halves.is_stacked, strict=True) if s]
        sum_avals = self.sum_avals = [_jax.ct_type(body.in_avals[i]) for i in consts]
        carry_avals = [body.ct_avals[i] for i in carry_cts]
        y_avals = [body.ct_avals[i] for i in stacked_cts]

        def step(*args: Any) -> list[Any]:
            same, sums, carries, elements, ys = split_at(args, len(fixed), len(consts), len(carry_cts), len(stacked))
            rows, once = iter(elements), iter(same)
            residuals = [next(rows) if s else next(once) for s in halves.is_stacked]
            cts: list[Any] = [None] * len(halves.ct_avals)
            for i, ct in zip((*carry_cts, *stacked_cts), (*carries, *ys), strict=True):
                cts[i] = ct
            for i, total in zip(consts, sums, strict=True):
                if i in contents:
                    cts[contents[i]] = total
            pulled = body.pull(residuals, cts, asked, sweep)
            self.has_ct = [ct is not None for ct in pulled]
            sums = [
                carried(pulled[i], aval) if i in contents else accumulate(total, pulled[i])
                for i, total, aval in zip(consts, sums, sum_avals, strict=True)
            ]
            carries = [carried(pulled[first + i], aval) for i, aval in zip(carry_cts, carry_avals, strict=True)]
            return [*sums, *carries, *present(pulled[last:]), *more()]

        whole = _jax.trace_to_jaxpr(step, [*fixed, *sum_avals, *carry_avals, *stacked, *y_avals], body.debug_info)
        length, reverse, unroll = halves.steps
        loop = Loop.of(begun_at_once(whole), len(fixed), len(consts) + len(carry_cts), length, not reverse, unroll)
        sums = [k for k, i in enumerate(consts) if i not in contents]
        loop = turn(loop)
        deferred = defer(loop, sums)
        self.loop = in_place(loop) if deferred is loop else deferred

    def run(self, halves: ScanHalves, residuals: Sequence[Any], cts: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Cotangents of the operands, None for zero, and the stacks of what else the steps return."""
        fixed = [x for x, stacked in zip(residuals, halves.is_stacked, strict=True) if not stacked]
        stacks = [x for x, stacked in zip(residuals, halves.is_stacked, strict=True) if stacked]
        at = halves.content_cts
        sums = [cts[at[i]] if i in at else _jax.zeros(v) for i, v in zip(self.consts, self.sum_avals, strict=True)]
        operands = [*fixed, *sums, *(cts[i] for i in self.carry_cts), *stacks, *(cts[i] for i in self.stacked_cts)]
        results = iter(self.loop.run(*operands))
        first, last = halves.num_consts, halves.num_consts + halves.num_carry
        pulled: list[Any] = [None] * len(self.has_ct)
        for i in self.consts:
            ct = next(results)
            pulled[i] = ct if self.has_ct[i] or i in at else None
        for i in self.carry_cts:
            pulled[first + i] = next(results)
        for i in range(last, len(pulled)):
            if self.has_ct[i]:
                pulled[i] = next(results)
        return pulled, list(results)


@memo
def split_scan(
    body: ClosedJaxpr, num_consts: int, num_carry: int, steps: Steps, activity: tuple, rules: Any
) -> ScanHalves:
    return ScanHalves(body, num_consts, num_carry, steps, activity, rules)
