"""Programs as the statements of a Python function."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from funcgrad._jax import Literal, Var
from funcgrad.inspect.source import structured
from funcgrad.inspect.source.bundles import Bundle
from funcgrad.inspect.source.calls import spelled
from funcgrad.inspect.source.containers import Packing
from funcgrad.inspect.source.names import Namespace, assigned_names, cotangents_in, statement_of, word_for
from funcgrad.inspect.source.program import Equation, Program, dtype_of
from funcgrad.inspect.source.static import dtype_text, scalar_text
from funcgrad.inspect.source.text import ATOM, UNARY, WIDTH, Text, call, statement, tuple_of

#: Expressions longer than this get a name.
LONGEST = 64
#: Views of a value, which are written again wherever they are used.
VIEWS = {"transpose", "expand_dims"}
ZEROS = re.compile(r"jnp\.(zeros|ones)\(\S{1,8}\)$")


class Module:
    """What the functions of one source share: their names, and the values whose names others are derived from."""

    def __init__(
        self,
        functions: Sequence[Program],
        bundles: dict[Program, Bundle],
        packings: dict[Program, Packing],
        constants: Sequence[Var],
        writers: Mapping[str, Writer],
    ):
        self.writers = {**dict.fromkeys(structured.EFFECTS, effect), **writers}
        self.names = Namespace()
        self.functions = {program: self.names.fresh(program.name or "block") for program in functions}
        self.bundles = bundles
        self.packings = packings
        self.constants = {v: Text(self.names.fresh(f"CONSTANT_{i}")) for i, v in enumerate(constants)}
        #: The names of values, in whatever function they are, and those of the values that the user named.
        self.known = {v: text.text for v, text in self.constants.items()}
        self.given: set[Var] = set()
        #: Of what loops stack, the name of one.
        self.singular: dict[Var, str] = {}
        self.made_by: dict[Var, Equation] = {}
        self.defined: set[Program] = set()
        self.definitions: list[str] = []


class Block:
    """One function's statements. ``outside`` are the expressions of values around it."""

    def __init__(self, module: Module, program: Program, names: Namespace, outside: Any):
        self.module = module
        self.program = program
        self.names = names
        self.texts: Any = ChainMap({}, outside, module.constants)
        self.uses = program.uses()
        self.assigned: dict[Var, str] = {}
        self.returned: dict[Var, str] = {}
        self.cotangents: dict[Var, list[Any]] = {}
        #: The values that depend on a cotangent.
        self.pulled: set[Var] = set()
        self.hints: dict[Var, str] = {}
        self.lines: list[str] = []
        self.indent = 4
        self.group: Any = None
        self.consumers: dict[Var, Equation] = {}
        forward = set()
        for eqn in program.equations:
            self.consumers.update((x, eqn) for x in eqn.inputs if type(x) is Var)
            module.made_by.update(dict.fromkeys(eqn.outputs, eqn))
            if not eqn.backward:
                forward.update(eqn.outputs)
        for key, v in program.cotangents.items():
            if type(v) is Var and v not in forward:
                self.cotangents.setdefault(v, []).append(key)
        self.captured = {v for eqn in program.equations for inner in eqn.programs() for v in inner.free()}
        #: Whether a value that is only returned is written where it is returned.
        self.returns_expressions = False

    # What calls are written in terms of.

    def text(self, x: Any) -> Text:
        if type(x) is Literal:
            text = scalar_text(x.val)
            return Text(text, UNARY if text.startswith("-") else ATOM)
        return self.texts[x]

    def typed(self, x: Any) -> Text:
        if type(x) is Literal:
            return call(dtype_text(dtype_of(x)), scalar_text(x.val))
        return self.texts[x]

    def function(self, program: Program, name: str, groups: int = 0, first: Sequence[str] = ()) -> str:
        inner = self.inner(program)
        names = [inner.bind(v, None) for v in program.inputs]
        head = []
        count = len(names) // groups if groups else 1
        if count > 1:
            parts = [names[i : i + count] for i in range(0, len(names), count)]
            names = [inner.names.fresh(f"group_{i}") for i in range(groups)]
            head = [f"{', '.join(part)} = {group}" for part, group in zip(parts, names, strict=True)]
        return self.define(inner, program.name or name, [*first, *names], head)

    # Names.

    def bind(self, var: Var, hint: str | None) -> str:
        """Give a value a name, and let it be known by it."""
        preferred = self.preferred(var)
        name = self.names.fresh(preferred or hint or "x")
        self.texts[var] = Text(name)
        self.module.known[var] = name
        if preferred is not None:
            self.module.given.add(var)
        return name

    def preferred(self, var: Var) -> str | None:
        """The name that the user gave to a value, or to what it is the cotangent of."""
        known = self.assigned.get(var) or self.hints.get(var) or self.returned.get(var)
        if known is not None:
            return known
        found = []
        for key in self.cotangents.get(var, ()):
            for program in (self.program, *self.program.partners):
                primal = program.primals.get(key)
                if type(primal) is Var and primal in self.module.known:
                    found.append(primal)
        # What the user named comes first.
        found.sort(key=lambda primal: primal not in self.module.given)
        return f"ct_{self.module.known[found[0]]}" if found else None

    def name_of(self, x: Any) -> str | None:
        return self.module.known.get(x) if type(x) is Var else None

    def word(self, eqn: Equation) -> str:
        """A name for a value that the user did not name."""
        out = eqn.outputs[0]
        for key in self.cotangents.get(out, ()):
            for program in (self.program, *self.program.partners):
                made = self.module.made_by.get(program.primals.get(key))  # type: ignore[arg-type]
                if made is not None:
                    return f"ct_{word_for(made, self.name_of, self.module.made_by)}"
        word = word_for(eqn, self.name_of, self.module.made_by)
        return f"ct_{word}" if out in self.pulled and not word.startswith("ct_") else word

    def targets(self, eqn: Equation, hints: Sequence[str | None]) -> list[str]:
        """Names for an equation's outputs."""
        return [
            self.bind(v, hint or self.word(eqn)) if self.uses[v] else "_"
            for v, hint in zip(eqn.outputs, hints, strict=True)
        ]

    # Statements.

    def statements(self, indent: int) -> list[str]:
        self.indent = indent
        free = self.program.free() | set(self.program.inputs)
        known = [v for v in free if v in self.texts and self.texts[v].text.startswith("ct_")]
        known += [v for v, name in self.hints.items() if name.startswith("ct_")]
        self.pulled = cotangents_in(self.program, known)
        self.assigned, self.returned = assigned_names(self.program, self.pulled)
        for eqn in self.program.equations:
            self.equation(eqn)
        return self.lines

    def emit(self, text: str) -> None:
        self.lines += statement(text, self.indent)

    def equation(self, eqn: Equation) -> None:
        writer = self.module.writers.get(eqn.name)
        if writer is not None:
            self.comment(eqn)
            writer(self, eqn)
            return
        if eqn.programs():
            self.comment(eqn)
        text = spelled(self, eqn)
        if len(eqn.outputs) == 1:
            (out,) = eqn.outputs
            if self.stays_inside(eqn, text):
                self.texts[out] = text
                return
            self.comment(eqn)
            self.emit(f"{self.bind(out, self.word(eqn))} = {text}" if self.uses[out] else text.text)
            return
        self.comment(eqn)
        hints: list[str | None] = [None] * len(eqn.outputs)
        if eqn.name == "optimization_barrier":
            hints = [base(self.name_of(x)) for x in eqn.inputs]
        left = ", ".join(self.targets(eqn, hints))
        self.emit(f"{left} = {text}" if left else text.text)

    def stays_inside(self, eqn: Equation, text: Text) -> bool:
        """Whether an expression is written where it is used, instead of getting a name."""
        (out,) = eqn.outputs
        if eqn.has_effects or len(text.text) > LONGEST:
            return False
        is_view = eqn.name in VIEWS and (type(eqn.inputs[0]) is Literal or self.text(eqn.inputs[0]).text.isidentifier())
        if is_view and out not in self.program.outputs:
            return True
        if eqn.name == "full" and ZEROS.match(text.text) and self.preferred(out) is None:
            return out not in self.program.outputs
        if self.uses[out] != 1 or out in self.captured:
            return False
        consumer = self.consumers.get(out)
        if consumer is None:
            return self.returns_expressions and self.assigned.get(out) is None
        if self.preferred(out) is not None:
            return False
        return eqn.name in VIEWS | {"full"} or self.group_of(consumer) == self.group_of(eqn)

    def group_of(self, eqn: Equation) -> Any:
        found = statement_of(eqn)
        return eqn.backward, found and (found.file, found.line)

    def comment(self, eqn: Equation) -> None:
        """The user's line, before the first statement that comes of it."""
        found = statement_of(eqn)
        group = self.group_of(eqn)
        if self.group is not None and group[0] and not self.group[0]:
            self.lines += ["", " " * self.indent + "# The way back."]
        elif group == self.group or found is None:
            return
        self.group = group
        if found is not None:
            room = WIDTH - self.indent - 2
            text = found.text if len(found.text) <= room else found.text[: room - 4] + " ..."
            self.lines.append(" " * self.indent + f"# {text}")

    # Functions inside.

    def inner(self, program: Program) -> Block:
        """The block of a program inside of this one, which uses the values around it."""
        captured = " ".join(str(self.texts[v]) for v in program.free())
        taken = set(re.findall(r"[^\W\d]\w*", captured)) | set(self.module.names.taken)
        block = Block(self.module, program, Namespace(taken), self.texts)
        block.returns_expressions = True
        return block

    def define(
        self, inner: Block, name: str, params: Sequence[str], head: Sequence[str] = (), result: Callable | None = None
    ) -> str:
        """Write a function out; ``head`` are its first statements, and ``result`` gives what it returns."""
        name = self.names.fresh(name)
        inner.names.taken.add(name)
        body = inner.statements(self.indent + 4)
        self.emit(f"def {name}({', '.join(params)}):")
        for line in head:
            self.lines += statement(line, self.indent + 4)
        while body and not body[0]:
            body = body[1:]
        self.lines += body
        returned = result() if result else packed([str(inner.typed(x)) for x in inner.program.outputs])
        self.lines += [*statement(f"return {returned}", self.indent + 4), ""]
        return name


def effect(block: Block, eqn: Equation) -> None:
    for line in structured.EFFECTS[eqn.name](block, eqn):
        block.emit(line)


#: How an equation is written that is a statement of its own.
Writer = Callable[[Block, Equation], None]


def base(name: str | None) -> str | None:
    """A name without its number."""
    return None if name is None else re.sub(r"(_\d+)+$", "", name) or name


def packed(texts: Sequence[str]) -> str:
    """One value as it is, several as a tuple, none as None."""
    if not texts:
        return "None"
    return texts[0] if len(texts) == 1 else tuple_of(texts)
