"""Rules that read as formulas, and the immutable table that holds them.

A rule's parameter names say what is saved for the way back, and nothing else is:

    ct                the output's cotangent
    out               the output
    x, y, z           operands 0, 1, 2
    x_aval, ...       an operand's shape and dtype; out_aval, the output's
    keyword-only      the primitive's static parameters

``formula(wrt_x, wrt_y, ...)`` has one function per operand. ``joint(fun)`` is one function for all operands, for
primitives whose formulas share work, take any number of operands (``xs``, ``avals``) or have several outputs (``cts``,
``outs``, ``out_avals``); it may ask which operands are ``active`` and returns a cotangent, or None, for each operand.

What a rule wants to keep is not always an operand: a mask is an eighth of one. Any other name is computed on the way
forward, by the function of that name given as keyword: ``formula(lambda ct, mask: ..., mask=lambda x, y: ...)``.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import jax
from jax.core import AbstractValue

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.engine.tape import Node, Tape, typeof_or_zero
from funcgrad.engine.zero import Zero
from funcgrad.rules.numbers import reshaped, summed

SCALARS: Any = (bool, int, float, complex)


class Rule:
    """How a primitive is recorded. What is put on the tape answers ``pullback(node, cts)``."""

    #: Record even where no operand is active (references are written to whatever is active).
    always = False
    #: For a rule that is more than functions of cotangent and residuals: in words, what it does and what it saves.
    formula: str = ""
    saved: tuple[str, ...] = ()

    def record(self, tape: Tape, primitive, primals, tracers, params, linear: bool) -> Any:
        raise NotImplementedError

    def pullback(self, node: Node, cts: Sequence[Any]) -> Sequence[Any]:
        """Cotangents for ``node.parents``, given one (or None) for each output."""
        raise NotImplementedError

    def narrowed(self, wanted: tuple[bool, ...]) -> Any:
        """A rule that may leave out the cotangents of parents that are not wanted."""
        return self


class Signature:
    """What one function of a rule asks for, read once from its parameter names."""

    __slots__ = ("function", "keywords", "names")

    def __init__(self, function: Callable, positional: Sequence[str], keywords: tuple[str, ...] | None):
        self.function = function
        self.names = tuple(positional)
        #: The primitive's parameters it takes; None for all of them.
        self.keywords = keywords

    @staticmethod
    def read(function: Callable, known: Sequence[str], cotangent: Sequence[str] = ()) -> Signature:
        positional, keywords, everything = parameter_names(function)
        if cotangent:
            if not positional or positional[0] not in cotangent:
                wanted = " or ".join(cotangent)
                raise TypeError(f"the first parameter of a rule is the cotangent, {wanted}; got {describe(function)}")
            positional = positional[1:]
        for name in positional:
            if name not in known:
                raise TypeError(
                    f"{describe(function)}: '{name}' names nothing to save. Use one of {', '.join(known)}, or make it "
                    "keyword-only if it is one of the primitive's parameters."
                )
        return Signature(function, positional, None if everything else keywords)

    def __call__(self, *args: Any, params: Mapping[str, Any]) -> Any:
        if self.keywords is None:
            return self.function(*args, **params)
        if self.keywords:
            return self.function(*args, **{name: params[name] for name in self.keywords})
        return self.function(*args)


def parameter_names(function: Callable) -> tuple[list[str], tuple[str, ...], bool]:
    """The names of the positional and of the keyword-only parameters, and whether it takes any keywords."""
    if type(function) is FunctionType and not hasattr(function, "__wrapped__"):
        # ``inspect`` takes ten times as long, which for all rules together is felt at import.
        code = function.__code__
        count, last = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
        names = code.co_varnames
        return list(names[:count]), names[count:last], bool(code.co_flags & inspect.CO_VARKEYWORDS)
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = tuple([p.name for p in parameters if p.kind is p.KEYWORD_ONLY])
    return positional, keywords, any(p.kind is p.VAR_KEYWORD for p in parameters)


def describe(function: Callable) -> str:
    return f"{getattr(function, '__name__', function)}{inspect.signature(function)}"


def operand(i: int) -> Callable:
    return lambda primals, out: shaped(primals[i])


def shaped(x: Any) -> Any:
    """``x``, a Python scalar as an array."""
    return _jax.typed_scalar(x) if isinstance(x, SCALARS) else x


def operand_aval(i: int) -> Callable:
    return lambda primals, out: typeof_or_zero(primals[i])


#: How what a parameter name stands for is taken from the operands and the output.
TAKE: dict[str, Callable[[Sequence[Any], Any], Any]] = {
    "x": operand(0),
    "y": operand(1),
    "z": operand(2),
    "out": lambda primals, out: out,
    "x_aval": operand_aval(0),
    "y_aval": operand_aval(1),
    "z_aval": operand_aval(2),
    "out_aval": lambda primals, out: typeof_or_zero(out),
}
TAKE_ALL: dict[str, Callable[[Sequence[Any], Any], Any]] = {
    **TAKE,
    "xs": lambda primals, outs: tuple(map(shaped, primals)),
    "outs": lambda primals, outs: tuple(outs),
    "avals": lambda primals, outs: tuple(map(typeof_or_zero, primals)),
    "out_avals": lambda primals, outs: tuple(map(typeof_or_zero, outs)),
}


class Saver:
    """How one residual is had: taken as it is, or computed on the way forward."""

    __slots__ = ("derived", "take")

    def __init__(self, name: str, derived: Mapping[str, Signature], take: Mapping[str, Callable]):
        self.derived = derived.get(name)
        names = self.derived.names if self.derived else (name,)
        self.take = tuple([take[n] for n in names])

    def __call__(self, tape: Tape, primitive, primals, out, params) -> Any:
        values = [take(primals, out) for take in self.take]
        if self.derived is None:
            return values[0]
        check_linear(primitive, values)
        with set_current_trace(tape.parent):
            return self.derived(*values, params=params)


def evaluate(tape: Tape, primitive, primals, params, linear: bool) -> Any:
    """The outputs in the parent trace; along tangents, the zeros of their types."""
    if not linear:
        return tape.parent.process_primitive(primitive, primals, params)
    outs = [Zero(aval) for aval in abstract_outputs(primitive, primals, params)]
    return outs if primitive.multiple_results else outs[0]


def abstract_outputs(primitive, operands: Sequence[Any], params) -> list[Any]:
    """The types of a primitive's outputs, given its operands, their zeros or their types."""
    avals = [x if isinstance(x, AbstractValue) else typeof_or_zero(x) for x in operands]
    outs, _ = primitive.abstract_eval(*avals, **params)
    return list(outs) if primitive.multiple_results else [outs]


