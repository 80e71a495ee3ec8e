"""Functions that are called more than once: their definitions, and the calls of them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from funcgrad._jax import Var
from funcgrad.inspect.source.blocks import Block, Module
from funcgrad.inspect.source.bundles import Bundle
from funcgrad.inspect.source.containers import Packing, accessed, numbers_in, unpacking
from funcgrad.inspect.source.names import Namespace, base
from funcgrad.inspect.source.program import Equation, Program
from funcgrad.inspect.source.trees import assign, call, display, expression, function, packed
from funcgrad.inspect.syntax import parameters_of

NO_BUNDLE, NO_PACKING = Bundle([], [], [], set()), Packing([], [])


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
    program, module = block.program, block.module
    bundle = module.bundles.get(program, NO_BUNDLE)
    packing = module.packings.get(program, NO_PACKING)
    handed = dict(zip(bundle.inputs, bundle.values, strict=False))
    names = [
        block.bind(v, base(module.known.get(handed[i]) if i in handed else operand))
        for i, (v, operand) in enumerate(zip(program.inputs, operands, strict=True))
    ]
    params: list[str] = []
    for i, name in enumerate(names):
        group = packing.member(i)
        if group is not None and i == group.members[0]:
            params.append(block.names.fresh(group.name))
            members = zip(group.members, group.paths, strict=True)
            block.body += unpacking([(names[k], expression(accessed(params[-1], path) or "")) for k, path in members])
        elif group is None and i not in handed:
            params.append(name)
        elif i in handed and i == min(handed):
            params.append(block.unpack("residuals", [names[k] for k in bundle.inputs]))
    return params


def returned(block: Block) -> list[ast.expr]:
    """What a function returns: leaves of containers together, and residuals last."""
    bundle = block.module.bundles.get(block.program, NO_BUNDLE)
    packing = block.module.packings.get(block.program, NO_PACKING)
    values = block.all_typed(block.program.outputs)
    shown = []
    for i, value in enumerate(values):
        group = packing.result(i)
        if group is None and i not in bundle.outputs:
            shown.append(value)
        elif group is not None and i == group.members[0]:
            shown.append(display(nested(group.paths, [values[k] for k in group.members])))
    return [*shown, ast.Tuple([values[i] for i in bundle.outputs])] if bundle.outputs else shown


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
    operands, results = [block.name_of(x) for x in eqn.inputs], [block.preferred(v) for v in eqn.outputs]
    name = define(block.module, eqn.params["program"], operands, results)
    given = call(name, arguments(block, eqn))
    block.body.append(assign(targets(block, eqn), given))


def arguments(block: Block, eqn: Equation) -> list[ast.expr]:
    """What a call passes, in the order of the function's parameters."""
    bundle = block.module.bundles.get(eqn.params["program"], NO_BUNDLE)
    packing = block.module.packings.get(eqn.params["program"], NO_PACKING)
    found = []
    for i, x in enumerate(eqn.inputs):
        group = packing.member(i)
        if group is not None and i == group.members[0]:
            found.append(expression(accessed(*group.places[id(eqn)]) or ""))
        elif group is None and (i not in bundle.inputs or i == min(bundle.inputs)):
            found.append(block.typed(x))
    return found


def targets(block: Block, eqn: Equation) -> list[ast.expr]:
    """Names for what a call returns."""
    program: Program = eqn.params["program"]
    bundle = block.module.bundles.get(program, NO_BUNDLE)
    packing = block.module.packings.get(program, NO_PACKING)
    hints = [base(block.name_of(x)) for x in program.outputs]
    found: list[ast.expr] = []
    for i, (v, hint) in enumerate(zip(eqn.outputs, hints, strict=True)):
        group = packing.result(i)
        if group is not None and i == group.members[0]:
            whole = block.names.fresh(f"ct_{group.name}{numbers_in(group.places[id(eqn)])}")
            found.append(ast.Name(whole))
            for k, path in zip(group.members, group.paths, strict=True):
                block.values[eqn.outputs[k]] = expression(accessed(whole, path) or "")
        elif group is None and i not in bundle.outputs:
            found.append(block.target(v, hint))
    if id(eqn) in bundle.calls:
        found.append(ast.Name(block.names.fresh("residuals")))
        block.values.update({eqn.outputs[i]: found[-1] for i in bundle.outputs})
    elif bundle.outputs:
        found.append(ast.Tuple([block.target(eqn.outputs[i], hints[i]) for i in bundle.outputs]))
    return found


WRITERS = {"call": call_of}
