"""``while_loop``: reverse mode with a fixed number of checkpoints.

The way back needs the states in reverse order. Keeping them all takes memory without bound, so a few are kept, the
checkpoints, and those in between are computed again from the last checkpoint before them.

Going back is a stack machine. The checkpoint on top of the stack is advanced, leaving new checkpoints behind in free
slots, until one stands right before the step to be reversed. That step is reversed and its checkpoint popped, and so on
while the next one stands right before the next step: a small loop, which XLA makes one kernel of on the CPU. Where to
leave them is Griewank and Walther's binomial schedule ("Algorithm 799: revolve", ACM TOMS 26, 2000): with ``s`` slots
and ``r`` advances of each step a stretch of ``C(s + r, s)`` steps can be reversed, and no schedule does better.

The way forward differs. Where the number of steps is known beforehand (a ``fori_loop`` with traced bounds) the first
descent of that schedule is the forward pass itself. Otherwise checkpoints are placed online, as in Stumm and Walther
("New algorithms for optimal online checkpointing", SIAM J. Sci. Comput. 32, 2010) and Wang, Moin and Iaccarino
("Minimal repetition dynamic checkpointing algorithm", SIAM J. Sci. Comput. 31, 2009) with one simplification: at equal
distances, which double whenever half the slots are full, so that the other half is free for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal
from funcgrad.engine.recording import accumulate
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.flow import without_effects
from funcgrad.programs.memo import kept, memo
from funcgrad.rules.control.body import needed, split_at, split_body
from funcgrad.rules.control.carrier import Carrier, Halves, carried
from funcgrad.rules.control.refs import bind_with_contents

#: States that a loop keeps for its way back, unless a table says otherwise.
DEFAULT_SLOTS = 64


class Stack(NamedTuple):
    """Checkpoints: states by slot, the step each was taken before, and how many there are."""

    states: list[Any]
    steps: jax.Array
    depth: jax.Array

    @staticmethod
    def empty(state: Sequence[Any], slots: int) -> Stack:
        states = [lax.broadcast(x, (slots,)) for x in state]
        return Stack(states, jnp.zeros(slots, jnp.int32), jnp.int32(0))

    def push(self, state: Sequence[Any], step: Any) -> Stack:
        states = [
            lax.dynamic_update_index_in_dim(xs, x, self.depth, 0) for xs, x in zip(self.states, state, strict=True)
        ]
        steps = lax.dynamic_update_index_in_dim(self.steps, jnp.int32(step), self.depth, 0)
        return Stack(states, steps, self.depth + 1)

    def top(self) -> list[Any]:
        return [lax.dynamic_index_in_dim(xs, self.depth - 1, 0, keepdims=False) for xs in self.states]

    def top_step(self) -> jax.Array:
        return lax.dynamic_index_in_dim(self.steps, self.depth - 1, 0, keepdims=False)

    def thin(self, count: int) -> Stack:
        """Every other of ``count`` checkpoints."""

        def move(j, stack):
            def one(xs):
                return lax.dynamic_update_index_in_dim(xs, lax.dynamic_index_in_dim(xs, 2 * j, 0), j, 0)

            states, steps = stack
            return [one(xs) for xs in states], one(steps)

        states, steps = lax.fori_loop(0, count // 2, move, (self.states, self.steps))
        return Stack(states, steps, jnp.int32(count // 2))


def binomial_split(length: jax.Array, slots: jax.Array) -> jax.Array:
    """How far to advance before leaving a checkpoint, on a stretch of ``length`` > 1 steps with ``slots`` > 1 slots.

    With the least ``r`` for which ``length <= C(slots + r, slots)``, any point that leaves at most ``C(s + r - 1, s)``
    steps before it and at least ``C(s + r - 2, s - 1)`` after it is optimal. In floating point: being off by one costs
    a step of work, not correctness.
    """
    n, s = length.astype(jnp.float32), slots.astype(jnp.float32)
    reach, r = lax.while_loop(
        lambda c: c[0] < n, lambda c: (c[0] * (s + c[1] + 1) / (c[1] + 1), c[1] + 1), (1.0 + 0 * n, 0 * n)
    )
    before = reach * r / (s + r)
    after = before * s / (s + r - 1)
    return jnp.clip(jnp.minimum(before, n - after).astype(jnp.int32), 1, length - 1)


class While(Carrier):
    """The rule of ``while``, with ``slots`` checkpoints.

    Memory is that of ``slots`` states and a few more. A loop of up to ``C(slots + r, slots)`` steps of known number is
    run at most ``r`` times more on the way back: up to 100 times the slots with at most 3 runs, for 24 slots or more.
    Where the number is not known, 32 slots or more are needed for that.
    """

    formula = "the body's backward half, over states kept or computed again"
    saved = ("states",)

    def __init__(self, slots: int = DEFAULT_SLOTS):
        if slots < 4:
            raise ValueError(f"a loop needs at least 4 checkpoint slots to be reversed, got {slots}")
        self.slots = slots

    def parts(self):
        return self.slots

    def first(self, params):
        return params["cond_nconsts"]

    def record(self, tape, primitive, primals, tracers, params, linear):
        if params["cond_jaxpr"].out_avals[0].shape:
            primals, tracers, params = with_one_predicate(primals, tracers, params)
        primals = tape.values(primals)
        if any(_jax.is_ref(_jax.typeof(x)) for x in primals):
            used, written = loop_refs(params)
            used |= {i for i, x in enumerate(primals) if tracers[i] is not None and _jax.is_ref(_jax.typeof(x))}
            if used:
                return bind_with_contents(tape, primitive, primals, tracers, params, used, written)
        return super().record(tape, primitive, primals, tracers, params, linear)

    def halves(self, tape, params, activity):
        body, cond = params["body_jaxpr"], params["cond_jaxpr"]
        return split_while(body, cond, params["body_nconsts"], activity, tape.rules, self.slots)

    def forward(self, halves, primitive, primals, params):
        if not any(halves.out_active):
            return primitive.bind(*primals, **params), ()
        check_effects(halves, params["cond_jaxpr"])
        first = params["cond_nconsts"]
        outs, stack, length = halves.forward(*split_at(primals, first, params["body_nconsts"]))
        return outs, (length, stack.steps, stack.depth, *stack.states, *halves.loop.fixed(primals[first:]))

    def backward(self, node, halves, cts, ct_avals, wanted):
        length, steps, depth, *rest = node.residuals
        count = sum(halves.loop.varies)
        stack = Stack(list(rest[:count]), steps, depth)
        return halves.backward(wanted)(length, stack, list(rest[count:]), cts)

    def inside(self, node):
        return None


def loop_refs(params) -> tuple[set[int], set[int]]:
    """The numbers of the operands that are references the body uses, and of those that it writes to.

    The body is run more than once, so such a reference is not left in it: what it holds is carried instead.
    """
    if _jax.ref_uses(params["cond_jaxpr"])[0]:
        raise NotImplementedError(
            "reverse mode through a loop whose condition reads a mutable array reference: carry the value instead."
        )
    first = params["cond_nconsts"]
    used, written = _jax.ref_uses(params["body_jaxpr"])
    return {first + i for i in used}, {first + i for i in written}


def check_effects(halves: WhileHalves, cond: ClosedJaxpr) -> None:
    found = _jax.effects_to_happen_once(cond.effects)
    if found:
        raise NotImplementedError(
            f"reverse mode through a loop whose condition has side effects ({found}): it is asked more often than the "
            "loop has steps. Have them in the body, where they happen once."
        )
    found = _jax.effects_to_happen_once(halves.again.body.effects)
    if found:
        raise NotImplementedError(
            f"reverse mode through a loop that uses what its side effects return ({found}): its steps are computed "
            "again on the way back, and these would happen twice. Have them before the loop, or use lax.scan, which "
            "keeps what they return."
        )


def with_one_predicate(primals: Sequence[Any], tracers: Sequence[Any], params: dict) -> tuple[list, list, dict]:
    """The operands and parameters of a loop over a batch, whose condition is a mask, as those of one with a scalar."""
    first, count = params["cond_nconsts"], params["body_nconsts"]
    cond, body = unbatch(params["cond_jaxpr"], params["body_jaxpr"], first, count)
    params = {**params, "cond_jaxpr": cond, "body_jaxpr": body, "body_nconsts": first + count}
    return [*primals[:first], *primals], [*tracers[:first], *tracers], params


@memo
def unbatch(cond: ClosedJaxpr, body: ClosedJaxpr, first: int, count: int) -> tuple[ClosedJaxpr, ClosedJaxpr]:
    """A loop that goes on while any member of the batch does and leaves those that are done as they are."""

    def proceeds(*operands):
        return [jnp.any(mask) for mask in evaluate(cond, *operands)]

    def step(*operands):
        cond_consts, consts, carry = split_at(operands, first, count)
        (mask,) = evaluate(cond, *cond_consts, *carry)
        masks = [lax.broadcast_in_dim(mask, x.shape, range(mask.ndim)) for x in carry]
        return list(map(lax.select, masks, evaluate(body, *consts, *carry), carry))

    cond_avals, body_avals = cond.in_avals, [*cond.in_avals[:first], *body.in_avals]
    return (
        _jax.trace_to_jaxpr(proceeds, cond_avals, cond.jaxpr.debug_info),
        _jax.trace_to_jaxpr(step, body_avals, body.jaxpr.debug_info),
    )


class Checkpointed:
    """A loop that leaves checkpoints as it runs."""

    def __init__(self, body: ClosedJaxpr, cond: ClosedJaxpr, num_consts: int, slots: int):
        self.body, self.cond, self.num_consts, self.slots = body.replace(), cond.replace(), num_consts, slots
        # What the body passes through unchanged needs no checkpoint.
        carried = zip(body.jaxpr.invars[num_consts:], body.jaxpr.outvars, strict=True)
        self.varies = [invar is not outvar for invar, outvar in carried]
        self.counter = counter_of(cond, body, num_consts)

    def fixed(self, operands: Sequence[Any]) -> list[Any]:
        """The operands of the body that do not change: its constants, and what it passes through."""
        consts, init = operands[: self.num_consts], operands[self.num_consts :]
        return [*consts, *(x for x, v in zip(init, self.varies, strict=True) if not v)]

    def state(self, carry: Sequence[Any]) -> list[Any]:
        return [x for x, v in zip(carry, self.varies, strict=True) if v]

    def carry(self, state: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
        changing, constant = iter(state), iter(fixed[self.num_consts :])
        return [next(changing) if v else next(constant) for v in self.varies]

    def advance(self, fixed: Sequence[Any], state: Sequence[Any]) -> list[Any]:
        return self.state(evaluate(self.body, *fixed[: self.num_consts], *self.carry(state, fixed)))

    def forward(self, cond_consts, consts, init):
        fixed, state = self.fixed([*consts, *init]), self.state(init)
        # One slot more, for the state right before the step to be reversed.
        stack = Stack.empty(state, self.slots + 1)

        def proceeds(state):
            return evaluate(self.cond, *cond_consts, *self.carry(state, fixed))[0]

        if self.counter is not None:
            length = self.counter(cond_consts, init)
            state, stack = self.descend(length, stack.push(state, 0), fixed)
            state = lax.fori_loop(0, jnp.minimum(length, 1), lambda _, x: self.advance(fixed, x), state)
        else:
            state, stack, length = self._run_online(proceeds, state, stack, fixed)
        return self.carry(state, fixed), stack, length

    def _run_online(self, proceeds, state, stack, fixed):
        """Run until the condition fails, leaving checkpoints at equal distances that double when there are many."""
        capacity = self.slots // 4 * 2

        def stretch(loop):
            state, step, stride, stack = loop
            stack = stack.push(state, step)

            def inside(inner):
                return (inner[1] < step + stride) & proceeds(inner[0])

            state, step = lax.while_loop(inside, lambda c: (self.advance(fixed, c[0]), c[1] + 1), (state, step))
            full = (stack.depth == capacity).astype(jnp.int32)
            # A loop of one or no turn, since a conditional would copy the checkpoints whether or not it thins them.
            stack = lax.fori_loop(0, full, lambda _, s: s.thin(capacity), stack)
            return state, step, stride * (1 + full), stack

        start = (state, jnp.int32(0), jnp.int32(1), stack)
        state, length, _, stack = lax.while_loop(lambda loop: proceeds(loop[0]), stretch, start)
        return state, stack, length

    def descend(self, end, stack: Stack, fixed) -> tuple[list[Any], Stack]:
        """The state before step ``end - 1``, reached from the top checkpoint, leaving checkpoints on the way."""
        state, step = stack.top(), stack.top_step()

        def far(loop):
            _, step, stack = loop
            return end - 1 - step > self.slots + 1 - stack.depth

        def stretch(loop):
            state, step, stack = loop
            free = self.slots - stack.depth
            count = jnp.where(free > 0, binomial_split(end - step, free + 1), end - 1 - step)
            state = lax.fori_loop(0, count, lambda _, x: self.advance(fixed, x), state)
            return state, step + count, stack.push(state, step + count)

        def near(step, loop):
            state, stack = loop
            state = self.advance(fixed, state)
            return state, stack.push(state, step + 1)

        state, step, stack = lax.while_loop(far, stretch, (state, step, stack))
        return lax.fori_loop(step, end - 1, near, (state, stack))


class WhileHalves(Halves):
    """A loop's body split, with the programs of its way forward and back."""

    def __init__(self, body: ClosedJaxpr, cond: ClosedJaxpr, num_consts: int, activity, rules, slots: int):
        super().__init__(*split_body(body, num_consts, len(body.out_avals), activity, rules))
        self.loop = Checkpointed(body, cond, num_consts, slots)
        #: The loop as it is run again, and its step: without effects, which have happened.
        self.again = Checkpointed(without_effects(body), cond, num_consts, slots)
        self.step = without_effects(self.split.forward)
        self.forward: Callable = jax.jit(self.loop.forward)

    @kept
    def backward(self, wanted: tuple[bool, ...]) -> Callable:
        """The way back to the operands that are ``wanted``, from the cotangents of the outputs."""
        body, checkpointed, first = self.split, self.again, self.loop.num_consts
        inputs, carry = needed(body, first, self.out_active, wanted)
        consts = [i for i in range(first) if inputs[i] and body.in_slots[i] is not None]
        avals = {i: body.ct_avals[i] for i, n in enumerate(carry) if n}

        def pull(operands: Sequence[Any], carry_cts: dict[int, Any]) -> list[Any]:
            """Cotangents of the body's operands, at one state."""
            results = evaluate(self.step, *operands)
            cts = [carry_cts.get(i) for i in range(len(carry))]
            return body.pull(body.residuals(operands, results), cts, inputs)

        def backward(length, stack, fixed, cts):
            def reverse(loop):
                end, stack, sums, carry_cts = loop
                pulled = pull([*fixed[:first], *checkpointed.carry(stack.top(), fixed)], carry_cts)
                sums = {i: accumulate(total, pulled[i]) for i, total in sums.items()}
                carry_cts = {i: carried(pulled[first + i], aval) for i, aval in avals.items()}
                return end - 1, stack._replace(depth=stack.depth - 1), sums, carry_cts

            def stretch(loop):
                end, stack, *cts = loop
                _, stack = checkpointed.descend(end, stack, fixed)
                return lax.while_loop(lambda loop: loop[1].top_step() == loop[0] - 1, reverse, (end, stack, *cts))

            sums = {i: _jax.zeros(_jax.typeof(fixed[i]).to_ct_aval()) for i in consts}
            carry_cts = {i: carried(cts[i], aval) for i, aval in avals.items()}
            start = (length, stack, sums, carry_cts)
            _, _, sums, carry_cts = lax.while_loop(lambda loop: loop[0] > 0, stretch, start)
            found = {**sums, **{first + i: ct for i, ct in carry_cts.items()}}
            return [found.get(i) for i in range(len(inputs))]

        return jax.jit(backward)


