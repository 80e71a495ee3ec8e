"""What ``memory`` returns: the bill of a gradient's memory."""

from __future__ import annotations

import dataclasses
import html as markup
import linecache
import shutil
import textwrap
from typing import Any, NamedTuple

from funcgrad.inspect.report import plain
from funcgrad.inspect.steps import Place, at
from funcgrad.inspect.table import NARROWEST, WIDEST, Table, counted, laid_out
from funcgrad.units import UNITS, in_units

#: Lines of a table at most.
MOST_LINES = 20


class Wanted(NamedTuple):
    """A rule, by the operation it is of, and what the value is in its words."""

    primitive: str
    name: str

    def __str__(self) -> str:
        return f"{self.primitive}: {self.name}"


@dataclasses.dataclass(frozen=True)
class KeptValue:
    """A value that is held from the way forward to the way back.

    Attributes:
      place: the line of the user's code that made it, None if none is known.
      module: the scopes that it was made in, as ``flax``, ``equinox`` or ``jax.named_scope`` name them.
      primitive: the operation that made it.
      type: its type, ``"f32[8,64]"``; of a value made in each step of a loop that of the stack.
      bytes: its bytes.
      wanted: the rules that want it, or what is computed of it.
      again: the floating-point operations that it would take to compute it again, from the inputs and all else kept.
    """

    place: Place | None
    module: str
    primitive: str
    type: str
    bytes: int
    wanted: list[Wanted]
    again: float


class Peak(NamedTuple):
    """When the most is held.

    ``kept`` are those of its ``bytes`` that were kept on the way forward. It is at an operation at ``place`` in
    ``module``, on the ``way`` ``"forward"`` or ``"back"``, of whose operations the ``part`` is done then.
    """

    bytes: int
    kept: int
    place: Place | None
    module: str
    primitive: str
    way: str
    part: float


class Budget(NamedTuple):
    """What a budget that was ``asked`` for, of so many bytes, gets: None where it is too little."""

    asked: int | float | str
    bytes: float
    held: int | None
    flops: float | None


