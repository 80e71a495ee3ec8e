"""Functions that are written out where they are called, as JAX does with ``inline=True`` and most of ``jax.numpy``.

Inside a function that is being staged out their halves are written out as well: both are traced once for all calls, and
an equation that is known already is staged in a third of the time that its ``lax`` call takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr
from funcgrad.engine.split import Activity, split, written_refs
from funcgrad.engine.tape import Node, is_differentiable
from funcgrad.engine.zero import Zero


class Inlined:
    """The halves of a program that is written out."""

    def __init__(self, jaxpr: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any):
        halves = self.halves = split(jaxpr, activity, rules, inlined=True)
        self.known = [a is not Activity.TANGENT for a in activity]
        self.count = sum(halves.out_known)
        slotted = [*zip(halves.in_avals, halves.active_in), *zip(halves.out_avals, halves.out_active)]  # noqa: B905
        #: Whether all that has a slot has cotangents: a rule may give one to a bool, to pass on a float's.
        self.carries_all = all(is_differentiable(aval) for aval, active in slotted if active)
        self.backwards: dict[tuple[bool, ...], tuple[ClosedJaxpr, list[bool]]] = {}

    def record(self, tape, primitive, primals, tracers, params) -> list[Any]:
        halves = self.halves
        values = [x for x, known in zip(primals, self.known, strict=True) if known]
        results = _jax.write_out(tape.parent, halves.forward, values, params)
        residuals = halves.residuals(values, results[: self.count], results[self.count :])
        rest = iter(results)
        outs = [
            next(rest) if known else Zero(aval) for known, aval in zip(halves.out_known, halves.out_avals, strict=True)
        ]
        outs = tape.emit(self, primitive, params, None, residuals, tracers, outs, active=halves.out_active)
        if halves.refs:
            tape.write(written_refs(halves, tracers))
        return outs

    def pullback(self, node: Node, cts: Sequence[Any]) -> list[Any]:
        which = tuple([ct is not None for ct in cts])
        program, mask = self.backwards.get(which) or self.backward(which, node.residuals)
        given = [_jax.match(ct, aval) for ct, aval in zip(cts, self.halves.ct_avals, strict=True) if ct is not None]
        results = iter(_jax.write_out(_jax.current_trace(), program, [*node.residuals, *given], node.params))
        return [next(results) if nonzero else None for nonzero in mask]

    def backward(self, which: tuple[bool, ...], residuals: Sequence[Any]) -> tuple[ClosedJaxpr, list[bool]]:
        """The backward half for the cotangents that are not zero."""
        ct_avals = tuple([aval if nonzero else None for aval, nonzero in zip(self.halves.ct_avals, which, strict=True)])
        known = self.backwards[which] = self.halves.backward(list(map(_jax.typeof, residuals)), ct_avals)
        return known

    def narrowed(self, wanted: tuple[bool, ...]) -> Inlined:
        return self


@_jax.weakref_lru_cache
def inlined(jaxpr: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any) -> Inlined:
    return Inlined(jaxpr, activity, rules)
