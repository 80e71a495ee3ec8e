"""``jit``: two jitted halves that keep the name, the inlining and the shardings of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funcgrad import _jax
from funcgrad._jax import jit_p, set_current_trace
from funcgrad.engine.split import Activity, activity_of, emit_halves, run, split, typed_cotangents
from funcgrad.rules.control.inlined import Inlined, halves_for
from funcgrad.rules.control.residuals import split_lean
from funcgrad.rules.functions.recognition import is_call
from funcgrad.rules.rule import Rule
from funcgrad.rules.table import RuleTable

PER_INPUT = ("in_shardings", "in_layouts", "donated_invars")
PER_OUTPUT = ("out_shardings", "out_layouts")


class Jit(Rule):
    formula = "the backward half of the jitted function"
    saved = ("residuals",)

    def record(self, tape, primitive, primals, tracers, params, linear):
        jaxpr = params["jaxpr"]
        rule = tape.rules.get(jaxpr.jaxpr.debug_info.func_src_info)
        if rule is not None and (isinstance(rule, Inside) or (not linear and is_call(jaxpr))):
            return rule.record(tape, primitive, primals, tracers, params, linear)
        if _jax.jit_inlines(params):
            halves = halves_for(tape, jaxpr, primals, tuple(map(activity_of, primals, tracers)))
            if halves is not None:
                return halves.record(self, tape, primitive, primals, tracers, params)
            args = [x if t is None else t for x, t in zip(primals, tracers, strict=True)]
            return run(tape, jaxpr, args, inlined=True)
        return self.record_halves(tape, tape.rules, primitive, primals, tracers, params)

    def record_halves(self, tape, rules, primitive, primals, tracers, params):
        jaxpr = params["jaxpr"]
        activity = tuple(map(activity_of, primals, tracers))
        # In a program that is staged out XLA sees both halves, and chooses by itself what to compute twice.
        halves = (split_lean if tape.parent is _jax.eval_trace else split)(jaxpr, activity, rules)
        known = [a is not Activity.TANGENT for a in activity]
        values = [x for x, k in zip(primals, known, strict=True) if k]
        extra = len(halves.forward.out_avals) - sum(halves.out_known)
        forward_params = {
            **params,
            **{name: keep(params[name], known) for name in PER_INPUT},
            "out_shardings": keep(params["out_shardings"], halves.out_known) + (_jax.UNSPECIFIED,) * extra,
            "out_layouts": keep(params["out_layouts"], halves.out_known) + (None,) * extra,
            "jaxpr": halves.forward,
        }
        with set_current_trace(tape.parent):
            results = jit_p.bind(*values, **forward_params)
        return emit_halves(tape, self, primitive, params, halves, values, results, tracers)

    def pullback(self, node, cts):
        halves, params = node.static, node.params
        if type(halves) is Inlined:
            return halves.pullback(node, cts)
        cts, ct_avals = typed_cotangents(cts, halves.ct_avals)
        backward, mask = halves.backward(list(map(_jax.typeof, node.residuals)), ct_avals)
        nonzero = [ct is not None for ct in cts]
        count = len(node.residuals)

        def backward_param(inputs: str, outputs: str | None, filler):
            if outputs is None:
                return (filler,) * (count + sum(nonzero))
            of_cts = (*params[outputs], *(params[inputs][i] for i in halves.refs))
            return (filler,) * count + keep(of_cts, nonzero)

        backward_params = {
            **params,
            "jaxpr": backward,
            "in_shardings": backward_param("in_shardings", "out_shardings", _jax.UNSPECIFIED),
            "in_layouts": backward_param("in_layouts", "out_layouts", None),
            "donated_invars": backward_param("donated_invars", None, False),
            "out_shardings": keep(keep(params["in_shardings"], halves.active_in), mask),
            "out_layouts": keep(keep(params["in_layouts"], halves.active_in), mask),
        }
        try:
            results = iter(jit_p.bind(*node.residuals, *(ct for ct in cts if ct is not None), **backward_params))
        except _jax.InternalFloatingPointError as error:
            # Under jax_debug_nans: run the operations one by one, so that the error is raised by the one that made it.
            print("Invalid nan value encountered in the backward pass of a jax.jit function. Running it unjitted.")
            halves.pull(node.residuals, cts)
            _jax.raise_no_nan_in_deoptimized(error)
        return [next(results) if nonzero else None for nonzero in mask]


class Inside(Jit):
    """Another table's rules for what is inside a function, and for nothing else."""

    formula = "the backward half of the jitted function, by other rules"

    def __init__(self, rules: Mapping[Any, Rule]):
        self.rules = dict(rules)
        self.tables: dict[Any, Any] = {}

    def within(self, table: Any) -> Any:
        """``table`` as it is inside the function."""
        known = self.tables.get(table)
        if known is None:
            known = self.tables[table] = RuleTable({**table, **self.rules}, table.fallback, table.keeps_source)
        return known

    def map(self, wrap):
        return Inside({key: wrap(rule.map(wrap)) for key, rule in self.rules.items()})

    def record(self, tape, primitive, primals, tracers, params, linear):
        return self.record_halves(tape, self.within(tape.rules), primitive, primals, tracers, params)


def keep(xs, mask) -> tuple:
    return tuple([x for x, kept in zip(xs, mask, strict=True) if kept])


rules = {jit_p: Jit()}
