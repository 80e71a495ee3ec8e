"""``python -m benchmarks``: funcgrad beside ``jax.value_and_grad`` and PyTorch, the numbers of one run."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

# PyTorch's threads wait without spinning, or they would take the cores from XLA's, which run in turn with them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
from rich.console import Console

from benchmarks import page, suite, tables
from benchmarks.gradients import Mismatch
from benchmarks.picture import draw
from benchmarks.results import Report
from benchmarks.workloads import registry

#: Columns that the tables take.
WIDTH = 168


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    console = Console()
    console.width = max(console.width, WIDTH)
    if options.given:
        report = Report.read(options.given)
    else:
        try:
            settings = suite.QUICK if options.quick else suite.FULL
            report = run(options.names, settings, console)
        except Mismatch as mismatch:
            console.print(f"[bold red]{mismatch}[/bold red]. Nothing more is measured.")
            return 1
    show(report, console)
    report.write(options.json)
    draw(report, options.picture)
    console.print(f"All numbers are in {options.json}, drawn in {options.picture}.", highlight=False)
    if options.readme:
        page.write(report)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"workloads, all if none: {', '.join(registry)}",
                        choices=[*registry, []])  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="the smallest sizes and few turns")
    parser.add_argument("--json", type=Path, metavar="PATH", default="funcgrad_bench.json", help="where all numbers go")
    parser.add_argument("--picture", type=Path, metavar="PATH", default="funcgrad_bench.png", help="and their picture")
    parser.add_argument("--readme", action="store_true", help="write benchmarks/README.md and its picture")
    parser.add_argument("--from", dest="given", type=Path, metavar="PATH", help="measure nothing, read such numbers")
    return parser


def run(names: list[str], settings: suite.Settings, console: Console) -> Report:
    torch = importlib.util.find_spec("torch") is not None
    quick = ["--quick"] if settings is suite.QUICK else []
    machine = suite.machine(["python -m benchmarks", *names, *quick], torch)
    names = names or list(registry)
    default = jax.devices()[0]
    devices = [default] if default.platform == "cpu" else [jax.devices("cpu")[0], default]
    found: dict = {}
    with console.status("") as status:
        for device in devices:
            results = found[f"{device.device_kind} ({device.platform})"] = []
            for i, name in enumerate(names):
                status.update(f"{name} on {device.device_kind}, {i + 1} of {len(names)}")
                start = time.perf_counter()
                results.append(suite.measure(name, registry[name], settings, torch, device))
                console.print(f"{name}: gradients agree, measured in {time.perf_counter() - start:.0f} s")
        if settings.one_size:
            return Report(machine, found, [], {})
        status.update("importing, and tracing equal layers")
        return Report(machine, found, suite.importing(5), suite.equal_layers(settings))


def show(report: Report, console: Console) -> None:
    for name, words in report.machine.items():
        console.print(f"{name}: {words}", highlight=False)
    for device, results in report.devices.items():
        console.print()
        for title, header, rows in (
            ("Tracing, an eager call, compiling", tables.OVERHEADS, tables.overheads),
            ("A compiled step", tables.STEPS, tables.steps),
            ("In short, relative to jax.value_and_grad", tables.SUMMARY, tables.summary),
        ):
            console.print(tables.rich_table(f"{title}, {device}", header, rows(results)))
    for sentence in tables.notes(report):
        console.print(sentence)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