def unbroadcast(ct: Any, aval: Any) -> Any:
    """Sum a cotangent over the dimensions in which its operand was broadcast."""
    shape, ct_shape = aval.shape, ct.shape
    if shape != ct_shape:
        if not shape:
            ct = summed(ct, range(len(ct_shape)))
        else:
            axes = [i for i, (n, m) in enumerate(zip(shape, ct_shape, strict=True)) if n != m]
            ct = reshaped(summed(ct, axes), aval)
    return ct


class Plan:
    """A formula rule for one choice of active operands: what to save, and what to call with it."""

    __slots__ = ("arrays", "broadcasts", "calls", "fuses", "names", "savers")

    def __init__(self, rule: Formula, active: tuple[bool, ...]):
        names: list[str] = []
        self.calls: list[tuple[Signature, list[int]] | None] = []
        for index, is_active in enumerate(active):
            if not is_active:
                continue
            signature = rule.signatures[index] if index < len(rule.signatures) else None
            if signature is not None:
                names.extend(name for name in signature.names if name not in names)
            picks = [] if signature is None else [names.index(name) for name in signature.names]
            self.calls.append(None if signature is None else (signature, picks))
        self.names = tuple(names)
        self.savers = [Saver(name, rule.derived, TAKE) for name in names]
        self.arrays = [i for i, name in enumerate(names) if not name.endswith("_aval")]
        self.broadcasts = rule.broadcasts
        self.fuses = rule.fuses

    def pullback(self, node: Node, cts: Sequence[Any]) -> list[Any]:
        (ct,) = cts
        residuals = node.residuals
        if self.fuses:
            arrays = [ct, *[residuals[i] for i in self.arrays]]
            if _jax.runs_eagerly(arrays):
                types = tuple([aval for i, aval in enumerate(residuals) if i not in self.arrays])
                shapes = tuple([aval.shape for aval in node.avals]) if self.broadcasts else ()
                fused = fuse(self, tuple(node.params.items()), types, shapes)
                if fused is not None:
                    return fused(*arrays)
        return self.apply(ct, residuals, node.params, node.avals)

    @functools.cache  # noqa: B019 - plans live as long as their rule
    def narrowed(self, wanted: tuple[bool, ...]) -> Plan:
        plan = copy.copy(self)
        plan.calls = [call if want else None for call, want in zip(self.calls, wanted, strict=True)]
        return plan

    def apply(self, ct: Any, residuals: Sequence[Any], params: Mapping[str, Any], avals: Sequence[Any]) -> list[Any]:
        """A cotangent, or None, for each active operand. Of ``avals``, the operands' types, only shapes are read."""
        pulled: list[Any] = []
        for call, aval in zip(self.calls, avals, strict=True):
            if call is None:
                pulled.append(None)
                continue
            signature, picks = call
            x_ct = signature(ct, *[residuals[i] for i in picks], params=params)
            if self.broadcasts:
                x_ct = unbroadcast(x_ct, aval)
            pulled.append(x_ct)
        return pulled


