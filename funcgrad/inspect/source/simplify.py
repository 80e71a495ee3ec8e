"""Tidying programs: equal values are computed once, rewrites by operation are made until there are no more, and what
nothing depends on is left out, in all programs of a source at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from funcgrad._jax import Literal, Var
from funcgrad.inspect.source.program import Equation, Program, callers_first, calls_of, measure

COMMUTATIVE = {"add", "mul", "max", "min", "eq", "ne", "and", "or", "xor"}


def simplify(root: Program, rules: Mapping[str, Sequence[Rule]]) -> None:
    """Tidy ``root`` and the programs in it by ``rules``, given by operation, until there is no more to do."""
    before = None
    while before != (before := measure(root)):
        Simplifier(rules).program_and_functions(root)
        without_dead_code(root)


class Simplifier:
    def __init__(self, rules: Mapping[str, Sequence[Rule]]):
        self.rules = rules
        #: What stands in for a variable, and the equations by the variables they compute.
        self.stand_ins: dict[Var, Any] = {}
        self.made_by: dict[Var, Equation] = {}
        self.uses: Any = {}

    def program_and_functions(self, root: Program) -> None:
        calls = {program: [eqn for _, eqn in sites] for program, sites in calls_of(root).items()}
        for program, eqns in calls.items():
            self.fix_numbers(program, eqns)
        for program in (root, *calls):
            self.program(program, {})

    def fix_numbers(self, program: Program, calls: Sequence[Equation]) -> None:
        """Put into a function the numbers that all of its calls pass, and take what they pass twice once."""
        for var, *values in zip(program.inputs, *(eqn.inputs for eqn in calls), strict=True):
            if all(type(x) is Literal for x in values) and len({value_key(x) for x in values}) == 1:
                self.stand_ins[var] = values[0]
        for i, var in enumerate(program.inputs):
            for k, other in enumerate(program.inputs[:i]):
                if all(eqn.inputs[i] is eqn.inputs[k] for eqn in calls):
                    self.stand_ins.setdefault(var, other)

    def resolve(self, x: Any) -> Any:
        while type(x) is Var and x in self.stand_ins:
            x = self.stand_ins[x]
        return x

    def program(self, program: Program, known: dict) -> None:
        """Tidy a program; ``known`` are the values computed around it."""
        outer, self.uses = self.uses, program.uses()
        known = dict(known)
        equations, program.equations = program.equations, []
        for eqn in equations:
            eqn.inputs = [self.resolve(x) for x in eqn.inputs]
            if eqn.has_effects:
                self.add(program, eqn, known)
                continue
            result = self.rewritten(eqn)
            if result is not None:
                for new in result.equations:
                    self.place(program, new, known)
                self.replace(program, eqn.outputs[0], self.resolve(result.value))
            else:
                self.place(program, eqn, known)
        program.outputs = [self.resolve(x) for x in program.outputs]
        for marks in (program.primals, program.cotangents):
            marks.update({key: self.resolve(x) for key, x in marks.items()})
        self.uses = outer

    def place(self, program: Program, eqn: Equation, known: dict) -> None:
        """Add an equation, unless its value is known."""
        eqn.inputs = [self.resolve(x) for x in eqn.inputs]
        key = key_of(eqn)
        same = known.get(key)
        if same is not None:
            for mine, theirs in zip(eqn.outputs, same, strict=True):
                self.replace(program, mine, theirs)
            return
        self.add(program, eqn, known)
        if key is not None:
            known[key] = eqn.outputs

    def add(self, program: Program, eqn: Equation, known: dict) -> None:
        if eqn.name == "cond":
            cast = self.maker(eqn.inputs[0], "convert_element_type")
            if len(eqn.params["branches"]) == 2 and cast is not None and cast.inputs[0].aval.dtype == np.bool_:
                eqn.inputs = cast.inputs
        if eqn.name == "call":
            function: Program = eqn.params["program"]
            returned = zip(eqn.outputs, function.outputs, strict=True)
            self.stand_ins.update((v, x) for v, x in returned if type(x) is Literal)
            self.see_through(dict(zip(function.inputs, eqn.inputs, strict=True)), eqn.outputs, function.outputs)
        else:
            for inner in eqn.programs():
                self.program(inner, known)
        if eqn.name == "scan":
            first = eqn.params["carry"]
            self.see_through({}, eqn.outputs[first:], eqn.params["body"].outputs[first:])
        program.equations.append(eqn)
        self.made_by.update(dict.fromkeys(eqn.outputs, eqn))

    def see_through(self, known: dict[Any, Any], outputs: Sequence[Var], inner: Sequence[Any]) -> None:
        """Use what a program inside hands on, being ``known`` around it, or returns twice, without asking it."""
        for v, x in zip(outputs, inner, strict=True):
            if type(x) is Var and known.setdefault(x, v) is not v:
                self.stand_ins[v] = known[x]

    def replace(self, program: Program, var: Var, value: Any) -> None:
        self.stand_ins[var] = value
        for names in (program.names, program.returned):
            if var in names and type(value) is Var:
                names.setdefault(value, names[var])

    def rewritten(self, eqn: Equation) -> Rewrite | None:
        results = (rule(self, eqn) for rule in self.rules.get(eqn.name, ()))
        return next((result for result in results if result is not None), None)

    def maker(self, x: Any, *names: str) -> Equation | None:
        """The equation that computes ``x``, if it is one of ``names``."""
        eqn = self.made_by.get(x) if type(x) is Var else None
        return eqn if eqn is not None and eqn.name in names else None

    def only_use(self, x: Any) -> bool:
        return self.uses.get(x, 0) == 1


class Rewrite:
    """What an equation is replaced by: a value, and the equations that it takes."""

    def __init__(self, value: Any, *equations: Equation):
        self.value = value
        self.equations = equations


def key_of(eqn: Equation) -> Any:
    if eqn.has_effects or eqn.name in ("optimization_barrier", "empty", "random_gamma"):
        return None
    operands = [value_key(x) for x in eqn.inputs]
    if eqn.name in COMMUTATIVE:
        operands.sort(key=str)
    operation = operation_of(eqn)
    return operation and (operation, tuple(operands))


def operation_of(eqn: Equation) -> Any:
    """What an equation does, whatever it does it to; None if its parameters cannot be compared."""
    try:
        return eqn.name, frozenset(eqn.params.items()), tuple(map(type_of, eqn.outputs))
    except TypeError:
        return None


def type_of(x: Any) -> Any:
    return getattr(x.aval, "shape", None), str(getattr(x.aval, "dtype", x.aval))


def value_key(x: Any) -> Any:
    if type(x) is Var:
        return id(x)
    return str(x.aval.dtype), np.asarray(x.val).tobytes()


def literal(value: Any, aval: Any) -> Literal:
    return Literal(np.asarray(value, aval.dtype)[()], aval.update(shape=()))


def like(eqn: Equation, name: str, inputs: Sequence[Any], output: Any, **params: Any) -> Equation:
    """An equation for the same line as ``eqn``."""
    return Equation(name, list(inputs), [output], params, eqn.frames, eqn.backward)


def instead(eqn: Equation, name: str, *inputs: Any, **params: Any) -> Rewrite:
    """Another equation that computes the same value."""
    var = Var(eqn.outputs[0].aval)
    return Rewrite(var, like(eqn, name, inputs, var, **params))


def is_value(x: Any, value: Any) -> bool:
    return type(x) is Literal and np.ndim(x.val) == 0 and bool(x.val == value)


def same_type(x: Any, y: Any) -> bool:
    return x.aval.shape == y.aval.shape and x.aval.dtype == y.aval.dtype


Rule = Callable[[Simplifier, Equation], "Rewrite | None"]


# Dead code.

#: What has the outputs of the programs in it, and no more of these than are needed.
TRIMMED = ("call", "cond", "scan")


def without_dead_code(root: Program) -> None:
    """Drop what nothing depends on, in all programs at once: a function keeps what any of its calls uses."""
    before = None
    while before != (before := measure(root)):
        needed: dict[Program, set[int]] = {root: set(range(len(root.outputs)))}
        programs = callers_first(root)
        for program in programs:
            sweep(program, needed)
        for program in programs:
            for eqn in program.equations:
                trim_outputs(eqn, needed)
        for program in callers_first(root):
            program.outputs = [x for i, x in enumerate(program.outputs) if i in needed[program]]
        trim_inputs(root)


def sweep(program: Program, needed: dict[Program, set[int]]) -> None:
    """Drop the equations that no needed output depends on, and say which outputs of the programs inside are needed."""
    live = {x for i, x in enumerate(program.outputs) if i in needed[program] and type(x) is Var}
    kept = []
    for eqn in reversed(program.equations):
        wanted = {i for i, v in enumerate(eqn.outputs) if v in live}
        if not wanted and not eqn.has_effects:
            continue
        kept.append(eqn)
        live.update(eqn.reads())
        if eqn.has_effects:
            wanted = set(range(len(eqn.outputs)))
        if eqn.name == "scan":
            wanted = carried_on(eqn, wanted)
        for inner in eqn.programs():
            outputs = wanted if eqn.name in TRIMMED else set(range(len(inner.outputs)))
            needed.setdefault(inner, set()).update(outputs)
    program.equations = kept[::-1]


def reached(program: Program, outputs: set[int]) -> set[Var]:
    """The variables that the outputs numbered ``outputs`` depend on."""
    live = {x for i, x in enumerate(program.outputs) if i in outputs and type(x) is Var}
    for eqn in reversed(program.equations):
        if eqn.has_effects or not live.isdisjoint(eqn.outputs):
            live.update(eqn.reads())
    return live


def carried_on(eqn: Equation, wanted: set[int]) -> set[int]:
    """The outputs of a loop's body that are needed for those of the loop in ``wanted``."""
    body, carry = eqn.params["body"], range(eqn.params["carry"])
    while True:
        live = reached(body, wanted)
        grown = wanted | {i for i in carry if body.inputs[i] in live}
        if grown == wanted:
            return wanted
        wanted = grown


