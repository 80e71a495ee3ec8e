"""Slopes of functions of one number, and of two, right to a few ulp wherever they are normal numbers.

Each function has a list of its derivatives. They are tied together: that of one in a list is computed by the next, so a
formula made of them is as accurate when it is differentiated again, in reverse or forward mode.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad.rules.numbers import const, full_like, together
from funcgrad.rules.tables import accurate_doubled as doubled
from funcgrad.rules.tables.accurate_doubled import (
    LN2,
    Doubled,
    choose,
    constant,
    exp,
    expm1,
    two_product,
    two_sum,
)

mul, div, add, sub, neg = lax.mul, lax.div, lax.add, lax.sub, lax.neg


def widened(f: Callable) -> Callable:
    """``f`` compiled once, of operands broadcast against each other, in float32 where their dtype is shorter."""

    @jax.jit
    def wide(*operands: Any) -> Any:
        full = functools.reduce(lambda x, y: together(x, y)[0], operands)
        dtype = np.float32 if jnp.finfo(full.dtype).bits < 32 else full.dtype
        out = f(*[lax.convert_element_type(together(x, full)[0], dtype) for x in operands])
        return lax.convert_element_type(out.value() if isinstance(out, Doubled) else out, full.dtype)

    return wide


def tied(f: Callable, *partials: Callable | None) -> Callable:
    """``f`` with its derivatives in its operands."""

    def times(slope: Callable) -> Callable:
        return lambda t, out, *operands: mul(t, slope(*operands))

    tied_f = jax.custom_jvp(widened(f))
    tied_f.defjvps(*[None if slope is None else times(slope) for slope in partials])
    return tied_f


def successive(*functions: Callable) -> Callable:
    """The first of some functions of which each is the derivative of the one before."""
    *rest, last = functions
    f: Callable = widened(last)
    for g in reversed(rest):
        f = tied(g, f)
    return f


def sign(x):
    """1 or -1"""
    return lax.select(lax.lt(x, const(x, 0)), full_like(x, -1), full_like(x, 1))


def plain(d: Doubled) -> Any:
    return d.value()


def absolute(d: Doubled) -> Doubled:
    return choose(lax.lt(d.high, const(d.high, 0)), -d, d)


# The logistic function, whose derivatives are rational functions of e = e^-|x|, and tanh x = 2 logistic(2x) - 1.


def logistic_value(d):
    e = exp(-absolute(d))
    return choose(lax.lt(d.high, const(d.high, 0)), e, constant(d.high, 1)) / (e + 1)


def logistic_slope(d, times=1):
    e = exp(-absolute(d))
    return exp(-absolute(d), times) / (e + 1).square()


def logistic_curvature(d, times=1):
    e, e_1 = exp(-absolute(d)), expm1(-absolute(d))
    # (e / (e + 1)^2) ((1 - e) / (1 + e)): of the first factor, no more than the last one may be small.
    return (exp(-absolute(d), times) / (e + 1).square()) * (e_1 / (e + 1)) * sign(d.high)


def logistic_third(d, times=1):
    e = exp(-absolute(d))
    return exp(-absolute(d), times) * ((e - 4) * e + 1) / (e + 1).square().square()


logistic = successive(
    lambda x: logistic_slope(Doubled(x)),
    lambda x: logistic_curvature(Doubled(x)),
    lambda x: logistic_third(Doubled(x)),
)
tanh = successive(
    lambda x: logistic_slope(Doubled(x).scaled(2), 4),
    lambda x: logistic_curvature(Doubled(x).scaled(2), 8),
    lambda x: logistic_third(Doubled(x).scaled(2), 16),
)

# log(e^x + e^y), whose derivatives are those of the logistic function at x - y.


def of_difference(f):
    def g(x, y):
        d = two_sum(x, neg(y))
        return f(Doubled(lax.select(lax.eq(x, y), full_like(x, 0), d.high), d.low))

    return g


def sum_of_powers(times=1):
    """The slopes in x and y of log(b^x + b^y) / log b, for log b = ``times``."""

    def of(f, power):
        return of_difference(f if times == 1 else lambda d: f(d * times) * times**power)

    third, third_y = widened(of(logistic_curvature, 2)), widened(of(lambda d: -logistic_curvature(d), 2))
    curvature = tied(of(logistic_slope, 1), third, third_y)
    mixed = tied(of(lambda d: -logistic_slope(d), 1), third_y, third)
    slope_x = tied(of(logistic_value, 0), curvature, mixed)
    return slope_x, tied(of(lambda d: logistic_value(-d), 0), mixed, curvature)


logaddexp_x, logaddexp_y = sum_of_powers()
logaddexp2_x, logaddexp2_y = sum_of_powers(LN2)

# Exponentials.

exp2 = successive(*[lambda x, n=n: exp(two_product_by(x, LN2), times=LN2**n) for n in (1, 2, 3)])


def two_product_by(x, exact):
    return constant(x, exact) * x


def cosh_value(x):
    e = exp(Doubled(lax.abs(x)), times=Fraction(1, 2))
    inverse = exp(Doubled(neg(lax.abs(x))), times=Fraction(1, 2))
    return e + inverse


def sinh_value(x):
    m = expm1(Doubled(lax.min(lax.abs(x), full_like(x, 1))))
    near = (m + m / (m + 1)).scaled(0.5)
    far = exp(Doubled(lax.abs(x)), times=Fraction(1, 2)) - exp(Doubled(neg(lax.abs(x))), times=Fraction(1, 2))
    return choose(lax.lt(lax.abs(x), const(x, 1)), near, far) * sign(x)


cosh = successive(cosh_value, sinh_value, cosh_value)
sinh = successive(sinh_value, cosh_value, sinh_value)

# 1 - x^2 and its like, and their roots: of asin, acos, atan, asinh, acosh, atanh.


def one_minus_square(x):
    return 1 - two_product(x, x)


def one_plus_square(x):
    return two_product(x, x) + 1


def square_minus_one(x):
    return two_product(x, x) - 1


def root_slopes(f, turn, times=1):
    """Of 1 / sqrt(f), where f is turn x^2 and a number. Where x^2 is all there is, 1 / x and -x / |x|^3."""

    def split(x, near, far):
        is_far = lax.gt(lax.abs(x), const(x, 1e9))
        near_x = lax.select(is_far, full_like(x, 2), x)
        return lax.select(is_far, far, plain(near(near_x, f(near_x))))

    def slope(x):
        return split(x, lambda x, p: times / doubled.sqrt(p), div(const(x, 1), lax.abs(x)))

    def curvature(x):
        r = div(const(x, 1), x)
        return split(x, lambda x, p: Doubled(x) * (-turn * times) / p / doubled.sqrt(p), neg(mul(r, lax.abs(r))))

    return slope, curvature


asin = successive(*root_slopes(one_minus_square, -1))
acos = successive(*root_slopes(one_minus_square, -1, -1))
asinh = successive(*root_slopes(one_plus_square, 1))
acosh = successive(*root_slopes(square_minus_one, 1))
atan = successive(
    lambda x: 1 / one_plus_square(x),
    lambda x: Doubled(mul(const(x, -2), x)) / one_plus_square(x) / one_plus_square(x),
)
atanh = successive(
    lambda x: 1 / one_minus_square(x),
    lambda x: Doubled(mul(const(x, 2), x)) / one_minus_square(x) / one_minus_square(x),
)


def reciprocal_square(c):
    return 1 / two_product(c, c)


tan = successive(
    lambda x: reciprocal_square(lax.cos(x)),
    lambda x: reciprocal_square(lax.cos(x)) * mul(const(x, 2), lax.tan(x)),
)

# Roots.

sqrt = successive(
    lambda x: div(const(x, 0.5), lax.sqrt(x)),
    lambda x: div(div(const(x, -0.25), x), lax.sqrt(x)),
)
rsqrt = successive(
    lambda x: div(div(const(x, -0.5), x), lax.sqrt(x)),
    lambda x: div(div(div(const(x, 0.75), x), x), lax.sqrt(x)),
)


def cube_root(x):
    # Times 2^3k, so that no part of the cube vanishes.
    k = 20 if x.dtype == np.float32 else 100
    is_small = lax.lt(lax.abs(x), const(x, 1))
    large = lax.select(is_small, mul(x, const(x, 2.0 ** (3 * k))), x)
    c = lax.cbrt(large)
    rest = two_product(c, c) * c - large
    root = Doubled(c, neg(doubled.finite(div(rest.high, mul(const(c, 3), mul(c, c))))))
    return root.scaled(lax.select(is_small, full_like(x, 2.0**-k), full_like(x, 1)))


cbrt = successive(
    lambda x: Fraction(1, 3) / cube_root(x).square(),
    lambda x: Fraction(-2, 9) / cube_root(x).square() / x,
)

# Powers.


def of_power(f, plain_slope):
    """A slope of x^y for x > 0, and for x < 0 and whole y; elsewhere by the formula with one number."""

    def slope(x, y):
        regular = lax.bitwise_and(lax.is_finite(x), lax.is_finite(y))
        regular = lax.bitwise_and(regular, lax.ne(x, const(x, 0)))
        regular = lax.bitwise_and(regular, lax.bitwise_or(lax.gt(x, const(x, 0)), lax.eq(y, lax.round(y))))
        x_1 = lax.select(regular, lax.abs(x), full_like(x, 1))
        found = plain(f(x_1, y, doubled.log(x_1)))
        odd = lax.ne(lax.rem(y, const(y, 2)), const(y, 0))
        minus = lax.bitwise_and(lax.lt(x, const(x, 0)), odd)
        return lax.select(regular, lax.select(minus, neg(found), found), plain_slope(x, y))

    return slope


def signed(f):
    """With the sign of x^(y - 1)."""
    return lambda x, y: mul(sign(x), f(x, y))


pow_xx = widened(
    of_power(
        lambda x, y, log_x: exp(log_x * two_sum(y, const(y, -2)), two_sum(y, const(y, -1)) * y),
        lambda x, y: mul(mul(y, sub(y, const(y, 1))), lax.pow(x, sub(y, const(y, 2)))),
    )
)
pow_xy = widened(
    signed(
        of_power(
            lambda x, y, log_x: exp(log_x * two_sum(y, const(y, -1)), log_x * y + 1),
            lambda x, y: mul(lax.pow(x, sub(y, const(y, 1))), add(const(x, 1), mul(y, lax.log(x)))),
        )
    )
)
pow_yy = widened(
    of_power(
        lambda x, y, log_x: exp(log_x * y, log_x.square()),
        lambda x, y: mul(lax.square(lax.log(x)), lax.pow(x, y)),
    )
)
pow_x = tied(
    signed(
        of_power(
            lambda x, y, log_x: exp(log_x * two_sum(y, const(y, -1)), Doubled(y)),
            lambda x, y: mul(sign(x), mul(y, lax.pow(x, sub(y, const(y, 1))))),
        )
    ),
    pow_xx,
    pow_xy,
)
pow_y = tied(
    of_power(
        lambda x, y, log_x: exp(log_x * y, log_x),
        lambda x, y: mul(lax.log(lax.select(lax.eq(x, const(x, 0)), full_like(x, 1), x)), lax.pow(x, y)),
    ),
    pow_xy,
    pow_yy,
)


@functools.cache
def integer_power(n: int) -> Callable:
    """The slope of x^n."""

    def raised(x, m):
        total = None
        base = Doubled(x) if m > 0 else 1 / Doubled(x)
        for bit in bin(abs(m))[2:]:
            total = None if total is None else total.square()
            if bit == "1":
                total = base if total is None else total * base
        return constant(x, 1) if total is None else total

    def derivative(order):
        factor, m = math.prod(n - k for k in range(order)), n - order
        half = m // 2
        return lambda x: raised(x, half) * factor * raised(x, m - half) if factor else full_like(x, 0)

    return successive(*map(derivative, (1, 2, 3)))


# The angle of a point, by its coordinates over the larger of them.


def unit(x, y):
    m = lax.max(lax.abs(x), lax.abs(y))
    a, b = Doubled(x) / m, Doubled(y) / m
    return m, a, b, a.square() + b.square()


def of_angle(numerator, order, plain_slope):
    def slope(x, y):
        m, a, b, p = unit(x, y)
        q = numerator(a, b) / p
        q = plain(q / p if order == 2 else q)
        for _ in range(order):
            q = div(q, m)
        return lax.select(lax.is_finite(m), q, plain_slope(x, y))

    return slope


def over_squares(numerator):
    return lambda x, y: div(numerator(x, y), add(lax.square(x), lax.square(y)))


def zero(x, y):
    return full_like(x, 0)


angle_xx = widened(of_angle(lambda a, b: a * b * -2, 2, zero))
angle_yy = widened(of_angle(lambda a, b: a * b * 2, 2, zero))
angle_xy = widened(of_angle(lambda a, b: (a - b) * (a + b), 2, zero))
angle_x = tied(of_angle(lambda a, b: b, 1, over_squares(lambda x, y: y)), angle_xx, angle_xy)
angle_y = tied(of_angle(lambda a, b: -a, 1, over_squares(lambda x, y: neg(x))), angle_xy, angle_yy)
