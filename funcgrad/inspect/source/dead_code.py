"""Leaving out what nothing depends on, in all programs of a source at once."""

from __future__ import annotations

from collections.abc import Sequence

from funcgrad._jax import Var
from funcgrad.inspect.source.program import Equation, Program, callers_first, calls_of, measure

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