@functools.lru_cache(maxsize=8192)
def fuse(plan: Plan, params: tuple, types: tuple, shapes: tuple) -> Callable | None:
    """A pullback compiled as one, for eager use: its dispatch costs as much as that of each operation in it.

    ``types`` are the residuals that are types, ``shapes`` those of the operands if they were broadcast.
    """

    def pull(ct, *arrays):
        rest, kept = iter(arrays), iter(types)
        residuals = [next(rest) if i in plan.arrays else next(kept) for i in range(len(plan.names))]
        avals = [jax.ShapeDtypeStruct(shape, ct.dtype) for shape in shapes] if plan.broadcasts else plan.calls
        return plan.apply(ct, residuals, dict(params), avals)

    return jax.jit(pull)


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
        self.plans: dict[tuple[bool, ...], Plan | None] = {}

    def plan(self, active: tuple[bool, ...]) -> Plan | None:
        """The plan for the active operands; None where none of them has a derivative."""
        plan = Plan(self, active)
        known = self.plans[active] = plan if any(call is not None for call in plan.calls) else None
        return known

    def record(self, tape, primitive, primals, tracers, params, linear):
        active = tuple([t is not None for t in tracers])
        try:
            plan = self.plans[active]
        except KeyError:
            plan = self.plan(active)
        if plan is None:
            return tape.parent.process_primitive(primitive, tape.values(primals), params)
        out = evaluate(tape, primitive, primals, params, linear)
        residuals = tuple([save(tape, primitive, primals, out, params) for save in plan.savers])
        if linear:
            check_linear(primitive, residuals)
        return tape.emit(plan, primitive, params, None, residuals, tracers, out)


class Joint(Rule):
    """One function for all operands."""

    def __init__(self, function: Callable, derived: Mapping[str, Callable]):
        self.derived = {name: Signature.read(f, list(TAKE_ALL)) for name, f in derived.items()}
        self.signature = Signature.read(function, [*TAKE_ALL, *derived, "active"], ("ct", "cts"))
        self.wants_active = "active" in self.signature.names
        self.names = tuple([name for name in self.signature.names if name != "active"])
        self.savers = [Saver(name, self.derived, TAKE_ALL) for name in self.names]
        self.single = parameter_names(function)[0][0] == "ct"

    def record(self, tape, primitive, primals, tracers, params, linear):
        out = evaluate(tape, primitive, primals, params, linear)
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
        return [x_ct for x_ct, is_active in zip(pulled, active, strict=True) if is_active]


