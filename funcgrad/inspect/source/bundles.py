"""Residuals that a function returns for its backward half alone, handed over together."""

from __future__ import annotations

from typing import NamedTuple

from funcgrad._jax import Var
from funcgrad.inspect.source.containers import Group, Packing
from funcgrad.inspect.source.program import Equation, Program, calls_of

#: Fewer residuals than this are handed over one by one.
FEWEST = 3


def bundles_of(root: Program) -> dict[Program, Packing]:
    """How residuals are passed by the functions that hand them over, and by those that take them."""
    calls = calls_of(root)
    found: dict[Program, Packing] = {}
    for function, sites in calls.items():
        pairs = [handed_over(program, eqn) for program, eqn in sites]
        for taker in {use.taker: None for pair in pairs for use in pair.values()}:
            giving = [pair for pair in pairs if any(use.taker is taker for use in pair.values())]
            outputs = [i for i, use in giving[0].items() if use.taker is taker]
            outputs = [i for i in outputs if all(i in pair and pair[i].to == giving[0][i].to for pair in giving)]
            inputs = [giving[0][i].number for i in outputs]
            # Every call of the taker must get all of them from one call of the function.
            one_call = all(len({id(pair[i].call) for i in outputs}) == 1 for pair in giving)
            complete = one_call and len(calls[taker]) == len(giving) and len(set(inputs)) == len(inputs)
            if len(outputs) >= FEWEST and complete and taker is not function and not {taker, function} & set(found):
                whole = {id(eqn): None for (_, eqn), pair in zip(sites, pairs, strict=True) if pair in giving}
                found[function] = Packing([], [Group("residuals", outputs, [], whole)])
                found[taker] = Packing([Group("residuals", inputs, [], {})], [])
    return found


class Use(NamedTuple):
    """What uses a value: a call, and the number of its operand."""

    call: Equation
    number: int

    @property
    def taker(self) -> Program:
        return self.call.params["program"]

    @property
    def to(self) -> tuple[Program, int]:
        return self.taker, self.number


def handed_over(program: Program, eqn: Equation) -> dict[int, Use]:
    """The outputs of an equation, by number, that are used in a single call and nowhere else."""
    users: dict[Var, list[Use]] = {}
    for other in program.equations:
        for i, x in enumerate(other.inputs):
            if type(x) is Var:
                users.setdefault(x, []).append(Use(other, i))
    elsewhere = {x for x in program.outputs if type(x) is Var}
    elsewhere |= {v for other in program.equations for inner in other.programs() for v in inner.free()}
    found = {}
    for i, v in enumerate(eqn.outputs):
        uses = users.get(v, [])
        if v not in elsewhere and len(uses) == 1 and uses[0].call.name == "call":
            found[i] = uses[0]
    return found
