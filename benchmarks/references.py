"""What derivatives are, to as many digits as asked for: functions of truncated Taylor series of ``mpmath`` numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
from mpmath import mpf


def real_part(x: Any) -> Any:
    if isinstance(x, mp.mpc) and abs(x.imag) > abs(x.real) * mpf(2) ** -90:
        raise ValueError("not real")
    return mpf(x.real if isinstance(x, mp.mpc) else x)


class Series:
    """The value, the slope and the curvature of a function at a point."""

    def __init__(self, value: Any, slope: Any = 0, curvature: Any = 0):
        self.all = real_part(value), real_part(slope), real_part(curvature)

    def __add__(self, other: Any) -> Series:
        return Series(*[x + y for x, y in zip(self.all, of(other).all, strict=True)])

    def __neg__(self) -> Series:
        return Series(*[-x for x in self.all])

    def __sub__(self, other: Any) -> Series:
        return self + -of(other)

    def __rsub__(self, other: Any) -> Series:
        return of(other) - self

    def __mul__(self, other: Any) -> Series:
        (a, b, c), (d, e, f) = self.all, of(other).all
        return Series(a * d, a * e + b * d, a * f + 2 * b * e + c * d)

    def __truediv__(self, other: Any) -> Series:
        return self * apply(of(other), lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3)

    def __rtruediv__(self, other: Any) -> Series:
        return of(other) / self

    def __pow__(self, n: Any) -> Series:
        if n == 0:
            return Series(1)
        return apply(self, lambda x: x**n, lambda x: n * x ** (n - 1), lambda x: n * (n - 1) * x ** (n - 2))

    __radd__, __rmul__ = __add__, __mul__


def of(x: Any) -> Series:
    return x if isinstance(x, Series) else Series(x)


def apply(x: Any, value: Callable, slope: Callable, curvature: Callable) -> Series:
    x_0, x_1, x_2 = of(x).all
    b, c = slope(x_0), curvature(x_0)
    return Series(value(x_0), b * x_1, c * x_1**2 + b * x_2)


def known(value: Callable, slope: Callable, curvature: Callable) -> Callable:
    return lambda x: apply(x, value, slope, curvature)


def real(x: Any) -> Any:
    if isinstance(x, mp.mpc):
        raise ValueError("not real")
    return x


exp = known(mp.exp, mp.exp, mp.exp)
expm1 = known(mp.expm1, mp.exp, mp.exp)
log = known(lambda x: real(mp.log(x)), lambda x: 1 / x, lambda x: -1 / x**2)
log1p = known(lambda x: real(mp.log1p(x)), lambda x: 1 / (1 + x), lambda x: -1 / (1 + x) ** 2)
sin, cos = known(mp.sin, mp.cos, lambda x: -mp.sin(x)), known(mp.cos, lambda x: -mp.sin(x), lambda x: -mp.cos(x))
tan = known(mp.tan, lambda x: mp.sec(x) ** 2, lambda x: 2 * mp.tan(x) * mp.sec(x) ** 2)
sinh, cosh = known(mp.sinh, mp.cosh, mp.sinh), known(mp.cosh, mp.sinh, mp.cosh)
tanh = known(mp.tanh, lambda x: mp.sech(x) ** 2, lambda x: -2 * mp.tanh(x) * mp.sech(x) ** 2)
atan = known(mp.atan, lambda x: 1 / (1 + x**2), lambda x: -2 * x / (1 + x**2) ** 2)
asin = known(
    lambda x: real(mp.asin(x)), lambda x: 1 / mp.sqrt(1 - x**2), lambda x: x / ((1 - x**2) * mp.sqrt(1 - x**2))
)
asinh = known(mp.asinh, lambda x: 1 / mp.sqrt(1 + x**2), lambda x: -x / ((1 + x**2) * mp.sqrt(1 + x**2)))
acosh = known(
    lambda x: real(mp.acosh(x)), lambda x: 1 / mp.sqrt(x**2 - 1), lambda x: -x / ((x**2 - 1) * mp.sqrt(x**2 - 1))
)
atanh = known(lambda x: real(mp.atanh(x)), lambda x: 1 / (1 - x**2), lambda x: 2 * x / (1 - x**2) ** 2)
sqrt = known(lambda x: real(mp.sqrt(x)), lambda x: 1 / (2 * mp.sqrt(x)), lambda x: -1 / (4 * x * mp.sqrt(x)))
cbrt = known(
    lambda x: mp.sign(x) * mp.cbrt(abs(x)),
    lambda x: 1 / (3 * mp.cbrt(abs(x)) ** 2),
    lambda x: -2 / (9 * x * mp.cbrt(abs(x)) ** 2),
)
logistic = known(
    lambda x: 1 / (1 + mp.exp(-x)),
    lambda x: 1 / (2 * mp.cosh(x / 2)) ** 2,
    lambda x: -mp.tanh(x / 2) / (2 * mp.cosh(x / 2)) ** 2,
)


def bell(x: Any) -> Any:
    return 2 / mp.sqrt(mp.pi) * mp.exp(-(x**2))


erf = known(mp.erf, bell, lambda x: -2 * x * bell(x))
erfc = known(mp.erfc, lambda x: -bell(x), lambda x: 2 * x * bell(x))


def erf_inv_at(x: Any) -> Any:
    """mpmath's own does not keep its digits near 1."""
    y = mp.erfinv(x)
    for _ in range(6):
        y -= (mp.erf(y) - x if abs(x) < 0.5 else mp.sign(x) * ((1 - abs(x)) - mp.erfc(abs(y)))) / bell(y)
    return y


