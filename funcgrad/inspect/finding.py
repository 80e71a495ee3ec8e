"""What ``find_nonfinite`` finds."""

from __future__ import annotations

import dataclasses
import textwrap

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NonFinite:
    """The operation that made the first NaN or infinity.

    Attributes:
      file, line, function: where it is in the user's code; of an operation of the way back, the forward operation. None
        if that is not known.
      primitive: the forward operation, such as ``"sqrt"``.
      direction: ``"forward"``, or ``"backward"`` if it was made in that operation's pullback.
      operation: the operation that ran: in the forward direction the primitive, else one of those of its rule.
      operands: the types of what it was applied to.
      values: for each operand the offending entries, at most 8; of an operation that mixes entries, the smallest and
        the largest of each operand.
      result: what was made of them; of an operation that mixes entries, the entries that are not finite, at most 8.
      index: the place of the first of these in the result.
      count: how many such entries there are.
      iterations: the iterations of the loops around it, counted from zero, from the outside in.
      hint: what the cause may be and what to do.
    """

    file: str | None = None
    line: int | None = None
    function: str | None = None
    primitive: str
    direction: str = "forward"
    operation: str
    operands: tuple[str, ...] = ()
    values: tuple[np.ndarray, ...] = ()
    result: np.ndarray
    index: tuple[int, ...] = ()
    count: int = 0
    iterations: tuple[int, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        made = "NaN" if self.is_nan() else "infinity"
        came = "was given, and taken" if self.is_given() else "is made"
        place = f"{self.file}:{self.line} ({self.function})" if self.file else "a line that is not known"
        loops = "".join(f", iteration {i}" for i in self.iterations)
        inside = "" if self.operation == self.primitive else f" (in its pullback: {self.operation})"
        where = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        operands = enumerate(zip(self.operands, self.values, strict=True))
        return "\n".join(
            [
                f"The first {made} {came} on the way {self.direction} by {self.primitive}{inside}{loops}",
                f"  at {place}",
                *(f"  operand {i}, {kind}: {shown(value)}" for i, (kind, value) in operands),
                f"  result{where}: {shown(self.result)}, {self.count} in all",
                *textwrap.wrap(self.hint, 100, initial_indent="  ", subsequent_indent="  ", break_long_words=False),
            ]
        )

    def is_given(self) -> bool:
        """Whether the operation did not make it, but had it in an operand."""
        kind = np.isnan if self.is_nan() else np.isinf
        return any(kind(x).any() for x in self.values)

    def is_nan(self) -> bool:
        return bool(np.isnan(self.result).any())


def shown(x: np.ndarray) -> str:
    return np.array2string(np.asarray(x), separator=", ", precision=6, max_line_width=10**6)
