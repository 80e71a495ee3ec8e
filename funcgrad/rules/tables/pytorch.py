"""PyTorch's subgradients where they differ from JAX's: at kinks, ties, zeros, bounds and infinities.

Each rule is what ``torch`` 2.13 computes. Most are rules of single operations. Where PyTorch takes one side in one
function and the other elsewhere, as for the root in ``std`` and in ``sqrt``, the rule holds inside of that function.
Where JAX has spelled a function in another way, it is a rule of the whole function.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax, nn

from funcgrad import _jax
from funcgrad.rules import elementwise, reductions, special
from funcgrad.rules.numbers import const, full_like, is_complex
from funcgrad.rules.ordering import IN_BOUNDS, Sort, put
from funcgrad.rules.rule import broadcasting, formula

mul, div, square = lax.mul, lax.div, lax.square


def zero_where(mask, x):
    """x, and 0 where the mask holds, whatever x is there."""
    return lax.select(mask, full_like(x, 0), x)


def masked(ct, mask):
    return lax.select(spread_like(mask, ct), ct, full_like(ct, 0))


def spread_like(x, like):
    return x if x.shape == like.shape else jnp.broadcast_to(x, like.shape)


def is_zero(x):
    return lax.eq(x, const(x, 0))


# Absolute values and signs.


def sign_of(x):
    return elementwise.absolute_slope(x, lax.abs(x)) if is_complex(x) else lax.sign(x)


def absolute(ct, slope):
    return elementwise.absolute(ct, slope) if is_complex(slope) else mul(ct, slope)


def across(ct, x, out):
    """The part of ct that turns x, over its size. A real number only turns at 0."""
    if not is_complex(x):
        return full_like(ct, 0)
    along = lax.convert_element_type(lax.real(mul(ct, out)), x.dtype)
    size = lax.convert_element_type(lax.abs(x), x.dtype)
    return zero_where(is_zero(x), div(lax.sub(ct, mul(along, lax.conj(out))), size))


# Powers and angles.


def base_slope(x, y):
    """d(x^y)/dx: zero where y is, whatever x is."""
    slope = elementwise.power_slope(x, y)
    return zero_where(spread_like(is_zero(y), slope), slope)


def exponent_slope(x, y, out):
    """d(x^y)/dy: zero at x = 0, but for negative y."""
    power = lax.real(y) if is_complex(y) else y
    at_zero = lax.bitwise_and(spread_like(is_zero(x), out), spread_like(lax.ge(power, const(power, 0)), out))
    return zero_where(at_zero, mul(out, lax.log(x)))


def over_squares(x, y, numerator):
    """numerator / (x^2 + y^2), and 0 at the origin."""
    squares = lax.add(square(x), square(y))
    return zero_where(is_zero(squares), div(numerator, squares))


# Bounds. An entry at a bound is inside; a bound that is None is not there.


def inside(low, x, high):
    above = True if low is None else jnp.greater_equal(x, low)
    below = True if high is None else jnp.less_equal(x, high)
    return jnp.logical_and(above, below)


def below(low, x, high):
    """Where the lower bound is the result, were it not for an upper one that is lower still."""
    hit = jnp.less(x, low)
    return hit if high is None else jnp.logical_and(hit, jnp.less(low, high))


def above(low, x, high):
    hit = jnp.greater(x, high)
    return hit if low is None else jnp.logical_or(hit, jnp.less(high, low))


# Extrema. Over one axis an extremum is the first entry that attains it, as in torch.max(x, dim); over several, as in
# torch.max(x), it is shared by all that do. A running extremum is the last one.


def first(choose):
    def place(x, out, x_aval, *, axes):
        if len(axes) != 1 or is_complex(x):
            return reductions.chosen(x, out, x_aval, axes=axes)
        return choose(x, axes[0], np.int32)

    return place


def give(ct, place, x_aval, *, axes):
    """ct, where the extremum was found"""
    if len(axes) != 1 or is_complex(ct):
        return reductions.choose(ct, place, x_aval, axes=axes)
    numbers = lax.broadcasted_iota(np.int32, x_aval.shape, axes[0])
    return masked(reductions.spread(ct, x_aval, axes), lax.eq(numbers, reductions.spread(place, x_aval, axes)))


def last(choose):
    def places(x, *, axis, reverse):
        def combine(before, after):
            (x, i), (y, j) = before, after
            best = choose(x, y)
            return best, lax.select(lax.eq(best, y), j, i)

        numbers = lax.broadcasted_iota(np.int32, x.shape, axis)
        return lax.associative_scan(combine, (x, numbers), axis=axis, reverse=reverse)[1]

    return places


def put_back(ct, places, x_aval, *, axis, reverse):
    """ct, added where the running extremum was found"""
    return put(ct, places, x_aval, axis, mode=IN_BOUNDS)


class SharedSort(Sort):
    """A sort of a vector of which equal entries share the cotangents of the places they take."""

    def record(self, tape, primitive, primals, tracers, params, linear):
        outs = super().record(tape, primitive, primals, tracers, params, linear)
        node = tape.nodes[-1]
        node.residuals = (*node.residuals, tape.strip(outs[0])[0])
        return outs

    def pullback(self, node, cts):
        places, out = node.residuals
        cts = [ct if ct is None or ct.ndim != 1 else mean_of_runs(ct, out) for ct in cts]
        return super().pullback(node.replace(residuals=(places,)), cts)


def mean_of_runs(ct, out):
    """The mean of ct over each run of equal entries."""
    starts = lax.convert_element_type(lax.ne(out[1:], out[:-1]), np.int32)
    runs = lax.concatenate([lax.full((1,), 0, np.int32), lax.cumsum(starts)], 0)
    total, count = (jnp.zeros_like(ct).at[runs].add(x) for x in (ct, full_like(ct, 1)))
    return div(total, lax.max(count, full_like(count, 1)))[runs]


def polygamma_slope(x, y):
    """d polygamma(x, y)/dy. At y = 0 it is infinite, upward for even x."""
    slope = lax.polygamma(lax.add(x, const(x, 1)), y)
    pole = mul(lax.cos(mul(const(x, np.pi), x)), const(x, np.inf))
    return lax.select(spread_like(is_zero(y), slope), spread_like(pole, slope), slope)


operations = {
    lax.bessel_i0e_p: formula(lambda ct, x: zero_where(is_zero(x), mul(ct, special.bessel_i0e_slope(x)))),
    lax.abs_p: formula(absolute, slope=sign_of),
    lax.sign_p: formula(across),
    lax.pow_p: elementwise.by_slopes(
        x_slope=base_slope,
        y_slope=exponent_slope,
    ),
    lax.atan2_p: elementwise.by_slopes(
        x_slope=lambda x, y: over_squares(x, y, y),
        y_slope=lambda x, y: lax.neg(over_squares(x, y, x)),
    ),
    # clamp(low, operand, high)
    lax.clamp_p: broadcasting(
        lambda ct, low: masked(ct, low),
        lambda ct, within: masked(ct, within),
        lambda ct, high: masked(ct, high),
        low=lambda x, y, z: below(x, y, z),
        within=lambda x, y, z: inside(x, y, z),
        high=lambda x, y, z: above(x, y, z),
    ),
    lax.reduce_max_p: formula(give, place=first(lax.argmax)),
    lax.reduce_min_p: formula(give, place=first(lax.argmin)),
    lax.cummax_p: formula(put_back, places=last(lax.max)),
    lax.cummin_p: formula(put_back, places=last(lax.min)),
    lax.lgamma_p: formula(
        lambda ct, x: mul(ct, lax.select(is_zero(x), div(full_like(x, -1), x), lax.digamma(x))),
    ),
    lax.digamma_p: formula(
        lambda ct, x: mul(ct, zero_where(lax.eq(x, const(x, np.inf)), special.trigamma(x))),
    ),
    lax.polygamma_p: elementwise.by_slopes(
        x_slope=special.rules[lax.polygamma_p].derived["x_slope"].function,
        y_slope=polygamma_slope,
    ),
}

# The root of a sum of squares has slope zero where it is zero, and so has that of a sum of powers.

root = {lax.sqrt_p: formula(lambda ct, out: zero_where(is_zero(out), mul(ct, div(const(out, 0.5), out))))}
norm = {
    **root,
    lax.pow_p: broadcasting(
        lambda ct, x_slope: mul(ct, x_slope),
        None,
        x_slope=lambda x, y, out: zero_where(is_zero(out), base_slope(x, y)),
    ),
    # torch.linalg.vector_norm of infinite order shares.
    lax.reduce_max_p: reductions.rules[lax.reduce_max_p],
    lax.reduce_min_p: reductions.rules[lax.reduce_min_p],
}

functions = {
    jnp.clip: formula(
        lambda ct, within: masked(ct, within),
        lambda ct, low: masked(ct, low),
        lambda ct, high: masked(ct, high),
        within=lambda x, y, z: inside(y, x, z),
        low=lambda x, y, z: below(y, x, z),
        high=lambda x, y, z: above(y, x, z),
    ),
    nn.leaky_relu: [
        lambda ct, x, negative_slope: ct * jnp.where(x > 0, 1, negative_slope),
        lambda ct, x: ct * jnp.where(x > 0, 0, x),
    ],
    nn.hard_tanh: formula(lambda ct, within: masked(ct, within), within=lambda x: jnp.abs(x) < 1),
    jnp.fmax: formula(
        lambda ct, wins: masked(ct, wins),
        lambda ct, wins: masked(ct, jnp.logical_not(wins)),
        wins=lambda x, y: (x >= y) | jnp.isnan(y),
    ),
    jnp.fmin: formula(
        lambda ct, wins: masked(ct, wins),
        lambda ct, wins: masked(ct, jnp.logical_not(wins)),
        wins=lambda x, y: (x <= y) | jnp.isnan(y),
    ),
    jnp.hypot: [lambda ct, x, out: ct * (x / out), lambda ct, y, out: ct * (y / out)],
    jnp.copysign: [lambda ct, x, out: ct * jnp.where(x == 0, 0, out / x), None],
    jnp.ldexp: [lambda ct, y: ct * lax.exp2(lax.convert_element_type(y, ct.dtype)), None],
    _jax.std: root,
    jnp.nanstd: root,
    jnp.linalg.norm: norm,
    jnp.median: {lax.sort_p: SharedSort()},
    jnp.nanmedian: {lax.sort_p: SharedSort()},
}

rules = {**operations, **functions}
