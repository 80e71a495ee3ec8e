"""A report as a table: for a terminal, and for a notebook."""

from __future__ import annotations

import html as markup
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from funcgrad.inspect.steps import BackwardPass, BackwardStep, at

#: A report of no more steps than this shows each of them, and of no more parameters than this all of them.
MOST_STEPS, MOST_PARAMETERS = 40, 24
NARROWEST, WIDEST = 80, 120

MARKS = {"error": "!!", "warning": "! ", "info": "  "}


class Table(NamedTuple):
    """``rows`` of cells under ``titles``, the second of which takes what width there is; ``details`` below each row."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    details: Sequence[Sequence[str]] = ()


def text(report: BackwardPass) -> str:
    width = min(max(shutil.get_terminal_size((100, 24)).columns, NARROWEST), WIDEST)
    parts = [*heading(report), "", *laid_out(lines_table(report), width)]
    parts += ["", *laid_out(gradients_table(report), width)]
    if report.flags:
        parts.append("")
    for flag in report.flags:
        line = f"{MARKS[flag.severity]} {flag.kind}: {flag.message}".lstrip()
        parts += textwrap.wrap(line, width, subsequent_indent=" " * 5, break_long_words=False, break_on_hyphens=False)
    return "\n".join(parts)


def html(report: BackwardPass) -> str:
    first, *rest = heading(report)
    parts = [f"<p><b>{markup.escape(first)}</b><br>{'<br>'.join(map(markup.escape, rest))}</p>"]
    for table in (lines_table(report, details=False), gradients_table(report)):
        parts.append("<table><thead><tr>")
        parts += [f"<th>{markup.escape(title)}</th>" for title in table.titles]
        parts.append("</tr></thead><tbody>")
        for row in table.rows:
            cells = [f'<td style="text-align:left"><code>{markup.escape(x)}</code></td>' for x in row[:2]]
            cells += [f"<td>{markup.escape(x)}</td>" for x in row[2:]]
            parts.append(f"<tr>{''.join(cells)}</tr>")
        parts.append("</tbody></table>")
    if report.flags:
        items = [f"<li><b>{f.kind}</b> ({f.severity}): {markup.escape(f.message)}</li>" for f in report.flags]
        parts.append(f"<ul>{''.join(items)}</ul>")
    return "".join(parts)


def heading(report: BackwardPass) -> list[str]:
    totals = report.totals
    found = [
        f"Backward pass of {report.function} = {report.value['text']}",
        f"{counted(totals['steps'], 'step')} on {counted(len(report.lines), 'line')}, keeping "
        f"{size(totals['kept_bytes'])} besides the arguments; norm of the gradient {number(totals['gradient_norm'])}",
    ]
    if report.seed == "ones":
        found.append("The result is not a scalar: the way back starts from a cotangent of ones.")
    return found


def lines_table(report: BackwardPass, details: bool = True) -> Table:
    """The lines in the order in which the way back comes to them."""
    titles = ("line", "code", "steps", "kept", "norm", "zeros", "non-finite")
    lines = sorted(report.lines, key=lambda line: line.steps[0])
    rows = [
        (at(x), x.text, str(len(x.steps)), size(x.kept_bytes), number(x.norm), share(x.zeros), str(x.nonfinite or ""))
        for x in lines
    ]
    below: list[list[str]] = [[] for _ in rows]
    if details and len(report.steps) <= MOST_STEPS:
        below = [[step_text(report.steps[i]) for i in line.steps] for line in lines]
    unplaced = [step for step in report.steps if step.place is None]
    if unplaced:
        kept = sum(step.own_bytes for step in unplaced)
        rows.append(("?", "(no line is known)", str(len(unplaced)), size(kept), "", "", ""))
        below.append([])
    totals = report.totals
    made = str(sum(line.nonfinite for line in report.lines) or "")
    rows.append(("total", "", str(totals["steps"]), size(totals["kept_bytes"]), "", "", made))
    return Table(titles, rows, [*below, []])


def step_text(step: BackwardStep) -> str:
    """One step, with what came in and what went out."""
    name = f"{step.primitive}[{step.name}]" if step.name else step.primitive
    if step.iterations is not None:
        name += f" x {step.iterations}"
    incoming = ", ".join(number(s.norm) for s in step.incoming if s is not None)
    outgoing = ", ".join(number(s.norm) for s in step.outgoing if s is not None)
    kept = ", ".join(x.name for x in step.kept)
    keeps = f"  keeps {kept}" if kept else ""
    return f"{'  ' * step.depth}{name}  |{incoming}| -> |{outgoing}|  {step.formula}{keeps}"


def gradients_table(report: BackwardPass) -> Table:
    titles = ("gradient of", "type", "norm", "largest", "zeros", "non-finite")
    rows: list[Sequence[str]] = []
    for p in report.parameters[:MOST_PARAMETERS]:
        s, shown = p.gradient, f"{p.dtype}[{','.join(map(str, p.shape))}]"
        if s is None:
            rows.append((p.path, shown, "none", "", "", ""))
        else:
            largest = None if s.min is None or s.max is None else max(abs(s.min), abs(s.max))
            rows.append((p.path, shown, number(s.norm), number(largest), share(s.zeros), str(s.nonfinite or "")))
    more = len(report.parameters) - len(rows)
    if more:
        rows.append((f"... and {more} more", "", "", "", "", ""))
    return Table(titles, rows)


def laid_out(table: Table, width: int) -> list[str]:
    columns = list(zip(table.titles, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    # The first column may take a third, the second what is left.
    widths[0] = min(widths[0], width // 3)
    rest = width - sum(widths) + widths[1] - 2 * (len(widths) - 1)
    widths[1] = min(widths[1], max(rest, 8))
    found = [row_text(table.titles, widths)]
    for row, below in zip(table.rows, table.details or [()] * len(table.rows), strict=True):
        found.append(row_text(row, widths))
        found += [f"    {cut(line, width - 4)}" for line in below]
    return found


def row_text(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cut(x, n).ljust(n) for x, n in zip(row[:2], widths[:2], strict=True)]
    cells += [x.rjust(n) for x, n in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(cells).rstrip()


def cut(x: str, width: int) -> str:
    return x if len(x) <= width else x[: width - 3] + "..."


def counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def size(n: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            break
        n /= 1024  # type: ignore[assignment]
    return f"{n} B" if unit == "B" else f"{n:.1f} {unit}"


def number(x: Any) -> str:
    return "" if x is None else f"{x:.3g}"


def share(x: float | None) -> str:
    """A share in percent that is 0% and 100% only where that is exact."""
    if x is None:
        return ""
    if x in (0, 1):
        return f"{x:.0%}"
    return "<1%" if x < 0.01 else ">99%" if x > 0.99 else f"{x:.0%}"
