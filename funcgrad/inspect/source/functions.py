"""Functions that are called more than once: their definitions, and the calls of them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from funcgrad._jax import Var
from funcgrad.inspect.source.blocks import Block, Module
from funcgrad.inspect.source.expressions import assign, call, display, expression, function, packed
from funcgrad.inspect.source.names import Namespace, base
from funcgrad.inspect.source.packing import Group, accessed, numbers_in, unpacking
from funcgrad.inspect.source.program import Equation, Program
from funcgrad.inspect.syntax import parameters_of


def define(module: Module, program: Program, operands: Sequence[str | None], results: Sequence[str | None]) -> str:
    """The name of a function that runs ``program``, defined when first asked for.

    ``operands`` and ``results`` are the names of what its first call takes and gives.
    """
    name = module.functions[program]
    if program in module.defined:
        return name
    module.defined.add(program)
    block = Block(module, program, Namespace(module.names.taken), {})
    own = [part for names in parameters_of(program.source) for part in names]
    if len(own) == len(program.all_inputs):
        block.hints.update(zip(program.all_inputs, own, strict=True))
    known = zip(program.outputs, results, strict=True)
    block.hints.update({v: base(result) or result for v, result in known if result and type(v) is Var})
    params = signature(block, operands)
    body = block.statements()
    module.definitions.append(function(name, params, [*body, ast.Return(packed(returned(block)))]))
    return name


def signature(block: Block, operands: Sequence[str | None]) -> list[str]:
    """The parameters of a function; those that hold more than one input are taken apart first of all."""
    inputs = block.program.inputs
    names = [block.bind(v, base(operand)) for v, operand in zip(inputs, operands, strict=True)]
    packing = block.module.packing(block.program)
    return [
        names[slot] if isinstance(slot, int) else taken_apart(block, slot, [names[k] for k in slot.members])
        for slot in packing.operands(len(names))
    ]


def taken_apart(block: Block, group: Group, names: Sequence[str]) -> str:
    """The parameter that holds a group, whose members are given ``names``."""
    if not group.paths:
        return block.unpack(group.name, names)
    whole = block.names.fresh(group.name)
    block.body += unpacking([(x, part(whole, path)) for x, path in zip(names, group.paths, strict=True)])
    return whole


def part(argument: str, path: Sequence[Any]) -> ast.expr:
    return expression(accessed(argument, path) or "")


def returned(block: Block) -> list[ast.expr]:
    """What a function returns."""
    values = block.all_typed(block.program.outputs)
    shown = []
    for slot in block.module.packing(block.program).results(len(values)):
        if isinstance(slot, int):
            shown.append(values[slot])
        else:
            members = [values[k] for k in slot.members]
            shown.append(display(nested(slot.paths, members)) if slot.paths else ast.Tuple(members))
    return shown


def nested(paths: Sequence[Sequence[Any]], values: Sequence[ast.expr]) -> dict[Any, Any]:
    """Dicts with ``values`` at ``paths``."""
    tree: dict[Any, Any] = {}
    for path, value in zip(paths, values, strict=True):
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key.key, {})
        inner[path[-1].key] = value
    return tree


def call_of(block: Block, eqn: Equation) -> None:
    program: Program = eqn.params["program"]
    operands, results = [block.name_of(x) for x in eqn.inputs], [block.preferred(v) for v in eqn.outputs]
    name = define(block.module, program, operands, results)
    packing = block.module.packing(program)
    given = call(name, [argument(block, eqn, slot) for slot in packing.operands(len(eqn.inputs))])
    hints = [base(block.name_of(x)) for x in program.outputs]
    targets = [target(block, eqn, slot, hints) for slot in packing.results(len(eqn.outputs))]
    block.body.append(assign(targets, given))


def argument(block: Block, eqn: Equation, slot: int | Group) -> ast.expr:
    """What a call passes."""
    if isinstance(slot, int):
        return block.typed(eqn.inputs[slot])
    place = slot.places.get(id(eqn))
    return block.typed(eqn.inputs[slot.members[0]]) if place is None else part(*place)


def target(block: Block, eqn: Equation, slot: int | Group, hints: Sequence[str | None]) -> ast.expr:
    """A name for what a call returns, or a tuple of names; ``hints`` are what the function calls its results."""
    if isinstance(slot, int):
        return block.target(eqn.outputs[slot], hints[slot])
    if id(eqn) not in slot.places:
        return ast.Tuple([block.target(eqn.outputs[i], hints[i]) for i in slot.members])
    place = slot.places[id(eqn)]
    whole = block.names.fresh(slot.name if place is None else f"ct_{slot.name}{numbers_in(place)}")
    for i, path in zip(slot.members, slot.paths or [()] * len(slot.members), strict=True):
        block.values[eqn.outputs[i]] = part(whole, path)
        hint = hints[i]
        if place is None and hint:
            block.module.known[eqn.outputs[i]] = hint
    return ast.Name(whole)


WRITERS = {"call": call_of}
