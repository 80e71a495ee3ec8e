"""``jit``: two jitted halves that keep the name, the inlining and the shardings of the whole."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from funcgrad import _jax
from funcgrad._jax import jit_p
from funcgrad.engine.split import Activity, Split, run, split
from funcgrad.rules.control.carrier import Carrier, Halves, activity_of, present, spread
from funcgrad.rules.control.inlined import Inlined, inlined_halves
from funcgrad.rules.control.lean import split_lean
from funcgrad.rules.functions.recognition import is_call
from funcgrad.rules.rule import Rule

PER_INPUT = ("in_shardings", "in_layouts", "donated_invars")


class Jitted(Halves):
    """The halves of a jitted function."""

    def __init__(self, halves: Split, activity: Sequence[Activity]):
        super().__init__(halves)
        self.has_value = [a is not Activity.TANGENT for a in activity]


class Jit(Carrier):
    formula = "the backward half of the jitted function"
    of_values = False

    def record(self, tape, primitive, primals, tracers, params, linear):
        program = params["jaxpr"]
        rule = tape.rules.of_program(program)
        if rule is not None and (isinstance(rule, Inside | Chooser) or (not linear and is_call(program))):
            return rule.record(tape, primitive, primals, tracers, params, linear)
        if _jax.jit_inlines(params):
            halves = inlined_halves(tape, program, primals, tuple(map(activity_of, primals, tracers)))
            if halves is not None:
                values, residuals = halves.run_forward(tape.parent, primals, params)
                return self.emit(tape, halves, primitive, tracers, params, linear, values, residuals)
            args = [x if t is None else t for x, t in zip(primals, tracers, strict=True)]
            return run(tape, program, args, inlined=True)
        return super().record(tape, primitive, primals, tracers, params, linear)

    def halves(self, tape, params, activity):
        # In a program that is staged out XLA sees both halves, and chooses by itself what to compute twice.
        halves = split_lean if tape.parent is _jax.eval_trace else split
        return Jitted(halves(params["jaxpr"], activity, self.rules_inside(tape)), activity)

    def rules_inside(self, tape: Any) -> Any:
        return tape.rules

    def forward(self, halves, primitive, primals, params):
        values = keep(primals, halves.has_value)
        program, out_known = halves.split.forward, halves.out_known
        extra = len(program.out_avals) - sum(out_known)
        forward_params = {
            **params,
            **{name: keep(params[name], halves.has_value) for name in PER_INPUT},
            "out_shardings": keep(params["out_shardings"], out_known) + (_jax.UNSPECIFIED,) * extra,
            "out_layouts": keep(params["out_layouts"], out_known) + (None,) * extra,
            "jaxpr": program,
        }
        results = jit_p.bind(*values, **forward_params)
        return results[: sum(out_known)], halves.split.residuals(values, results)

    def pullback(self, node, cts):
        halves = node.static[0]
        return halves.pullback(node, cts) if type(halves) is Inlined else super().pullback(node, cts)

    def backward(self, node, halves, cts, ct_avals, wanted):
        residuals, params, split = node.residuals, node.params, halves.split
        program, mask = split.backward(_jax.types_of(residuals), ct_avals, wanted)
        nonzero = [ct is not None for ct in cts]
        count = len(residuals)

        def of_operands(inputs: str, outputs: str, filler: Any) -> tuple:
            of_cts = (*params[outputs], *(params[inputs][i] for i in split.refs))
            return (filler,) * count + keep(of_cts, nonzero)

        backward_params = {
            **params,
            "jaxpr": program,
            "in_shardings": of_operands("in_shardings", "out_shardings", _jax.UNSPECIFIED),
            "in_layouts": of_operands("in_layouts", "out_layouts", None),
            "donated_invars": (False,) * (count + sum(nonzero)),
            "out_shardings": keep(params["in_shardings"], mask),
            "out_layouts": keep(params["in_layouts"], mask),
        }
        try:
            return spread(jit_p.bind(*residuals, *present(cts), **backward_params), mask)
        except _jax.InternalFloatingPointError as error:
            # Under jax_debug_nans: run the operations one by one, so that the error is raised by the one that made it.
            print("Invalid nan value encountered in the backward pass of a jax.jit function. Running it unjitted.")
            split.pull(residuals, cts)
            _jax.raise_no_nan_in_deoptimized(error)


class Chooser(Rule):
    """A rule of a function that finds out by itself whether a program is one for it."""


class Inside(Jit):
    """Another table's rules for what is inside a function, and for nothing else."""

    formula = "the backward half of the jitted function, by other rules"

    def __init__(self, rules: Mapping[Any, Rule]):
        self.rules = dict(rules)
        self.tables: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def parts(self):
        return frozenset(self.rules.items())

    def rules_inside(self, tape):
        """The tape's table as it is inside the function."""
        table = tape.rules
        known = self.tables.get(table)
        if known is None:
            known = self.tables[table] = table.replacing(self.rules)
        return known

    def map(self, wrap):
        return Inside({key: wrap(rule.map(wrap)) for key, rule in self.rules.items()})

    def record(self, tape, primitive, primals, tracers, params, linear):
        return Carrier.record(self, tape, primitive, primals, tracers, params, linear)


def keep(xs: Sequence[Any], mask: Sequence[bool]) -> tuple:
    return tuple([x for x, kept in zip(xs, mask, strict=True) if kept])


rules = {jit_p: Jit()}
