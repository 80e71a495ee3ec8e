"""Slopes of special functions: of the normal distribution and what it gates, and of the gamma function."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

from jax import lax

from funcgrad.rules.numbers import const, full_like
from funcgrad.rules.tables import accurate_doubled as doubled
from funcgrad.rules.tables.accurate_doubled import (
    PI,
    TWO_OVER_ROOT_PI,
    Doubled,
    choose,
    constant,
    erfcx,
    exp,
    expm1,
    folded,
    scaled_erf,
    series,
    two_product,
    two_sum,
)
from funcgrad.rules.tables.accurate_slopes import absolute, div, mul, neg, sign, sub, successive

# The error function and the normal distribution.

FAR = 40.0


def within(x, bound=FAR):
    """x, not further out than where its exponential is zero."""
    return lax.max(const(x, -bound), lax.min(x, const(x, bound)))


def gaussian(x, half=False, times=1):
    """e^-x^2 or e^-x^2/2, times a factor."""
    x = within(x)
    square = two_product(x, x)
    return exp(-(square.scaled(0.5) if half else square), times)


def erf_slopes(scale):
    return (
        lambda x: gaussian(x, times=scale),
        lambda x: gaussian(x, times=constant(x, -2 * scale) * x),
        lambda x: gaussian(x, times=(two_product(within(x), within(x)) * 2 - 1) * (2 * scale)),
    )


erf, erfc = successive(*erf_slopes(TWO_OVER_ROOT_PI)), successive(*erf_slopes(-TWO_OVER_ROOT_PI))


def inverse_error_function(x):
    """erf_inv x, corrected by Newton's method. The primitive has half of the digits near 1."""
    one, size = full_like(x, 1), lax.abs(x)

    def newton(y, _):
        h = y.high
        by_square = exp(two_product(h, h))
        near = scaled_erf(lax.min(h, one)) - by_square * size
        far = by_square * sub(one, size) - erfcx(h)
        step = choose(lax.lt(h, one), near, far) / TWO_OVER_ROOT_PI
        return doubled.quick_sum(h, neg(step.high))

    y = folded(newton, Doubled(lax.min(lax.erf_inv(size), full_like(x, 6))), range(2))
    infinite = lax.ge(lax.abs(x), const(x, 1))
    return choose(infinite, Doubled(lax.erf_inv(x)), y * sign(x))


erf_inv = successive(
    lambda x: exp(inverse_error_function(x).square()) / TWO_OVER_ROOT_PI,
    lambda x: inverse_error_function(x) * exp(inverse_error_function(x).square() * 2) * (2 / TWO_OVER_ROOT_PI**2),
)

ROOT_HALF = Fraction(doubled.digits.sqrt(doubled.digits.divide(1, 2)))
#: 1 / sqrt(2 pi)
DENSITY = TWO_OVER_ROOT_PI * ROOT_HALF / 2


def reciprocal(series_of):
    """The power series of one over a power series."""
    inverse = [Fraction(1) / series_of[0]]
    for n in range(1, len(series_of)):
        inverse.append(-inverse[0] * sum(series_of[k] * inverse[n - k] for k in range(1, n + 1)))
    return inverse


#: For x far below zero the slope of log Phi is -x times a series in 1/x^2, one over that of Mills' ratio.
HAZARD = reciprocal([Fraction((-1) ** n * math.prod(range(1, 2 * n, 2))) for n in range(14)])
HAZARD_SLOPE = [(2 * k - 1) * c for k, c in enumerate(HAZARD)]
HAZARD_CURVATURE = [2 * k * c for k, c in enumerate(HAZARD_SLOPE)]
BELOW = -25.0


def ratio_of_tail(x):
    """e^(x^2/2) Phi(-|x|)"""
    z = constant(x, ROOT_HALF) * lax.abs(within(x))
    # erfcx is of a single number: the rest by its slope, 2 z erfcx z - 2 / sqrt(pi).
    value = erfcx(z.high)
    return (value + (value * z.high * 2 - TWO_OVER_ROOT_PI) * z.low).scaled(0.5)


