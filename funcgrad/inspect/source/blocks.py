"""Programs as the statements of a Python function."""

from __future__ import annotations

import ast
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from funcgrad._jax import Literal, Var
from funcgrad.inspect.printing import Comment, text
from funcgrad.inspect.source import indexing, operations, structured
from funcgrad.inspect.source.expressions import assign, dtype_text, expression, function, packed, scalar_text
from funcgrad.inspect.source.names import Namespace, assigned_names, base, cotangents_in, statement_of, word_for
from funcgrad.inspect.source.packing import Packing
from funcgrad.inspect.source.program import Equation, Program, dtype_of
from funcgrad.inspect.source.spelling import spelled

SPELLINGS = {**operations.SPELLINGS, **structured.SPELLINGS, **indexing.SPELLINGS}
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
        packings: Mapping[Program, Packing],
        constants: Sequence[Var],
        writers: Mapping[str, Writer],
    ):
        self.writers = writers
        self.names = Namespace()
        self.functions = {program: self.names.fresh(program.name or "block") for program in functions}
        self.packings = packings
        #: The names of values, in whatever function they are, and those of the values that the user named.
        self.known = {v: self.names.fresh(f"CONSTANT_{i}") for i, v in enumerate(constants)}
        self.constants = {v: ast.Name(known) for v, known in self.known.items()}
        self.given: set[Var] = set()
        #: Of what loops stack, the name of one.
        self.singular: dict[Var, str] = {}
        self.made_by: dict[Var, Equation] = {}
        self.defined: set[Program] = set()
        self.definitions: list[ast.stmt] = []