def trim_outputs(eqn: Equation, needed: dict[Program, set[int]]) -> None:
    if eqn.name not in TRIMMED:
        return
    wanted = needed[eqn.programs()[0]]
    eqn.outputs = [v for i, v in enumerate(eqn.outputs) if i in wanted]
    if eqn.name == "scan":
        body, carry = eqn.params["body"], eqn.params["carry"]
        keep = [i >= carry or i in wanted for i in range(len(body.inputs))]
        trim(body, [eqn], keep)
        eqn.params["carry"] = sum(keep[:carry])


def trim(inner: Program, eqns: Sequence[Equation], keep: Sequence[bool]) -> None:
    """Leave out operands of a program, and of the equations that run it."""
    inner.inputs = [v for v, k in zip(inner.inputs, keep, strict=True) if k]
    for eqn in eqns:
        eqn.inputs = [x for x, k in zip(eqn.inputs, keep, strict=True) if k]


def trim_inputs(root: Program) -> None:
    """Leave out operands that are not used."""
    for program in callers_first(root):
        for eqn in program.equations:
            if eqn.name == "scan":
                body = eqn.params["body"]
                used = body.uses()
                keep = [i < eqn.params["carry"] or used[v] > 0 for i, v in enumerate(body.inputs)]
                trim(body, [eqn], keep)
    for inner, sites in calls_of(root).items():
        used = inner.uses()
        trim(inner, [eqn for _, eqn in sites], [used[v] > 0 for v in inner.inputs])
