"""Special functions: gamma and its relatives, incomplete gamma and beta, error functions, Bessel functions."""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.random import random_gamma_p

from funcgrad.rules.elementwise import TIMES_SLOPE, by_slopes
from funcgrad.rules.numbers import const, convert, full_like, together
from funcgrad.rules.rule import formula
from funcgrad.rules.tails import beta_tail, gamma_tail

add, sub, mul, div, neg, exp, log = lax.add, lax.sub, lax.mul, lax.div, lax.neg, lax.exp, lax.log


def raising(error, message):
    """The slope in an operand that has none: raises on the way forward, where the user's line is on the stack."""

    def slope(x):
        raise error(message)

    return slope


# Help for formulas with branches.


def in_single(f):
    """``f`` with its operands broadcast against each other, computed in float32 where their dtype is shorter."""

    @functools.wraps(f)
    def wide(*operands):
        aval = operands[0]
        if jnp.finfo(aval.dtype).bits < 32:
            operands = tuple([lax.convert_element_type(x, np.float32) for x in operands])
        full = functools.reduce(lambda x, y: together(x, y)[0], operands)
        return convert(f(*[together(x, full)[0] for x in operands]), aval)

    return wide


def piecewise(where, inside, outside, fillers, *operands):
    """``inside`` where the mask holds, ``outside`` elsewhere.

    Each is given the fillers in the places of the other: a function that overflows spoils the derivative even of a
    select that does not take it.
    """
    pairs = [(x, full_like(x, filler)) for x, filler in zip(operands, fillers, strict=True)]
    values = inside(*[lax.select(where, x, filler) for x, filler in pairs])
    others = outside(*[lax.select(where, filler, x) for x, filler in pairs])
    return lax.select(where, values, others)


def power_series(x, coefficients):
    """c_0 + c_1 x + c_2 x^2 + ..."""
    total = full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = add(mul(total, x), const(x, c))
    return total


def times_log(y, x):
    """y log x, with 0 log 0 = 0."""
    both_zero = lax.bitwise_and(lax.eq(x, const(x, 0)), lax.eq(y, const(y, 0)))
    return mul(y, log(lax.select(both_zero, full_like(x, 1), x)))


# The gamma and beta densities are the slopes of the incomplete gamma and beta functions. Their exponents are sums of
# large terms that cancel: in float32 x^(a-1) e^-x / Γ(a) comes out twice too large near x = a = 1e6. In Loader's saddle
# point form ("Fast and accurate computation of binomial probabilities", 2000) the terms are as small as their sum, and
# for a from 1e-3 to 1e6 the largest error is 3e-5. The derivative of the plain exponent is accurate, and kept.

LARGE = 16.0
#: B_2n / (2n (2n - 1)), the coefficients of Stirling's series
STIRLING = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360]


def stirling_series(a):
    """log Γ(a + 1) - log(√(2πa) (a/e)^a) for large a, its value at ``LARGE`` for small a"""
    a = lax.max(a, const(a, LARGE))
    return div(power_series(lax.integer_pow(a, -2), STIRLING), a)


def stirling_error(a):
    """The same for any a."""
    stirling = add(sub(mul(add(a, const(a, 0.5)), log(a)), a), const(a, math.log(2 * math.pi) / 2))
    small = sub(lax.lgamma(add(a, const(a, 1))), stirling)
    return lax.select(lax.gt(a, const(a, LARGE)), stirling_series(a), small)


def deviance(a, m):
    """a log(a/m) + m - a, which vanishes to second order at a = m."""
    v = div(sub(a, m), add(a, m))
    odd = power_series(lax.square(v), [1 / (2 * j + 3) for j in range(8)])
    near = mul(v, add(sub(a, m), mul(mul(const(a, 2), a), mul(lax.square(v), odd))))
    ratio = lax.max(div(a, m), const(a, jnp.finfo(a.dtype).tiny))
    far = add(mul(a, log(ratio)), sub(m, a))
    return lax.select(lax.lt(lax.abs(v), const(v, 0.1)), near, far)


def with_value(x, where, value):
    """``x``, and its derivative, with ``value`` in its place where the mask holds."""
    zero = full_like(x, 0)
    kept = sub(x, lax.stop_gradient(lax.select(where, x, zero)))
    return add(kept, lax.select(where, lax.stop_gradient(value), zero))


@in_single
def gamma_density(a, x):
    """x^(a-1) e^-x / Γ(a)"""
    x = lax.min(x, const(x, jnp.finfo(x.dtype).max))
    plain = sub(times_log(sub(a, const(a, 1)), x), add(x, lax.lgamma(a)))
    scale = sub(mul(const(a, 0.5), log(mul(a, const(a, 0.5 / math.pi)))), log(x))
    saddle = sub(scale, add(stirling_series(a), deviance(a, x)))
    cancels = lax.bitwise_and(lax.gt(a, const(a, LARGE)), lax.gt(x, const(x, 1)))
    return exp(with_value(plain, cancels, saddle))