def hazard(x):
    """phi(x) / Phi(x)"""
    tail, is_below = ratio_of_tail(x), lax.lt(x, const(x, 0))
    density = gaussian(x, True)
    return choose(is_below, constant(x, DENSITY), density * DENSITY) / choose(is_below, tail, 1 - density * tail)


def below_or_not(x, below, near):
    """By the series in 1/x^2 far below zero, else by ``near``."""
    is_below = lax.lt(x, const(x, BELOW))
    z = neg(lax.select(is_below, x, full_like(x, BELOW)))
    w = 1 / two_product(z, z)
    return choose(is_below, below(z, w), near(lax.select(is_below, full_like(x, 1), lax.min(x, full_like(x, FAR)))))


def log_ndtr_curvature(x):
    h = hazard(x)
    return -(h * (h + x))


def log_ndtr_third(x):
    h = hazard(x)
    return h * ((h + x) * (h.scaled(2) + x) - 1)


log_ndtr = successive(
    lambda x: below_or_not(x, lambda z, w: series(w, HAZARD) * z, hazard),
    lambda x: below_or_not(x, lambda z, w: series(w, HAZARD_SLOPE), log_ndtr_curvature),
    lambda x: below_or_not(x, lambda z, w: series(w, HAZARD_CURVATURE[1:]) / z / z / z, log_ndtr_third),
)
ndtr = successive(
    lambda x: gaussian(x, True, DENSITY),
    lambda x: gaussian(x, True, constant(x, -DENSITY) * x),
    lambda x: gaussian(x, True, (two_product(within(x), within(x)) - 1) * DENSITY),
)

# x times a function that rises from 0 to 1: gelu, silu and mish.


def exact_gelu_slope(x):
    is_below, tail = lax.lt(x, const(x, 0)), ratio_of_tail(x)
    # Phi is e^(-x^2/2) times the ratio below zero, and 1 without that above.
    curved = gaussian(x, True, choose(is_below, tail, -tail) + constant(x, DENSITY) * within(x))
    return choose(is_below, curved, curved + 1)


exact_gelu = successive(
    exact_gelu_slope,
    lambda x: gaussian(x, True, (2 - two_product(within(x), within(x))) * DENSITY),
    lambda x: gaussian(x, True, (two_product(within(x), within(x)) - 4) * within(x) * DENSITY),
)


def gated_slope(x, u, v):
    """Of x s(2u), with s the logistic function and v the slope of 2u."""
    e = exp(-absolute(u).scaled(2))
    below = lax.lt(u.high, const(u.high, 0))
    rest = choose(below, constant(u.high, 1), e) / (e + 1)
    inner = v * x * rest + 1
    return choose(below, exp(-absolute(u).scaled(2), inner), inner) / (e + 1)


def gated_curvature(x, u, v, v_slope):
    e, e_1 = exp(-absolute(u).scaled(2)), expm1(-absolute(u).scaled(2))
    turn = e_1 / (e + 1) * sign(u.high)
    return exp(-absolute(u).scaled(2), v.scaled(2) + v_slope * x + v.square() * turn * x) / (e + 1).square()


def doubled_identity(x):
    near = within(x, 1e3)
    return near, Doubled(near).scaled(0.5), constant(x, 1)


def silu_curvature(x):
    near, u, v = doubled_identity(x)
    return gated_curvature(near, u, v, constant(x, 0))


silu = successive(lambda x: gated_slope(*doubled_identity(x)), silu_curvature)

ROOT_2_OVER_PI = 2 * DENSITY
CUBIC = Fraction("0.044715")


def bent(x):
    """x where gelu's approximation is not straight yet, u = sqrt(2/pi) (x + c x^3), and the slope of 2u."""
    x = within(x)
    square = two_product(x, x)
    u = (square * CUBIC + 1) * x * ROOT_2_OVER_PI
    return x, u, (square * (3 * CUBIC) + 1) * (2 * ROOT_2_OVER_PI)


def tanh_gelu_curvature(x):
    near, u, v = bent(x)
    return gated_curvature(near, u, v, constant(x, 12 * CUBIC * ROOT_2_OVER_PI) * near)


