"""Reductions over windows, as in pooling, and the selections that are their transposes.

In each dimension a window of ``window_dimensions`` entries, ``window_dilation`` apart, moves ``window_strides`` at a
time over the operand, whose entries are set ``base_dilation`` apart and padded by ``padding``.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad.rules.control.rewriting import Recompute
from funcgrad.rules.numbers import const, extent, full_like
from funcgrad.rules.reductions import elementwise
from funcgrad.rules.rule import formula

# Sums. An entry's cotangent is the sum over the windows it is in: a window sum again, over the dilated cotangent.


def window_sum(ct, x_aval, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    """The sum of ct over the windows that an entry is in."""
    ones = (1,) * ct.ndim
    if window_strides == window_dimensions and base_dilation == window_dilation == ones:
        return repeat(ct, x_aval.shape, window_dimensions, padding)
    config = []
    for n, m, k, stride, (low, _), base, dilation in zip(
        x_aval.shape, ct.shape, window_dimensions, window_strides, padding, base_dilation, window_dilation, strict=True
    ):
        before = extent(k, dilation) - 1 - low
        config.append((before, extent(n, base) + low - extent(m, stride), stride - 1))
    return lax.reduce_window_sum_p.bind(
        lax.pad(ct, const(ct, 0), config),
        window_dimensions=window_dimensions,
        window_strides=base_dilation,
        padding=((0, 0),) * ct.ndim,
        base_dilation=ones,
        window_dilation=window_dilation,
    )


def repeat(ct, shape, window, padding):
    """Where windows tile the operand, all entries of one get its cotangent."""
    pairs: list[int] = []
    kept: list[int] = []
    for m, k in zip(ct.shape, window, strict=True):
        kept.append(len(pairs))
        pairs.extend([m] if k == 1 else [m, k])
    tiled = [m * k for m, k in zip(ct.shape, window, strict=True)]
    ct = lax.reshape(lax.broadcast_in_dim(ct, pairs, kept), tiled)
    return lax.pad(
        ct, const(ct, 0), [(-low, n + low - m, 0) for n, m, (low, _) in zip(shape, tiled, padding, strict=True)]
    )


# Maxima and minima. A window's cotangent goes to its first extremum.


def to_extremum(ct, x, select, *, base_dilation, window_dilation, **window):
    """What ct each window has goes to its first extremum."""
    is_open = not all(isinstance(n, int) for n in itertools.chain(*window["padding"]))
    if is_open or any(d != 1 for d in window_dilation):
        places = Places(x.shape, base_dilation=base_dilation, window_dilation=window_dilation, **window)
        return to_chosen_place(ct, lax.stop_gradient(x), select, places)
    # The transposed primitive knows neither window dilation nor open padding; and no base dilation: what lies between
    # the operand's entries is spelled out.
    if any(d != 1 for d in base_dilation):
        x = lax.pad(x, const(x, WORST[select]), [(0, 0, d - 1) for d in base_dilation])
    x_ct = lax.select_and_scatter_add_p.bind(ct, x, select_prim=select, **window)
    return lax.slice(x_ct, [0] * x_ct.ndim, x_ct.shape, base_dilation)


def to_chosen_place(ct, x, select, places):
    best, *others = places.views(x, const(x, WORST[select]))
    chosen = lax.full(ct.shape, 0, np.int32)
    for i, other in enumerate(others, 1):
        stays = select.bind(best, other)
        best, chosen = lax.select(stays, best, other), lax.select(stays, chosen, full_like(chosen, i))
    zero = full_like(ct, 0)
    return places.sum_views([lax.select(lax.eq(chosen, const(chosen, i)), ct, zero) for i in range(len(others) + 1)])


WORST = {lax.ge_p: -np.inf, lax.le_p: np.inf}


def from_extremum(ct, y, *, select_prim, **window):
    """The transpose: the entries of ct where y has its extrema."""
    ones = (1,) * ct.ndim
    return lax.select_and_gather_add_p.bind(
        ct, y, select_prim=select_prim, base_dilation=ones, window_dilation=ones, **window
    )


# Windows one place at a time: the entries that have one place in all windows are a strided view of the operand.


class Places:
    """The places in a window, in row-major order, and the views of an operand of ``shape`` from each."""

    def __init__(self, shape, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
        self.strides = window_strides
        self.base_dilation = base_dilation
        self.config = [(low, high, d - 1) for (low, high), d in zip(padding, base_dilation, strict=True)]
        self.padded = [extent(n, d) + sum(pad) for n, pad, d in zip(shape, padding, base_dilation, strict=True)]
        steps = list(zip(window_dimensions, window_dilation, strict=True))
        self.starts = list(itertools.product(*(range(0, extent(k, d), d) for k, d in steps)))
        self.out_shape = tuple([
            jax.core.max_dim((n - extent(k, d)) // stride + 1, 0)
            for n, (k, d), stride in zip(self.padded, steps, window_strides, strict=True)
        ])  # fmt: skip
        self.covered = [extent(m, stride) for m, stride in zip(self.out_shape, window_strides, strict=True)]

    def views(self, x, fill):
        """For each place in the window, the entries of ``x`` that are there in turn, or ``fill`` outside of it."""
        x = lax.pad(x, fill, self.config)
        return [
            lax.slice(x, start, [s + n for s, n in zip(start, self.covered, strict=True)], self.strides)
            for start in self.starts
        ]

    def sum_views(self, cts):
        """The transpose of ``views``."""
        total: Any = None
        for start, ct in zip(self.starts, cts, strict=True):
            config = zip(start, self.padded, self.covered, self.strides, strict=True)
            ct = lax.pad(ct, const(ct, 0), [(s, n - s - m, stride - 1) for s, n, m, stride in config])
            total = ct if total is None else lax.add(total, ct)
        inside = lax.pad(total, const(total, 0), [(-low, -high, 0) for low, high, _ in self.config])
        return lax.slice(inside, [0] * inside.ndim, inside.shape, self.base_dilation)


def reduce_views(*operands, jaxpr, consts, **window):
    """A window reduction as a tree of combinations of views."""
    xs, starts = operands[: len(operands) // 2], operands[len(operands) // 2 :]
    combine = elementwise(jaxpr, consts)
    places = Places(xs[0].shape, **window)
    parts = list(zip(*(places.views(x, start) for x, start in zip(xs, starts, strict=True)), strict=True))
    while len(parts) > 1:
        odd = parts[len(parts) // 2 * 2 :]
        parts = [combine(*a, *b) for a, b in zip(parts[0::2], parts[1::2], strict=False)] + odd
    return combine(*(lax.broadcast(start, places.out_shape) for start in starts), *parts[0])


rules = {
    lax.reduce_window_sum_p: formula(window_sum),
    lax.reduce_window_max_p: formula(lambda ct, x, **window: to_extremum(ct, x, lax.ge_p, **window)),
    lax.reduce_window_min_p: formula(lambda ct, x, **window: to_extremum(ct, x, lax.le_p, **window)),
    lax.select_and_scatter_add_p: formula(from_extremum),
    lax.select_and_gather_add_p: formula(
        lambda ct, y, *, select_prim, **window: to_extremum(ct, y, select_prim, **window)
    ),
    lax.reduce_window_p: Recompute(reduce_views),
}
