"""``scan``, keeping all that its way back needs, or as much as it is told."""

from __future__ import annotations

from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr
from funcgrad.programs.flow import size
from funcgrad.programs.memo import memo
from funcgrad.rules.control.body import varying
from funcgrad.rules.control.carrier import Carrier
from funcgrad.rules.control.refs import bind_with_contents
from funcgrad.rules.control.revolve import LEAST_SLOTS
from funcgrad.rules.control.scan_halves import ScanHalves, Steps, split_scan
from funcgrad.rules.control.stretches import Stretches, stretch_within
from funcgrad.units import in_bytes


class Scan(Carrier):
    """The rule of ``scan``.

    It keeps what the way back of each step needs. Told to keep less, by ``slots``, a number of states (what is carried
    from step to step), or ``memory``, bytes, a text such as ``"1.5 GiB"`` or a fraction of what keeping everything
    takes, it keeps states, and on the way back computes stretches of steps again from them, each with what its own way
    back needs. What that takes together is within the limit. Where to keep states is ``revolve``'s schedule (Griewank
    and Walther 2000): with 64 slots 2,000 steps are run at most twice more, and 40,000 at most three times.

    Raises ``ValueError`` for fewer than 4 slots, and where a loop's way back does not go into ``memory``; it says what
    the least is. Effects in the body happen once; it raises ``NotImplementedError`` where what they return is needed
    again.

    >>> import funcgrad as fg, jax, jax.numpy as jnp
    >>> def waves(x):
    ...     return jnp.sum(jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, length=5_000)[0])
    >>> few = fg.rules.default.override({jax.lax.scan_p: fg.rules.Scan(slots=64)})
    >>> def held(gradient):
    ...     return jax.jit(gradient).lower(jnp.ones(256)).compile().memory_analysis().temp_size_in_bytes / 1024
    >>> held(fg.grad(waves)) > 5000, held(fg.grad(waves, rules=few)) < 80
    (True, True)
    """

    formula = "the backward half of the body, scanned in reverse"

    def __init__(self, slots: int | None = None, *, memory: int | float | str | None = None):
        if slots is not None and memory is not None:
            raise TypeError("a loop is told how much to keep by slots= or by memory=, not by both")
        if slots is not None and slots < LEAST_SLOTS:
            raise ValueError(f"a loop needs at least {LEAST_SLOTS} checkpoint slots to be reversed, got {slots}")
        if memory is not None:
            in_bytes(memory, 1.0)
        self.slots, self.memory = slots, memory

    def parts(self):
        return self.slots, type(self.memory), self.memory

    def record(self, tape, primitive, primals, tracers, params, linear):
        if self.keeps_less:
            used, written = _jax.ref_uses(params["jaxpr"])
            used |= {i for i, x in enumerate(primals) if tracers[i] is not None and _jax.is_ref(_jax.typeof(x))}
            if used:
                primals = tape.values(primals)
                return bind_with_contents(tape, primitive, primals, tracers, params, used, written)
        return super().record(tape, primitive, primals, tracers, params, linear)

    @property
    def keeps_less(self) -> bool:
        return self.slots is not None or self.memory is not None

    def halves(self, tape, params, activity):
        num_consts, num_carry = _jax.scan_layout(params)
        steps = Steps(params["length"], params["reverse"], params["unroll"])
        told = (num_consts, num_carry, steps, activity, tape.rules)
        if not self.keeps_less:
            return split_scan(params["jaxpr"], *told)
        return split_within(params["jaxpr"], *told, self.slots, self.memory)

    def forward(self, halves, primitive, primals, params):
        return halves.run(*primals)

    def backward(self, node, halves, cts, ct_avals, wanted):
        return halves.pull(node.residuals, cts, wanted)

    def inside(self, node):
        return None if isinstance(node.static[0], Stretches) else super().inside(node)

    def shared(self, node):
        halves = node.static[0]
        return [i if i < halves.num_consts else None for i in range(len(halves.split.in_avals))]


@memo
def split_within(
    body: ClosedJaxpr,
    num_consts: int,
    num_carry: int,
    steps: Steps,
    activity: tuple,
    rules: Any,
    slots: int | None,
    memory: int | float | str | None,
) -> ScanHalves | Stretches:
    """The halves of a loop that keeps no more than so many states, or so much memory."""
    told = (num_consts, num_carry, steps, activity, rules)
    halves: ScanHalves = split_scan(body, *told)
    length = steps.length
    is_open = not isinstance(length, int)
    if is_open and isinstance(memory, float):
        raise ValueError(f"memory={memory!r} of a loop whose length is open is no number of bytes: say how many")
    varies = varying(body, num_consts, num_carry)
    state = sum(size(v) for v, varies in zip(body.jaxpr.invars[num_consts:], varies, strict=False) if varies)
    whole = 0 if is_open else length * halves.own_row
    limit = state * slots + halves.row if slots is not None else in_bytes(memory, whole)
    if not halves.row or (not is_open and whole <= limit):
        return halves
    count, slots = stretch_within(None if is_open else length, limit, state, halves.row)
    return Stretches(body, *told, varies, count, slots)


rules = {lax.scan_p: Scan()}
