"""Pictures of a backward pass."""

from __future__ import annotations

import itertools
from typing import Any

from funcgrad.inspect.steps import BackwardPass

#: The unit of the picture's second part, by the bytes that make it worth while.
UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))


def figure(report: BackwardPass) -> Any:
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


def bytes_along_time(report: BackwardPass) -> list[int]:
    """How many bytes are kept after each step, on the way forward and then back."""
    own = [step.own_bytes for step in report.steps]
    return list(itertools.accumulate([*reversed(own), *(-n for n in own)], initial=0))
