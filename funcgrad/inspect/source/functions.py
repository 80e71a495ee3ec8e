"""What carries programs: calls of functions, which are defined once, and loops and branches, as ``lax.scan``,
``lax.while_loop``, ``lax.cond`` and ``lax.switch``, with named bodies."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Var
from funcgrad.inspect.printing import text
from funcgrad.inspect.source.blocks import Block, Module
from funcgrad.inspect.source.expressions import assign, call, display, expression, function, packed, static
from funcgrad.inspect.source.names import Namespace, base, plural
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
    packing = block.module.packings[block.program]
    return [
        names[slot] if isinstance(slot, int) else taken_apart(block, slot, [names[k] for k in slot.members])
        for slot in packing.operands(len(names))
    ]


def taken_apart(block: Block, group: Group, names: Sequence[str]) -> str:
    """The parameter that holds a group, whose members are given ``names``."""
    if not group.paths:
        return block.parameter(group.name, names)
    whole = block.names.fresh(group.name)
    block.body += unpacking([(x, part(whole, path)) for x, path in zip(names, group.paths, strict=True)])
    return whole


def part(argument: str, path: Sequence[Any]) -> ast.expr:
    return expression(accessed(argument, path) or "")


def returned(block: Block) -> list[ast.expr]:
    """What a function returns."""
    values = block.all_typed(block.program.outputs)
    shown = []
    for slot in block.module.packings[block.program].results(len(values)):
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
    packing = block.module.packings[program]
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


# Loops and branches.

#: Functions of JAX's own, which are named after what they are for.
RENAMED = {
    "": "", "lambda": "", "scanned_fun": "", "fori_cond_fun": "proceeds", "fori_body_fun": "advance",
    "while_cond_fun": "proceeds", "while_body_fun": "advance", "cond_fun": "", "body_fun": "",
}  # fmt: skip
#: A left side longer than this is taken apart in a statement of its own.
LONGEST_LEFT = 64


def function_name(eqn: Equation, program: Program, default: str) -> str:
    name = RENAMED.get(program.name, program.name) or default
    return f"{name}_backward" if eqn.backward and not name.endswith("_backward") else name


def parameter_names(program: Program, count: int) -> dict[Var, str]:
    """The user's names for what a body carries, ``count`` values, and for its other inputs."""
    parameters = parameters_of(program.source)
    groups = [program.all_inputs[:count], program.all_inputs[count:]]
    flat = [name for names in parameters for name in names]
    if not groups[1] and len(parameters) > 1 and len(flat) == count:
        parameters = [flat]  # as for the body of a fori_loop, which takes a counter and a value
    found: dict[Var, str] = {}
    for group, names in zip(groups, parameters, strict=False):
        if len(group) == len(names):
            found.update(zip(group, names, strict=True))
    return found


def cotangent_names(block: Block, body: Program) -> dict[Var, str]:
    """Names for the cotangents of what is carried, which a backward body carries last."""
    for partner in body.partners:
        carried = [v for v in partner.all_inputs[: partner.carry] if jnp.issubdtype(v.aval.dtype, np.inexact)]
        own = body.all_inputs[: body.carry][body.carry - len(carried) :]
        if carried and [v.aval.shape for v in own] == [v.aval.shape for v in carried]:
            names = parameter_names(partner, partner.carry)
            known = [names.get(v) or base(block.module.known.get(v)) for v in carried]
            return {v: f"ct_{name}" for v, name in zip(own, known, strict=True) if name}
    return {}


