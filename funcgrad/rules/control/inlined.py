"""Functions that are written out where they are called, as JAX does with ``inline=True`` and most of ``jax.numpy``.

Their halves are made once for all calls. Inside a function that is being staged out the halves are written out as well:
an equation that is known already is staged in a third of the time that its ``lax`` call takes. Run eagerly each half is
one compiled kernel, as the whole function is without differentiation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from funcgrad import _jax
from funcgrad._jax import ClosedJaxpr
from funcgrad.engine.split import Activity, emit_halves, split
from funcgrad.engine.tape import Node, is_differentiable
from funcgrad.programs.flow import evaluate, with_outputs
from funcgrad.rules.rule import Formula


class Half:
    """A program that is written out, or called if nothing is being staged."""

    __slots__ = ("compiled", "program")

    def __init__(self, program: ClosedJaxpr):
        self.program = program
        self.compiled: Callable = jax.jit(functools.partial(evaluate, program))

    def __call__(self, trace: Any, args: Sequence[Any], params: Any) -> list[Any]:
        if trace is not _jax.eval_trace:
            return _jax.write_out(trace, self.program, args, params)
        return self.compiled(*args) if _jax.may_compile() else evaluate(self.program, *args)


class Inlined:
    """The halves of a program that is written out.

    ``carries_all`` is whether all that has a slot has cotangents: a rule may give one to a bool, to pass on a float's.
    ``compiles`` is whether the halves are formulas of the package's only: others may look at values.
    """

    def __init__(self, jaxpr: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any):
        halves = self.halves = split(jaxpr, activity, rules, inlined=True)
        self.known = [a is not Activity.TANGENT for a in activity]
        self.forward = Half(halves.forward)
        self.all_wanted = tuple([True for a in halves.active_in if a])
        self.backwards: dict[tuple, tuple[Half, list[bool]]] = {}
        avals, active = [*halves.in_avals, *halves.out_avals], [*halves.active_in, *halves.out_active]
        self.carries_all = all(is_differentiable(aval) for aval, a in zip(avals, active, strict=True) if a)
        rules_used = halves.rules_used()
        self.compiles = all(self.known) and all(isinstance(rule, Formula) and rule.fuses for rule in rules_used)

    def record(self, rule, tape, primitive, primals, tracers, params) -> list[Any]:
        values = [x for x, known in zip(primals, self.known, strict=True) if known]
        results = self.forward(tape.parent, values, params)
        return emit_halves(tape, rule, primitive, params, self.halves, values, results, tracers, static=self)

    def pullback(self, node: Node, cts: Sequence[Any]) -> list[Any]:
        wanted = node.wanted or self.all_wanted
        types = tuple([None if ct is None else _jax.typeof(ct) for ct in cts])
        half, mask = self.backwards.get((types, wanted)) or self.backward(types, wanted, node.residuals)
        given = [ct for ct in cts if ct is not None]
        results = iter(half(_jax.current_trace(), [*node.residuals, *given], node.params))
        return [next(results) if nonzero else None for nonzero in mask]

    def backward(self, types: tuple, wanted: tuple[bool, ...], residuals: Sequence[Any]) -> tuple[Half, list[bool]]:
        """The backward half for cotangents of the very types ``types``, None where one is zero."""
        program, mask = self.halves.backward(list(map(_jax.typeof, residuals)), types)
        if not all(wanted):
            kept = [want for want, nonzero in zip(wanted, mask, strict=True) if nonzero]
            outvars = [v for v, keep in zip(program.jaxpr.outvars, kept, strict=True) if keep]
            program = _jax.without_dead_code(with_outputs(program, outvars))
            mask = [want and nonzero for want, nonzero in zip(wanted, mask, strict=True)]
        known = self.backwards[types, wanted] = Half(program), mask
        return known


@_jax.weakref_lru_cache
def inlined(jaxpr: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any) -> Inlined:
    return Inlined(jaxpr, activity, rules)


def can_be_called_with(x: Any, activity: Activity) -> bool:
    # A Python number that is differentiated becomes an array first, as JAX makes one of it.
    return _jax.is_local(x) or (activity is Activity.NONE and isinstance(x, int | float | complex))


def halves_for(tape: Any, jaxpr: ClosedJaxpr, primals: Sequence[Any], activity: tuple[Activity, ...]) -> Inlined | None:
    """The halves of a program to be recorded as one operation; None where its operations are recorded one by one.

    They are where somebody wants to look at them, and eagerly where they are not to be compiled.
    """
    if tape.rules.keeps_source:
        return None
    eager = tape.parent is _jax.eval_trace
    if eager and not (_jax.may_compile() and all(map(can_be_called_with, primals, activity))):
        return None
    halves = inlined(jaxpr, activity, tape.rules)
    return halves if halves.carries_all and (halves.compiles or not eager) else None
