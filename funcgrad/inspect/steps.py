"""A backward pass as data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from funcgrad.inspect.statistics import Statistics


class Value(NamedTuple):
    """An operand or output of an operation; ``variable`` is None where no cotangent is collected for it."""

    variable: int | None
    shape: tuple[int, ...]
    dtype: str
    active: bool

    def __str__(self) -> str:
        return type_text(self.dtype, self.shape)


class Formula(NamedTuple):
    """A rule's formula for the cotangent of one operand; for those of all operands if ``operand`` is None."""

    operand: int | None
    formula: str


class Kept(NamedTuple):
    """A value kept for the way back.

    ``owner`` says whether its bytes count for this step: ``"step"`` if they do, ``"argument"`` if it is an argument of
    the function, ``"shared"`` if another step keeps it too, ``"recomputed"`` if it is made on the way back.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    owner: str


class Place(NamedTuple):
    file: str
    line: int
    function: str


def at(place: Any, otherwise: str = "an unknown line") -> str:
    return f"{Path(place.file).name}:{place.line}" if place else otherwise


@dataclasses.dataclass(eq=False)
class BackwardStep:
    """One operation, seen from the way back. Steps are numbered in the order in which they ran there.

    Attributes:
      id: its number.
      parent, children: the step it is inside of, None if it is in none, and the steps inside it.
      kind: ``"operation"``, ``"call"``, ``"loop"``, ``"branch"``, ``"remat"`` or ``"custom"``.
      primitive, name: the forward operation, and the name of the function if it is a call of one.
      rule: the formulas of its rule, one for each operand that gets a cotangent.
      place, stack: where the user's code has it, and the callers from the inside out. None and empty if not known.
      operands, outputs: their types.
      kept, kept_bytes: what it keeps for the way back, the steps inside included in the sum.
      incoming, outgoing: statistics of the cotangents of its outputs and of its operands, None where there was none.
      iterations: of a loop, how many.
      note: what else there is to say, such as why a loop is not opened.
    """

    id: int
    parent: int | None
    depth: int
    kind: str
    primitive: str
    name: str | None
    rule: list[Formula]
    place: Place | None
    stack: list[Place]
    operands: list[Value]
    outputs: list[Value]
    incoming: list[Statistics | None]
    outgoing: list[Statistics | None]
    iterations: int | None
    note: str | None
    children: list[int] = dataclasses.field(default_factory=list)
    kept: list[Kept] = dataclasses.field(default_factory=list)
    kept_bytes: int = 0
    line: int | None = None
    flags: list[int] = dataclasses.field(default_factory=list)

    @property
    def own_bytes(self) -> int:
        """What it keeps that no step inside it and none before it keeps."""
        return sum(x.bytes for x in self.kept if x.owner == "step")

    @property
    def operation(self) -> str:
        """The forward operation with its types."""
        shown = f"{self.primitive}[{self.name}]" if self.name else self.primitive
        return f"{shown}({', '.join(map(str, self.operands))}) -> {', '.join(map(str, self.outputs))}"

    @property
    def formula(self) -> str:
        """The formulas of its rule, those of several operands with their numbers."""
        if len(self.rule) == 1:
            return self.rule[0].formula
        return "; ".join(f"{operand_name(f.operand)}: {f.formula}" for f in self.rule)

    def __str__(self) -> str:
        return f"{self.id} {at(self.place, '?')} {self.operation}  {self.formula}"


def operand_name(i: int | None) -> str:
    """How formulas call an operand."""
    return "all" if i is None else "xyz"[i] if i < 3 else f"operand {i}"


@dataclasses.dataclass(eq=False)
class Line:
    """The steps of one line of the user's code, those inside loops and calls too.

    ``norm`` and ``zeros`` are the largest norm and share of zeros of the cotangents that come in, None without any.
    """

    id: int
    file: str
    line: int
    function: str
    text: str
    steps: list[int]
    kept_bytes: int
    norm: float | None
    nonfinite: int
    zeros: float | None
    flags: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Parameter:
    """A leaf of the arguments that are differentiated.

    ``gradient`` is None if no cotangent reaches it, and ``cuts`` are then the operations without derivative that it
    goes through, with the place of each.
    """

    id: int
    path: str
    argument: int
    shape: tuple[int, ...]
    dtype: str
    variable: int | None
    gradient: Statistics | None
    steps: list[int]
    cuts: list[tuple[str, Place | None]] = dataclasses.field(default_factory=list)
    flags: list[int] = dataclasses.field(default_factory=list)


class Variable(NamedTuple):
    id: int
    shape: tuple[int, ...]
    dtype: str
    name: str | None
    kind: str
    step: int | None


@dataclasses.dataclass(eq=False)
class Flag:
    """Something to look at: steps, lines and parameters by number."""

    id: int
    kind: str
    severity: str
    message: str
    steps: list[int]
    lines: list[int]
    parameters: list[int]


@dataclasses.dataclass(eq=False)
class BackwardPass:
    """What ``BackwardReport`` shows, where its attributes are told."""

    function: str
    value: dict[str, Any]
    seed: str
    sources: dict[str, str | None]
    steps: list[BackwardStep]
    lines: list[Line]
    parameters: list[Parameter]
    variables: list[Variable]
    flags: list[Flag]
    totals: dict[str, Any]


SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def type_text(dtype: str, shape: tuple[int, ...]) -> str:
    """A type as JAX writes it: ``f32[4,3]``."""
    kind = dtype.rstrip("0123456789")
    short = SHORT[kind] + dtype[len(kind) :] if kind in SHORT else dtype
    return f"{short}[{','.join(map(str, shape))}]"
