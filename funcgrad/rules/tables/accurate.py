"""Derivatives made to be right to 4 ulp where they are normal numbers, whatever they keep or cost.

Rules of single operations keep the operand and compute the slope from it. What is no operation is recognised by what it
is made of: a function with a derivative of its own (``logaddexp``, ``logit``, ``log_ndtr``) by its source, and one that
leaves nothing but operations (``gelu``, ``ndtr``, ``softmax``, ``log_softmax``) by the last few of them.
"""

from __future__ import annotations

from typing import Any

import jax.scipy.special
import numpy as np
from jax import lax, nn

from funcgrad import _jax
from funcgrad.rules import elementwise
from funcgrad.rules import special as special_family
from funcgrad.rules.functions.with_own_jvp import KnownFunctions
from funcgrad.rules.numbers import full_like, is_complex
from funcgrad.rules.rule import Formula, Rule
from funcgrad.rules.signature import shaped
from funcgrad.rules.tables import accurate_slopes as slopes
from funcgrad.rules.tables import accurate_special as special
from funcgrad.rules.tables.accurate_functions import last_operations

mul = lax.mul
default: dict[Any, Rule] = {**elementwise.rules, **special_family.rules}


class Accurate(Formula):
    """A rule of slopes in real operands; for complex ones, and for tangents, the default."""

    def __init__(self, usual: Rule, *functions: Any):
        super().__init__(functions, {}, broadcasts=True)
        self.usual = usual

    def record(self, tape, primitive, primals, tracers, params, linear):
        usual = linear or any(is_complex(x) for x in map(shaped, primals))
        return (self.usual.record if usual else super().record)(tape, primitive, primals, tracers, params, linear)


def of_one(slope: Any) -> tuple[Any, ...]:
    return (lambda ct, x: mul(ct, slope(x)),)


def of_two(x_slope: Any, y_slope: Any) -> tuple[Any, ...]:
    return lambda ct, x, y: mul(ct, x_slope(x, y)), lambda ct, x, y: mul(ct, y_slope(x, y))


def float_of(y: Any, x: Any) -> Any:
    return lax.convert_element_type(y, x.dtype)


def not_negative(x: Any) -> Any:
    """x where its logarithm is a number, else NaN"""
    return lax.select(lax.lt(x, full_like(x, 0)), full_like(x, np.nan), x)


single = {
    lax.acos_p: slopes.acos,
    lax.acosh_p: slopes.acosh,
    lax.asin_p: slopes.asin,
    lax.asinh_p: slopes.asinh,
    lax.atan_p: slopes.atan,
    lax.atanh_p: slopes.atanh,
    lax.cbrt_p: slopes.cbrt,
    lax.cosh_p: slopes.sinh,
    lax.digamma_p: special.digamma,
    lax.erf_inv_p: special.erf_inv,
    lax.erf_p: special.erf,
    lax.erfc_p: special.erfc,
    lax.exp2_p: slopes.exp2,
    lax.expm1_p: lax.exp,
    lax.lgamma_p: special.lgamma,
    lax.logistic_p: slopes.logistic,
    lax.rsqrt_p: slopes.rsqrt,
    lax.sinh_p: slopes.cosh,
    lax.sqrt_p: slopes.sqrt,
    lax.tan_p: slopes.tan,
    lax.tanh_p: slopes.tanh,
}
primitives = {
    **{p: Accurate(default[p], *of_one(slope)) for p, slope in single.items()},
    lax.atan2_p: Accurate(default[lax.atan2_p], *of_two(slopes.angle_x, slopes.angle_y)),
    lax.integer_pow_p: Accurate(default[lax.integer_pow_p], lambda ct, x, *, y: mul(ct, slopes.integer_power(y)(x))),
    lax.pow_p: Accurate(
        default[lax.pow_p],
        lambda ct, x, y: mul(ct, slopes.pow_x(x, float_of(y, x))),
        lambda ct, x, y: mul(ct, slopes.pow_y(not_negative(x), y)),
    ),
}

#: Functions by their own rules, where JAX's are lost.
whole = {
    nn.silu: lambda ct, x: mul(ct, special.silu(x)),
    nn.mish: lambda ct, x: mul(ct, special.mish(x)),
}
with_own_jvp = {
    _jax.logaddexp: Formula(of_two(slopes.logaddexp_x, slopes.logaddexp_y), {}, broadcasts=True),
    _jax.logaddexp2: Formula(of_two(slopes.logaddexp2_x, slopes.logaddexp2_y), {}, broadcasts=True),
    jax.scipy.special.log_ndtr: Formula(of_one(special.log_ndtr), {}, broadcasts=False),
    jax.scipy.special.logit: Formula(of_one(special.logit), {}, broadcasts=False),
}
rules = {
    **primitives,
    **whole,
    **last_operations(default),
    _jax.custom_jvp_call_p: KnownFunctions(with_own_jvp),
}
