"""Cumulative sums, products, extrema and log-sum-exps along an axis.

Each output depends on all entries up to its own, so each entry's cotangent sums over all outputs from its own on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import set_current_trace
from funcgrad.rules.control.rewriting import Rewrite
from funcgrad.rules.numbers import const, full_like
from funcgrad.rules.plan import check_linear
from funcgrad.rules.rule import Formula, formula


def running(combine, xs, axis, reverse=False):
    """The combinations of all entries up to each: pairwise, and one after the other along an axis that is open."""
    if isinstance(jax.tree.leaves(xs)[0].shape[axis], int):
        return lax.associative_scan(combine, xs, axis=axis, reverse=reverse)

    xs = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), xs)
    first = jax.tree.map(lambda x: x[-1] if reverse else x[0], xs)

    def step(carry, x):
        before, is_first = carry
        after = lax.cond(is_first, lambda before, x: x, combine, before, x)
        return (after, np.False_), after

    _, ys = lax.scan(step, (first, np.True_), xs, reverse=reverse)
    return jax.tree.map(lambda y: jnp.moveaxis(y, 0, axis), ys)


def recurrence(factors, terms, axis, reverse):
    """The solution of s[i] = terms[i] + factors[i] * s[i-1]; factors[0] is not used."""

    def combine(before, after):
        (f, s), (g, t) = before, after
        return lax.mul(f, g), lax.add(t, lax.mul(g, s))

    return running(combine, (factors, terms), axis, reverse)[1]


def log_sum_exp(ct, x, out, *, axis, reverse):
    """exp(x[i] - out[i]) times the sum over j from i on of ct[j] * exp(out[i] - out[j]); no exponent is positive."""
    if x.size == 0:
        return ct
    n = x.shape[axis]
    infinities = lax.cumsum(lax.convert_element_type(is_infinity(x), x.dtype), axis, reverse)
    sharding = _jax.explicit_sharding(_jax.typeof(x))
    places = lax.convert_element_type(lax.broadcasted_iota(np.int32, x.shape, axis, out_sharding=sharding), x.dtype)
    so_far = lax.sub(full_like(x, n), places) if reverse else lax.add(places, const(x, 1))
    # How many entries up to each are as infinite as their sum is, which have equal shares of it.
    count = lax.select(is_infinity(out), infinities, so_far)
    (here, fewer), (later, more) = [
        [lax.slice_in_dim(y, start, start + n - 1, axis=axis) for y in (out, count)] for start in (0, 1)
    ]
    factors = share(later, here, more, fewer) if reverse else share(here, later, fewer, more)
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (1, 0, 0) if reverse else (0, 1, 0)
    sums = recurrence(lax.pad(factors, const(x, 1), config), ct, axis, not reverse)
    return lax.mul(share(x, out, full_like(x, 1), count), sums)


def is_infinity(x):
    return lax.eq(x, full_like(x, np.inf))


def share(x, y, x_count, y_count):
    """exp(x - y), and that of the counts where both are the same infinity."""
    size = lax.abs(x)
    equal = lax.bitwise_and(lax.eq(x, y), lax.eq(size, full_like(size, np.inf)))
    difference = lax.exp(lax.select(equal, full_like(x, 0), lax.sub(x, y)))
    return lax.select(equal, lax.div(x_count, y_count), difference)


class ByScan(Formula):
    """A formula for a value that an associative scan computes, which takes XLA a fraction of the primitive's time."""

    def __init__(self, combine, function):
        super().__init__([function], {}, broadcasts=False)
        self.combine = combine

    def record(self, tape, primitive, primals, tracers, params, linear):
        check_linear(primitive, primals)
        (x,) = primals
        with set_current_trace(tape.parent):
            out = running(self.combine, x, **params)
        return tape.emit(self, primitive, params, self.plan((True,)), (x, out), tracers, out)


def scan(combine):
    """The scan recorded as it runs. Where entries are equal, how its tree is built decides their shares."""
    return Rewrite(lambda x, **params: running(combine, x, **params))


rules = {
    lax.cumsum_p: formula(lambda ct, *, axis, reverse: lax.cumsum(ct, axis, not reverse)),
    lax.cumprod_p: scan(lax.mul),
    lax.cummax_p: scan(lax.max),
    lax.cummin_p: scan(lax.min),
    lax.cumlogsumexp_p: ByScan(jnp.logaddexp, log_sum_exp),
}
