"""How many floating-point operations a compiled program takes, its loops included.

XLA's own cost analysis counts the body of a loop once, however often it runs, so that moving work out of a loop seems
to add some. Here the text of the optimised program is read, and a loop's body counted as often as it runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

#: One operation for each number that they make.
ARITHMETIC = frozenset(
    ("abs", "add", "atan2", "cbrt", "ceil", "clamp", "cosine", "divide", "erf", "exponential", "exponential-minus-one",
     "floor", "log", "log-plus-one", "logistic", "maximum", "minimum", "multiply", "negate", "power", "remainder",
     "rsqrt", "sign", "sine", "sqrt", "subtract", "tan", "tanh")
)  # fmt: skip

SHAPE = re.compile(r"\w+\[([\d,]*)\]")
FLOATING = re.compile(r"\(*(bf|f|c)\d")
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
NAME = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Instruction:
    """One line. ``shape`` and ``floating``, whether of floating-point or complex numbers, are of its first output."""

    shape: tuple[int, ...]
    floating: bool
    opcode: str
    operands: list[str]
    attributes: str

    def contracted(self) -> list[int] | None:
        """Dimensions of the left operand that a contraction sums over: of a ``dot``, or of a call of a library's."""
        found = re.search(r'lhs_contracting_dim(?:s={|ensions":\[)([\d,"]*)', self.attributes)
        return [int(d) for d in re.findall(r"\d+", found[1])] if found else None

    def called(self, *attributes: str) -> list[str]:
        """The names of the computations that are called under ``attributes``."""
        names = r"={?([^,}\s]+(?:, ?%[^,}\s]+)*)"
        found = (re.search(attribute + names, self.attributes) for attribute in attributes)
        return [name for match in found if match for name in NAME.findall(match[1])]


Computation = dict[str, Instruction]


class UnknownLength(Exception):
    """A loop that runs as often as its data say."""


def count(text: str, products_only: bool = False) -> float | None:
    """Operations of the program whose optimised HLO is ``text``; None where it has a loop of unknown length.

    Two for each term of a contraction, one for each number that other arithmetic makes or a reduction takes in, none
    for integers. A conditional counts as its longest branch. With ``products_only`` contractions and convolutions count
    alone: of other arithmetic XLA's fusions repeat more or less, as they happen to fall.
    """
    computations, entry = parse(text)
    known: dict[str, float] = {}

    def cost(name: str) -> float:
        if name not in known:
            body = computations[name]
            known[name] = sum(operations(instruction, body, cost, products_only) for instruction in body.values())
        return known[name]

    try:
        return cost(entry)
    except UnknownLength:
        return None


def operations(x: Instruction, body: Computation, cost: Callable[[str], float], products_only: bool) -> float:
    if x.opcode == "while":
        turns = re.search(r'"known_trip_count":{"n":"(\d+)"}', x.attributes)
        if not turns:
            raise UnknownLength
        return int(turns[1]) * sum(map(cost, x.called("condition", "body")))
    if x.opcode == "conditional":
        return max(map(cost, x.called("branch_computations", "true_computation", "false_computation")))
    if x.opcode in ("fusion", "call", "async-start"):
        return sum(map(cost, x.called("calls", "to_apply")))
    if not x.floating:
        return 0
    contracted = x.contracted()
    if contracted is not None:
        left = body[x.operands[0]].shape
        return 2 * math.prod(x.shape) * math.prod(left[d] for d in contracted)
    if "dim_labels=" in x.attributes:
        kernel = body[x.operands[1]].shape
        outputs = re.search(r"dim_labels=\w+_(\w+)->", x.attributes)
        assert outputs
        return 2 * math.prod(x.shape) * math.prod(kernel) / kernel[outputs[1].index("o")]
    if products_only:
        return 0
    if x.opcode in ARITHMETIC:
        return math.prod(x.shape)
    if x.opcode in ("reduce", "reduce-window", "select-and-scatter"):
        return math.prod(body[x.operands[0]].shape)
    return math.prod(body[x.operands[-1]].shape) if x.opcode == "scatter" else 0


def parse(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif found := INSTRUCTION.match(line):
            name, shape, opcode, rest = found.groups()
            operands, attributes = split_operands(rest)
            current[name] = Instruction(
                dimensions(shape), bool(FLOATING.match(shape)), opcode, NAME.findall(operands), attributes
            )
    return computations, entry


def split_operands(rest: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes the operands, and what after."""
    depth = 1
    for i, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return rest[:i], rest[i:]
    return rest, ""


def dimensions(shape: str) -> tuple[int, ...]:
    """Those of an array; of a tuple, those of its first."""
    found = SHAPE.search(shape)
    return tuple(int(d) for d in found[1].split(",") if d) if found else ()