@in_single
def beta_density(a, b, x):
    """x^(a-1) (1-x)^(b-1) / B(a, b)"""
    one, n, y = const(x, 1), add(a, b), sub(const(x, 1), x)
    log_beta = sub(add(lax.lgamma(a), lax.lgamma(b)), lax.lgamma(n))
    plain = sub(add(times_log(sub(a, one), x), times_log(sub(b, one), y)), log_beta)
    scale = sub(mul(const(x, 0.5), log(mul(const(x, 0.5 / math.pi), mul(a, div(b, n))))), add(log(x), log(y)))
    ratio = sub(stirling_error(n), add(stirling_error(a), stirling_error(b)))
    saddle = sub(add(scale, ratio), add(deviance(a, mul(n, x)), deviance(b, mul(n, y))))
    cancels = lax.gt(n, const(n, LARGE))
    for z in (a, b, x, y):
        cancels = lax.bitwise_and(cancels, lax.gt(z, const(z, 0)))
    return exp(with_value(plain, cancels, saddle))


def trigamma(x):
    """ψ'(x), for negative x by reflection: (π / sin πx)² - ψ'(1 - x). The primitive is infinite below -9.

    For large x it is 1/x + 1/2x², of which the primitive computes powers that vanish before it does.
    """
    reflected = lax.bitwise_and(lax.lt(x, const(x, 0)), lax.is_finite(x))
    value = lax.polygamma(full_like(x, 1), lax.select(reflected, sub(const(x, 1), x), x))
    from_pole = lax.select(reflected, sub(x, lax.round(x)), full_like(x, 0.5))
    squared = lax.square(div(const(x, math.pi), lax.sin(mul(const(x, math.pi), from_pole))))
    far = lax.gt(x, const(x, 1 / float(jnp.finfo(x.dtype).eps)))
    r = div(full_like(x, 1), lax.select(far, x, full_like(x, 1)))
    value = lax.select(far, mul(r, add(const(x, 1), mul(r, const(x, 0.5)))), value)
    return lax.select(reflected, sub(squared, value), value)


# Log density's derivative in a parameter, the score, is log t less its mean.


def interior(f, low, high):
    """``f`` of parameters and x where x is between its bounds, 0 elsewhere; NaN for what is not a distribution."""

    @in_single
    def guarded(*operands):
        *parameters, x = operands
        inside = lax.bitwise_and(lax.gt(x, const(x, low)), lax.lt(x, const(x, high)))
        value = lax.select(inside, f(*parameters, lax.select(inside, x, full_like(x, 0.5))), full_like(x, 0))
        valid = lax.bitwise_and(lax.ge(x, const(x, low)), lax.le(x, const(x, high)))
        for a in parameters:
            valid = lax.bitwise_and(valid, lax.gt(a, const(a, 0)))
        return lax.select(valid, value, full_like(x, np.nan))

    return guarded


@functools.partial(interior, low=0, high=np.inf)
def igamma_curvature(a, x):
    """d²P(a, x)/da²"""
    mean, spread = sub(lax.digamma(a), log(x)), trigamma(a)
    return gamma_tail(a, x, mul(x, gamma_density(a, x)), lambda log_t: jnp.square(log_t - mean) - spread)


def beta_slope(a, b, x, score):
    density = mul(mul(x, sub(const(x, 1), x)), beta_density(a, b, x))
    return beta_tail(a, b, x, density, score)


@functools.partial(interior, low=0, high=1)
def betainc_slope_a(a, b, x):
    mean = sub(sub(lax.digamma(a), lax.digamma(add(a, b))), log(x))
    return beta_slope(a, b, x, lambda log_t, _: log_t - mean)


@functools.partial(interior, low=0, high=1)
def betainc_slope_b(a, b, x):
    mean = sub(sub(lax.digamma(b), lax.digamma(add(a, b))), lax.log1p(neg(x)))
    return beta_slope(a, b, x, lambda _, log_rest: log_rest - mean)


gamma_family = {
    lax.lgamma_p: formula(lambda ct, x: mul(ct, lax.digamma(x))),
    lax.digamma_p: formula(lambda ct, x: mul(ct, trigamma(x))),
    lax.polygamma_p: by_slopes(
        x_slope=raising(ValueError, "polygamma has no derivative with respect to its order m; differentiate by x only"),
        y_slope=lambda x, y: lax.polygamma(add(x, const(x, 1)), y),
    ),
    lax.zeta_p: by_slopes(
        x_slope=raising(NotImplementedError, "zeta(x, q) has no derivative with respect to x; differentiate by q only"),
        y_slope=lambda x, y: neg(mul(x, lax.zeta(add(x, const(x, 1)), y))),
    ),
    lax.igamma_p: by_slopes(
        x_slope=lambda x, y: lax.igamma_grad_a(x, y),
        y_slope=lambda x, y: gamma_density(x, y),
    ),
    lax.igammac_p: by_slopes(
        x_slope=lambda x, y: neg(lax.igamma_grad_a(x, y)),
        y_slope=lambda x, y: neg(gamma_density(x, y)),
    ),
    # By symmetry of the second derivatives of igamma, the slope in its x is that of the density in a.
    lax.igamma_grad_a_p: by_slopes(
        x_slope=lambda x, y: igamma_curvature(x, y),
        y_slope=lambda x, y: mul(gamma_density(x, y), sub(log(y), lax.digamma(x))),
    ),
    lax.regularized_incomplete_beta_p: by_slopes(
        x_slope=lambda x, y, z: betainc_slope_a(x, y, z),
        y_slope=lambda x, y, z: betainc_slope_b(x, y, z),
        z_slope=lambda x, y, z: beta_density(x, y, z),
    ),
}

