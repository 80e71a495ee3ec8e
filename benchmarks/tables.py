"""The tables of a report, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.measure import Comparison
from benchmarks.results import Report, Result

#: What a ratio to ``jax.value_and_grad`` may be; more is marked.
BOUNDS = {"time": 1.03, "flops": 1.005, "memory": 1.10}


@dataclass(frozen=True)
class Cell:
    text: str
    marked: bool = False


Row = list[Cell]


def ratio(x: float | None, kind: str = "time") -> Cell:
    return Cell("-") if x is None else Cell(number(x), x > BOUNDS[kind])


def spread(c: Comparison | None) -> Cell:
    if c is None:
        return Cell("-")
    return Cell(f"{number(c.ratio)} ({number(c.low)} .. {number(c.high)})", c.ratio > BOUNDS["time"])


def plain(c: Comparison | None) -> Cell:
    """A ratio that is no promise."""
    return Cell("-" if c is None else number(c.ratio))


def number(x: float) -> str:
    return f"{x:.2f}" if x >= 0.1 or x == 0 else f"{x:.1g}"


def seconds(t: float) -> Cell:
    for unit, scale in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if t >= scale or unit == "µs":
            break
    return Cell(f"{t / scale:.3g} {unit}")


def of_bytes(count: int) -> Cell:
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return Cell(f"{count / scale:.3g} {unit}")
    return Cell(f"{count} B")


SUMMARY = (
    "workload", "size", "tracing", "eager call", "compiling", "step", "flops", "memory", "/ PyTorch", "/ forward",
    "growth",
)  # fmt: skip


def summary(results: Iterable[Result]) -> Iterable[Row]:
    """A row per workload, or per size where each is of interest, of ratios to ``jax.value_and_grad``.

    What is not about one size stands in a workload's first row. Growth is that of the forward pass, of ``jax.grad`` and
    of funcgrad.
    """
    for result in results:
        exponents = result.growth()
        name, *around = [result.name, *(ratio(c.ratio) for c in (result.tracing, result.eager, result.compiling))]
        growth = (
            " ".join(f"{exponents[name]:.2f}" if name in exponents else "-" for name in GROWTHS) if exponents else ""
        )
        for step in result.steps:
            if step.size in result.shown:
                costs = ratio(step.cost_ratio("flops"), "flops"), ratio(step.cost_ratio("temporary"), "memory")
                size = Cell(f"{step.size:,} {result.size}")
                others = plain(step.torch), plain(step.forward)
                yield [Cell(name), size, *around, spread(step.jax), *costs, *others, Cell(growth)]
                name, around, growth = "", [Cell("")] * 3, ""


GROWTHS = ("forward", "jax", "funcgrad")

STEPS = (
    "workload", "size", "forward", "jax.grad", "funcgrad", "/ jax.grad", "/ PyTorch", "/ forward", "flops", "memory",
    "/ jax.grad",
)  # fmt: skip


def steps(results: Iterable[Result]) -> Iterable[Row]:
    """A row per workload and size: times of a compiled step, and its operations and temporary memory."""
    for result in results:
        name = result.name
        for step in result.steps:
            yield [
                Cell(name),
                Cell(f"{step.size:,} {result.size}"),
                seconds(step.forward.reference),
                seconds(step.jax.reference) if step.jax else Cell("-"),
                seconds(step.forward.ours),
                spread(step.jax),
                plain(step.torch),
                plain(step.forward),
                ratio(step.cost_ratio("flops"), "flops"),
                of_bytes(step.cost.temporary),
                ratio(step.cost_ratio("temporary"), "memory"),
            ]
            name = ""


OVERHEADS = ("workload", "size", "tracing", "/ jax.grad", "eager call", "/ jax.grad", "compiling", "/ jax.grad")


def overheads(results: Iterable[Result]) -> Iterable[Row]:
    for result in results:
        row = [Cell(result.name), Cell(f"{result.once:,} {result.size}")]
        for c in (result.tracing, result.eager, result.compiling):
            row += [seconds(c.ours), spread(c)]
        yield row


def notes(report: Report) -> list[str]:
    """What was measured beside the workloads, in sentences."""
    words = []
    if report.layers:
        ours, theirs = report.layers["funcgrad"], report.layers["jax"]
        words.append(
            f"Tracing 48 equal layers called through one `jit` takes funcgrad {ours.ratio:.2f} times as long as "
            f"tracing 12, `jax.value_and_grad` {theirs.ratio:.2f} times."
        )
    if report.importing:
        milliseconds = sorted(1e3 * t for t in report.importing)
        words.append(
            f"Importing funcgrad takes {milliseconds[len(milliseconds) // 2]:.0f} ms after JAX and optax (median of "
            f"{len(milliseconds)} processes, {milliseconds[0]:.0f} to {milliseconds[-1]:.0f})."
        )
    return words


def rich_table(title: str, header: Iterable[str], rows: Iterable[Row]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(f"[red]{cell.text}[/red]" if cell.marked else cell.text for cell in row))
    return table


def markdown_table(header: Iterable[str], rows: Iterable[Row]) -> str:
    header = list(header)
    lines = [header, [":--" if i < 2 else "--:" for i in range(len(header))]]
    lines += [[f"**{cell.text}**" if cell.marked else cell.text for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