erf_inv = known(erf_inv_at, lambda x: 1 / bell(erf_inv_at(x)), lambda x: 2 * erf_inv_at(x) / bell(erf_inv_at(x)) ** 2)
lgamma = known(
    lambda x: mp.log(abs(mp.gamma(x))) if abs(x) < 1e3 else mp.loggamma(x).real, mp.digamma, lambda x: mp.psi(1, x)
)
digamma = known(mp.digamma, lambda x: mp.psi(1, x), lambda x: mp.psi(2, x))


def bessel(n: int) -> Callable:
    return lambda x: mp.besseli(n, x)


def i1_slope(x: Any) -> Any:
    return (mp.besseli(0, x) + mp.besseli(2, x)) / 2


i0 = known(bessel(0), bessel(1), i1_slope)
i1 = known(bessel(1), i1_slope, lambda x: (3 * mp.besseli(1, x) + mp.besseli(3, x)) / 4)


def absolute(x: Any) -> Series:
    return x if x.all[0] >= 0 else -x


def where(condition: bool, x: Any, y: Any) -> Series:
    return of(x() if condition else y())


def normal_cdf(x: Any) -> Series:
    return erfc(-x / mp.sqrt(2)) / 2


def softplus(x: Any) -> Series:
    return apply(
        x, lambda x: mp.log1p(mp.exp(x)), lambda x: logistic(x).all[0], lambda x: logistic(Series(x, 1)).all[1]
    )


def power(base: Any, exponent: Any) -> Series:
    return exp(log(of(base)) * exponent)


def derivatives(f: Callable, x: float) -> tuple[Any, Any] | None:
    """The first and second at a point, to 80 bits or as small as no float is; None where there are none."""
    last = None
    for bits in (160, 500, 2300):
        with mp.workprec(bits):
            try:
                found = f(Series(mpf(x), 1)).all[1:]
            except (ValueError, ZeroDivisionError, OverflowError, mp.libmp.NoConvergence):
                return None
            if last is not None and all(
                abs(a - b) <= abs(a) * mpf(2) ** -80 or abs(a) + abs(b) < mpf(2) ** -1100
                for a, b in zip(found, last, strict=True)
            ):
                return found
            last = found
    return last
