"""Programs as plain data that can be rewritten."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from funcgrad._jax import Var

Path = tuple[str, ...]


@dataclasses.dataclass(eq=False)
class Equation:
    """One operation. ``frames`` are the user's, innermost first."""

    name: str
    inputs: list[Any]
    outputs: list[Any]
    params: dict[str, Any]
    frames: tuple[Any, ...] = ()
    backward: bool = False
    primitive: Any = None
    has_effects: bool = False

    def __post_init__(self):
        #: The outputs as they were at first, before those that are not used were left out.
        self.all_outputs = list(self.outputs)

    def programs(self) -> list[Program]:
        return [x for value in self.params.values() for x in spread(value) if type(x) is Program]

    def captured(self) -> set[Var]:
        """The variables that the programs inside use of what is around them."""
        return {v for inner in self.programs() for v in inner.free()}

    def reads(self) -> list[Var]:
        """The variables that it uses, itself or inside."""
        return [*(x for x in self.inputs if type(x) is Var), *self.captured()]


@dataclasses.dataclass(eq=False)
class Program:
    """Equations from ``inputs`` to ``outputs``.

    ``names`` are those that the user gave, ``returned`` those of the functions whose values they are, ``primals`` and
    ``cotangents`` the marked values by the path of their node and the number of its output. ``inside`` has the programs
    in it by path, and ``partners`` are the programs of the way forward whose values this one has cotangents of.
    """

    name: str
    inputs: list[Any]
    equations: list[Equation] = dataclasses.field(default_factory=list)
    outputs: list[Any] = dataclasses.field(default_factory=list)
    names: dict[Var, str] = dataclasses.field(default_factory=dict)
    returned: dict[Var, str] = dataclasses.field(default_factory=dict)
    primals: dict[tuple[Path, str], Any] = dataclasses.field(default_factory=dict)
    cotangents: dict[tuple[Path, str], Any] = dataclasses.field(default_factory=dict)
    inside: dict[Path, list[Program]] = dataclasses.field(default_factory=dict)
    partners: list[Program] = dataclasses.field(default_factory=list)
    #: Of the user's function, its name, file and line; and of a loop's body, how many values it carries.
    source: str = ""
    carry: int = 0

    def __post_init__(self):
        #: The inputs as they were at first, before those that are not used were left out.
        self.all_inputs = list(self.inputs)

    def uses(self) -> Counter:
        """How often each variable is used."""
        count = Counter(x for x in self.outputs if type(x) is Var)
        for eqn in self.equations:
            count.update(x for x in eqn.inputs if type(x) is Var)
            for inner in eqn.programs():
                count.update(inner.free())
        return count

    def users(self) -> dict[Var, list[Any]]:
        """The equations that read each variable, as often as they do; and this program, where it is an output."""
        found: dict[Var, list[Any]] = {}
        for eqn in self.equations:
            for x in eqn.reads():
                found.setdefault(x, []).append(eqn)
        for x in self.outputs:
            if type(x) is Var:
                found.setdefault(x, []).append(self)
        return found

    def free(self) -> set[Var]:
        """The variables from outside that are used here or inside."""
        made = {v for eqn in self.equations for v in eqn.outputs}
        return set(self.uses()) - made - set(self.inputs)


def spread(value: Any) -> Iterator[Any]:
    """A parameter's value, or what is in it if it is a tuple."""
    if isinstance(value, tuple | list):
        for x in value:
            yield from spread(x)
    else:
        yield value


def plain_name(name: str | None) -> str:
    """The name of a function without what it is qualified by."""
    return (name or "").split(" ")[0].split(".")[-1].strip("<>_")


def dtype_of(x: Any) -> Any:
    return x.aval.dtype


def callers_first(root: Program) -> list[Program]:
    """All programs, each after those that use it."""
    order: list[Program] = []
    seen: set[Program] = set()

    def visit(program: Program) -> None:
        if program not in seen:
            seen.add(program)
            for eqn in program.equations:
                for inner in eqn.programs():
                    visit(inner)
            order.append(program)

    visit(root)
    return order[::-1]


def measure(root: Program) -> list:
    """What is another one when a pass has changed something."""
    return [
        (len(p.inputs), len(p.outputs), [(e.name, len(e.inputs), len(e.outputs)) for e in p.equations])
        for p in callers_first(root)
    ]


def calls_of(root: Program) -> dict[Program, list[tuple[Program, Equation]]]:
    """The calls of every function, each with the program that it stands in."""
    found: dict[Program, list[tuple[Program, Equation]]] = {}
    for program in callers_first(root):
        for eqn in program.equations:
            if eqn.name == "call":
                found.setdefault(eqn.params["program"], []).append((program, eqn))
    return found
