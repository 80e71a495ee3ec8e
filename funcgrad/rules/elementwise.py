"""Elementwise primitives: arithmetic, powers, exponentials, trigonometry, comparisons, complex parts.

Cotangents follow JAX's convention for complex numbers: the pullback of a complex-linear map is its plain transpose,
without conjugation.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters.ad import add_jaxvals_p

from funcgrad.rules.numbers import const, full_like, is_complex, negative, nonzero, scaled, together
from funcgrad.rules.rule import broadcasting, formula, no_derivative

mul, div, add, sub, neg, square = lax.mul, lax.div, lax.add, lax.sub, lax.neg, lax.square
HIGHEST = lax.AccuracyMode.HIGHEST

TIMES_SLOPE = {
    "x_slope": lambda ct, x_slope: mul(ct, x_slope),
    "y_slope": lambda ct, y_slope: mul(ct, y_slope),
    "z_slope": lambda ct, z_slope: mul(ct, z_slope),
}


def by_slopes(**slopes):
    """A rule that keeps the slopes in its operands, where to compute one back takes more than one array."""
    return broadcasting(*[TIMES_SLOPE[name] for name in slopes], **slopes)


# Arithmetic. A product's cotangent is computed in the operand's dtype where the product was asked for in another.


def scale(ct, y, x_aval, *, out_dtype):
    return mul(ct, y, out_dtype=None if out_dtype is None else x_aval.dtype)


arithmetic = {
    lax.neg_p: formula(negative),
    lax.add_p: broadcasting(lambda ct: ct, lambda ct: ct),
    add_jaxvals_p: formula(lambda ct: ct, lambda ct: ct),
    lax.sub_p: broadcasting(lambda ct: ct, negative),
    lax.mul_p: broadcasting(scale, lambda ct, x, y_aval, *, out_dtype: scale(ct, x, y_aval, out_dtype=out_dtype)),
    # -out/y rather than -x/y^2: the square over- and underflows long before the quotient does.
    lax.div_p: broadcasting(lambda ct, y: div(ct, y), lambda ct, out, y: neg(div(mul(ct, out), y))),
    # x - out is a multiple of y but for its last digit. x / y may be rounded up to a number that it does not reach.
    lax.rem_p: broadcasting(
        lambda ct: ct,
        lambda ct, quotient: negative(mul(ct, quotient)),
        quotient=lambda x, y, out: lax.round(div(sub(x, out), y)),
    ),
}

# Powers and roots.


def power_slope(x, y):
    """d(x^y)/dx. Where an integer exponent is zero so is the slope, whatever x is."""
    if not np.issubdtype(y.dtype, np.integer):
        return mul(y, lax.pow(x, sub(y, const(y, 1))))
    x, y = together(x, lax.convert_element_type(y, x.dtype))
    slope = mul(nonzero(y), lax.pow(x, sub(y, const(y, 1))))
    return lax.select(lax.eq(y, const(y, 0)), full_like(y, 0), slope)


def integer_power(ct, x, *, y):
    """ct * y * x^(y - 1), in an order in which nothing vanishes before the product does"""
    if y == 0:
        return full_like(ct, 0)
    if y == 1:
        return ct
    if y < 0:
        return mul(div(mul(ct, const(x, y)), x), lax.integer_pow(x, y))
    return mul(ct, mul(const(x, y), x if y == 2 else lax.integer_pow(x, y - 1)))


powers = {
    lax.square_p: formula(lambda ct, x: mul(ct, mul(const(x, 2), x))),
    lax.integer_pow_p: formula(integer_power),
    lax.pow_p: by_slopes(
        x_slope=power_slope,
        y_slope=lambda x, out: mul(lax.log(nonzero(x)), out),
    ),
    lax.sqrt_p: formula(lambda ct, out: mul(ct, div(const(out, 0.5), out))),
    lax.rsqrt_p: formula(lambda ct, out: mul(mul(mul(ct, mul(const(out, -0.5), out)), out), out)),
    lax.cbrt_p: formula(lambda ct, out: mul(ct, mul(const(out, 1 / 3), lax.integer_pow(out, -2)))),
}

# Exponentials and logarithms. With the highest accuracy asked for, slopes are computed from the operand.


def operand_or_out(x, out, *, accuracy):
    return x if accuracy is HIGHEST else out


def expm1(ct, kept, *, accuracy):
    return mul(ct, lax.exp(kept, accuracy=accuracy) if accuracy is HIGHEST else add(kept, const(kept, 1)))


def logistic(ct, kept, *, accuracy):
    out, rest = kept, sub(const(kept, 1), kept)
    if accuracy is HIGHEST:
        out, rest = lax.logistic(kept, accuracy=accuracy), lax.logistic(neg(kept), accuracy=accuracy)
    return mul(ct, mul(out, rest))


def tanh(ct, kept, *, accuracy):
    if accuracy is not HIGHEST:
        return mul(ct, mul(add(kept, const(kept, 1)), sub(const(kept, 1), kept)))
    twice = mul(const(kept, 2), kept)
    return mul(
        ct,
        mul(const(kept, 4), mul(lax.logistic(twice, accuracy=accuracy), lax.logistic(neg(twice), accuracy=accuracy))),
    )


exponentials = {
    lax.exp_p: formula(lambda ct, out: mul(ct, out)),
    lax.exp2_p: formula(lambda ct, out: mul(scaled(ct, np.log(2)), out)),
    lax.expm1_p: formula(expm1, kept=operand_or_out),
    lax.log_p: formula(lambda ct, x: div(ct, x)),
    lax.log1p_p: formula(lambda ct, x: div(ct, add(x, const(x, 1)))),
    lax.logistic_p: formula(logistic, kept=operand_or_out),
    lax.tanh_p: formula(tanh, kept=operand_or_out),
}

# Trigonometric and hyperbolic functions. Where a square would overflow or vanish, operands are scaled; what they are
# scaled by has no part in the derivative.


def one_less_square(x):
    """1 - x^2, as a product where its digits cancel; elsewhere those of the product's derivative do."""
    product = mul(sub(const(x, 1), x), add(const(x, 1), x))
    return lax.select(lax.lt(lax.abs(x), const(lax.abs(x), 0.5)), sub(const(x, 1), square(x)), product)