class Block:
    """One function's statements. ``outside`` are the expressions of values around it."""

    def __init__(self, module: Module, program: Program, names: Namespace, outside: Any):
        self.module = module
        self.program = program
        self.names = names
        self.values: Any = ChainMap({}, outside, module.constants)
        self.uses = program.uses()
        self.assigned: dict[Var, str] = {}
        self.returned: dict[Var, str] = {}
        self.cotangents: dict[Var, list[Any]] = {}
        #: The values that depend on a cotangent.
        self.pulled: set[Var] = set()
        self.hints: dict[Var, str] = {}
        self.body: list[ast.stmt] = []
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
        self.captured = {v for eqn in program.equations for v in eqn.captured()}
        #: Whether a value that is only returned is written where it is returned.
        self.returns_expressions = False

    # What operations are written in terms of.

    def bare(self, x: Any) -> ast.expr:
        if type(x) is not Literal:
            return self.values[x]
        # JAX takes a Python integer for one of 32 bits.
        is_wide = isinstance(dtype_of(x), np.dtype) and dtype_of(x).kind in "iu" and abs(int(x.val)) >= 2**31
        return self.typed(x) if is_wide else expression(scalar_text(x.val))

    def typed(self, x: Any) -> ast.expr:
        if type(x) is Literal:
            return expression(f"{dtype_text(dtype_of(x))}({scalar_text(x.val)})")
        return self.values[x]

    def all_typed(self, values: Iterable[Any]) -> list[ast.expr]:
        return [self.typed(x) for x in values]

    def function(self, program: Program, name: str, groups: int = 0, unused: int = 0) -> ast.expr:
        inner = self.inner(program)
        names = [inner.bind(v, None) for v in program.inputs]
        count = max(len(names) // groups, 1) if groups else 1
        parts = [names[i : i + count] for i in range(0, len(names), count)]
        params = [inner.parameter(f"group_{i}", part) for i, part in enumerate(parts)]
        return self.define(inner, program.name or name, ["_"] * unused + params)

    # Names.

    def bind(self, var: Var, hint: str | None) -> str:
        """Give a value a name, and let it be known by it."""
        preferred = self.preferred(var)
        fresh = self.names.fresh(preferred or hint or "x")
        self.values[var] = ast.Name(fresh)
        self.module.known[var] = fresh
        if preferred is not None:
            self.module.given.add(var)
        return fresh

    def preferred(self, var: Var) -> str | None:
        """The name that the user gave to a value, or to what it is the cotangent of."""
        known = self.assigned.get(var) or self.hints.get(var) or self.returned.get(var)
        if known is not None:
            return known
        found = [primal for primal in self.primals(var) if primal in self.module.known]
        # What the user named comes first.
        primal = min(found, key=lambda primal: primal not in self.module.given, default=None)
        return None if primal is None else f"ct_{self.module.known[primal]}"

    def primals(self, var: Var) -> list[Var]:
        """What a value is the cotangent of."""
        programs = (self.program, *self.program.partners)
        found = [program.primals.get(key) for key in self.cotangents.get(var, ()) for program in programs]
        return [primal for primal in found if type(primal) is Var]

    def name_of(self, x: Any) -> str | None:
        return self.module.known.get(x) if type(x) is Var else None

    def word(self, eqn: Equation) -> str:
        """A name for a value that the user did not name."""
        out = eqn.outputs[0]
        for primal in self.primals(out):
            if primal in self.module.made_by:
                return f"ct_{word_for(self.module.made_by[primal], self.name_of, self.module.made_by)}"
        word = word_for(eqn, self.name_of, self.module.made_by)
        return f"ct_{word}" if out in self.pulled and not word.startswith("ct_") else word

    def targets(self, eqn: Equation, hints: Sequence[str | None] | None = None) -> list[ast.expr]:
        """Names for an equation's outputs."""
        hints = hints or [None] * len(eqn.outputs)
        return [self.target(v, hint or self.word(eqn)) for v, hint in zip(eqn.outputs, hints, strict=True)]

    def target(self, var: Var, hint: str | None) -> ast.expr:
        return ast.Name(self.bind(var, hint) if self.uses[var] else "_")

    # Statements.

    def statements(self) -> list[ast.stmt]:
        free = self.program.free() | set(self.program.inputs)
        known = [v for v in free if v in self.values and text(self.values[v]).startswith("ct_")]
        known += [v for v, hint in self.hints.items() if hint.startswith("ct_")]
        self.pulled = cotangents_in(self.program, known)
        self.assigned, self.returned = assigned_names(self.program, self.pulled)
        for eqn in self.program.equations:
            self.equation(eqn)
        return self.body

    def parameter(self, hint: str, names: Sequence[str]) -> str:
        """The parameter for some values, which have ``names``: several are one, taken apart first of all."""
        if len(names) < 2:
            return names[0] if names else "_"
        whole = self.names.fresh(hint)
        self.body.append(assign([ast.Name(x) for x in names], ast.Name(whole)))
        return whole

    def equation(self, eqn: Equation) -> None:
        writer = self.module.writers.get(eqn.name)
        if writer is not None:
            self.comment(eqn)
            writer(self, eqn)
            return
        if eqn.programs():
            self.comment(eqn)
        value = spelled(self, eqn, SPELLINGS, structured.EACH)
        if len(eqn.outputs) == 1 and self.stays_inside(eqn, value):
            self.values[eqn.outputs[0]] = value
            return
        self.comment(eqn)
        is_single = len(eqn.outputs) == 1
        is_fence = eqn.name == "optimization_barrier" and not is_single
        hints = [base(self.name_of(x)) for x in eqn.inputs] if is_fence else None
        is_unused = is_single and not self.uses[eqn.outputs[0]]
        self.body.append(assign([] if is_unused else self.targets(eqn, hints), value))

    def stays_inside(self, eqn: Equation, value: ast.expr) -> bool:
        """Whether an expression is written where it is used, instead of getting a name."""
        (out,) = eqn.outputs
        if eqn.has_effects or len(text(value)) > LONGEST:
            return False
        is_view = eqn.name in VIEWS and (type(x := eqn.inputs[0]) is Literal or isinstance(self.values[x], ast.Name))
        if is_view and out not in self.program.outputs:
            return True
        if eqn.name == "full" and ZEROS.match(text(value)) and self.preferred(out) is None:
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
            self.body.append(Comment("The way back.", chapter=True))
        elif group == self.group or found is None:
            return
        self.group = group
        if found is not None:
            self.body.append(Comment(found.text))

    # Functions inside.

    def inner(self, program: Program) -> Block:
        """The block of a program inside of this one, which uses the values around it."""
        captured = [node for v in program.free() for node in ast.walk(self.values[v])]
        taken = {node.id for node in captured if isinstance(node, ast.Name)} | self.module.names.taken
        block = Block(self.module, program, Namespace(taken), self.values)
        block.returns_expressions = True
        return block

    def define(
        self, inner: Block, hint: str, params: Sequence[str], result: Callable[[], ast.expr] | None = None
    ) -> ast.expr:
        """Write a function out; ``result`` gives what it returns if that is not its program's outputs."""
        own = self.names.fresh(hint)
        inner.names.taken.add(own)
        inner.statements()
        returned = result() if result else packed(inner.all_typed(inner.program.outputs))
        self.body.append(function(own, params, [*inner.body, ast.Return(returned)]))
        return ast.Name(own)


#: How an equation is written that is a statement of its own.
Writer = Callable[[Block, Equation], None]