def counter_of(cond: ClosedJaxpr, body: ClosedJaxpr, num_consts: int) -> Callable | None:
    """The number of steps as a function of the condition's constants and the initial carry, where it can be told.

    It can where the condition is ``i < n`` of integers, the body adds one to ``i`` and ``n`` does not change.
    """
    if len(cond.jaxpr.eqns) != 1 or cond.jaxpr.eqns[0].primitive is not lax.lt_p:
        return None
    (test,) = cond.jaxpr.eqns
    i, n = test.invars
    num_cond_consts = len(cond.jaxpr.invars) - len(body.jaxpr.outvars)
    places = {v: k for k, v in enumerate(cond.jaxpr.invars)}
    if cond.jaxpr.outvars[0] is not test.outvars[0] or type(i) is Literal or places.get(i, -1) < num_cond_consts:
        return None
    at = places[i] - num_cond_consts
    steps = [eqn for eqn in body.jaxpr.eqns if eqn.primitive is lax.add_p and eqn.outvars[0] is body.jaxpr.outvars[at]]
    if not steps:
        return None
    own, one = body.jaxpr.invars[num_consts + at], steps[0].invars[1]
    if steps[0].invars[0] is not own or type(one) is not Literal or one.val != 1 or i.aval.shape != ():
        return None
    if not jnp.issubdtype(i.aval.dtype, jnp.integer):
        return None
    if type(n) is not Literal:
        bound = places.get(n)
        if bound is None:
            return None
        k = bound - num_cond_consts
        if k >= 0 and body.jaxpr.outvars[k] is not body.jaxpr.invars[num_consts + k]:
            return None

    def count(cond_consts: Sequence[Any], init: Sequence[Any]) -> jax.Array:
        start = init[at]
        stop = n.val if type(n) is Literal else [*cond_consts, *init][places[n]]
        # In a type that holds the difference, which that of a narrow or unsigned counter may not.
        steps = lax.convert_element_type(stop, jnp.int32) - lax.convert_element_type(start, jnp.int32)
        return jnp.where(start < stop, steps, 0)

    return count


@memo
def split_while(body, cond, num_consts: int, activity: tuple, rules, slots: int) -> WhileHalves:
    return WhileHalves(body, cond, num_consts, activity, rules, slots)


rules = {lax.while_p: While()}
