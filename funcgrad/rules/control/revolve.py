"""The states of a chain of steps, from the last to the first, in the memory of a few.

Going back is a stack machine. The checkpoint on top of the stack is advanced, leaving new checkpoints behind in free
slots, until one stands right before the step to be reversed. That step is reversed and its checkpoint popped, and so on
while the next one stands right before the next step: a small loop, which XLA makes one kernel of on the CPU. Where to
leave them is Griewank and Walther's binomial schedule ("Algorithm 799: revolve", ACM TOMS 26, 2000): with ``s`` slots
and ``r`` advances of each step a stretch of ``C(s + r, s)`` steps can be reversed, and no schedule does better. Where
the number of steps is known beforehand the first descent of that schedule is the way forward itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

#: The fewest checkpoints that a loop is reversed with.
LEAST_SLOTS = 4


class Stack(NamedTuple):
    """Checkpoints: states by slot, the step each was taken before, and how many there are.

    A state may have more to it than its checkpoint, at its end.
    """

    states: list[Any]
    steps: jax.Array
    depth: jax.Array

    @staticmethod
    def empty(state: Sequence[Any], slots: int) -> Stack:
        states = [lax.broadcast(x, (slots,)) for x in state]
        return Stack(states, jnp.zeros(slots, jnp.int32), jnp.int32(0))

    def push(self, state: Sequence[Any], step: Any) -> Stack:
        states = [
            lax.dynamic_update_index_in_dim(xs, x, self.depth, 0) for xs, x in zip(self.states, state, strict=False)
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


class Revolve(NamedTuple):
    """A chain of steps that leaves up to ``slots`` checkpoints: ``advance(step, state)`` is the state after a step."""

    slots: int
    advance: Callable[[Any, list[Any]], list[Any]]

    def stack(self, state: Sequence[Any]) -> Stack:
        """An empty stack: of one slot more, for the state right before the step to be reversed."""
        return Stack.empty(state, self.slots + 1)

    def forward(self, length: Any, state: list[Any], stack: Stack) -> tuple[list[Any], Stack]:
        """The state after ``length`` steps, and the checkpoints left on the way, in a stack that is empty at first."""
        state, stack = self.descend(length, stack.push(state, 0), state)
        state = lax.fori_loop(0, jnp.minimum(length, 1), lambda _, x: self.advance(length - 1, x), state)
        return state, stack

    def descend(self, end: Any, stack: Stack, state: list[Any] | None = None) -> tuple[list[Any], Stack]:
        """The state before step ``end - 1``, reached from the top checkpoint, leaving checkpoints on the way.

        ``state`` is that of the top checkpoint, where there is more to it.
        """
        state, step = stack.top() if state is None else state, stack.top_step()

        def far(loop):
            _, step, stack = loop
            return end - 1 - step > self.slots + 1 - stack.depth

        def stretch(loop):
            state, step, stack = loop
            free = self.slots - stack.depth
            count = jnp.where(free > 0, binomial_split(end - step, free + 1), end - 1 - step)
            state = lax.fori_loop(0, count, lambda i, x: self.advance(step + i, x), state)
            return state, step + count, stack.push(state, step + count)

        def near(step, loop):
            state, stack = loop
            state = self.advance(step, state)
            return state, stack.push(state, step + 1)

        state, step, stack = lax.while_loop(far, stretch, (state, step, stack))
        return lax.fori_loop(step, end - 1, near, (state, stack))

    def back(self, length: Any, stack: Stack, pull: Callable[[Any, list[Any], Any], Any], cts: Any) -> Any:
        """The cotangents ``cts`` pulled back over all steps: ``pull(step, state, cts)`` are those before a step."""

        def reverse(loop):
            end, stack, cts = loop
            return end - 1, stack._replace(depth=stack.depth - 1), pull(end - 1, stack.top(), cts)

        def stretch(loop):
            end, stack, cts = loop
            _, stack = self.descend(end, stack)
            return lax.while_loop(lambda loop: loop[1].top_step() == loop[0] - 1, reverse, (end, stack, cts))

        return lax.while_loop(lambda loop: loop[0] > 0, stretch, (length, stack, cts))[2]


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


def advances(length: int, slots: int) -> int:
    """How many steps are advanced in all to reverse ``length`` steps with ``slots`` checkpoints, at the fewest."""
    r = 0
    while math.comb(slots + r, slots) < length:
        r += 1
    return r * length - math.comb(slots + r, slots + 1)