def check_linear(primitive, residuals: Sequence[Any]) -> None:
    if any(type(x) is Zero for x in residuals):
        raise NotImplementedError(
            f"a custom JVP rule must be linear in its tangents, but it applies '{primitive}' to one in a way that is "
            "not. Rewrite the rule so that tangents only enter linear operations."
        )


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


class RuleTable(Mapping):
    """An immutable table of derivative rules, by primitive or by jitted function.

    Tables are passed, never registered: ``fg.grad(f, rules=fg.rules.default.override({lax.round_p: lambda ct: ct}))``.
    A function's key is, in the end, the source location that JAX records for it.
    """

    __slots__ = ("_hash", "_rules", "fallback", "get")

    #: Whether operations that are run eagerly are recorded with their line too.
    keeps_source = False

    def __init__(self, rules: Mapping[Any, Rule], fallback: Rule | None = None):
        self._rules = dict(rules)
        self._hash = hash(frozenset(self._rules.items()))
        self.get = self._rules.get  # type: ignore[method-assign]
        #: The rule of primitives that are not in the table but in JAX's own, None for none.
        self.fallback = fallback

    def override(self, rules: Mapping[Any, Any]) -> RuleTable:
        """A new table with ``rules`` in place of this one's.

        A key is a primitive, or a jitted function such as ``jnp.clip``, whose rule then stands for all of it in every
        place it is called.

        The rule of a primitive is a formula (for the first operand), a sequence of them (one per operand, None for no
        derivative), or a ``Rule``. That of a function is a formula, or a sequence with one per argument, that names
        what it needs of the arguments and ``out``; or a pair as for ``jax.custom_vjp``, ``fwd(*args) -> (out,
        residuals)`` and ``bwd(residuals, ct) -> cts``; or a dict of rules that hold inside the function only.

        Raises:
          TypeError: a key can never match, such as a function that is not jitted, or a rule names what there is not.

        >>> import jax.numpy as jnp
        >>> import funcgrad as fg
        >>> through = fg.rules.default.override({jnp.clip: lambda ct: ct})
        >>> f = lambda x: jnp.clip(x, 0.0, 1.0)
        >>> fg.grad(f)(3.0), fg.grad(f, rules=through)(3.0)
        (Array(0., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
        """
        from funcgrad.rules.functions import entry  # it is made of this module

        changed = dict(entry(key, rule) for key, rule in rules.items())
        return RuleTable({**self._rules, **changed}, self.fallback)

    def foreign(self) -> list[Any]:
        """The primitives, by name, that use the fallback: those that only JAX's tables have a rule for."""
        known = {p for p in _jax.foreign_jvps if p not in self._rules}
        return sorted(known, key=str) if self.fallback is not None else []

    def missing(self, primitive) -> Rule:
        """The fallback for a primitive without a rule, or the error that names the user's line."""
        tables = (_jax.foreign_jvps, _jax.foreign_linearizations, _jax.foreign_transposes)
        known_to_jax = any(primitive in table for table in tables)
        if self.fallback is not None and known_to_jax:
            return self.fallback
        raise NotImplementedError(
            f"funcgrad has no derivative rule for the primitive '{primitive}', used at "
            f"{_jax.user_line(_jax.current_source())}. Pass one: "
            "rules=fg.rules.default.override({primitive: rule}), where rule is a function such as "
            "`lambda ct, x: ...` per operand."
        )

    def __getitem__(self, key) -> Rule:
        if callable(key):
            from funcgrad.rules.recognition import location

            key = location(key)
        return self._rules[key]

    def __iter__(self) -> Iterator:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, RuleTable) and self._rules == other._rules and self.fallback is other.fallback
        )

    def __repr__(self) -> str:
        functions = sum(isinstance(key, str) for key in self)
        return f"RuleTable({len(self) - functions} primitives{f', {functions} functions' if functions else ''})"


def as_rule(rule: Any) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if callable(rule):
        rule = [rule]
    if isinstance(rule, Sequence) and not isinstance(rule, str):
        return Formula(rule, {}, broadcasts=True, fuses=False)
    raise TypeError(f"a rule is a function, a sequence of functions (one per operand) or a Rule; got {rule!r}")
