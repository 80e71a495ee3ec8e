"""Rules: how a primitive is recorded, and how its cotangents are pulled back.

``formula(wrt_x, wrt_y, ...)`` has one function per operand, ``joint(fun)`` one for all of them. What their parameter
names mean is told in ``funcgrad.rules.signature``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from funcgrad.engine.tape import Node, Tape, is_differentiable
from funcgrad.rules.checks import as_cotangent, is_own, same_number, where
from funcgrad.rules.equality import Valued, value_of
from funcgrad.rules.plan import Plan, Saver, check_linear
from funcgrad.rules.signature import TAKE, TAKE_ALL, Signature, parameter_names


class Rule(Valued):
    """How a primitive is recorded, and how its cotangents are pulled back.

    ``record`` is given the operands' values ``primals`` and their ``tracers``, None for one that is not active; it runs
    the primitive in the tape's parent trace, and emits a node of the rule itself, which is asked for the ``pullback``.
    Where it is ``linear``, active operands are tangents: symbolic zeros. ``pullback`` returns a list with a cotangent
    for each active operand. It has its operand's shape and dtype; None means zero, and stands for those that
    ``node.wanted`` does not ask for. What is not so is refused, with the name and the line of the rule: a TypeError
    where there are too many or too few, a ValueError for another shape or dtype.

    >>> import jax
    >>> import funcgrad as fg
    >>> class Halved(fg.rules.Rule):
    ...     def record(self, tape, primitive, primals, tracers, params, linear):
    ...         out = tape.evaluate(primitive, primals, params, linear)
    ...         return tape.emit(self, primitive, params, None, (), tracers, out)
    ...     def pullback(self, node, cts):
    ...         return [cts[0] / 2]
    >>> rules = fg.rules.default.override({jax.lax.neg_p: Halved()})
    >>> print(fg.grad(jax.lax.neg, rules=rules)(3.0))
    0.5
    """

    #: Whether what it returns is compared with what it was to return: all rules but the package's own.
    checked = False
    #: Record even where no operand is active (references are written to whatever is active).
    always = False
    #: Pull back even where all cotangents are zero, as long as others are not.
    of_zeros = False
    #: For a rule that is more than functions of cotangent and residuals: in words, what it does and what it saves.
    formula: str = ""
    saved: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls.checked = not is_own(cls)

    def record(self, tape: Tape, primitive, primals, tracers, params, linear: bool) -> Any:
        raise NotImplementedError

    def pullback(self, node: Node, cts: Sequence[Any]) -> Sequence[Any]:
        """Cotangents for ``node.parents``, given one (or None) for each output."""
        raise NotImplementedError

    def check(self, node: Node, cts: Any) -> list[Any]:
        """``cts``, which ``pullback`` returned, as cotangents of the active operands."""
        function = type(self).pullback
        same_number(node.primitive, cts, node.parents, function, "active operands")
        pairs = enumerate(zip(cts, node.avals, strict=True))
        return [as_cotangent(node.primitive, ct, aval, function, f"active operand {k}") for k, (ct, aval) in pairs]

    def known_as(self, primitive, params) -> str:
        """The name of the operation in reports."""
        return str(primitive)

    def map(self, wrap: Callable[[Rule], Rule]) -> Rule:
        """This rule, with the rules that it has itself for other operations wrapped."""
        return self


class Formula(Rule):
    """One function per operand; None for an operand without derivative."""

    def __init__(
        self,
        functions: Sequence[Callable | None],
        derived: Mapping[str, Callable],
        broadcasts: bool,
        fuses: bool = True,
    ):
        #: Whether it may be compiled for eager use: a user's own formula may look at values.
        self.fuses = fuses
        self.derived = {name: Signature.read(f, list(TAKE)) for name, f in derived.items()}
        known = [*TAKE, *derived]
        self.signatures = tuple([None if f is None else Signature.read(f, known, ("ct",)) for f in functions])
        self.broadcasts = broadcasts
        self.checked = type(self).checked or not all(f is None or is_own(f) for f in functions)
        self.plans: dict[tuple[bool, ...], Plan | None] = {}

    def parts(self):
        return self.fuses, self.broadcasts, self.signatures, tuple(self.derived.items())

    def plan(self, active: tuple[bool, ...]) -> Plan | None:
        """The plan for the active operands; None where none of them has a derivative."""
        plan = Plan(self.signatures, self.derived, active, self.broadcasts, self.fuses)
        known = self.plans[active] = plan if any(call is not None for call in plan.calls) else None
        return known

    def record(self, tape, primitive, primals, tracers, params, linear):
        active = tuple([t is not None for t in tracers])
        try:
            plan = self.plans[active]
        except KeyError:
            if self.checked:
                self.check_cover(primitive, tracers)
            plan = self.plan(active)
        if plan is None:
            return tape.parent.process_primitive(primitive, tape.values(primals), params)
        out = tape.evaluate(primitive, primals, params, linear)
        residuals = tuple([save(tape, primitive, primals, out, params) for save in plan.savers])
        if linear:
            check_linear(primitive, residuals)
        return tape.emit(self, primitive, params, plan, residuals, tracers, out)

    def pullback(self, node, cts):
        return node.static.pullback(node, cts)

    def check_cover(self, primitive: Any, tracers: Sequence[Any]) -> None:
        """Refuse an operand to differentiate that there is no formula for, nor None; ``formula()`` is for none."""
        count = len(self.signatures)
        missing = [i for i, t in enumerate(tracers) if t is not None and i >= count and is_differentiable(t.aval)]
        if missing and count:
            given = next((where(s.function) for s in self.signatures if s is not None), "None")
            raise TypeError(
                f"the rule of '{primitive}', {given}, has formulas for the first {count} operands only, but operand "
                f"{missing[0]}, of type {tracers[missing[0]].aval.str_short()}, is differentiated too. Give one for "
                "each operand, None where it has no derivative."
            )

    def check(self, node, cts):
        if type(node.static) is not Plan:
            return super().check(node, cts)
        checked = []
        operands = [i for i, is_active in enumerate(node.static.active) if is_active]
        for k, (i, ct, aval) in enumerate(zip(operands, cts, node.avals, strict=True)):
            signature = self.signatures[i] if i < len(self.signatures) else None
            if signature is not None and (node.wanted is None or node.wanted[k]):
                if ct is None:
                    raise TypeError(
                        f"the rule of '{node.primitive}', {where(signature.function)}, returned None for operand {i}. "
                        "A formula returns a cotangent; where there is no derivative None stands for the formula."
                    )
                ct = as_cotangent(node.primitive, ct, aval, signature.function, f"operand {i}")
            checked.append(ct)
        return checked


class Joint(Rule):
    """One function for all operands."""

    def __init__(self, function: Callable, derived: Mapping[str, Callable]):
        self.derived = {name: Signature.read(f, list(TAKE_ALL)) for name, f in derived.items()}
        self.signature = Signature.read(function, [*TAKE_ALL, *derived, "active"], ("ct", "cts"))
        self.wants_active = "active" in self.signature.names
        self.names = tuple([name for name in self.signature.names if name != "active"])
        self.savers = [Saver(name, self.derived, TAKE_ALL) for name in self.names]
        self.single = parameter_names(function)[0][0] == "ct"
        self.checked = type(self).checked or not is_own(function)

    def parts(self):
        return self.signature, tuple(self.derived.items())

    def record(self, tape, primitive, primals, tracers, params, linear):
        out = tape.evaluate(primitive, primals, params, linear)
        # A residual may be a group (all operands); the node holds them in one row.
        spans: list[int | None] = []
        residuals: list[Any] = []
        for save in self.savers:
            value = save(tape, primitive, primals, out, params)
            grouped = type(value) is tuple
            spans.append(len(value) if grouped else None)
            residuals.extend(value if grouped else (value,))
        if linear:
            check_linear(primitive, residuals)
        static = (spans, tuple([t is not None for t in tracers]))
        return tape.emit(self, primitive, params, static, tuple(residuals), tracers, out)

    def pullback(self, node, cts):
        spans, active = node.static
        saved, start = {}, 0
        for name, span in zip(self.names, spans, strict=True):
            stop = start + (1 if span is None else span)
            saved[name] = node.residuals[start] if span is None else node.residuals[start:stop]
            start = stop
        saved["active"] = active
        ct = cts[0] if self.single else cts
        pulled = self.signature(ct, *[saved[name] for name in self.signature.names], params=node.params)
        if self.checked:
            same_number(node.primitive, pulled, active, self.signature.function, "operands")
        return [x_ct for x_ct, is_active in zip(pulled, active, strict=True) if is_active]

    def check(self, node, cts):
        operands = [i for i, is_active in enumerate(node.static[1]) if is_active]
        function, given = self.signature.function, zip(operands, cts, node.avals, strict=True)
        return [as_cotangent(node.primitive, ct, aval, function, f"operand {i}") for i, ct, aval in given]


class Wrapped(Rule):
    """A rule with an observer around it.

    ``record(rule, tape, primitive, primals, tracers, params, linear)`` takes the place of ``rule.record`` and
    ``pull(rule, node, cts)`` that of ``rule.pullback``, for every node that the rule records.
    """

    def __init__(
        self, rule: Rule, record: Callable | None = None, pull: Callable | None = None, always: bool | None = None
    ):
        self.rule, self.around_record, self.around_pull = rule, record, pull
        self.checked = rule.checked
        self.always = rule.always if always is None else always
        self.formula, self.saved, self.of_zeros = rule.formula, rule.saved, rule.of_zeros

    def parts(self):
        return self.rule, self.always, value_of(self.around_record), value_of(self.around_pull)

    def record(self, tape, primitive, primals, tracers, params, linear):
        first = len(tape.nodes)
        if self.around_record is None:
            outs = self.rule.record(tape, primitive, primals, tracers, params, linear)
        else:
            outs = self.around_record(self.rule, tape, primitive, primals, tracers, params, linear)
        for node in tape.nodes[first:]:
            # A rule may record by way of other rules of the table, which are wrapped already.
            if node.rule is self.rule:
                node.rule = self
            elif type(node.rule) is not Wrapped or node.rule.around_pull is not self.around_pull:
                node.rule = Wrapped(node.rule, self.around_record, self.around_pull)
        return outs

    def known_as(self, primitive, params):
        return self.rule.known_as(primitive, params)

    def pullback(self, node, cts):
        return self.rule.pullback(node, cts) if self.around_pull is None else self.around_pull(self.rule, node, cts)

    def check(self, node, cts):
        return self.rule.check(node, cts)


def bare(rule: Any) -> Any:
    """A rule without what only looks on while it records."""
    while type(rule) is Wrapped and rule.around_pull is None:
        rule = rule.rule
    return rule


def formula(*functions: Callable | None, **derived: Callable) -> Formula:
    """A rule of one function per operand. ``derived`` names what is computed on the way forward to be saved."""
    return Formula(functions, derived, broadcasts=False)


def broadcasting(*functions: Callable | None, **derived: Callable) -> Formula:
    """A rule of one function per operand, for a primitive that broadcasts its operands against each other."""
    return Formula(functions, derived, broadcasts=True)


def joint(function: Callable, **derived: Callable) -> Joint:
    """A rule of one function for all operands."""
    return Joint(function, derived)


#: The rule of a primitive whose outputs have no derivative.
no_derivative = formula()


def as_rule(rule: Any) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if callable(rule):
        rule = [rule]
    if isinstance(rule, Sequence) and not isinstance(rule, str):
        return Formula(rule, {}, broadcasts=True, fuses=False)
    raise TypeError(f"a rule is a function, a sequence of functions (one per operand) or a Rule; got {rule!r}")
