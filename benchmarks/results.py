"""What a run found, as data: what the tables, the picture and the JSON are made from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import Comparison, growth


@dataclass(frozen=True)
class Cost:
    """What a compiled step takes by its program.

    Floating-point operations with loops counted as often as they run, None where that is not known; operations as XLA
    counts them, a loop's body once and integers too; and bytes of temporary memory.
    """

    flops: float | None
    xla_flops: float
    temporary: int


@dataclass(frozen=True)
class Step:
    """The compiled gradient of one workload at one size. Each comparison has funcgrad as "ours".

    ``jax`` and ``torch`` are None where they were not measured. ``cost`` is funcgrad's, ``jax_cost`` that of
    ``jax.value_and_grad``.
    """

    size: int
    forward: Comparison
    jax: Comparison | None
    torch: Comparison | None
    cost: Cost
    jax_cost: Cost | None

    def cost_ratio(self, field: str) -> float | None:
        """A field of ``Cost``, funcgrad's relative to JAX's; None where one is not known, or JAX needs none."""
        ours, theirs = getattr(self.cost, field), getattr(self.jax_cost, field, None)
        return ours / theirs if ours is not None and theirs else None


@dataclass(frozen=True)
class Result:
    """One workload on one device. The comparisons are with ``jax.value_and_grad``, at the size ``once``."""

    name: str
    size: str
    shown: list[int]
    without_torch: str
    once: int
    tracing: Comparison
    eager: Comparison
    compiling: Comparison
    steps: list[Step]

    def growth(self) -> dict[str, float]:
        """Exponents of growth with size of the time of "forward", "jax" and "funcgrad"; empty for a single size.

        They are fitted to the largest three sizes, since a small step's time is that of calling it.
        """
        times = {
            "forward": [(s.size, s.forward.reference) for s in self.steps],
            "jax": [(s.size, s.jax.reference) for s in self.steps if s.jax],
            "funcgrad": [(s.size, s.forward.ours) for s in self.steps],
        }
        return {k: growth(*map(list, zip(*points[-3:], strict=True))) for k, points in times.items() if len(points) > 1}


@dataclass(frozen=True)
class Report:
    """A whole run.

    ``machine`` describes it in words, by what is described. ``devices`` has the results by device. ``importing`` has
    seconds that importing funcgrad takes after JAX and optax; ``layers`` compares, for "funcgrad" and "jax", tracing 48
    equal layers called through one jit with 12. Both are empty in a quick run.
    """

    machine: dict[str, str]
    devices: dict[str, list[Result]]
    importing: list[float]
    layers: dict[str, Comparison]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Report:
        data = json.loads(path.read_text())
        devices = {device: [result(**fields) for fields in results] for device, results in data["devices"].items()}
        layers = {name: Comparison(**fields) for name, fields in data["layers"].items()}
        return Report(data["machine"], devices, data["importing"], layers)


def result(steps, tracing, eager, compiling, **fields) -> Result:
    comparisons = dict(tracing=tracing, eager=eager, compiling=compiling)
    return Result(
        **fields,
        **{name: Comparison(**values) for name, values in comparisons.items()},
        steps=[step(**values) for values in steps],
    )


def step(size, cost, jax_cost, **comparisons) -> Step:
    measured = {name: values and Comparison(**values) for name, values in comparisons.items()}
    return Step(size=size, cost=Cost(**cost), jax_cost=jax_cost and Cost(**jax_cost), **measured)
