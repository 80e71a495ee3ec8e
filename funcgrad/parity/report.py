"""What a comparison found, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["equal", "rounding", "mismatch", "non-finite"]

#: How many rows a table has at most; those that are not ok come first.
ROWS = 40


@dataclass(frozen=True)
class Row:
    """The loss, a gradient or a named value on both sides.

    ``max_abs`` and ``max_rel`` are the largest differences of an element, the relative one by the larger of the two;
    ``ulps`` is how many floating-point numbers, at most, two elements lie apart. These three, and the distances
    ``jax_error`` and ``torch_error`` of each side to its float64 run, are of the dtype given. ``apart`` is how far the
    two float64 runs lie apart and ``allowed`` how far rounding can move them.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    verdict: Verdict
    max_abs: float
    max_rel: float
    ulps: int
    jax_error: float
    torch_error: float
    apart: float
    allowed: float
    #: What the difference looks like, where it looks like something.
    hint: str = ""

    @property
    def ok(self) -> bool:
        return self.verdict in ("equal", "rounding")


@dataclass(frozen=True)
class Parting:
    """The first named value, or cotangent, at which the two sides are more than rounding apart."""

    name: str
    shape: tuple[int, ...]
    apart: float
    allowed: float
    #: The named value before it, None where there is none.
    after: str | None
    #: The parameters of the module whose output it is.
    leaves: tuple[str, ...] = ()

    def __str__(self) -> str:
        since = f", after {self.after}, which agrees" if self.after else ""
        own = f"\nthe parameters of that module: {', '.join(self.leaves)}" if self.leaves else ""
        far = f"{self.apart:.1e} apart in float64, where rounding allows {self.allowed:.1e}"
        return f"{self.name} {self.shape}{since}: {far}{own}"


@dataclass(frozen=True)
class ParityReport:
    """The verdict of ``compare``, and what it rests on.

    ``loss`` is a row as ``leaves`` are, one for each gradient. ``first_value`` and ``first_cotangent`` are where named
    values and, on the way back, their cotangents part; None where they do not or none is named on both sides.
    """

    dtype: str
    loss: Row
    leaves: tuple[Row, ...]
    first_value: Parting | None = None
    first_cotangent: Parting | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether the two sides differ by rounding at most."""
        return all(row.ok for row in self.rows())

    def rows(self) -> Iterator[Row]:
        yield self.loss
        yield from self.leaves

    def raise_if_mismatch(self) -> None:
        """Raise an ``AssertionError`` with this report as its message unless ``ok``."""
        if not self.ok:
            raise AssertionError(f"the two sides do not compute the same\n\n{self}")

    def to_dict(self) -> dict[str, Any]:
        """This report as dicts, lists, numbers and strings."""
        rows = [{**asdict(row), "shape": list(row.shape), "ok": row.ok} for row in self.rows()]
        first = {"first_value": self.first_value, "first_cotangent": self.first_cotangent}
        partings = {k: None if p is None else {**asdict(p), "shape": list(p.shape)} for k, p in first.items()}
        return {
            "ok": self.ok, "dtype": self.dtype, "loss": rows[0], "leaves": rows[1:], **partings,
            "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        return "\n".join([self.summary(), "", *table(list(self.rows())), *self.explanations()])

    def summary(self) -> str:
        if self.ok:
            equal = all(row.verdict == "equal" for row in self.rows())
            how = "to the last bit" if equal else "but for rounding"
            return f"equal {how}: the loss and {len(self.leaves)} gradients in {self.dtype}"
        kind = "mismatch" if any(row.verdict == "mismatch" for row in self.rows()) else "not finite"
        loss = "" if self.loss.ok else "the loss and "
        return f"{kind}: {loss}{sum(not row.ok for row in self.leaves)} of {len(self.leaves)} gradients in {self.dtype}"

    def explanations(self) -> Iterator[str]:
        hints: dict[str, list[str]] = {}
        for row in self.rows():
            hints.setdefault(row.hint, []).append(row.path)
        for hint, paths in hints.items():
            if hint:
                more = f" and {len(paths) - 6} more" if len(paths) > 6 else ""
                yield from ["", f"{hint}: {', '.join(paths[:6])}{more}"]
        if self.first_value is not None:
            yield from ["", f"first value to part: {self.first_value}"]
        if self.first_cotangent is not None:
            yield from ["", f"first cotangent to part: {self.first_cotangent}"]
        for note in self.notes:
            yield from ["", note]


HEADER = (
    ("", "", "difference:", "", "", "to float64:", "", "float64 runs:", "", ""),
    ("", "shape", "absolute", "relative", "ulps", "jax", "torch", "apart", "allowed", ""),
)


def table(rows: Sequence[Row]) -> list[str]:
    shown = sorted(rows, key=lambda row: row.ok)[:ROWS] if len(rows) > ROWS else rows
    cells = [*HEADER, *map(line, shown)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADER[0]))]
    lines = ["  ".join(text(cell, i, widths[i]) for i, cell in enumerate(row)).rstrip() for row in cells]
    left_out = len(rows) - len(shown)
    return [*lines, *([f"... and {left_out} more, all of them equal but for rounding"] if left_out else [])]


def text(cell: str, column: int, width: int) -> str:
    return cell.ljust(width) if column in (0, 1, len(HEADER[0]) - 1) else cell.rjust(width)


def line(row: Row) -> tuple[str, ...]:
    numbers = (row.max_abs, row.max_rel, row.jax_error, row.torch_error, row.apart, row.allowed)
    absolute, relative, jax_error, torch_error, apart, allowed = (f"{x:.1e}" if x else "0" for x in numbers)
    ulps = str(row.ulps) if row.ulps < 10**6 else f"{row.ulps:.0e}"
    shape = str(row.shape).replace(" ", "")
    return row.path, shape, absolute, relative, ulps, jax_error, torch_error, apart, allowed, row.verdict
