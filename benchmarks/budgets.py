"""What gradients hold and cost that were told how much memory they may take: ``fg.checkpoint(fun, memory=)``.

python -m benchmarks.budgets [PROGRAM...] [--budgets 0.5 0.25 | --ten] [--time] [--planning]

Memory is XLA's temporary memory of the compiled gradient, operations those of its optimised text, loops included; both
are exact. Times (``--time``) are medians of ratios, each pair run in turn.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import funcgrad as fg
from benchmarks.flops import count
from benchmarks.measure import compare
from benchmarks.workloads.large import programs
from funcgrad.budgets.plan import Plan
from funcgrad.units import in_units


class Gradient:
    """A compiled gradient: what it holds besides arguments and results, and the operations it takes."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], grad: Callable[..., Any] = fg.grad):
        self.args = args
        self.run = jax.jit(grad(f)).lower(*args).compile()
        self.held = self.run.memory_analysis().temp_size_in_bytes
        text = self.run.as_text()
        self.flops = count(text) or float("nan")
        self.products = count(text, products_only=True) or float("nan")

    def __call__(self) -> Any:
        return jax.block_until_ready(self.run(*self.args))


def report(name: str, budgets: list[float], with_time: bool) -> None:
    f, args = programs()[name]
    plain = Gradient(f, args)
    peak = fg.memory(f)(*args).peak.bytes
    print(f"{name}: {in_units(plain.held)}, foretold {in_units(peak)}, {plain.flops / 1e6:.0f} million operations")
    plan = Plan(flat(f, args))
    expected = jax.tree.leaves(plain())
    found: dict[float, Gradient] = {}
    for budget in budgets:
        part, refused = possible(plan, budget)
        if refused:
            print(f"  {budget:4}  {refused}")
        found[budget] = mine = Gradient(fg.checkpoint(f, memory=part), args)
        foretold = part * plan.curve[0].held
        row = f"  {budget:4}  memory {mine.held / plain.held:.3f}, foretold {foretold / plain.held:.3f}"
        row += f"  operations {mine.flops / plain.flops:.3f}, of products {mine.products / plain.products:.3f}"
        row += f"  difference {difference(jax.tree.leaves(mine()), expected):.1e}"
        if with_time:
            row += f"  time {compare(plain, mine, budget=10.0).ratio:.2f}"
        print(row, flush=True)
    ordered = [found[budget] for budget in sorted(found)]
    for what, rising in (("held", lambda a, b: a.held <= b.held), ("products", lambda a, b: a.products >= b.products)):
        if not all(itertools.starmap(rising, itertools.pairwise(ordered))):
            print(f"  not monotonic: {what} {[getattr(each, what) for each in ordered]}")


def possible(plan: Plan, budget: float) -> tuple[float, str]:
    """The fraction of the plain gradient's memory that ``budget`` is met with, or the least there is and why."""
    refused = ""
    try:
        point = plan.within(budget * plan.curve[0].held)
    except ValueError as error:
        point, refused = plan.curve[-1], str(error)
    return min(1.0, point.held / plan.curve[0].held * (1 + 1e-9)), refused


def difference(xs: list[Any], ys: list[Any]) -> float:
    """The largest difference of two lists of arrays, each relative to the largest number of its array."""
    return max(float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y))) for x, y in zip(xs, ys, strict=True))


def planning(layers: int = 24) -> None:
    """The time that planning takes beside that of tracing the plain gradient, each for functions seen first."""

    def trace(of: Callable[..., Any]) -> float:
        f, args = programs(layers)["GPT-2"]
        start = time.perf_counter()
        jax.make_jaxpr(of(lambda *xs: f(*xs)))(*args)
        return time.perf_counter() - start

    trace(fg.grad)
    trace(lambda f: fg.grad(fg.checkpoint(f, memory=0.3)))
    ratios = sorted(trace(lambda f: fg.grad(fg.checkpoint(f, memory=0.3))) / trace(fg.grad) for _ in range(5))
    print(f"GPT-2 of {layers} layers: tracing with a plan takes {ratios[2]:.2f} of tracing without")


def flat(f: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    leaves, tree = jax.tree.flatten(args)
    return jax.make_jaxpr(lambda *xs: f(*jax.tree.unflatten(tree, xs)))(*leaves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", help="all of them if none is named")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--ten", action="store_true", help="ten budgets, from 0.1 to 1.0")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--planning", action="store_true")
    told = parser.parse_args()
    for name in told.programs or programs():
        report(name, [k / 10 for k in range(10, 0, -1)] if told.ten else told.budgets, told.time)
    if told.planning:
        planning()


if __name__ == "__main__":
    main()
