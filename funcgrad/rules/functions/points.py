"""Functions that JAX writes in pieces, or as a product or quotient, of which no piece has the derivative at some point.

Each has the derivative of the whole: that of ``sinc`` near 0, of ``i0`` and ``ldexp`` at 0, of ``spence`` at 1, of
``soft_sign`` far out, of ``hypot`` to second order where its operands are equal.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.programs.memo import memo
from funcgrad.rules.control.carrier import Carrier
from funcgrad.rules.control.jit import Chooser
from funcgrad.rules.control.jit import rules as jit_rules
from funcgrad.rules.functions.recognition import Function, call_of, key_of
from funcgrad.rules.functions.rules import Formulas
from funcgrad.rules.numbers import const, convert, full_like
from funcgrad.rules.special import in_single, is_beyond, piecewise, power_series

add, sub, mul, div, neg = lax.add, lax.sub, lax.mul, lax.div, lax.neg


def record_inside(tape, primitive, primals, tracers, params, linear):
    """The call recorded by what is inside the function."""
    return Carrier.record(jit_rules[_jax.jit_p], tape, primitive, primals, tracers, params, linear)


class Known(Formulas):
    """Formulas of a function where a call of it can be followed, and else what is inside."""

    def __init__(self, function: Any, *functions: Callable | None):
        super().__init__(Function(function), functions, {})

    def record(self, tape, primitive, primals, tracers, params, linear):
        try:
            call_of(params["jaxpr"], self.function)
        except NotImplementedError:
            return record_inside(tape, primitive, primals, tracers, params, linear)
        return super().record(tape, primitive, primals, tracers, params, linear)


class Spence(Known, Chooser):
    """``spence`` is not jitted itself, but is a function in pieces that has its coefficients."""

    def record(self, tape, primitive, primals, tracers, params, linear):
        if linear or not is_spence(params["jaxpr"]):
            return record_inside(tape, primitive, primals, tracers, params, linear)
        return super().record(tape, primitive, primals, tracers, params, linear)


def slope(of: Callable[[Any], Any]) -> Callable:
    """A formula, compiled as one, that multiplies by a function of the argument."""
    times = jax.jit(lambda ct, x: mul(ct, of(x)), inline=True)
    return lambda ct, x: times(ct, x)


#: of d/dt (sin t / t) = t Σ c_k t^2k
SINC = [(-1) ** k * 2 * k / math.factorial(2 * k + 1) for k in range(1, 13)]
#: of log(x) / (1 - x) in x - 1
SPENCE = [(-1) ** (k + 1) / (k + 1) for k in range(20)]


@jax.custom_jvp
def sin_pi(x):
    """sin πx for x from -1/2 to 1/2"""
    return lax.sin(mul(x, const(x, math.pi)))


@jax.custom_jvp
def cos_pi(x):
    """cos πx for x from -1/2 to 1/2, from what is left to a quarter turn: near its zeros that is exact."""
    return lax.sin(mul(sub(const(x, 0.5), lax.abs(x)), const(x, math.pi)))


sin_pi.defjvps(lambda t, out, x: mul(t, mul(const(x, math.pi), cos_pi(x))))
cos_pi.defjvps(lambda t, out, x: mul(t, mul(const(x, -math.pi), sin_pi(x))))


@in_single
def sinc_slope(x):
    """(cos πx - sinc x) / x, whose terms cancel near 0; of large x the half turns are taken off first."""

    def near(x):
        t = mul(x, const(x, math.pi))
        return mul(const(x, math.pi), mul(t, power_series(lax.square(t), SINC)))

    def far(x):
        halves = lax.round(x)
        odd = lax.ne(mul(lax.round(mul(halves, const(x, 0.5))), const(x, 2)), halves)
        rest = sub(x, halves)
        value = div(sub(cos_pi(rest), div(sin_pi(rest), mul(x, const(x, math.pi)))), x)
        return lax.select(odd, neg(value), value)

    return piecewise(is_beyond(x, 0.5), far, near, [1], x)


@in_single
def i0_slope(x):
    """I_1. Half of its exponential at a time, for the whole overflows before it does."""
    half = lax.exp(mul(lax.abs(x), const(x, 0.5)))
    return mul(mul(half, lax.bessel_i1e(x)), half)


@in_single
def spence_slope(x):
    """log x / (1 - x), by its series near 1"""
    u = sub(x, const(x, 1))
    return piecewise(is_beyond(u, 0.125), lambda x: div(lax.log(x), sub(const(x, 1), x)), spence_series, [2], x)


@in_single
def soft_sign_slope(x):
    """1 / (1 + |x|)², of which the quotient's two terms leave nothing where x is large"""
    return lax.square(div(full_like(x, 1), add(const(x, 1), lax.abs(x))))


@jax.custom_jvp
def share(x, y):
    """x / √(x² + y²), and where both are 0 what JAX gives, a half"""
    largest, one = lax.max(lax.abs(x), lax.abs(y)), full_like(x, 1)
    none, infinite = lax.eq(largest, const(x, 0)), lax.eq(largest, const(x, np.inf))
    scale = lax.select(none, one, largest)

    def scaled(x):
        of_infinite = lax.select(lax.eq(lax.abs(x), largest), lax.sign(x), full_like(x, 0))
        return lax.select(infinite, of_infinite, div(x, scale))

    a, b = scaled(x), scaled(y)
    value = div(a, lax.sqrt(add(lax.square(a), lax.square(b))))
    return lax.select(none, full_like(x, 0.5), value)


@share.defjvp
def share_jvp(primals, tangents):
    x, y = primals
    u, v, length = share(x, y), share(y, x), jnp.hypot(x, y)
    per_length = div(v, lax.select(lax.eq(length, const(x, 0)), full_like(x, 1), length))
    return u, mul(per_length, sub(mul(v, tangents[0]), mul(u, tangents[1])))


@functools.partial(jax.jit, inline=True)
def hypot_cotangent(ct, x, y):
    """ct by the slope in x"""
    return mul(ct, in_single(share)(convert(x, ct), convert(y, ct)))


def spence_series(x):
    return power_series(sub(x, const(x, 1)), SPENCE)


@memo
def is_spence(program: Any) -> bool:
    known = None if _jax.is_own_program(program) else _jax.batching_of(program)
    if known is not None:
        return is_spence(known[0])
    # What JAX makes of a program, such as half of its derivative, has no names of arguments.
    names = program.jaxpr.debug_info.arg_names
    return names is not None and any(np.shape(c) == (8,) and np.isclose(c[0], 4.65128586e-5) for c in program.consts)


rules = {
    key_of(jnp.hypot): Known(
        jnp.hypot, lambda ct, x, y: hypot_cotangent(ct, x, y), lambda ct, y, x: hypot_cotangent(ct, y, x)
    ),
    key_of(jnp.sinc): Known(jnp.sinc, slope(sinc_slope)),
    key_of(jnp.i0): Known(jnp.i0, slope(i0_slope)),
    key_of(jnp.ldexp): Known(jnp.ldexp, lambda ct, y: jnp.ldexp(ct, y), None),
    key_of(jax.nn.soft_sign): Known(jax.nn.soft_sign, slope(soft_sign_slope)),
    key_of(_jax.piecewise): Spence(_jax.piecewise, slope(spence_slope)),
}
