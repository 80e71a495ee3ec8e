"""Rules of whole functions: what a jitted function's cotangents are, whatever it is made of.

Such a rule is about the function's own arguments, by name: ``lambda ct, arr, min, max: ...``. An argument that is left
out has its default, one that is a pytree arrives as the tuple of its leaves. A static argument is compiled into the
program and does not reach a rule. The rule is for a single call: where the function was batched, so is the rule.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from funcgrad import _jax
from funcgrad._jax import Primitive, set_current_trace
from funcgrad.rules.checks import where
from funcgrad.rules.control.jit import Inside
from funcgrad.rules.equality import value_of
from funcgrad.rules.functions.recognition import Call, Function, Parameter, call_of, key_of
from funcgrad.rules.rule import Formula, Rule, as_rule
from funcgrad.rules.signature import Signature, describe, shaped


class FunctionRule(Rule):
    """The rule of a function. ``record`` is asked only where the program is a call of it."""

    function: Function

    def known_as(self, primitive, params):
        return self.function.name

    def record(self, tape, primitive, primals, tracers, params, linear):
        call = call_of(params["jaxpr"], self.function)
        active = tuple([t is not None for t in tracers])
        call.check(active)
        primals = [shaped(x) for x in primals]
        with set_current_trace(tape.parent):
            outs, residuals, static = self.forward(call, active, primals, lambda: primitive.bind(*primals, **params))
        return tape.emit(self, primitive, params, (call, active, static), tuple(residuals), tracers, outs)

    def pullback(self, node, cts):
        call, active, static = node.static
        avals = node.params["jaxpr"].out_avals
        cts = [_jax.zeros(_jax.ct_type(v)) if ct is None else ct for ct, v in zip(cts, avals, strict=True)]
        return self.backward(call, active, static, node.residuals, cts)

    def forward(self, call: Call, active: Sequence[bool], operands: Sequence[Any], run: Callable[[], list[Any]]):
        """The outputs, the residuals and what else the way back needs. ``run`` runs the function itself."""
        raise NotImplementedError

    def backward(self, call: Call, active: Sequence[bool], static: Any, residuals: Sequence[Any], cts: Sequence[Any]):
        """A cotangent, or None, for each active operand, given one for each output."""
        raise NotImplementedError


class Formulas(FunctionRule):
    """One formula for each argument, as a primitive has one for each operand."""

    formula = "the function's own rule"

    def __init__(self, function: Function, functions: Sequence[Callable | None], derived: Mapping[str, Callable]):
        self.function = function
        names = list(function.parameters)
        if len(functions) > len(names):
            raise TypeError(f"{function.name} takes {len(names)} arguments, but its rule has {len(functions)} formulas")
        self.derived = {name: function.read(f, cotangent=()) for name, f in derived.items()}
        self.formulas: dict[str, Signature | None] = {}
        for name, f in zip(names, functions, strict=False):
            if f is not None and name in function.static:
                raise TypeError(f"'{name}' is a static argument of {function.name}: in its place the rule has None")
            self.formulas[name] = None if f is None else function.read(f, list(derived))

    def parts(self):
        return self.function, tuple(self.formulas.items()), tuple(self.derived.items())

    def signatures(self, call: Call, active: Sequence[bool]) -> list[tuple[int, Signature | None]]:
        """The formulas of the active operands."""
        for i, name in enumerate(call.argument):
            if active[i] and name not in self.formulas:
                raise TypeError(
                    f"the rule of '{call.name}'{self.place()} has no formula for '{name}', which is differentiated "
                    "here. Add one, or None where it has no derivative."
                )
        return [(i, self.formulas[name]) for i, name in enumerate(call.argument) if active[i]]

    def place(self) -> str:
        """Where the first formula is, for messages."""
        return next((f", {where(s.function)}," for s in self.formulas.values() if s is not None), "")

    def take(self, call: Call, name: str, operands: Any, out: Any) -> Any:
        """What a parameter name of a formula stands for."""
        plain = name.removesuffix("_aval")
        if plain != name:
            operands, out = call.in_avals, call.out_avals[0]
        return out if plain == "out" else call.value(self.function.short.get(plain, plain), operands)

    def forward(self, call, active, operands, run):
        outs = run()
        if len(outs) != 1:
            raise TypeError(
                f"the rule of '{call.name}'{self.place()} has one formula per argument, for one output, but there are "
                f"{len(outs)}. Give a pair (fwd, bwd) as to custom_vjp."
            )
        names = {name for _, s in self.signatures(call, active) if s is not None for name in s.names}
        places = [place for name in names for place in call.places.get(self.function.short.get(name, name), ())]
        used, derived = sorted(set(places)), [name for name in self.derived if name in names]
        residuals = [operands[i] for i in used]
        if "out" in names:
            residuals.append(outs[0])
        if derived:
            residuals.extend(self.derive(call, derived, operands, outs[0]))
        return outs, residuals, (used, "out" in names, derived)

    def derive(self, call: Call, names: Sequence[str], operands: Sequence[Any], out: Any) -> list[Any]:
        def compute(*xs: Any) -> list[Any]:
            *given, result = xs
            signatures = [self.derived[name] for name in names]
            return [s(*[self.take(call, n, given, result) for n in s.names], params={}) for s in signatures]

        run = call.batched_forward(compute, lambda b: [*b.in_axes, b.out_axes[0]], lambda b: [0] * len(names))
        return run(*operands, out)

    def backward(self, call, active, static, residuals, cts):
        used, with_out, derived = static
        signatures = self.signatures(call, active)

        def pull(ct: Any, *arrays: Any) -> list[Any]:
            operands, rest = dict(zip(used, arrays, strict=False)), list(arrays[len(used) :])
            out = rest.pop(0) if with_out else None
            known = dict(zip(derived, rest, strict=True))
            pulled = []
            for i, s in signatures:
                if s is not None:
                    values = [known[n] if n in known else self.take(call, n, operands, out) for n in s.names]
                    x_ct, name = s(ct, *values, params={}), call.argument[i]
                    x_ct = x_ct if name in call.arrays else x_ct[call.places[name].index(i)]
                    pulled.append(call.fit(x_ct, i, s.function))
            return pulled

        def in_axes(b: Any) -> list[Any]:
            of_out = [b.out_axes[0]] if with_out else []
            return [*(b.in_axes[i] for i in used), *of_out, *[0] * len(derived)]

        run = call.batched_backward(pull, in_axes, lambda b: [b.in_axes[i] for i, s in signatures if s is not None])
        results = iter(run(cts[0], *residuals))
        return [None if s is None else next(results) for _, s in signatures]


class Pair(FunctionRule):
    """The halves that ``custom_vjp`` takes: ``fwd(*args) -> (out, residuals)`` and ``bwd(residuals, ct) -> cts``."""

    formula = "bwd(residuals, ct)"
    saved = ("residuals",)

    def __init__(self, function: Function, fwd: Callable, bwd: Callable):
        self.function, self.fwd, self.bwd = function, fwd, bwd
        dynamic = [p for name, p in function.parameters.items() if name not in function.static]
        if any(p.kind is Parameter.VAR_KEYWORD for p in dynamic):
            raise TypeError(f"{function.name} takes any keyword arguments, so it cannot have a pair. Give formulas.")
        self.positional = [p.name for p in dynamic if p.kind is not Parameter.KEYWORD_ONLY]
        self.keywords = [p.name for p in dynamic if p.kind is Parameter.KEYWORD_ONLY]
        try:
            inspect.signature(fwd).bind(*self.positional, **dict.fromkeys(self.keywords))
        except TypeError as error:
            left_out = f", without its static {', '.join(sorted(function.static))}" if function.static else ""
            raise TypeError(
                f"the fwd of a pair takes the function's arguments{left_out}: "
                f"({', '.join((*self.positional, *self.keywords))}). Got {describe(fwd)}: {error}"
            ) from None
        try:
            inspect.signature(bwd).bind(None, None)
        except TypeError:
            raise TypeError(
                f"the bwd of a pair takes the residuals and the cotangent of the output; got {describe(bwd)}"
            ) from None

    def parts(self):
        return self.function, value_of(self.fwd), value_of(self.bwd)

    def run_fwd(self, call: Call, operands: Sequence[Any]) -> tuple[Any, Any]:
        args: list[Any] = []
        for name in self.positional:
            value = call.value(name, operands)
            args.extend(value if self.function.takes_any_number(name) else (value,))
        returned = self.fwd(*args, **{name: call.value(name, operands) for name in self.keywords})
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(
                f"the rule of '{call.name}', {where(self.fwd)}, returns a pair of (out, residuals); got {returned!r}"
            )
        return returned

    def forward(self, call, active, operands, run):
        trees: list[Any] = []

        def fwd(*xs: Any) -> list[Any]:
            out, saved = self.run_fwd(call, xs)
            outs, out_tree = jax.tree.flatten(out)
            residuals, residual_tree = jax.tree.flatten(saved)
            shapes = [jax.numpy.shape(x) for x in outs]
            if shapes != [aval.shape for aval in call.out_avals]:
                raise TypeError(
                    f"the rule of '{call.name}', {where(self.fwd)}, returns what the function does, "
                    f"{[aval.str_short() for aval in call.out_avals]}; got shapes {shapes}"
                )
            trees[:] = out_tree, residual_tree
            outs = [_jax.match(_jax.canonicalize(x), aval) for x, aval in zip(outs, call.out_avals, strict=True)]
            return [*outs, *residuals]

        count, saved = len(call.out_avals), 0
        if call.batchings:
            saved = len(jax.eval_shape(fwd, *call.in_avals)) - count
        # Residuals are batched in front.
        run_fwd = call.batched_forward(fwd, lambda b: b.in_axes, lambda b: [*b.out_axes, *[0] * saved])
        results = run_fwd(*operands)
        return results[:count], results[count:], tuple(trees)

    def backward(self, call, active, static, residuals, cts):
        out_tree, residual_tree = static
        wanted = [i for i, a in enumerate(active) if a]

        def pull(*xs: Any) -> list[Any]:
            ct, saved = jax.tree.unflatten(out_tree, xs[: len(cts)]), jax.tree.unflatten(residual_tree, xs[len(cts) :])
            pulled = self.by_operand(call, self.bwd(saved, ct))
            return [call.fit(pulled[i], i, self.bwd) for i in wanted]

        run = call.batched_backward(pull, lambda b: [0] * len(residuals), lambda b: [b.in_axes[i] for i in wanted])
        return run(*cts, *residuals)

    def by_operand(self, call: Call, pulled: Any) -> dict[int, Any]:
        """The cotangents that bwd returned, by operand."""
        slots: list[tuple[str, list[int], bool]] = []
        for name in (*self.positional, *self.keywords):
            places = call.places.get(name, [])
            if self.function.takes_any_number(name):
                slots.extend((name, [i], True) for i in places)
            else:
                slots.append((name, places, name in call.arrays))
        if not isinstance(pulled, tuple | list) or len(pulled) != len(slots):
            raise TypeError(
                f"the rule of '{call.name}', {where(self.bwd)}, returns a tuple of a cotangent, or None, for each of "
                f"({', '.join(name for name, *_ in slots)}); got {pulled!r}"
            )
        found: dict[int, Any] = {}
        for (name, places, is_array), x_ct in zip(slots, pulled, strict=True):
            leaves = [x_ct] if is_array else jax.tree.leaves(x_ct, is_leaf=lambda x: x is None)
            leaves = [None] * len(places) if x_ct is None else leaves
            if places and len(leaves) != len(places):
                raise TypeError(
                    f"the rule of '{call.name}', {where(self.bwd)}, returned {len(leaves)} cotangents for '{name}', "
                    f"which has {len(places)} leaves"
                )
            found.update(zip(places, leaves, strict=False))
        return found


def entry(key: Any, rule: Any) -> tuple[Any, Rule]:
    """A key and a rule as they are given, as a table holds them."""
    return (key, as_rule(rule)) if isinstance(key, Primitive) else (key_of(key), function_rule(key, rule))


def function_rule(function: Any, rule: Any) -> Rule:
    """What a rule table is given for a function, as a rule: formulas, a pair, or rules for what is inside."""
    if isinstance(rule, FunctionRule | Inside):
        return rule
    if isinstance(rule, Mapping):
        return Inside(dict(entry(k, r) for k, r in rule.items()))
    known = Function(function)
    if isinstance(rule, Formula):
        derived = {name: s.function for name, s in rule.derived.items()}
        functions = [None if s is None else s.function for s in rule.signatures]
        return Formulas(known, functions or [None] * len(known.parameters), derived)
    functions = [rule] if callable(rule) and not isinstance(rule, Rule) else rule
    if (
        not isinstance(functions, Sequence)
        or isinstance(rule, str)
        or not all(f is None or callable(f) for f in functions)
    ):
        raise TypeError(
            "a rule of a function is a formula, a sequence of formulas (one per argument), a pair (fwd, bwd) as for "
            f"custom_vjp, or a dict of rules for what is inside; got {rule!r}"
        )
    given = [f for f in functions if f is not None]
    if not given or any(next(iter(inspect.signature(f).parameters), None) == "ct" for f in given):
        return Formulas(known, functions, {})
    if len(functions) == 2 and len(given) == 2:
        return Pair(known, *given)
    missing = "; fwd is missing" if functions[0] is None else "; bwd is missing" if len(given) == 1 else ""
    raise TypeError(
        f"a rule that is a pair is (fwd, bwd), as for custom_vjp{missing}. A rule of formulas has one per argument, "
        f"and the first parameter of each is the cotangent, ct. Got {', '.join(map(describe, given))}"
    )
