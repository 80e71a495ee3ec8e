"""Numbers of twice the digits: unevaluated sums of two, for slopes in which something cancels or is exponentiated.

The sums and products are those of Dekker ("A floating-point technique for extending the available precision", 1971)
and Knuth. Where a compiler fuses a product with the sum it goes into, the product is not rounded; so only products that
are exact go into sums here.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad.rules.numbers import const, full_like

#: Enough digits for the sum of two doubles.
digits = decimal.Context(prec=60)
LN2 = Fraction(digits.ln(2))
PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494")


def plain_sum(a: Any, b: Any) -> Doubled:
    s = lax.add(a, b)
    other = lax.sub(s, a)
    return Doubled(s, lax.add(lax.sub(a, lax.sub(s, other)), lax.sub(b, other)))


def two_sum(a: Any, b: Any) -> Doubled:
    s = plain_sum(a, b)
    return Doubled(s.high, finite(s.low))


def quick_sum(a: Any, b: Any) -> Doubled:
    """The sum where ``b`` is the smaller one."""
    s = lax.add(a, b)
    return Doubled(s, finite(lax.sub(b, lax.sub(s, a))))


def finite(low: Any) -> Any:
    """What is beside a number, nothing where that is infinite."""
    return lax.select(lax.is_finite(low), low, full_like(low, 0))


def halves(a: Any) -> tuple[Any, Any]:
    exponent, mantissa = (8, 11) if a.dtype == np.float32 else (11, 25)
    high = lax.reduce_precision(a, exponent, mantissa)
    return high, lax.sub(a, high)


def two_product(a: Any, b: Any) -> Doubled:
    p, limits = lax.mul(a, b), jnp.finfo(a.dtype)
    size, factor = lax.abs(p), lax.min(lax.abs(a), lax.abs(b))
    # Further out, parts of it would vanish or overflow.
    regular = lax.bitwise_and(
        lax.gt(size, const(p, limits.tiny * 2.0 ** (2 * limits.nmant))), lax.lt(size, const(p, limits.max / 8))
    )
    regular = lax.bitwise_and(regular, lax.gt(factor, const(p, limits.tiny * 2.0**limits.nmant)))
    (a1, a2), (b1, b2) = halves(a), halves(b)
    # Each of the four is exact.
    cross = plain_sum(lax.mul(a1, b2), lax.mul(a2, b1))
    total = plain_sum(lax.mul(a1, b1), cross.high)
    low = lax.add(total.low, lax.add(cross.low, lax.mul(a2, b2)))
    return Doubled(lax.select(regular, total.high, p), lax.select(regular, low, full_like(p, 0)))


class Doubled:
    """``high + low``, arrays of one shape and dtype. The other operand may be an array or an exact number."""

    __slots__ = ("high", "low")

    def __init__(self, high: Any, low: Any = None):
        self.high, self.low = high, full_like(high, 0) if low is None else low

    def of(self, other: Any) -> Doubled:
        if isinstance(other, Doubled):
            return other
        if isinstance(other, int | float | Fraction):
            return constant(self.high, other)
        return Doubled(other)

    def __neg__(self) -> Doubled:
        return Doubled(lax.neg(self.high), lax.neg(self.low))

    def __add__(self, other: Any) -> Doubled:
        other = self.of(other)
        s, t = plain_sum(self.high, other.high), plain_sum(self.low, other.low)
        first = lax.add(s.low, t.high)
        high = lax.add(s.high, first)
        return quick_sum(high, lax.add(lax.sub(first, lax.sub(high, s.high)), t.low))

    def __sub__(self, other: Any) -> Doubled:
        return self + -self.of(other)

    def __rsub__(self, other: Any) -> Doubled:
        return self.of(other) - self

    def __mul__(self, other: Any) -> Doubled:
        other = self.of(other)
        p = two_product(self.high, other.high)
        cross = lax.add(lax.mul(self.high, other.low), lax.mul(self.low, other.high))
        return quick_sum(p.high, lax.add(p.low, cross))

    def __truediv__(self, other: Any) -> Doubled:
        other = self.of(other)
        first = lax.div(self.high, other.high)
        second = lax.div((self - other * first).high, other.high)
        return quick_sum(first, finite(second))

    def __rtruediv__(self, other: Any) -> Doubled:
        return self.of(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def square(self) -> Doubled:
        return self * self

    def scaled(self, power: Any) -> Doubled:
        """Times a power of two."""
        power = const(self.high, power) if isinstance(power, int | float) else power
        return Doubled(lax.mul(self.high, power), lax.mul(self.low, power))

    def value(self) -> Any:
        return lax.add(self.high, self.low)


def rounded(value: Any, dtype: Any) -> tuple[Any, Any]:
    """An exact number as two of a dtype."""
    exact, number = Fraction(value), np.dtype(dtype).type
    high = number(float(exact))
    return high, number(float(exact - Fraction(float(high))))


def constant(like: Any, value: Any) -> Doubled:
    return Doubled(*[full_like(like, part) for part in rounded(value, like.dtype)])


def choose(where: Any, x: Doubled, y: Doubled) -> Doubled:
    return Doubled(lax.select(where, x.high, y.high), lax.select(where, x.low, y.low))


def series(x: Doubled, coefficients: Sequence[Any], doubled: int = 8) -> Doubled:
    """c_0 + c_1 x + c_2 x^2 + ..., so many terms of it with all digits."""
    tail = full_like(x.high, float(coefficients[-1]))
    for c in reversed(coefficients[doubled:-1]):
        tail = lax.add(lax.mul(tail, x.high), const(tail, float(c)))
    return folded(lambda total, c: total * x + c, Doubled(tail), coefficients[:doubled][::-1])


def folded(f: Callable, start: Doubled, *constants: Sequence[Any]) -> Doubled:
    """f(...f(f(start, c_0, d_0), c_1, d_1)...): in a loop, since compilers take long over long formulas."""

    def step(total: Any, numbers: Any) -> Any:
        spread = [Doubled(*[lax.broadcast(part, start.high.shape) for part in number]) for number in numbers]
        out = f(Doubled(*total), *spread)
        return (out.high, out.low), None

    rows = [tuple(np.array([rounded(c, start.high.dtype) for c in cs]).T) for cs in constants]
    return Doubled(*lax.scan(step, (start.high, start.low), rows)[0])


# Exponentials and logarithms.

#: of (e^r - 1) / r
EXPM1 = [Fraction(1, math.factorial(n + 1)) for n in range(13)]


def power_of_two(k: Any) -> Any:
    """2^k for whole k within the range of normal numbers."""
    integer, mantissa, bias = (np.int32, 23, 127) if k.dtype == np.float32 else (np.int64, 52, 1023)
    shifted = lax.shift_left(lax.convert_element_type(k, integer) + integer(bias), lax.full_like(k, mantissa, integer))
    return lax.bitcast_convert_type(shifted, k.dtype)


def reduced(x: Doubled) -> tuple[Any, Doubled]:
    """k and e^r - 1 for x = k log 2 + r."""
    limit = 200.0 if x.high.dtype == np.float32 else 1500.0
    high = lax.clamp(const(x.high, -limit), x.high, const(x.high, limit))
    low = lax.select(lax.eq(high, x.high), x.low, full_like(high, 0))
    k = lax.round(lax.mul(high, const(high, 1 / math.log(2))), lax.RoundingMethod.TO_NEAREST_EVEN)
    r = (Doubled(high, low) - constant(high, LN2) * k).scaled(1 / 16)
    return k, folded(lambda m, _: m * (m + 2), r * series(r, EXPM1, 8), range(4))


def exp(x: Doubled, times: Any = 1) -> Doubled:
    """e^x times a factor, which may be as large as e^x is small."""
    k, m = reduced(x)
    limit = const(k, 120 if k.dtype == np.float32 else 1020)
    product = (m + 1) * times
    for _ in range(3):
        part = lax.clamp(lax.neg(limit), k, limit)
        product, k = product.scaled(power_of_two(part)), lax.sub(k, part)
    return product


def expm1(x: Doubled) -> Doubled:
    k, m = reduced(x)
    # Where only x is left of the series, its parts would vanish.
    tiny = lax.lt(lax.abs(x.high), const(x.high, float(jnp.finfo(k.dtype).eps) ** 2))
    return choose(tiny, x, choose(lax.eq(k, const(k, 0)), m, exp(x) - 1))


def log(x: Any) -> Doubled:
    """log x for positive, finite x."""
    k = 2 * jnp.finfo(x.dtype).nmant
    is_small = lax.lt(x, const(x, 2.0**-k))
    x = lax.select(is_small, lax.mul(x, const(x, 2.0**k)), x)
    first = lax.log(x)
    root = exp(Doubled(lax.mul(first, const(x, -0.5))))
    rest = root * x * root - 1
    found = Doubled(first) + (rest - rest.square().scaled(0.5))
    return choose(is_small, found - k * LN2, found)


def sqrt(x: Doubled) -> Doubled:
    root = lax.sqrt(x.high)
    rest = (x - two_product(root, root)).high
    return quick_sum(root, finite(lax.div(rest, lax.mul(const(root, 2), root))))


# The sine and cosine of multiples of pi.

SIN = [Fraction((-1) ** n, math.factorial(2 * n + 1)) for n in range(12)]
COS = [Fraction((-1) ** n, math.factorial(2 * n)) for n in range(12)]


def sin_cos_pi(x: Any) -> tuple[Doubled, Doubled]:
    """sin(pi x) and cos(pi x)."""
    x = lax.rem(x, const(x, 2))
    quarter = lax.round(lax.mul(x, const(x, 2)), lax.RoundingMethod.TO_NEAREST_EVEN)
    y = constant(x, PI) * lax.sub(x, lax.mul(quarter, const(x, 0.5)))
    s, c = y * series(y.square(), SIN), series(y.square(), COS)
    turn = lax.rem(lax.add(quarter, const(x, 4)), const(x, 4))
    odd = lax.eq(lax.rem(turn, const(x, 2)), const(x, 1))
    s, c = choose(odd, c, s), choose(odd, s, c)
    s = choose(lax.ge(turn, const(x, 2)), -s, s)
    lower = lax.bitwise_and(lax.ge(turn, const(x, 1)), lax.lt(turn, const(x, 3)))
    return s, choose(lower, -c, c)


# The error function. e^(x^2) erfc x is a sum over a grid, with an error of e^(-pi^2/h^2) (Chiarella and Reichel, "On
# the evaluation of integrals related to the error function", 1968), and near zero the series of erf.

STEP = Fraction(13, 32)
NODES = [(n * STEP) ** 2 for n in range(1, 20)]
TWO_OVER_ROOT_PI = Fraction(
    digits.divide(
        2, digits.sqrt(digits.create_decimal("3.14159265358979323846264338327950288419716939937510582097494"))
    )
)
#: of sqrt(pi)/2 e^(x^2) erf(x) / x in x^2
ERF = [Fraction(2**n, math.prod(range(1, 2 * n + 2, 2))) for n in range(28)]


def exponential_of(x: Fraction) -> Fraction:
    return Fraction(digits.exp(digits.divide(x.numerator, x.denominator)))


WEIGHTS = [2 * exponential_of(-node) for node in NODES]


def scaled_erf(x: Any) -> Doubled:
    """e^(x^2) erf x for |x| <= 1"""
    return series(two_product(x, x), ERF, 13) * x * TWO_OVER_ROOT_PI


def erfcx(x: Any) -> Doubled:
    """e^(x^2) erfc x for x >= 0"""
    one = full_like(x, 1)
    near, far = lax.min(x, one), lax.clamp(one, x, full_like(x, 1e9))
    is_near, square = lax.lt(x, one), two_product(far, far)
    turns = constant(far, 2 * PI / STEP) * far
    exponential = exp(choose(is_near, two_product(near, near), square - turns))
    tail = full_like(x, 0)
    for node, weight in zip(NODES[:11:-1], WEIGHTS[:11:-1], strict=True):
        tail = lax.add(tail, lax.div(const(x, float(weight)), lax.add(square.high, const(x, float(node)))))
    total = folded(lambda total, n, w: total + w / (square + n), 1 / square + tail, NODES[:12], WEIGHTS[:12])
    on_grid = total * far * (STEP / PI)
    # The pole of the integrand is inside of the strip there: 2 e^(x^2) / (e^(2 pi x / h) - 1).
    pole = exponential * lax.div(const(far, -2), lax.expm1(lax.neg(turns.high)))
    far_out = choose(lax.lt(far, const(far, math.pi / STEP)), on_grid - pole, on_grid)
    return choose(is_near, exponential - scaled_erf(near), far_out)
