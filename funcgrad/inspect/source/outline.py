"""Blocks that a program repeats, such as the layers of an unrolled network, as calls of one function."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Sequence
from typing import Any

from funcgrad._jax import Literal, Var
from funcgrad.inspect.source.names import finishes, line_at
from funcgrad.inspect.source.program import Equation, Program, plain_name
from funcgrad.inspect.source.simplify import operation_of, type_of, value_key

#: Fewer equations than this are not worth a function, however often they are repeated.
SHORTEST = 6
#: Programs of more equations than this are left alone: looking for what repeats takes time quadratic in the length.
LONGEST = 6000


def outline(root: Program) -> None:
    """Turn what repeats in ``root`` into functions, what saves most first."""
    made: list[Program] = []
    order = list(root.equations)
    first = made_of_nothing(order)
    root.equations.sort(key=lambda eqn: eqn.backward or eqn not in first)
    while len(root.equations) <= LONGEST:
        windows = repeated(root)
        if windows is None:
            break
        made.append(extract(root, windows, made))
    if not made:
        root.equations = order


def made_of_nothing(eqns: Sequence[Equation]) -> set[Equation]:
    """The equations that depend on no value from outside, which the first of the repeated blocks would have alone."""
    known: set[Var] = set()
    found = set()
    for eqn in eqns:
        if not eqn.has_effects and not eqn.programs() and all(type(x) is Literal or x in known for x in eqn.inputs):
            known.update(eqn.outputs)
            found.add(eqn)
    return found


def token_of(eqn: Equation) -> Any:
    """What must agree for two equations to be the same operation; wiring is another matter."""
    if eqn.has_effects or any(eqn.name != "call" for _ in eqn.programs()):
        return eqn
    operation = operation_of(eqn)
    operands = [value_key(x) if type(x) is Literal else type_of(x) for x in eqn.inputs]
    return eqn if operation is None else (operation, tuple(operands), eqn.backward)


def repeated(root: Program) -> list[range] | None:
    """The stretches of equations, one after the other, that do the same and save most as calls of one function."""
    numbers: dict[Any, int] = {}
    tokens = [numbers.setdefault(token_of(eqn), len(numbers)) for eqn in root.equations]
    users = root.users()
    best: tuple[int, list[range]] | None = None
    for period in range(SHORTEST, len(tokens) // 2 + 1):
        for start, stop in runs(tokens, period):
            count = (stop - start) // period
            saved = (count - 1) * period
            if (best is not None and saved <= best[0]) or repeats_itself(tokens[start : start + period]):
                continue
            windows = best_phase(root, start, stop, period, users)
            if windows is not None:
                best = ((len(windows) - 1) * period, windows)
    return None if best is None else best[1]


def runs(tokens: Sequence[int], period: int) -> list[tuple[int, int]]:
    """The stretches that repeat themselves after ``period`` tokens, at least once as a whole."""
    found, start = [], 0
    for is_same, group in itertools.groupby(map(operator.eq, tokens, tokens[period:])):
        stop = start + len(list(group))
        if is_same and stop - start >= period:
            found.append((start, stop + period))
        start = stop
    return found


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether tokens are the same shorter ones a few times over."""
    count = len(tokens)
    return any(count % n == 0 and tokens[n:] == tokens[:-n] for n in range(1, count // 2 + 1))


def best_phase(root: Program, start: int, stop: int, period: int, users: dict[Var, list]) -> list[range] | None:
    """Where to cut a stretch, so that the fewest values pass from one part to another."""
    most = (stop - start) // period
    choices = []
    for first in range(start, min(start + period, stop - period)):
        count = (stop - first) // period
        if count >= max(2, most - 1):
            windows = [range(first + k * period, first + (k + 1) * period) for k in range(count)]
            if alike(root, windows):
                interface = Interface(root, windows, users)
                size = len(interface.inputs) + len(interface.outputs) + 8 * (count < most)
                choices.append((not is_whole(root, windows[0]), size, first, windows))
    # A repetition less is worth it where that cuts between two calls of the user's.
    return min(choices, key=lambda choice: choice[:3])[3] if choices else None


def is_whole(root: Program, window: range) -> bool:
    """Whether a window ends, on the way forward, where a call of the user's does; on the way back it begins there."""
    eqns = [root.equations[at] for at in window]
    depth = shared_depth(eqns)
    edge = eqns[0] if eqns[0].backward else eqns[-1]
    return 0 < depth < len(edge.frames) and finishes(edge, depth - 1)


def wiring(root: Program, window: range) -> list[tuple[int, int, Any]]:
    """For each operand of a window's equations where in the window it is made, None if it is from outside."""
    made = {v: (k, i) for k, at in enumerate(window) for i, v in enumerate(root.equations[at].outputs)}
    return [
        (k, i, made.get(x))
        for k, at in enumerate(window)
        for i, x in enumerate(root.equations[at].inputs)
        if type(x) is Var
    ]


def alike(root: Program, windows: Sequence[range]) -> bool:
    first = wiring(root, windows[0])
    return all(wiring(root, window) == first for window in windows[1:])


class Interface:
    """What goes in and out of windows that are wired alike."""

    def __init__(self, root: Program, windows: Sequence[range], users: dict[Var, list]):
        outside = [(k, i) for k, i, made in wiring(root, windows[0]) if made is None]
        #: The values that go in: for each, one in every window; and which of them each operand is.
        self.inputs: dict[tuple[Any, ...], int] = {}
        self.slots: dict[tuple[int, int], int] = {}
        for k, i in outside:
            values = tuple([root.equations[window[k]].inputs[i] for window in windows])
            self.slots[k, i] = self.inputs.setdefault(values, len(self.inputs))
        parts = [root.equations[w.start : w.stop] for w in windows]
        inside = list(map(set, parts))
        self.outputs = [
            (k, i)
            for k, eqn in enumerate(parts[0])
            for i in range(len(eqn.outputs))
            if any(
                not own.issuperset(users.get(part[k].outputs[i], ())) for part, own in zip(parts, inside, strict=True)
            )
        ]


def extract(root: Program, windows: Sequence[range], partners: Sequence[Program]) -> Program:
    """A function of the windows' equations, called in their place."""
    interface = Interface(root, windows, root.users())
    first = [root.equations[at] for at in windows[0]]
    depth = shared_depth(first)
    fresh = {v: Var(v.aval) for eqn in first for v in eqn.outputs}
    function = Program(function_name(first, depth), [Var(values[0].aval) for values in interface.inputs])
    function.partners = [partner for partner in partners if partner is not root]
    for k, eqn in enumerate(first):
        inputs = [
            x if type(x) is Literal else fresh[x] if x in fresh else function.inputs[interface.slots[k, i]]
            for i, x in enumerate(eqn.inputs)
        ]
        outputs = [fresh[v] for v in eqn.outputs]
        new = dataclasses.replace(eqn, inputs=inputs, outputs=outputs, frames=eqn.frames[: len(eqn.frames) - depth])
        new.all_outputs = [fresh.get(v, v) for v in eqn.all_outputs]
        function.equations.append(new)
    function.outputs = [function.equations[k].outputs[i] for k, i in interface.outputs]
    carry_marks(root, windows, function)
    calls = []
    for which, window in enumerate(windows):
        eqns = [root.equations[at] for at in window]
        outputs = [eqns[k].outputs[i] for k, i in interface.outputs]
        frames = eqns[0].frames[len(eqns[0].frames) - depth :]
        inputs = [values[which] for values in interface.inputs]
        calls.append(Equation("call", inputs, outputs, {"program": function}, frames, eqns[0].backward))
    root.equations[windows[0].start : windows[-1].stop] = calls
    return function


def carry_marks(root: Program, windows: Sequence[range], function: Program) -> None:
    """Let the function know the names and marks of the values in all of its windows."""
    for window in windows:
        inside: dict[Var, Var] = {}
        for at, eqn in zip(window, function.equations, strict=True):
            inside.update(zip(root.equations[at].outputs, eqn.outputs, strict=True))
        for theirs, mine in ((root.primals, function.primals), (root.cotangents, function.cotangents)):
            mine.update({key: inside[v] for key, v in theirs.items() if type(v) is Var and v in inside})
        for given, own in ((root.names, function.names), (root.returned, function.returned)):
            for v in inside.keys() & given:
                own.setdefault(inside[v], given[v])


def shared_depth(eqns: Sequence[Equation]) -> int:
    """How many calls, outermost first, all equations are made in."""
    depth = 0
    while all(len(eqn.frames) > depth for eqn in eqns) and len({line_at(eqn, depth) for eqn in eqns}) == 1:
        depth += 1
    return depth


def function_name(eqns: Sequence[Equation], depth: int) -> str:
    """What the function is called that all the equations are made in, one call further in than what they share."""
    names = {plain_name(eqn.frames[-1 - depth].function_name) for eqn in eqns if len(eqn.frames) > depth}
    name = names.pop() if len(names) == 1 and depth else "block"
    return f"{name or 'block'}_backward" if eqns[0].backward else name or "block"
