"""What can be done with a segment: what each choice keeps, holds for a while, and computes again.

The values of a segment are a graph; each can be kept, at the price of its bytes, or computed again, at that of its
operations. For every rate at which operations are exchanged for bytes the best choice is a minimum cut of that graph,
and the cuts for a rising rate are nested (Gallo, Grigoriadis and Tarjan 1989): less and less is computed again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, Var, jit_p, name_p
from funcgrad.budgets.costs import equations_inside, flops
from funcgrad.budgets.held import Held
from funcgrad.budgets.joint import Joint
from funcgrad.budgets.marks import segment_keeping
from funcgrad.programs.cut import cut
from funcgrad.programs.flow import size, slice_program
from funcgrad.rules import default


class Option(NamedTuple):
    """One way to differentiate a segment.

    ``kept`` are the bytes that stay from the way forward until the segment's turn on the way back, ``held`` the most
    that is held besides while it has its turn, and ``again`` the operations that are done again then. ``program`` is
    the segment's, written so, and ``values`` are the variables that it names to be kept; both None where nothing is
    computed again.
    """

    kept: int
    held: int
    again: float
    program: ClosedJaxpr | None = None
    values: tuple[Var, ...] | None = None


class Choices:
    """The options of a program of one segment, by falling number of operations done again.

    ``is_input`` says which of its inputs are inputs of the whole program: their cotangents leave. Between two ``rates``
    there are the cuts by the lower one in the first of its equations, so large a part of them as ``parts`` say.
    """

    def __init__(
        self,
        program: ClosedJaxpr,
        is_active: Sequence[bool],
        is_input: Sequence[bool],
        rates: Sequence[float],
        names: Sequence[str],
        parts: Sequence[float] = (),
    ):
        self.program, self.names = program, names
        values = [
            v
            for eqn in program.jaxpr.eqns
            for v in eqn.outvars
            if not isinstance(v, _jax.DropVar) and not _jax.is_ref(v.aval)
        ]
        self.joint = joint = Joint(program, is_active, is_input, default, values)
        jaxpr, own = joint.forward.jaxpr, len(program.jaxpr.outvars)
        #: The values of the segment by the variables of its forward half.
        self.value_of: dict[Any, Var] = {}
        for v, value in zip(jaxpr.outvars[own:], values, strict=False):
            if type(v) is Var:
                self.value_of.setdefault(v, value)
        #: What is there anyway: it comes from before the segment, or goes on after it.
        self.free = {*jaxpr.invars, *(v for v in jaxpr.outvars[:own] if type(v) is Var)}
        #: The operations both ways, when nothing is computed again but what the program itself does.
        self.flops = sum(map(flops, joint.eqns))
        self.whole, self.cuts = self._whole(), self._cuts(rates, parts)

    @property
    def options(self) -> list[Option]:
        return undominated([*self.cuts, self.whole])

    def _whole(self) -> Option:
        """Nothing is computed again."""
        held, count = self.joint.held, len(self.joint.forward.jaxpr.eqns)
        kept = held.after[count - 1] if count else 0
        return Option(kept, max(held.during[count:], default=kept) - kept, 0.0)

    def _cuts(self, rates: Sequence[float], parts: Sequence[float]) -> list[Option]:
        found: dict[tuple[Var, ...], Option] = {}
        most = sum(size(v) for eqn in self.joint.forward.jaxpr.eqns for v in eqn.outvars) + 1

        def cost(v: Var) -> int:
            return 0 if v in self.free else size(v) if v in self.value_of else most

        number = {id(eqn): k for k, eqn in enumerate(self.joint.forward.jaxpr.eqns)}
        steps = [(low, high, part * len(number)) for low, high in itertools.pairwise(rates) for part in parts]
        for low, high, turn in [(rate, rate, 0.0) for rate in rates] + steps:

            def price(eqn: Any, low: float = low, high: float = high, turn: float = turn) -> float | None:
                rate = low if number[id(eqn)] < turn else high
                return None if self._is_kept(eqn) else rate * flops(eqn)

            chosen = cut(self.joint.forward, self.joint.wanted, cost, price)
            chosen = list(dict.fromkeys(self.joint.wanted)) if chosen is None else chosen
            kept = [v for v in chosen if v not in self.free]
            if any(v not in self.value_of for v in kept):
                continue
            values = tuple([self.value_of[v] for v in kept])
            if values not in found:
                found[values] = self._option(chosen, kept, values)
        return list(found.values())

    def _is_kept(self, eqn: Any) -> bool:
        if eqn.primitive is name_p:
            return eqn.params["name"] in self.names
        return not is_repeatable(eqn)

    def _option(self, given: Sequence[Var], kept: Sequence[Var], values: tuple[Var, ...]) -> Option:
        outs = [v for v in self.free if v in self.value_of and v in self.joint.wanted]
        again = slice_program(self.joint.forward, self.joint.wanted, [*given, *outs]).jaxpr.eqns
        held = Held([*again, *self.joint.backward], self.joint.leaving, self.joint.staying)
        program = segment_keeping(self.program, values, self.names)
        return Option(sum(map(size, kept)), held.peak, sum(map(flops, again)), program, values)


def undominated(options: Sequence[Option]) -> list[Option]:
    """The options that no other is better than, and the last, by falling number of operations done again."""
    found: list[Option] = [options[-1]]
    for option in sorted(options[:-1], key=lambda option: (option.again, option.kept, option.held)):
        if not any(o.kept <= option.kept and o.kept + o.held <= option.kept + option.held for o in found):
            found.append(option)
    return found[::-1]


def is_repeatable(eqn: Any) -> bool:
    """Whether an equation may be run once more: it has no effect, and ends."""
    return not eqn.effects and eqn.primitive is not lax.while_p


def rates_of(program: ClosedJaxpr, count: int = 6) -> list[float]:
    """Rates of bytes for an operation, from 0 on, between which different values of a program are kept."""
    ratios = set()
    for eqn in equations_inside(program.jaxpr):
        operations = flops(eqn)
        if operations and eqn.primitive is not jit_p:
            ratios.add(round(math.log2(max(map(size, eqn.outvars), default=1) or 1) - math.log2(operations), 1))
    steps = sorted(ratios)
    between = [2 ** ((a + b) / 2) for a, b in itertools.pairwise(steps)]
    if len(between) > count:
        between = [between[round(i * (len(between) - 1) / (count - 1))] for i in range(count)]
    return [0.0, *between]
