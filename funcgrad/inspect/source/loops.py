"""Loops and branches as ``lax.scan``, ``lax.while_loop``, ``lax.cond`` and ``lax.switch``, with named bodies."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Var
from funcgrad.inspect.source.blocks import Block, base, packed
from funcgrad.inspect.source.lines import parameters_of
from funcgrad.inspect.source.names import plural
from funcgrad.inspect.source.program import Equation, Program
from funcgrad.inspect.source.text import Text, call

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
    params, head = [], []
    for number, group in enumerate((body.inputs[:count], body.inputs[count:])):
        names = [
            inner.bind(v, carried_name(block, eqn, v) if not number else element_name(block, eqn, v)) for v in group
        ]
        if len(names) == 1:
            params += names
        elif names:
            params.append(inner.names.fresh(("carry", "inputs")[number]))
            head.append(f"{', '.join(names)} = {params[-1]}")
        else:
            params.append("_")
    for v, x in zip(body.inputs[:count], body.outputs[:count], strict=True):
        if type(x) is Var and x not in inner.cotangents:
            inner.hints.setdefault(x, base(block.module.known[v]) or "")

    def result() -> str:
        texts = [str(inner.typed(x)) for x in body.outputs]
        return f"{packed(texts[:count])}, {packed(texts[count:])}"

    name = block.define(inner, function_name(eqn, body, "step"), params, head, result)
    hints = []
    for i, (v, x) in enumerate(zip(eqn.outputs, body.outputs, strict=True)):
        known = block.name_of(x)
        if i < count:
            hints.append(base(block.name_of(body.inputs[i])))
        else:
            hints.append(plural(base(known) or known) if known else None)
            if known:
                block.module.singular[v] = base(known) or known
    init, xs = [packed([str(block.typed(x)) for x in group]) for group in (eqn.inputs[:count], eqn.inputs[count:])]
    extra = {} if eqn.inputs[count:] else {"length": eqn.params["length"]}
    extra |= {"reverse": True} if eqn.params["reverse"] else {}
    extra |= {"unroll": eqn.params["unroll"]} if eqn.params["unroll"] != 1 else {}
    names = block.targets(eqn, hints)
    groups = [left_side(names[:count]), left_side(names[count:])]
    apart = []
    for i, word in enumerate(("carry", "stacked")):
        if len(", ".join(groups)) > LONGEST_LEFT and len(groups[i]) > 20:
            whole = block.names.fresh(word)
            apart.append(f"{groups[i][1:-1]} = {whole}")
            groups[i] = whole
    block.emit(f"{', '.join(groups)} = {call('lax.scan', name, init, xs, **extra)}")
    for line in apart:
        block.emit(line)


def left_side(names: Sequence[str]) -> str:
    return "_" if set(names) <= {"_"} else packed(names)


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
    functions: list[str] = []
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
        params, head = names, []
        if len(names) > 1:
            params = [inner.names.fresh("carry")]
            head = [f"{', '.join(names)} = {params[0]}"]
        functions.append(block.define(inner, function_name(eqn, program, default), params, head))
    init = packed([str(block.typed(x)) for x in eqn.inputs])
    outs = block.targets(eqn, [None if name == "_" else base(name) for name in names])
    block.emit(f"{', '.join(outs)} = {call('lax.while_loop', *functions, init)}")


def cond(block: Block, eqn: Equation) -> None:
    branches: Sequence[Program] = eqn.params["branches"]
    (index,) = eqn.inputs
    is_predicate = index.aval.dtype == np.bool_
    functions = []
    for i, program in enumerate(branches):
        default = ("on_false", "on_true")[i] if is_predicate else f"branch_{i}"
        functions.append(block.define(block.inner(program), function_name(eqn, program, default), []))
    made = block.module.made_by.get(index) if type(index) is Var else None
    if made is not None and made.name == "platform_index":
        text: Text = call("lax.platform_dependent", **by_platform(made, functions))
    elif is_predicate:
        text = call("lax.cond", block.text(index), *reversed(functions))
    else:
        text = call("lax.switch", block.typed(index), f"[{', '.join(functions)}]")
    outs = block.targets(eqn, [None] * len(eqn.outputs))
    block.emit(f"{', '.join(outs)} = {text}" if outs else str(text))


def by_platform(made: Equation, functions: Sequence[str]) -> dict[str, str]:
    """Functions by the platforms they are for."""
    found = {}
    for platforms, function in zip(made.params["platforms"], functions, strict=True):
        found.update(dict.fromkeys(["default"] if platforms is None else platforms, function))
    return found


def platform_index(block: Block, eqn: Equation) -> None:
    """Nothing: what chooses by it says so."""


WRITERS = {"scan": scan, "while": while_loop, "cond": cond, "platform_index": platform_index}
