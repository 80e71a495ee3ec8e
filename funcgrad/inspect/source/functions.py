"""Functions that are called more than once: their definitions, and the calls of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from funcgrad._jax import Var
from funcgrad.inspect.source.blocks import Block, Module, base
from funcgrad.inspect.source.bundles import Bundle
from funcgrad.inspect.source.containers import Packing, accessed, nested, numbers_in, unpacking
from funcgrad.inspect.source.lines import parameters_of
from funcgrad.inspect.source.names import Namespace
from funcgrad.inspect.source.program import Equation, Program
from funcgrad.inspect.source.static import static_text
from funcgrad.inspect.source.text import WIDTH, Text, call, statement, tuple_of

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
    params, head = signature(block, operands)
    body = block.statements(4)
    module.definitions += statement(f"def {name}({', '.join(params)}):", 0)
    for line in head:
        module.definitions += statement(line, 4)
    module.definitions += [*body, *statement(f"return {', '.join(returned(block))}", 4), "", ""]
    return name


def signature(block: Block, operands: Sequence[str | None]) -> tuple[list[str], list[str]]:
    """The parameters of a function, and the statements that take apart those that hold more than one input."""
    program, module = block.program, block.module
    bundle = module.bundles.get(program, NO_BUNDLE)
    packing = module.packings.get(program, NO_PACKING)
    handed = dict(zip(bundle.inputs, bundle.values, strict=False))
    names = [
        block.bind(v, base(module.known.get(handed[i]) if i in handed else operand))
        for i, (v, operand) in enumerate(zip(program.inputs, operands, strict=True))
    ]
    params: list[str] = []
    head: list[str] = []
    for i, name in enumerate(names):
        group = packing.member(i)
        if group is not None and i == group.members[0]:
            params.append(block.names.fresh(group.name))
            members = zip(group.members, group.paths, strict=True)
            head += unpacking([(names[k], accessed(params[-1], path) or "") for k, path in members], WIDTH - 4)
        elif group is None and i not in handed:
            params.append(name)
        elif i in handed and i == min(handed):
            params.append(block.names.fresh("residuals"))
            head.append(f"{', '.join(names[k] for k in bundle.inputs)} = {params[-1]}")
    return params, head


def returned(block: Block) -> list[str]:
    """What a function returns: leaves of containers together, and residuals last."""
    bundle = block.module.bundles.get(block.program, NO_BUNDLE)
    packing = block.module.packings.get(block.program, NO_PACKING)
    texts = [str(block.typed(x)) for x in block.program.outputs]
    shown = []
    for i, text in enumerate(texts):
        group = packing.result(i)
        if group is None and i not in bundle.outputs:
            shown.append(text)
        elif group is not None and i == group.members[0]:
            shown.append(display(nested(group.paths, [texts[k] for k in group.members])))
    return [*shown, tuple_of([texts[i] for i in bundle.outputs])] if bundle.outputs else shown


def display(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    return "{" + ", ".join(f"{static_text(key)}: {display(x)}" for key, x in tree.items()) + "}"


def call_of(block: Block, eqn: Equation) -> None:
    program: Program = eqn.params["program"]
    module = block.module
    name = define(module, program, [block.name_of(x) for x in eqn.inputs], [block.preferred(v) for v in eqn.outputs])
    text = call(name, *arguments(block, eqn))
    names = results(block, eqn)
    block.emit(f"{', '.join(names)} = {text}" if names else str(text))


def arguments(block: Block, eqn: Equation) -> list[str]:
    """What a call passes, in the order of the function's parameters."""
    bundle = block.module.bundles.get(eqn.params["program"], NO_BUNDLE)
    packing = block.module.packings.get(eqn.params["program"], NO_PACKING)
    texts = []
    for i, x in enumerate(eqn.inputs):
        group = packing.member(i)
        if group is not None and i == group.members[0]:
            place = group.places[id(eqn)]
            texts.append(accessed(place.argument, place.path) or "")
        elif group is None and (i not in bundle.inputs or i == min(bundle.inputs)):
            texts.append(str(block.typed(x)))
    return texts


def results(block: Block, eqn: Equation) -> list[str]:
    """Names for what a call returns."""
    program: Program = eqn.params["program"]
    bundle = block.module.bundles.get(program, NO_BUNDLE)
    packing = block.module.packings.get(program, NO_PACKING)
    hints = [base(block.name_of(x)) for x in program.outputs]
    names = []
    for i, (v, hint) in enumerate(zip(eqn.outputs, hints, strict=True)):
        group = packing.result(i)
        if group is not None and i == group.members[0]:
            names.append(block.names.fresh(f"ct_{group.name}{numbers_in(group.places[id(eqn)])}"))
            for k, path in zip(group.members, group.paths, strict=True):
                block.texts[eqn.outputs[k]] = Text(accessed(names[-1], path) or "")
        elif group is None and i not in bundle.outputs:
            names.append(block.bind(v, hint) if block.uses[v] else "_")
    if id(eqn) in bundle.calls:
        names.append(block.names.fresh("residuals"))
        block.texts.update({eqn.outputs[i]: Text(names[-1]) for i in bundle.outputs})
    elif bundle.outputs:
        parts = [(eqn.outputs[i], hints[i]) for i in bundle.outputs]
        names.append(tuple_of([block.bind(v, hint) if block.uses[v] else "_" for v, hint in parts]))
    return names


WRITERS = {"call": call_of}
