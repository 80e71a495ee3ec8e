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
from funcgrad.engine.split import Activity, split
from funcgrad.engine.tape import is_differentiable
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.memo import memo
from funcgrad.rules.control.carrier import Halves, present, spread, wanted_among
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


class Inlined(Halves):
    """The halves of a program that is written out.

    ``carries_all`` is whether all that has a slot has cotangents: a rule may give one to a bool, to pass on a float's.
    ``compiles`` is whether the halves are formulas of the package's only: others may look at values.
    """

    def __init__(self, program: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any):
        halves = split(program, activity, rules, True)
        super().__init__(halves)
        self.has_value = [a is not Activity.TANGENT for a in activity]
        self.forward = Half(halves.forward)
        self.count = sum(halves.out_known)
        avals, active = [*halves.in_avals, *halves.out_avals], [*halves.active_in, *halves.out_active]
        self.carries_all = all(is_differentiable(aval) for aval, a in zip(avals, active, strict=True) if a)
        rules_used = [node.rule for node in halves.skeleton.nodes]
        self.compiles = all(self.has_value) and all(isinstance(rule, Formula) and rule.fuses for rule in rules_used)

    def run_forward(self, trace: Any, primals: Sequence[Any], params: Any) -> tuple[list[Any], tuple]:
        """The outputs that have values, and the residuals."""
        values = [x for x, has in zip(primals, self.has_value, strict=True) if has]
        results = self.forward(trace, values, params)
        return results[: self.count], self.split.residuals(values, results)

    def pullback(self, node: Any, cts: Sequence[Any]) -> list[Any]:
        types = tuple([None if ct is None else _jax.typeof(ct) for ct in cts])
        at = (types, node.wanted, _jax.current_settings())
        half, mask = self.known.get(at) or self.backward(node, at)
        pulled = half(_jax.current_trace(), [*node.residuals, *present(cts)], node.params)
        return pulled if len(pulled) == len(mask) else spread(pulled, mask)

    def backward(self, node: Any, at: tuple) -> tuple[Half, list[bool]]:
        """The backward half for cotangents of the very types ``at[0]``, and which of the node's parents get one."""
        types, active = at[0], node.static[1]
        wanted = None if node.wanted is None else wanted_among(node, active)
        program, mask = self.split.backward(tuple(map(_jax.typeof, node.residuals)), types, wanted)
        made = self.known[at] = Half(program), [has for has, a in zip(mask, active, strict=True) if a]
        return made


@memo
def inlined(program: ClosedJaxpr, activity: tuple[Activity, ...], rules: Any) -> Inlined:
    return Inlined(program, activity, rules)


def can_be_called_with(x: Any, activity: Activity) -> bool:
    # A Python number that is differentiated becomes an array first, as JAX makes one of it.
    return _jax.is_local(x) or (activity is Activity.NONE and isinstance(x, int | float | complex))


def inlined_halves(
    tape: Any, program: ClosedJaxpr, primals: Sequence[Any], activity: tuple[Activity, ...]
) -> Inlined | None:
    """The halves of a program to be recorded as one operation; None where its operations are recorded one by one.

    They are where somebody wants to look at them, and eagerly where they are not to be compiled.
    """
    if tape.rules.keeps_source or program.jaxpr.is_high:
        return None
    eager = tape.parent is _jax.eval_trace
    if eager and not (_jax.may_compile() and all(map(can_be_called_with, primals, activity))):
        return None
    halves = inlined(program, activity, tape.rules)
    return halves if halves.carries_all and (halves.compiles or not eager) else None
