"""Measuring two functions against each other on a noisy machine.

The two are run in turn and the ratio is taken within each turn, so that whatever else the machine does falls on both.
What is reported is the median of the ratios and their quartiles.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Comparison:
    """Seconds of the reference and of ours (medians), and the ratio ours / reference (median and quartiles)."""

    reference: float
    ours: float
    ratio: float
    low: float
    high: float


def compare(reference: Callable[[], Any], ours: Callable[[], Any], turns: int) -> Comparison:
    """Time the two in turn, ``turns`` times, after one turn that does not count."""
    pairs = []
    for turn in range(turns + 1):
        pair = (seconds(reference), seconds(ours))
        if turn:
            pairs.append(pair)
    ratios = [mine / other for other, mine in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Comparison(
        statistics.median(other for other, _ in pairs), statistics.median(mine for _, mine in pairs), middle, low, high
    )


def seconds(call: Callable[[], Any]) -> float:
    gc.collect()  # or one pays for what the other left behind
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def trace(fun: Callable, args: tuple) -> Callable[[], None]:
    """A call that traces ``fun`` anew each time, as the first call of a jitted function does."""

    def run() -> None:
        jax.jit(lambda *xs: fun(*xs)).trace(*args)

    return run


@dataclass(frozen=True)
class Compiled:
    """A compiled step with the flops and the temporary bytes that XLA says it takes."""

    call: Callable[[], Any]
    flops: float
    temporary: int

    @staticmethod
    def of(fun: Callable, args: tuple) -> Compiled:
        step = jax.jit(fun).lower(*args).compile()
        return Compiled(lambda: step(*args), step.cost_analysis()["flops"], step.memory_analysis().temp_size_in_bytes)
