"""What ``explain`` returns: a backward pass with its table, its page and its pictures."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funcgrad.inspect import page, table
from funcgrad.inspect.statistics import Statistics
from funcgrad.inspect.steps import BackwardPass, BackwardStep

if TYPE_CHECKING:
    from funcgrad.inspect.memory_report import MemoryReport

VERSION = 1
NOWHERE = {"file": None, "line": None, "function": None}


@dataclasses.dataclass(eq=False)
class BackwardReport(BackwardPass):
    """A forward and backward pass, step by step.

    ``str(report)`` is a table for a terminal, grouped by source line. In a notebook the report shows itself.

    Attributes:
      function: the name of the function.
      value: what it returned, as text, and its type.
      seed: the cotangent that the way back started from: ``"1"`` for a scalar, else ``"ones"``.
      sources: the text of the user's files by name, None where it cannot be read.
      steps: each a ``BackwardStep``, in the order of the way back; a step stands before those inside it.
      lines: the lines of the user's code that have steps, by file and number.
      parameters: the leaves of the differentiated arguments, with statistics of their gradients.
      variables: the values that cotangents were collected for, which steps read and make.
      flags: what a person would want to look at, most severe first.
      totals: numbers of the whole pass: steps, lines, bytes kept, the norm of the gradient.
    """

    def __str__(self) -> str:
        return table.text(self)

    def _repr_html_(self) -> str:
        return table.html(self)

    def to_html(self, path: str | Path, memory: MemoryReport | None = None) -> None:
        """Write the report as one page that needs no network: the source, the graph and every number, to click through.

        Args:
          path: the file to write; its folder must exist.
          memory: what ``funcgrad.memory`` tells of the same function, to be shown with it.
        """
        page.write({**self.to_dict(), "memory": memory and memory.to_dict()}, path)

    def plot(self) -> Any:
        """Draw the norm of the cotangents along the depth and the bytes kept along the time; needs matplotlib.

        Returns:
          The ``matplotlib.figure.Figure``, of two axes. It is not shown and not known to ``pyplot``.

        Raises:
          ImportError: matplotlib is not installed.
        """
        return figure(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as lists, dicts, strings, numbers and None, ready for ``json.dumps``.

        What is not finite is left out of minima, maxima and norms, so every number has a place in JSON. Ids are indices
        into the list they belong to.
        """
        from funcgrad import __version__

        files = {path: i for i, path in enumerate(self.sources)}
        return {
            "version": VERSION,
            "generator": f"funcgrad {__version__}",
            **{
                name: plain(getattr(self, name))
                for name in ("function", "value", "seed", "variables", "flags", "totals")
            },
            "files": [
                {"id": i, "path": path, "name": Path(path).name, "text": self.sources[path]}
                for path, i in files.items()
            ],
            "lines": [{**vars(line), "file": files[line.file]} for line in self.lines],
            "steps": [step_dict(step, files) for step in self.steps],
            "parameters": [
                {
                    **plain(p),
                    "cuts": [
                        {"primitive": name, "file": at and files[at.file], "line": at and at.line}
                        for name, at in p.cuts
                    ],
                }
                for p in self.parameters
            ],
        }


def step_dict(step: BackwardStep, files: dict[str, int]) -> dict[str, Any]:
    place, *stack = [{**p._asdict(), "file": files[p.file]} for p in (step.place, *step.stack) if p] or [NOWHERE]
    shown = {**plain(step), "operation": step.operation, "line_id": step.line, **place, "stack": stack}
    del shown["place"]
    return shown


def plain(x: Any) -> Any:
    """Records as dicts, and tuples as lists."""
    if isinstance(x, dict):
        return {name: plain(value) for name, value in x.items()}
    if isinstance(x, list | tuple) and not hasattr(x, "_asdict"):
        return [plain(value) for value in x]
    if isinstance(x, Statistics):
        return x.to_dict()
    return plain(x._asdict()) if hasattr(x, "_asdict") else plain(vars(x)) if dataclasses.is_dataclass(x) else x


# Pictures.

#: The unit of the picture's second part, by the bytes that make it worth while.
UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))


def figure(report: BackwardReport) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("report.plot() needs matplotlib: pip install 'funcgrad[plot]'") from error

    canvas = Figure(figsize=(8, 6), layout="constrained")
    depth, memory = canvas.subplots(2, 1)
    norms = [(step.id, s.norm) for step in report.steps for s in step.incoming if s is not None]
    depth.plot([i for i, _ in norms], [norm for _, norm in norms], ".", markersize=4)
    if any(norm > 0 for _, norm in norms):
        depth.set_yscale("log")
    depth.set(title=f"{report.function}: norm of the cotangents", xlabel="step of the way back", ylabel="norm")
    kept = bytes_along_time(report)
    unit, scale = next((u, n) for u, n in UNITS if max(kept) >= n or n == 1)
    memory.step(range(len(kept)), [n / scale for n in kept], where="post")
    memory.axvline(len(kept) // 2, linewidth=0.8, color="grey", linestyle=":")
    memory.set(
        title="kept for the way back",
        xlabel="steps of the way forward, then of the way back",
        ylabel=unit,
        ylim=(0, None),
    )
    return canvas


def bytes_along_time(report: BackwardReport) -> list[int]:
    """How many bytes are kept after each step, on the way forward and then back."""
    own = [step.own_bytes for step in report.steps]
    return list(itertools.accumulate([*reversed(own), *(-n for n in own)], initial=0))
