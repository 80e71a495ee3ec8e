"""``cond`` and ``switch``: each branch split, the residuals of all branches in one common layout.

A residual that is an operand or an output of the conditional is not passed through it. The others share places by type:
a branch fills the places it needs and leaves zeros in the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax
from jax.core import AbstractValue

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr
from funcgrad.engine.split import Activity, Split
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.memo import kept, memo
from funcgrad.rules.control.carrier import Carrier, Halves, carried, present, spread
from funcgrad.rules.control.lean import split_lean


class Cond(Carrier):
    formula = "the backward half of the branch that was taken"

    def first(self, params):
        return 1

    def halves(self, tape, params, activity):
        first, *rest = params["branches"]
        # In a key a branch is held on to, and the first is not to be.
        return split_cond(first, tuple([None if b is first else b for b in rest]), activity, tape.rules)

    def forward(self, halves, primitive, primals, params):
        results = primitive.bind(*primals, **{**params, "branches": halves.forward})
        outs, new = results[: halves.num_outs], results[halves.num_outs :]
        places = {"in": primals[1:], "out": outs, "new": new}
        return outs, (primals[0], *[places[kind][i] for kind, i in halves.sources])

    def backward(self, node, halves, cts, ct_avals, wanted):
        branches, mask = halves.backward(ct_avals, wanted)
        return spread(
            node.primitive.bind(*node.residuals, *present(cts), **{**node.params, "branches": branches}), mask
        )

    def branch(self, node: Any) -> int | None:
        """The branch that was taken, None where that is not known."""
        index = node.residuals[0]
        index = None if isinstance(index, AbstractValue) else _jax.to_concrete_value(index)
        return None if index is None or np.shape(index) else min(max(int(index), 0), len(node.static[0].splits) - 1)

    def inside(self, node):
        taken = self.branch(node)
        return None if taken is None else node.static[0].splits[taken]

    def kept(self, node):
        return [node.residuals[1 + k] for k in node.static[0].places[self.branch(node)]]


class CondHalves(Halves):
    """The branches split, with residuals brought to a common layout."""

    def __init__(self, branches: Sequence[ClosedJaxpr], activity: tuple[Activity, ...], rules: Any):
        self.splits = [split_lean(branch, activity, rules) for branch in branches]
        out_active = [any(flags) for flags in zip(*(s.out_active for s in self.splits), strict=True)]
        super().__init__(self.splits[0], out_active, {i for s in self.splits for i in s.written})
        self.num_outs = len(self.out_avals)
        self._lay_out()

    def _lay_out(self) -> None:
        self.sources: list[tuple[str, int]] = []
        self.avals: list[Any] = []
        new_avals: list[Any] = []
        #: For each branch, where in the common layout each of its residuals is.
        self.places: list[list[int]] = []
        for halves in self.splits:
            ins, outs = _jax.in_types(halves.forward), halves.forward.out_avals
            taken: set[int] = set()
            places = []
            for kind, i in halves.sources:
                if kind == "new":
                    aval = outs[self.num_outs + i]
                    same = (k for k, other in enumerate(new_avals) if k not in taken and other == aval)
                    i = next(same, len(new_avals))
                    if i == len(new_avals):
                        new_avals.append(aval)
                    taken.add(i)
                else:
                    aval = ins[i] if kind == "in" else self.out_avals[i]
                places.append(self._place((kind, i), aval))
            self.places.append(places)
        self.forward = tuple(
            [self._forward(halves, places, new_avals) for halves, places in zip(self.splits, self.places, strict=True)]
        )

    def _place(self, source: tuple[str, int], aval: Any) -> int:
        if source not in self.sources:
            self.sources.append(source)
            self.avals.append(aval)
        return self.sources.index(source)

    def _forward(self, halves: Split, places: list[int], new_avals: list[Any]) -> ClosedJaxpr:
        filled = [self.sources[k][1] for (kind, _), k in zip(halves.sources, places, strict=True) if kind == "new"]

        def forward(*operands: Any) -> list[Any]:
            results = evaluate(halves.forward, *operands)
            new = dict(zip(filled, results[self.num_outs :], strict=True))
            padding = [new[k] if k in new else _jax.zeros(aval) for k, aval in enumerate(new_avals)]
            return [*results[: self.num_outs], *padding]

        return _jax.trace_to_jaxpr(forward, _jax.in_types(halves.forward), halves.forward.jaxpr.debug_info)

    @kept
    def backward(self, ct_avals: tuple, wanted: tuple[bool, ...]) -> tuple[tuple[ClosedJaxpr, ...], list[bool]]:
        """The backward branches, and which operands get a cotangent from any of them."""
        halves = [
            s.backward(tuple([self.avals[k] for k in places]), ct_avals, wanted)
            for s, places in zip(self.splits, self.places, strict=True)
        ]
        mask = [any(flags) for flags in zip(*(m for _, m in halves), strict=True)]
        operands = [(i, _jax.ct_type(aval)) for i, aval in enumerate(self.split.in_avals) if mask[i]]
        in_avals = [*self.avals, *present(ct_avals)]

        def branch(program: ClosedJaxpr, has: list[bool], places: list[int]) -> ClosedJaxpr:
            def backward(*args: Any) -> list[Any]:
                cts = args[len(self.avals) :]
                pulled = spread(evaluate(program, *(args[k] for k in places), *cts), has)
                return [carried(pulled[i], aval) for i, aval in operands]

            return _jax.trace_to_jaxpr(backward, in_avals, program.jaxpr.debug_info)

        programs = tuple([branch(*half, places) for half, places in zip(halves, self.places, strict=True)])
        return programs, mask


@memo
def split_cond(first: ClosedJaxpr, rest: tuple[ClosedJaxpr | None, ...], activity: tuple, rules: Any) -> CondHalves:
    """The halves of the branches, ``None`` for one that is the first again."""
    return CondHalves([b or first for b in (first, *rest)], activity, rules)


rules = {lax.cond_p: Cond()}
