"""``while_loop``: reverse mode with a fixed number of checkpoints.

The way back needs the states in reverse order. Keeping them all takes memory without bound, so a few are kept, the
checkpoints, and those in between are computed again from the last checkpoint before them.

Where the number of steps is known beforehand (a ``fori_loop`` with traced bounds), where to leave them is the binomial
schedule of ``revolve``, on both ways. Otherwise they are placed online on the way forward, as in Stumm and Walther
("New algorithms for optimal online checkpointing", SIAM J. Sci. Comput. 32, 2010) and Wang, Moin and Iaccarino
("Minimal repetition dynamic checkpointing algorithm", SIAM J. Sci. Comput. 31, 2009) with one simplification: at equal
distances, which double whenever half the slots are full, so that the other half is free for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Literal
from funcgrad.engine.recording import accumulate
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.flow import without_effects
from funcgrad.programs.memo import kept, memo
from funcgrad.rules.control.body import check_repeatable, needed, split_at, split_body, varying
from funcgrad.rules.control.carrier import Carrier, Halves, carried
from funcgrad.rules.control.refs import bind_with_contents
from funcgrad.rules.control.revolve import LEAST_SLOTS, Revolve, Stack

#: States that a loop keeps for its way back, unless a table says otherwise.
DEFAULT_SLOTS = 64


class While(Carrier):
    """The rule of ``while``, with ``slots`` checkpoints.

    Memory is that of ``slots`` states and a few more. A loop of up to ``C(slots + r, slots)`` steps of known number is
    run at most ``r`` times more on the way back: up to 100 times the slots with at most 3 runs, for 24 slots or more.
    Where the number is not known, 32 slots or more are needed for that.
    """

    formula = "the body's backward half, over states kept or computed again"
    saved = ("states",)

    def __init__(self, slots: int = DEFAULT_SLOTS):
        if slots < LEAST_SLOTS:
            raise ValueError(f"a loop needs at least {LEAST_SLOTS} checkpoint slots to be reversed, got {slots}")
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
    check_repeatable(halves.again.body, "use lax.scan, which keeps what they return")


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
        self.varies = varying(body, num_consts, len(body.out_avals))
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

    def chain(self, fixed: Sequence[Any]) -> Revolve:
        def advance(_: Any, state: Sequence[Any]) -> list[Any]:
            return self.state(evaluate(self.body, *fixed[: self.num_consts], *self.carry(state, fixed)))

        return Revolve(self.slots, advance)

    def forward(self, cond_consts, consts, init):
        fixed, state = self.fixed([*consts, *init]), self.state(init)
        chain = self.chain(fixed)
        stack = chain.stack(state)

        def proceeds(state):
            return evaluate(self.cond, *cond_consts, *self.carry(state, fixed))[0]

        if self.counter is not None:
            length = self.counter(cond_consts, init)
            state, stack = chain.forward(length, state, stack)
        else:
            state, stack, length = self._run_online(proceeds, state, stack, chain)
        return self.carry(state, fixed), stack, length

    def _run_online(self, proceeds, state, stack, chain):
        """Run until the condition fails, leaving checkpoints at equal distances that double when there are many."""
        capacity = self.slots // 4 * 2

        def stretch(loop):
            state, step, stride, stack = loop
            stack = stack.push(state, step)

            def inside(inner):
                return (inner[1] < step + stride) & proceeds(inner[0])

            state, step = lax.while_loop(inside, lambda c: (chain.advance(c[1], c[0]), c[1] + 1), (state, step))
            full = (stack.depth == capacity).astype(jnp.int32)
            # A loop of one or no turn, since a conditional would copy the checkpoints whether or not it thins them.
            stack = lax.fori_loop(0, full, lambda _, s: s.thin(capacity), stack)
            return state, step, stride * (1 + full), stack

        start = (state, jnp.int32(0), jnp.int32(1), stack)
        state, length, _, stack = lax.while_loop(lambda loop: proceeds(loop[0]), stretch, start)
        return state, stack, length


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
            def before(_, state, cts):
                sums, carry_cts = cts
                pulled = pull([*fixed[:first], *checkpointed.carry(state, fixed)], carry_cts)
                sums = {i: accumulate(total, pulled[i]) for i, total in sums.items()}
                return sums, {i: carried(pulled[first + i], aval) for i, aval in avals.items()}

            sums = {i: _jax.zeros(_jax.typeof(fixed[i]).to_ct_aval()) for i in consts}
            carry_cts = {i: carried(cts[i], aval) for i, aval in avals.items()}
            sums, carry_cts = checkpointed.chain(fixed).back(length, stack, before, (sums, carry_cts))
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