tanh_gelu = successive(lambda x: gated_slope(*bent(x)), tanh_gelu_curvature)


def mish_parts(x):
    """Where x < 0 by e = e^x, else by its inverse: tanh(log(1 + e^x)), and its two derivatives over e or its square."""
    below = lax.lt(x, const(x, 0))
    near = within(x, 1e3)
    e = exp(Doubled(neg(lax.abs(near))))
    rest = choose(below, (e + 2) * e + 2, (e.scaled(2) + 2) * e + 1)
    value = choose(below, e * (e + 2), e.scaled(2) + 1) / rest
    slope = (e + 1) * 4 / rest.square() * choose(below, constant(x, 1), e)
    bend = choose(below, ((e * -2 - 3) * e + 2) * e + 2, (((e + 1) * e).scaled(2) - 3) * e - 2)
    return near, e, value, slope, bend * 4 / rest.square() / rest * choose(below, constant(x, 1), e)


def mish_slope(x):
    near, e, value, slope, _ = mish_parts(x)
    below = (e + 2) / ((e + 2) * e + 2) + slope * near
    return choose(lax.lt(x, const(x, 0)), exp(Doubled(neg(lax.abs(near))), below), value + slope * e * near)


def mish_curvature(x):
    near, _, _, slope, bend = mish_parts(x)
    return exp(Doubled(neg(lax.abs(near))), slope.scaled(2) + bend * near)


mish = successive(mish_slope, mish_curvature)

logit = successive(
    lambda x: div(div(const(x, 1), x), sub(const(x, 1), x)),
    lambda x: div(div(div(div(sub(mul(const(x, 2), x), const(x, 1)), x), x), sub(const(x, 1), x)), sub(const(x, 1), x)),
)

# The gamma function: Stirling's series at x + 40 and the recurrence, by reflection for x < 0.

BERNOULLI = [Fraction(*b) for b in (
    (1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6), (-3617, 510), (43867, 798), (-174611, 330),
)]  # fmt: skip
SHIFT = 40


def polygamma_above(x, n):
    """The n-th derivative of digamma for x > 0"""
    is_small = lax.lt(x.high, const(x.high, SHIFT))
    y = choose(is_small, x + SHIFT, x)
    r = 1 / y
    w = r.square()
    terms = [b * Fraction(math.factorial(2 * k + n + 1), math.factorial(2 * k + 2)) for k, b in enumerate(BERNOULLI)]
    if n == 0:
        high = doubled.log(y.high) + div(y.low, y.high)
        total = high - r.scaled(0.5) - series(w, terms) * w
    else:
        total = (series(w, terms) * r + Fraction(math.factorial(n), 2)) * r + math.factorial(n - 1)
        for _ in range(n):
            total = total * r
        total = total if n % 2 else -total
    small = choose(is_small, x, constant(x.high, 1))

    def add_step(total, k):
        one_over = 1 / (small + k)
        return total + functools.reduce(lambda term, _: term * one_over, range(n), one_over)

    steps = folded(add_step, constant(x.high, 0), range(SHIFT)[::-1])
    steps = steps * (math.factorial(n) * (-1) ** (n + 1))
    return choose(is_small, total + steps, total)


def polygamma(x, n):
    is_negative = lax.lt(x, const(x, 0))
    mirrored = two_sum(full_like(x, 1), neg(x))
    found = polygamma_above(choose(is_negative, mirrored, Doubled(x)), n)
    s, c = doubled.sin_cos_pi(lax.select(is_negative, x, full_like(x, 0.5)))
    if n == 0:
        other = found - c / s * PI
    elif n == 1:
        other = 1 / s.square() * PI**2 - found
    else:
        other = found - c / s / s / s * (2 * PI**3)
    return choose(is_negative, other, found)


lgamma = successive(*[lambda x, n=n: polygamma(x, n) for n in (0, 1, 2)])
digamma = successive(*[lambda x, n=n: polygamma(x, n) for n in (1, 2)])
