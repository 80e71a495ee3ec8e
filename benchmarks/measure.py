"""Measuring two functions against each other on a noisy machine.

The two are run in turn and the ratio is taken within each turn, so that whatever else the machine does falls on both.
Which goes first alternates too. What is reported is the median of the ratios and their quartiles.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

Call = Callable[[], Any]

#: What one timing should take at least, in seconds: a call that takes less is repeated.
SHORTEST = 1e-3


@dataclass(frozen=True)
class Comparison:
    """Seconds of the reference and of ours (medians), and the ratio ours / reference (median and quartiles)."""

    reference: float
    ours: float
    ratio: float
    low: float
    high: float


def compare(
    reference: Call, ours: Call, *, budget: float = 1.0, least: int = 3, most: int = 51, prepared: bool = False
) -> Comparison:
    """Time the two in turn, from ``least`` to ``most`` turns in about ``budget`` seconds.

    A first turn does not count. With ``prepared`` it does, and the two are not calls to be timed themselves: each
    makes, untimed, the call that is, once.
    """
    pairs: list[tuple[float, float]] = []
    with garbage_set_aside():
        start = time.perf_counter()
        first = timed(reference, 1, prepared), timed(ours, 1, prepared)
        if prepared:
            pairs.append(first)
        repeats = 1 if prepared else max(1, math.ceil(SHORTEST / min(first)))
        while len(pairs) < least or (len(pairs) < most and time.perf_counter() - start < budget):
            if len(pairs) % 2:
                mine, other = timed(ours, repeats, prepared), timed(reference, repeats, prepared)
            else:
                other, mine = timed(reference, repeats, prepared), timed(ours, repeats, prepared)
            pairs.append((other, mine))
    low, middle, high = quartiles([mine / other for other, mine in pairs])
    return Comparison(
        statistics.median(other for other, _ in pairs), statistics.median(mine for _, mine in pairs), middle, low, high
    )


def quartiles(xs: list[float]) -> list[float]:
    return statistics.quantiles(xs, n=4) if len(xs) > 1 else xs * 3


@contextmanager
def garbage_set_aside() -> Iterator[None]:
    """Within, collecting garbage does not walk over all that there was before, which takes longer than most steps."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def timed(call: Call, repeats: int, prepared: bool) -> float:
    if prepared:
        call = call()
    gc.collect()  # or one pays for what the other left behind
    return seconds(call, repeats)


def seconds(call: Call, repeats: int) -> float:
    """The time of one of ``repeats`` calls, each waited for."""
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / repeats


def tracing(fun: Callable, args: tuple) -> Call:
    """A call that traces ``fun`` anew each time, as the first call of a jitted function does."""
    return lambda: traced(fun, args)


def compiling(fun: Callable, args: tuple) -> Call:
    """What makes, for ``compare(..., prepared=True)``, the call that lowers and compiles ``fun``, traced anew."""

    def prepare() -> Call:
        program = traced(fun, args)
        return lambda: program.lower().compile()

    return prepare


def traced(fun: Callable, args: tuple) -> Any:
    # A new function each time, or the trace would be found in JAX's cache.
    return jax.jit(lambda *xs: fun(*xs)).trace(*args)


def growth(sizes: list[int], times: list[float]) -> float:
    """The exponent of a power of the size that fits the times best: the slope of their logarithms."""
    xs, ys = [math.log(size) for size in sizes], [math.log(t) for t in times]
    return statistics.linear_regression(xs, ys).slope