def scan(block: Block, eqn: Equation) -> None:
    body: Program = eqn.params["body"]
    count = eqn.params["carry"]
    inner = block.inner(body)
    inner.hints.update(cotangent_names(block, body) if eqn.backward else parameter_names(body, body.carry))
    for v, x in zip(body.inputs[count:], eqn.inputs[count:], strict=True):
        if type(x) is Var and x in block.module.singular:
            inner.hints[v] = block.module.singular[x]
    params = [
        inner.parameter("carry", [inner.bind(v, carried_name(block, eqn, v)) for v in body.inputs[:count]]),
        inner.parameter("inputs", [inner.bind(v, element_name(block, eqn, v)) for v in body.inputs[count:]]),
    ]
    for v, x in zip(body.inputs[:count], body.outputs[:count], strict=True):
        if type(x) is Var and x not in inner.cotangents:
            inner.hints.setdefault(x, base(block.module.known[v]) or "")

    def result() -> ast.expr:
        values = inner.all_typed(body.outputs)
        return ast.Tuple([packed(values[:count]), packed(values[count:])])

    step = block.define(inner, function_name(eqn, body, "step"), params, result)
    hints = [base(block.name_of(v)) for v in body.inputs[:count]]
    for v, x in zip(eqn.outputs[count:], body.outputs[count:], strict=True):
        known = base(block.name_of(x))
        hints.append(known and plural(known))
        if known:
            block.module.singular[v] = known
    given = [packed(block.all_typed(group)) for group in (eqn.inputs[:count], eqn.inputs[count:])]
    extra = {} if eqn.inputs[count:] else {"length": eqn.params["length"]}
    extra |= {"reverse": True} if eqn.params["reverse"] else {}
    extra |= {"unroll": eqn.params["unroll"]} if eqn.params["unroll"] != 1 else {}
    targets = block.targets(eqn, hints)
    groups = [left_side(targets[:count]), left_side(targets[count:])]
    apart = []
    for i, word in enumerate(("carry", "stacked")):
        if len(", ".join(map(text, groups))) > LONGEST_LEFT and len(text(groups[i])) > 20:
            held = ast.Name(block.names.fresh(word))
            apart.append(assign([groups[i]], held))
            groups[i] = held
    keywords = {key: static(value) for key, value in extra.items()}
    block.body += [assign(groups, call("lax.scan", [step, *given], **keywords)), *apart]


def left_side(names: Sequence[ast.expr]) -> ast.expr:
    return ast.Name("_") if {text(x) for x in names} <= {"_"} else packed(names)


def carried_name(block: Block, eqn: Equation, v: Var) -> str:
    """What is carried has the name of what comes out, or of what goes in."""
    i = eqn.params["body"].inputs.index(v)
    known = block.preferred(eqn.outputs[i]) or base(block.name_of(eqn.inputs[i]))
    return known or ("ct_sum" if eqn.backward else "state")


def element_name(block: Block, eqn: Equation, v: Var) -> str:
    x = eqn.inputs[eqn.params["body"].inputs.index(v)]
    known = block.name_of(x)
    if known is None:
        return "ct_x" if type(x) is Var and x in block.pulled else "x"
    return known[:-1] if known.endswith("s") and len(known) > 2 else f"{known}_t"


def while_loop(block: Block, eqn: Equation) -> None:
    functions: list[ast.expr] = []
    names: list[str] = []
    for key, default in (("cond", "proceeds"), ("body", "advance")):
        program: Program = eqn.params[key]
        inner = block.inner(program)
        inner.hints.update(parameter_names(program, len(program.inputs)))
        for v, out, x in zip(program.inputs, eqn.outputs, eqn.inputs, strict=True):
            hint = block.preferred(out) or base(block.name_of(x))
            if hint:
                inner.hints.setdefault(v, hint)
        used = program.uses()
        names = [inner.bind(v, "state") if used[v] else "_" for v in program.inputs]
        params = [inner.parameter("carry", names)]
        functions.append(block.define(inner, function_name(eqn, program, default), params))
    init = packed(block.all_typed(eqn.inputs))
    outs = block.targets(eqn, [None if x == "_" else base(x) for x in names])
    block.body.append(assign(outs, call("lax.while_loop", [*functions, init])))


def cond(block: Block, eqn: Equation) -> None:
    branches: Sequence[Program] = eqn.params["branches"]
    (index,) = eqn.inputs
    is_predicate = index.aval.dtype == np.bool_
    functions: list[ast.expr] = []
    for i, program in enumerate(branches):
        default = ("on_false", "on_true")[i] if is_predicate else f"branch_{i}"
        functions.append(block.define(block.inner(program), function_name(eqn, program, default), []))
    made = block.module.made_by.get(index) if type(index) is Var else None
    if made is not None and made.name == "platform_index":
        chosen = call("lax.platform_dependent", [], **by_platform(made, functions))
    elif is_predicate:
        chosen = call("lax.cond", [block.bare(index), *reversed(functions)])
    else:
        chosen = call("lax.switch", [block.typed(index), ast.List(functions)])
    block.body.append(assign(block.targets(eqn), chosen))


def by_platform(made: Equation, functions: Sequence[ast.expr]) -> dict[str, ast.expr]:
    """Functions by the platforms they are for."""
    found = {}
    for platforms, chosen in zip(made.params["platforms"], functions, strict=True):
        found.update(dict.fromkeys(["default"] if platforms is None else platforms, chosen))
    return found


def platform_index(block: Block, eqn: Equation) -> None:
    """Nothing: what chooses by it says so."""


WRITERS = {"call": call_of, "scan": scan, "while": while_loop, "cond": cond, "platform_index": platform_index}
