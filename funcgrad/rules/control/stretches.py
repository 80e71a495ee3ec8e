"""A ``scan`` that keeps a few states, and computes stretches of its steps again from them.

A stretch is a loop of its own, which keeps what the way back of each of its steps needs while it has its turn. To what
keeps states it is one step: the longer it is the fewer steps there are, and the more it keeps for a while.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr
from funcgrad.engine.recording import accumulate
from funcgrad.programs.ahead import ahead
from funcgrad.programs.flow import with_outputs, without_effects
from funcgrad.programs.in_place import in_place
from funcgrad.programs.loop import Loop
from funcgrad.programs.memo import kept
from funcgrad.rules.control.body import check_repeatable, split_at
from funcgrad.rules.control.carrier import Halves, carried
from funcgrad.rules.control.revolve import LEAST_SLOTS, Revolve, Stack, advances
from funcgrad.rules.control.scan_halves import Backward, ScanHalves, Steps, split_scan
from funcgrad.units import in_units


class Stretches(Halves):
    """A loop in stretches of ``count`` steps, with ``slots`` checkpoints of what ``varies`` of its carry.

    What is left over at the end is a stretch too, a shorter one, whose way back comes first: of that everything is
    kept.
    """

    def __init__(
        self,
        body: ClosedJaxpr,
        num_consts: int,
        num_carry: int,
        steps: Steps,
        activity: tuple,
        rules: Any,
        varies: Sequence[bool],
        count: int,
        slots: int,
    ):
        self.num_consts, self.num_carry, self.steps, self.varies = num_consts, num_carry, steps, varies
        self.count, self.slots = count, slots
        #: How many stretches there are, and how many steps are left over.
        self.total, left = steps.length // count, steps.length % count

        def halves_of(length: Any) -> ScanHalves:
            return split_scan(body, num_consts, num_carry, steps._replace(length=length), activity, rules)

        stretch = halves_of(count)
        super().__init__(stretch.split, stretch.out_active)
        self.rest = halves_of(left) if left else None
        # The steps are run first with their effects, and then without: to come to a state, and to be reversed.
        self.first = self._loop(body.replace())
        self.again = self._loop(without_effects(with_outputs(body, body.jaxpr.outvars[:num_carry])))
        self.stretch = copy.copy(stretch)
        self.stretch.loop = stretch.loop._replace(body=without_effects(stretch.loop.body))
        for loop in (self.again, self.stretch.loop):
            check_repeatable(loop.body, "let the rule of scan keep everything")
        self._forward: Callable = jax.jit(self._run_forward)

    def _loop(self, body: ClosedJaxpr) -> Loop:
        _, reverse, unroll = self.steps
        return in_place(ahead(Loop.of(body, self.num_consts, self.num_carry, self.count, reverse, unroll)))

    def _start(self, step: Any, count: int) -> Any:
        """Where the elements begin of ``count`` steps from ``step`` on."""
        return self.steps.length - step - count if self.steps.reverse else step

    def _rows(self, stacks: Sequence[Any], step: Any, count: int) -> list[Any]:
        return [lax.dynamic_slice_in_dim(x, self._start(step, count), count) for x in stacks]

    def _put(self, stack: Any, rows: Any, step: Any, count: int) -> Any:
        return lax.dynamic_update_slice_in_dim(stack, rows, self._start(step, count), 0)

    def _state(self, carry: Sequence[Any]) -> list[Any]:
        return [x for x, v in zip(carry, self.varies, strict=True) if v]

    def _carry(self, state: Sequence[Any], init: Sequence[Any]) -> list[Any]:
        changing = iter(state)
        return [next(changing) if v else x for x, v in zip(init, self.varies, strict=True)]

    def run(self, *operands: Any) -> tuple[list[Any], tuple]:
        """The outputs, and the residuals: what does not change, the checkpoints, and those of the steps left over."""
        outs, stack, rest = self._forward(*operands)
        consts, init, xs = split_at(operands, self.num_consts, self.num_carry)
        same = [x for x, v in zip(init, self.varies, strict=True) if not v]
        return outs, (*consts, *same, *xs, stack.steps, stack.depth, *stack.states, *rest)

    def _run_forward(self, *operands: Any) -> tuple[list[Any], Stack, tuple]:
        consts, init, xs = split_at(operands, self.num_consts, self.num_carry)
        state = self._state(init)
        ys = [blank(_jax.stacked_aval(self.steps.length, aval)) for aval in self.out_avals[self.num_carry :]]

        def advanced(state: Sequence[Any], step: Any, count: int, run: Callable[..., Any]) -> tuple[list[Any], Any]:
            outs, more = run(*consts, *self._carry(state, init), *self._rows(xs, step, count))
            ys = state[sum(self.varies) :]
            stacks = [self._put(y, rows, step, count) for y, rows in zip(ys, outs[self.num_carry :], strict=True)]
            return [*self._state(outs[: self.num_carry]), *stacks], more

        def advance(k: Any, state: Sequence[Any]) -> list[Any]:
            return advanced(state, k * self.count, self.count, lambda *xs: (self.first.run(*xs), ()))[0]

        chain, rest = Revolve(self.slots, advance), ()
        state, stack = chain.forward(jnp.int32(self.total), [*state, *ys], chain.stack(state))
        if self.rest is not None:
            state, rest = advanced(state, self.total * self.count, self.rest.steps.length, self.rest.run)
        return [*self._carry(state, init), *state[sum(self.varies) :]], stack, rest

    def pull(self, residuals: Sequence[Any], cts: Sequence[Any], wanted: tuple[bool, ...]) -> list[Any]:
        """Cotangents of the operands, of those that are ``wanted`` at least."""
        cts = self.stretch.filled(cts)
        pulled: list[Any] = self.backward(tuple([ct is not None for ct in cts]), wanted)(residuals, cts)
        return pulled

    @kept
    def backward(self, nonzero: tuple[bool, ...], wanted: tuple[bool, ...]) -> Callable:
        """The way back for the cotangents that are not zero, to those that are wanted."""
        way = self.stretch.backward(nonzero, wanted)
        way_of_rest = None if self.rest is None else self.rest.backward(nonzero, wanted)
        body, first, last = self.split, self.num_consts, self.num_consts + self.num_carry
        elements = [i for i in range(last, len(body.in_avals)) if way.has_ct[i]]

        def backward(residuals: Sequence[Any], out_cts: Sequence[Any]) -> list[Any]:
            count = len(body.in_avals) - last
            consts, same, xs, (steps, depth, *rest) = split_at(
                residuals, first, self.num_carry - sum(self.varies), count
            )
            fixed = iter(same)
            init = [None if v else next(fixed) for v in self.varies]
            states, of_rest = split_at(rest, sum(self.varies))

            def pulled(halves: ScanHalves, way: Backward, residuals: Sequence[Any], step: Any, cts: Any) -> Any:
                sums, carry_cts, stacks = cts
                count = halves.steps.length
                own: list[Any] = [carry_cts.get(i) for i in range(self.num_carry)]
                own += [None if ct is None else self._rows([ct], step, count)[0] for ct in out_cts[self.num_carry :]]
                found, _ = way.run(halves, residuals, own)
                return (
                    {i: accumulate(total, found[i]) for i, total in sums.items()},
                    {i: carried(found[first + i], self.ct_avals[i]) for i in carry_cts},
                    {i: self._put(stack, found[i], step, count) for i, stack in stacks.items()},
                )

            def advance(k: Any, state: Sequence[Any]) -> list[Any]:
                rows = self._rows(xs, k * self.count, self.count)
                return self._state(self.again.run(*consts, *self._carry(state, init), *rows))

            def before(k: Any, state: Sequence[Any], cts: Any) -> Any:
                rows = self._rows(xs, k * self.count, self.count)
                _, residuals = self.stretch.run(*consts, *self._carry(state, init), *rows)
                return pulled(self.stretch, way, residuals, k * self.count, cts)

            cts: Any = (
                {i: _jax.zeros(_jax.ct_type(body.in_avals[i])) for i in way.consts},
                {i: out_cts[i] for i in way.carry_cts},
                {i: _jax.zeros(_jax.stacked_aval(self.steps.length, _jax.ct_type(body.in_avals[i]))) for i in elements},
            )
            if self.rest is not None and way_of_rest is not None:
                cts = pulled(self.rest, way_of_rest, of_rest, self.total * self.count, cts)
            chain = Revolve(self.slots, advance)
            sums, carry_cts, stacks = chain.back(jnp.int32(self.total), Stack(states, steps, depth), before, cts)
            result = {**sums, **{first + i: ct for i, ct in carry_cts.items()}, **stacks}
            return [result.get(i) for i in range(len(body.in_avals))]

        return jax.jit(backward)


def blank(aval: Any) -> jax.Array:
    """An array to be filled."""
    if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return lax.empty(aval.shape, aval.dtype)
    zeros: jax.Array = _jax.zeros(aval)
    return zeros


def stretch_within(length: int | None, limit: float, state: int, row: int) -> tuple[int, int]:
    """The steps of a stretch, and the checkpoints, with which a loop in ``limit`` bytes runs the fewest steps again.

    A checkpoint has ``state`` bytes, and a step of the stretch that is reversed ``row``. A loop of a ``length`` that is
    open (None) is in stretches of one step.
    """

    def slots_with(count: int) -> int:
        left = limit - count * row
        return int(left // state) if state else LEAST_SLOTS if left >= 0 else 0

    if slots_with(1) < LEAST_SLOTS:
        raise ValueError(
            f"a loop cannot be reversed in {in_units(limit)}: it takes {in_units(LEAST_SLOTS * state + row)} at least, "
            f"{LEAST_SLOTS} states of {in_units(state)} and what a step keeps, {in_units(row)}."
        )
    if length is None:
        return 1, slots_with(1)
    lengths = {int(1.1**k) for k in range(int(math.log(length, 1.1)) + 1)}
    lengths |= {d for d in range(1, math.isqrt(length) + 1) if length % d == 0}

    def steps_run(count: int) -> tuple[int, int, int]:
        total = length // count
        return count * advances(total, min(slots_with(count), total)), length % count, -count

    count = min((c for c in lengths if slots_with(c) >= LEAST_SLOTS), key=steps_run)
    return count, min(slots_with(count), length // count)
