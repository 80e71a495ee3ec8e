"""A report in four panels: compiled steps, what stands around them, recurrent nets, and a table filled in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.results import Report, Result, Step

INK, MUTED, BLUE, ORANGE, GREEN = "#1f2430", "#8a8f98", "#2a6fbb", "#d9622b", "#4a8f4f"
RATIOS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10]
SEQUENCES = ("lstm", "gru")
TABLE = "table"


def draw(report: Report, path: Path) -> None:
    """Draw what was found on the last of the devices, the accelerator where there is one."""
    device, results = list(report.devices.items())[-1]
    by_name = {result.name: result for result in results}
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    height = max(5.0, 1.6 + 0.26 * sum(len(shown(result)) for result in results))
    figure, axes = plt.subplot_mosaic(
        [["step", "around", "nets"], ["step", "around", "table"]], figsize=(15, height), width_ratios=[1.15, 1, 1],
        layout="constrained",
    )  # fmt: skip
    draw_steps(axes["step"], results)
    draw_around(axes["around"], results)
    draw_nets(axes["nets"], [by_name[name] for name in SEQUENCES if name in by_name])
    draw_table(axes["table"], by_name.get(TABLE))
    figure.suptitle(f"funcgrad beside jax.value_and_grad: {device}, {report.machine['processor']}, "
                    f"{report.machine['versions']}", x=0.01, ha="left", fontsize=10, color=INK)  # fmt: skip
    figure.savefig(path, dpi=110)
    plt.close(figure)


def shown(result: Result) -> list[Step]:
    return [step for step in result.steps if step.size in result.shown and step.jax]


def draw_steps(axes: Any, results: list[Result]) -> None:
    """Ratios of compiled steps with their quartiles, and of temporary memory."""
    axes.set_title("A compiled step, relative to jax.value_and_grad", loc="left")
    rows = [(result, step) for result in results for step in shown(result)]
    for y, (_, step) in enumerate(rows):
        c = step.jax
        assert c
        axes.plot([c.low, c.high], [y, y], color=BLUE, linewidth=2.5, alpha=0.45, solid_capstyle="round")
        axes.plot(c.ratio, y, "o", color=BLUE, markersize=5.5, label="time, with quartiles" if y == 0 else None)
        memory = step.cost_ratio("temporary")
        if memory is not None:
            axes.plot(memory, y, "s", color=ORANGE, markersize=6.5, markerfacecolor="none",
                      label="temporary memory" if y == 0 else None)  # fmt: skip
    ratio_axis(axes, [f"{result.name}, {step.size:,} {result.size}" for result, step in rows])


def draw_around(axes: Any, results: list[Result]) -> None:
    axes.set_title("Tracing, an eager call, compiling", loc="left")
    for name, color, marker in (("tracing", BLUE, "o"), ("eager", ORANGE, "D"), ("compiling", MUTED, "|")):
        label = {"eager": "an eager call"}.get(name, name)
        ratios = [getattr(result, name).ratio for result in results]
        axes.plot(ratios, range(len(results)), marker, color=color, markersize=6, linestyle="", label=label)
    ratio_axis(axes, [result.name for result in results])


def ratio_axis(axes: Any, names: list[str]) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color=INK, linewidth=0.8)
    low, high = axes.get_xlim()
    low, high = min(low, 0.45), max(high, 1.6)
    axes.set_xlim(low, high)
    ticks = [x for x in RATIOS if low <= x <= high]
    while len(ticks) > 8:
        ticks = [x for i, x in enumerate(ticks) if i % 2 == ticks.index(1) % 2]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.grid(axis="both", color=MUTED, alpha=0.25, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.11), ncols=3, frameon=False)
    axes.set_xlabel("less is better")


def draw_nets(axes: Any, nets: list[Result]) -> None:
    axes.set_title("Recurrent nets: a step by batch size", loc="left")
    for net, style in zip(nets, ("-", "--"), strict=False):
        steps = [step for step in net.steps if step.jax]
        sizes = range(len(steps))
        axes.plot(
            sizes, [s.jax.ratio for s in steps if s.jax], style, marker="o", color=BLUE, label=f"{net.name}, funcgrad"
        )
        fused = [(i, s.jax.ratio / s.torch.ratio) for i, s in enumerate(steps) if s.torch and s.jax]
        if fused:
            axes.plot(*zip(*fused, strict=True), style, marker="o", color=GREEN, label=f"{net.name}, PyTorch's fused")
        axes.set_xticks(sizes, [str(step.size) for step in steps])
    axes.axhline(1, color=ORANGE, linewidth=1.2, label="jax.value_and_grad")
    axes.set_ylim(bottom=0)
    axes.set(xlabel="sequences in a batch", ylabel="relative time")
    axes.legend(frameon=False)


def draw_table(axes: Any, result: Result | None) -> None:
    axes.set_title("A table filled in place, by its length", loc="left")
    if result is None:
        return
    exponents = result.growth()
    curves = {
        "forward": ("the forward pass", MUTED, [(s.size, s.forward.reference) for s in result.steps]),
        "jax": ("jax.grad", ORANGE, [(s.size, s.jax.reference) for s in result.steps if s.jax]),
        "funcgrad": ("funcgrad", BLUE, [(s.size, s.forward.ours) for s in result.steps]),
    }
    for name, (label, color, points) in curves.items():
        power = f", n^{exponents[name]:.2f}" if name in exponents else ""
        axes.loglog(*zip(*points, strict=True), marker="o", color=color, label=f"{label}{power}")
    axes.set_xticks([s.size for s in result.steps], [f"{s.size:,}" for s in result.steps])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="entries", ylabel="seconds")
    axes.grid(color=MUTED, alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, loc="upper left")
