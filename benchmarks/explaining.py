"""``python -m benchmarks.explaining``: what looking inside costs, beside an eager call of the gradient."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

import funcgrad as fg
from benchmarks.measure import Comparison, compare
from benchmarks.workloads import registry

#: By how much ``explain`` may be slower than an eager gradient of the transformer.
MOST = 5.0

TOOLS: dict[str, Callable] = {"explain": fg.explain, "find_nonfinite": fg.find_nonfinite}


def measure(name: str, size: int, tool: Callable, budget: float = 5.0) -> Comparison:
    """A tool's call beside one of ``fg.value_and_grad``, neither of them jitted, both with warm caches."""
    workload = registry[name]
    args = workload.example(size)
    gradient, looking = fg.value_and_grad(workload.loss), tool(workload.loss)
    return compare(lambda: gradient(*args), lambda: str(looking(*args)), budget=budget)


def main() -> None:
    table = Table("", "an eager gradient", "the tool", "ratio", "quartiles")
    for name, size in (("transformer", 12), ("mlp", registry["mlp"].sizes[0]), ("lstm", registry["lstm"].sizes[0])):
        for label, tool in TOOLS.items():
            c = measure(name, size, tool)
            times = f"{1e3 * c.reference:.1f} ms", f"{1e3 * c.ours:.1f} ms"
            table.add_row(f"{label}, {name} ({size})", *times, f"{c.ratio:.2f}", f"{c.low:.2f} .. {c.high:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