def top(x):
    """The exponent at which numbers of the dtype overflow."""
    return int(jnp.finfo(x.dtype).maxexp)


def over_squares(numerator, x, y):
    """numerator / (x^2 + y^2)"""
    shrink = reciprocal(lax.stop_gradient(lax.max(*together(lax.abs(x), lax.abs(y)))))
    shrink = lax.max(shrink, const(shrink, jnp.finfo(shrink.dtype).tiny))
    squares = add(square(mul(x, shrink)), square(mul(y, shrink)))
    return mul(div(mul(numerator, shrink), squares), shrink)


def reciprocal(x):
    """1 / x, to multiply by: of quotients one after the other XLA makes one by the product of the divisors."""
    return div(full_like(x, 1), x)


def is_large(x):
    """Whether 1 + x^2 is x^2 to all digits, or overflows."""
    bound = min(1 / float(jnp.finfo(x.dtype).eps), 2.0 ** (top(x) // 2 - 2))
    return lax.gt(lax.abs(x), const(lax.abs(x), bound))


def over_one_and_square(ct, x):
    """ct / (1 + x^2)"""
    large = is_large(x)
    over = div(ct, lax.select(large, x, add(const(x, 1), square(x))))
    return mul(over, reciprocal(lax.select(large, x, full_like(x, 1))))


def over_root_of_one_and_square(x):
    """1 / sqrt(1 + x^2)"""
    scale = lax.select(is_large(x), full_like(x, 2.0 ** -(top(x) // 2)), full_like(x, 1))
    return mul(lax.rsqrt(add(square(mul(x, scale)), square(scale))), scale)


trigonometric = {
    lax.sin_p: formula(lambda ct, x, *, accuracy: mul(ct, lax.cos(x, accuracy=accuracy))),
    lax.cos_p: formula(lambda ct, x, *, accuracy: negative(mul(ct, lax.sin(x, accuracy=accuracy)))),
    lax.tan_p: formula(lambda ct, out: mul(ct, add(const(out, 1), square(out)))),
    lax.asin_p: formula(lambda ct, x: mul(ct, lax.rsqrt(one_less_square(x)))),
    lax.acos_p: formula(lambda ct, x: negative(mul(ct, lax.rsqrt(one_less_square(x))))),
    lax.atan_p: formula(lambda ct, x: over_one_and_square(ct, x)),
    lax.atan2_p: by_slopes(
        x_slope=lambda x, y: over_squares(y, x, y),
        y_slope=lambda x, y: neg(over_squares(x, x, y)),
    ),
    lax.sinh_p: formula(lambda ct, x: mul(ct, lax.cosh(x))),
    lax.cosh_p: formula(lambda ct, x: mul(ct, lax.sinh(x))),
    lax.asinh_p: formula(lambda ct, x: mul(ct, over_root_of_one_and_square(x))),
    lax.acosh_p: formula(lambda ct, x: mul(ct, mul(lax.rsqrt(sub(x, const(x, 1))), lax.rsqrt(add(x, const(x, 1)))))),
    lax.atanh_p: formula(lambda ct, x: div(ct, one_less_square(x))),
}

# Choices. Each equal operand of a maximum or minimum gets half.


def share(ct, wins, other_wins):
    return lax.select(wins, lax.select(other_wins, scaled(ct, 0.5), ct), full_like(ct, 0))


chooser = broadcasting(
    lambda ct, x_wins, y_wins: share(ct, x_wins, y_wins),
    lambda ct, x_wins, y_wins: share(ct, y_wins, x_wins),
    x_wins=lambda x, out: lax.eq(x, out),
    y_wins=lambda y, out: lax.eq(y, out),
)


def masked(ct, mask):
    return lax.select(mask, ct, full_like(ct, 0))


choices = {
    lax.max_p: chooser,
    lax.min_p: chooser,
    # clamp(low, operand, high)
    lax.clamp_p: broadcasting(
        lambda ct, below: masked(ct, below),
        lambda ct, inside: masked(ct, inside),
        lambda ct, above: masked(ct, above),
        below=lambda x, y, z: lax.bitwise_and(lax.gt(x, y), lax.lt(x, z)),
        inside=lambda x, y, z: lax.bitwise_and(lax.gt(y, x), lax.lt(y, z)),
        above=lambda y, z: lax.gt(y, z),
    ),
}

# Complex numbers and their parts.


def absolute(ct, slope):
    return mul(lax.complex(ct, full_like(ct, 0)), slope) if is_complex(slope) else lax.select(slope, ct, negative(ct))


def absolute_slope(x, out):
    """The unit vector against x for complex x; for real x, whether it is not negative (the slope at 0 is 1)."""
    if is_complex(x):
        return div(lax.conj(x), nonzero(lax.convert_element_type(out, x.dtype)))
    return lax.ge(x, const(x, 0))


def conjugate(ct, *, input_dtype):
    return lax.conj(ct) if np.issubdtype(input_dtype, np.complexfloating) else lax.real(ct)


complex_parts = {
    lax.abs_p: formula(absolute, slope=absolute_slope),
    lax.conj_p: formula(conjugate),
    lax.real_p: formula(lambda ct: lax.complex(ct, lax.full_like(ct, 0, ct.dtype))),
    lax.imag_p: formula(lambda ct: lax.complex(lax.full_like(ct, 0, ct.dtype), neg(ct))),
    lax.complex_p: broadcasting(lambda ct: lax.real(ct), lambda ct: neg(lax.imag(ct))),
}

# Conversions.


def convert_back(ct, x_aval):
    return lax.convert_element_type_p.bind(ct, new_dtype=x_aval.dtype, weak_type=x_aval.weak_type, sharding=None)


conversions = {
    lax.convert_element_type_p: formula(convert_back),
    lax.reduce_precision_p: formula(
        lambda ct, *, exponent_bits, mantissa_bits: lax.reduce_precision(ct, exponent_bits, mantissa_bits)
    ),
    lax.copy_p: formula(lambda ct: ct),
    lax.nextafter_p: broadcasting(lambda ct: ct, None),
}

# Outputs that do not move with their operands, or are not numbers.

flat = dict.fromkeys(
    [
        lax.sign_p, lax.floor_p, lax.ceil_p, lax.round_p, lax.is_finite_p, lax.bitcast_convert_type_p,
        lax.eq_p, lax.ne_p, lax.ge_p, lax.gt_p, lax.le_p, lax.lt_p, lax.eq_to_p, lax.le_to_p, lax.lt_to_p,
        lax.and_p, lax.or_p, lax.xor_p, lax.not_p, lax.mulhi_p, lax.clz_p, lax.population_count_p,
        lax.shift_left_p, lax.shift_right_arithmetic_p, lax.shift_right_logical_p, lax.stop_gradient_p,
    ],
    no_derivative,
)  # fmt: skip

rules = {
    **arithmetic, **powers, **exponentials, **trigonometric, **choices, **complex_parts, **conversions, **flat,
}  # fmt: skip