# Samples of the gamma distribution move with its shape parameter a along their quantile.


def sample_slope(y, out, *, log_space):
    """dx/da of a sample x, or d(log x)/da of its logarithm.

    A tiny sample's probability is x^a / Γ(a + 1), so that d(log x)/da = (ψ(a + 1) - log x) / a, whether or not x itself
    underflows: at a = 1e-3, 92% of float32's samples do, and from x alone their slopes come out up to 99% too small.
    """
    if not log_space:
        return lax.random_gamma_grad(y, out)

    def tiny(a, log_x):
        return div(sub(lax.digamma(add(a, const(a, 1))), log_x), a)

    def other(a, log_x):
        x = exp(log_x)
        return div(lax.random_gamma_grad(a, x), x)

    is_tiny = lax.lt(out, const(out, math.log(jnp.finfo(out.dtype).eps)))
    return piecewise(is_tiny, tiny, other, [1, 0], y, out)


samples = {
    random_gamma_p: formula(None, TIMES_SLOPE["y_slope"], y_slope=sample_slope),
}

# Error functions.


# Beyond 40, e^-x² is 0 in any precision, and so is its slope; from x itself that is inf * 0.


def gaussian(x, scale):
    return mul(const(x, scale), exp(neg(lax.square(lax.min(lax.abs(x), const(x, 40))))))


error_functions = {
    lax.erf_p: formula(lambda ct, x: mul(ct, gaussian(x, 2 / math.sqrt(math.pi)))),
    lax.erfc_p: formula(lambda ct, x: mul(ct, gaussian(x, -2 / math.sqrt(math.pi)))),
    lax.erf_inv_p: formula(lambda ct, out: mul(ct, mul(const(out, math.sqrt(math.pi) / 2), exp(lax.square(out))))),
}

# Exponentially scaled Bessel functions, i_n(x) = e^-|x| I_n(x): I_0' = I_1 and I_1' = I_0 - I_1 / x. At 0 they have the
# slopes to the right, as |x| has, so that those of e^|x| i_n(x) are right to all orders.

ASYMPTOTIC = 100.0


def hankel_coefficient(k, order):
    """a_k of I_n(x) ~ e^x / √(2πx) Σ (-1)^k a_k x^-k"""
    return math.prod((4 * order**2 - (2 * j - 1) ** 2) / (8 * j) for j in range(1, k + 1))


GAP = [(-1) ** k * (hankel_coefficient(k, 0) - hankel_coefficient(k, 1)) for k in range(1, 9)]
#: of I_1(x) / x in x²
RATIO = [0.5 / (4**k * math.factorial(k) * math.factorial(k + 1)) for k in range(9)]


def is_beyond(x, bound):
    return lax.gt(lax.abs(x), const(x, bound))


def side(x):
    return lax.select(lax.ge(x, const(x, 0)), full_like(x, 1), full_like(x, -1))


def asymptotic_gap(x):
    """i_0 - i_1 at |x|. It is i_0 / 2x, and the difference of the two is 2x ε off."""
    x = lax.abs(x)
    r = div(full_like(x, 1), x)
    return mul(mul(r, power_series(r, GAP)), mul(const(x, 1 / math.sqrt(2 * math.pi)), lax.rsqrt(x)))


@in_single
def bessel_i0e_slope(x):
    return piecewise(
        is_beyond(x, ASYMPTOTIC),
        lambda x: neg(mul(side(x), asymptotic_gap(x))),
        lambda x: sub(lax.bessel_i1e(x), mul(side(x), lax.bessel_i0e(x))),
        [ASYMPTOTIC],
        x,
    )


@in_single
def bessel_i1e_slope(x):
    gap = piecewise(
        is_beyond(x, ASYMPTOTIC),
        asymptotic_gap,
        lambda x: sub(lax.bessel_i0e(x), mul(side(x), lax.bessel_i1e(x))),
        [ASYMPTOTIC],
        x,
    )
    ratio = piecewise(
        is_beyond(x, 1.0),
        lambda x: div(lax.bessel_i1e(x), x),
        lambda x: mul(exp(neg(mul(side(x), x))), power_series(lax.square(x), RATIO)),
        [1],
        x,
    )
    return sub(gap, ratio)


bessel = {
    lax.bessel_i0e_p: by_slopes(x_slope=lambda x: bessel_i0e_slope(x)),
    lax.bessel_i1e_p: by_slopes(x_slope=lambda x: bessel_i1e_slope(x)),
}

rules = {**gamma_family, **samples, **error_functions, **bessel}