@dataclasses.dataclass(eq=False)
class MemoryReport:
    """What a compiled gradient holds, foretold from its program.

    ``str(report)`` is a table for a terminal. In a notebook the report shows itself.

    Attributes:
      function: the name of the function.
      kept: the values kept for the way back, the largest first.
      peak: when the most is held, besides arguments and results; None if nothing ever is.
      parameters, gradients: the bytes of the differentiated arguments, and of their gradients.
      others: the bytes of the other arguments, and of arrays that the function closes over.
      results: the bytes of what the function returns.
      optimizer: the bytes of the optimizer's state, None if none was given.
      forward_flops: the floating-point operations of the function itself.
      curve: what ``funcgrad.checkpoint`` can do: bytes held, and operations in all, those of a gradient that computes
        nothing again being 1.
      budgets: the budgets that were asked for, on that curve.
    """

    function: str
    kept: list[KeptValue]
    peak: Peak | None
    parameters: int
    gradients: int
    others: int
    results: int
    optimizer: int | None
    forward_flops: float
    curve: list[tuple[int, float]]
    budgets: list[Budget]

    @property
    def kept_bytes(self) -> int:
        """The bytes that are kept for the way back."""
        return sum(each.bytes for each in self.kept)

    @property
    def total(self) -> int:
        """The bytes of all that is there at the peak."""
        there = self.parameters + self.gradients + self.others + self.results + (self.optimizer or 0)
        return there + (self.peak.bytes if self.peak else 0)

    def lines(self) -> list[tuple[Place | None, list[KeptValue]]]:
        """The kept values by the line that made them, the line that keeps most first."""
        found: dict[tuple[str, int] | None, list[KeptValue]] = {}
        for each in self.kept:
            found.setdefault(each.place and (each.place.file, each.place.line), []).append(each)
        groups = sorted(found.values(), key=lambda group: -sum(each.bytes for each in group))
        return [(group[0].place, group) for group in groups]

    def __str__(self) -> str:
        width = min(max(shutil.get_terminal_size((100, 24)).columns, NARROWEST), WIDEST)
        parts = [line for text in self.heading() for line in textwrap.wrap(text, width)]
        for table in (self.lines_table(), self.curve_table()):
            parts += ["", *laid_out(table, width)]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        first, *rest = self.heading()
        parts = [f"<p><b>{markup.escape(first)}</b><br>{'<br>'.join(map(markup.escape, rest))}</p>"]
        return "".join([*parts, *map(html_table, (self.lines_table(), self.curve_table()))])

    def heading(self) -> list[str]:
        peak = self.peak
        found = [f"Memory of the gradient of {self.function}: {in_units(self.total)} at its peak"]
        there = {
            "parameters": self.parameters,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "other arguments": self.others,
            "results": self.results,
        }
        shown = ", ".join(f"{name} {in_units(amount)}" for name, amount in there.items() if amount)
        found.append(f"{shown}; besides these {in_units(peak.bytes if peak else 0)}")
        if peak is not None:
            found.append(
                f"The most is held on the way {peak.way} at {at(peak.place)} ({peak.primitive}), {peak.part:.0%} "
                f"through: {in_units(peak.kept)} kept on the way forward, {in_units(peak.bytes - peak.kept)} besides"
            )
        found.append(f"{counted(len(self.kept), 'value')} kept for the way back, {in_units(self.kept_bytes)}")
        return found

    def lines_table(self) -> Table:
        titles = ("line", "code", "kept", "values", "again")
        rows, details = [], []
        groups = self.lines()
        for place, group in groups[:MOST_LINES]:
            rows.append((
                at(place, "?"),
                linecache.getline(place.file, place.line).strip() if place else "(no line is known)",
                in_units(sum(each.bytes for each in group)),
                str(len(group)),
                operations(sum(each.again for each in group)),
            ))  # fmt: skip
            details.append(alike(group))
        left = [each for _, group in groups[MOST_LINES:] for each in group]
        if left:
            amount = in_units(sum(each.bytes for each in left))
            again = operations(sum(each.again for each in left))
            rows.append((f"{len(groups) - MOST_LINES} more", "", amount, str(len(left)), again))
            details.append([])
        rows.append(("total", "", in_units(self.kept_bytes), str(len(self.kept)), ""))
        return Table(titles, rows, [*details, []])

    def curve_table(self) -> Table:
        titles = ("fg.checkpoint", "", "held", "operations")
        (most, _), (least, work) = self.curve[0], self.curve[-1]
        rows = [("nothing computed again", "", in_units(most), "1.00")]
        for budget in self.budgets:
            asked = f"memory={budget.asked!r}"
            if budget.held is None or budget.flops is None:
                rows.append((asked, "too little", "", ""))
            else:
                rows.append((asked, "", in_units(budget.held), f"{budget.flops:.2f}"))
        rows.append(("the least", "", in_units(least), f"{work:.2f}"))
        return Table(titles, rows)

    def to_dict(self) -> dict[str, Any]:
        """The report as lists, dicts, strings, numbers and None, ready for ``json.dumps``."""
        found: dict[str, Any] = plain({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        lines = [
            {
                "place": place and plain(place),
                "bytes": sum(each.bytes for each in group),
                "again": sum(each.again for each in group),
                "values": alike(group),
            }
            for place, group in self.lines()
        ]
        return {**found, "kept_bytes": self.kept_bytes, "total": self.total, "heading": self.heading(), "lines": lines}

    def plot(self) -> Any:
        """Draw what the lines keep that keep most, and what less memory costs; needs matplotlib.

        Returns:
          The ``matplotlib.figure.Figure``, of two axes. It is not shown and not known to ``pyplot``.

        Raises:
          ImportError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("report.plot() needs matplotlib: pip install 'funcgrad[plot]'") from error

        canvas = Figure(figsize=(8, 6), layout="constrained")
        lines, curve = canvas.subplots(2, 1)
        unit, scale = unit_of(max(self.curve[0][0], self.kept_bytes))
        groups = self.lines()[:10][::-1]
        amounts = [sum(each.bytes for each in group) / scale for _, group in groups]
        lines.barh([at(place, "?") for place, _ in groups], amounts)
        lines.set(title=f"{self.function}: kept for the way back, by line", xlabel=unit)
        held, work = zip(*self.curve, strict=True)
        curve.step([n / scale for n in held], work, where="pre", marker=".")
        for budget in self.budgets:
            curve.axvline(budget.bytes / scale, linewidth=0.8, color="grey", linestyle=":")
            curve.annotate(f"{budget.asked}", (budget.bytes / scale, max(work)), fontsize=8, rotation=90, va="top")
        curve.set(
            title="what less memory costs", xlabel=f"held, {unit}", ylabel="operations, of a gradient's", xlim=(0, None)
        )
        return canvas


def unit_of(amount: float) -> tuple[str, int]:
    """The unit in which an amount is read, and its bytes."""
    text = in_units(amount).split()[1]
    return text, UNITS[text]


def alike(group: list[KeptValue]) -> list[str]:
    """The values of one line, those that are alike once."""
    counts: dict[tuple, int] = {}
    for each in group:
        key = (each.type, each.primitive, each.module, ", ".join(map(str, each.wanted)), each.bytes)
        counts[key] = counts.get(key, 0) + 1
    shown = []
    for (kind, primitive, module, wanted, amount), n in counts.items():
        times = f"{n} x " if n > 1 else ""
        where = f" in {module}" if module else ""
        shown.append(f"{times}{kind} of {primitive}{where}, {in_units(amount)}, for {wanted or 'the way back'}")
    return shown


def operations(amount: float) -> str:
    for name, factor in (("Tflop", 1e12), ("Gflop", 1e9), ("Mflop", 1e6), ("kflop", 1e3)):
        if amount >= factor:
            return f"{amount / factor:.3g} {name}"
    return f"{amount:.0f} flop"


def html_table(table: Table) -> str:
    rows = []
    for row in table.rows:
        cells = [f'<td style="text-align:left"><code>{markup.escape(x)}</code></td>' for x in row[:2]]
        rows.append(f"<tr>{''.join(cells)}{''.join(f'<td>{markup.escape(x)}</td>' for x in row[2:])}</tr>")
    titles = "".join(f"<th>{markup.escape(title)}</th>" for title in table.titles)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
