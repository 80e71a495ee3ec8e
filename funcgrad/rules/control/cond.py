"""``cond`` and ``switch``: each branch split, the residuals of all branches in one common layout.

A residual that is an operand or an output of the conditional is not passed through it. The others share places by type:
a branch fills the places it needs and leaves zeros in the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr, set_current_trace
from funcgrad.engine.split import Activity, typed_cotangents, written_refs
from funcgrad.engine.tape import is_differentiable
from funcgrad.engine.zero import Zero
from funcgrad.programs.flow import evaluate
from funcgrad.rules.control.residuals import split_lean
from funcgrad.rules.rule import Rule


class Cond(Rule):
    formula = "the backward half of the branch that was taken"
    saved = ("residuals",)

    def record(self, tape, primitive, primals, tracers, params, linear):
        index, *operands = tape.values(primals)
        active = tuple([t is not None for t in tracers[1:]])
        halves = split_cond(tuple(params["branches"]), active, tape.rules)
        with set_current_trace(tape.parent):
            results = primitive.bind(index, *operands, **{**params, "branches": halves.forward})
        outs, new = results[: halves.num_outs], results[halves.num_outs :]
        places = {"in": operands, "out": outs, "new": new}
        residuals = (index, *[places[kind][i] for kind, i in halves.sources])
        if linear:
            outs = [Zero(_jax.typeof(x)) if a else x for x, a in zip(outs, halves.out_active, strict=True)]
        outs = tape.emit(self, primitive, params, halves, residuals, tracers, outs, active=halves.out_active)
        tape.write(written_refs(halves, tracers[1:]))
        return outs

    def pullback(self, node, cts):
        halves = node.static
        cts, ct_avals = typed_cotangents(cts, halves.ct_avals)
        branches, mask = halves.backward(ct_avals)
        nonzero = [ct for ct in cts if ct is not None]
        results = iter(node.primitive.bind(*node.residuals, *nonzero, **{**node.params, "branches": branches}))
        return [next(results) if has else None for has in mask]


class CondHalves:
    """The branches split, with residuals brought to a common layout."""

    def __init__(self, branches: Sequence[ClosedJaxpr], active: tuple[bool, ...], rules: Any):
        activity = [Activity(a and is_differentiable(v)) for a, v in zip(active, branches[0].in_avals, strict=True)]
        self.active = active
        self.out_avals = branches[0].out_avals
        self.num_outs = len(self.out_avals)
        self.splits = [split_lean(branch, tuple(activity), rules) for branch in branches]
        self.out_active = [any(flags) for flags in zip(*(s.out_active for s in self.splits), strict=True)]
        self.refs, self.ct_avals = self.splits[0].refs, self.splits[0].ct_avals
        self.written = {i for s in self.splits for i in s.written}
        self._backwards: dict[tuple, tuple[tuple[ClosedJaxpr, ...], list[bool]]] = {}
        self._lay_out(branches)

    def _lay_out(self, branches: Sequence[ClosedJaxpr]) -> None:
        self.sources: list[tuple[str, int]] = []
        self.avals: list[Any] = []
        new_avals: list[Any] = []
        #: For each branch, where in the common layout each of its residuals is.
        self.places: list[list[int]] = []
        for halves in self.splits:
            outs = halves.forward.out_avals
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
                    places.append(self._place((kind, i), aval))
                else:
                    aval = branches[0].in_avals[i] if kind == "in" else self.out_avals[i]
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

    def _forward(self, halves, places: list[int], new_avals: list[Any]) -> ClosedJaxpr:
        filled = [self.sources[k][1] for (kind, _), k in zip(halves.sources, places, strict=True) if kind == "new"]

        def forward(*operands: Any) -> list[Any]:
            results = evaluate(halves.forward, *operands)
            new = dict(zip(filled, results[self.num_outs :], strict=True))
            padding = [new[k] if k in new else _jax.zeros(aval) for k, aval in enumerate(new_avals)]
            return [*results[: self.num_outs], *padding]

        return _jax.trace_to_jaxpr(forward, halves.forward.in_avals, halves.forward.jaxpr.debug_info)

    def backward(self, ct_avals: tuple) -> tuple[tuple[ClosedJaxpr, ...], list[bool]]:
        """The backward branches, and which active operands get a cotangent from any of them."""
        known = self._backwards.get(ct_avals)
        if known is not None:
            return known
        halves = [
            s.backward([self.avals[k] for k in places], ct_avals)
            for s, places in zip(self.splits, self.places, strict=True)
        ]
        mask = [any(flags) for flags in zip(*(m for _, m in halves), strict=True)]
        operands = [_jax.ct_type(aval) for aval, a in zip(self.splits[0].in_avals, self.active, strict=True) if a]
        wanted = [(i, aval) for i, aval in enumerate(operands) if mask[i]]
        in_avals = [*self.avals, *(aval for aval in ct_avals if aval is not None)]

        def branch(program: ClosedJaxpr, has: list[bool], places: list[int]) -> ClosedJaxpr:
            def backward(*args: Any) -> list[Any]:
                cts = args[len(self.avals) :]
                results = iter(evaluate(program, *(args[k] for k in places), *cts))
                pulled = [next(results) if h else None for h in has]
                return [_jax.zeros(aval) if pulled[i] is None else _jax.match(pulled[i], aval) for i, aval in wanted]

            return _jax.trace_to_jaxpr(backward, in_avals, program.jaxpr.debug_info)

        programs = tuple([branch(*half, places) for half, places in zip(halves, self.places, strict=True)])
        self._backwards[ct_avals] = programs, mask
        return programs, mask


def split_cond(branches: tuple[ClosedJaxpr, ...], active: tuple[bool, ...], rules: Any) -> CondHalves:
    return _split_cond(branches[0], branches[1:], active, rules)


@_jax.weakref_lru_cache
def _split_cond(first, rest, active, rules) -> CondHalves:
    return CondHalves((first, *rest), active, rules)


rules = {lax.cond_p: Cond()}
