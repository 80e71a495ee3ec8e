"""Special functions beside JAX's, and beside float64 over wide ranges of float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.rules.against_jax import assert_agrees, assert_agrees_with_differences, assert_close


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


signed = np.array([-150.0, -2.3, -0.4, 0.3, 2.5, 15.0])
positive = np.array([0.1, 0.7, 1.0, 2.5, 20.0, 300.0])
unit = np.array([0.01, 0.2, 0.4, 0.5, 0.8, 0.99])

unary = {
    "lgamma": (lax.lgamma, positive),
    "digamma": (lax.digamma, positive),
    "erf": (lax.erf, signed),
    "erfc": (lax.erfc, signed),
    "erf_inv": (lax.erf_inv, unit),
    "bessel_i0e": (lax.bessel_i0e, signed),
    "bessel_i1e": (lax.bessel_i1e, signed),
}


@pytest.mark.parametrize(("f", "x"), unary.values(), ids=unary.keys())
def test_a_function_of_one_operand_agrees_with_jax(double, f, x):
    assert_agrees(f, x, tolerance=1e-13)


binary = {
    "polygamma": lambda x: lax.polygamma(jnp.full_like(x, 2.0), x),
    "igamma in x": lambda x: lax.igamma(positive[::-1].copy(), x),
    "igammac in x": lambda x: lax.igammac(positive, 1.1 * x),
    "betainc in x": lambda x: lax.betainc(jnp.full_like(x, 2.0), jnp.full_like(x, 3.5), x / 301),
}


@pytest.mark.parametrize("f", binary.values(), ids=binary.keys())
def test_a_function_of_several_operands_agrees_with_jax(double, f):
    assert_agrees(f, positive, tolerance=1e-10)


@pytest.mark.parametrize("f", [lax.igamma, lax.igammac])
def test_incomplete_gamma_functions_agree_with_jax_in_both_operands(double, f):
    assert_agrees(f, positive, 1.1 * positive, second=False, tolerance=1e-10)


def test_a_broadcast_operand_gets_the_sum(double):
    a = np.array(2.5)
    assert_agrees(lambda a: lax.igamma(a, positive[:3]), a, second=False)
    assert_agrees(lambda x: lax.igamma(jnp.expand_dims(positive[:3], 0), x), positive.reshape(6, 1)[:3], second=False)


def test_zeta_has_a_derivative_in_its_shift(double):
    assert_agrees_with_differences(lambda q: lax.zeta(jnp.full_like(q, 2.5), q), positive)


def test_the_slope_in_a_of_igamma_has_a_derivative_in_x(double):
    assert_agrees_with_differences(lambda x: lax.igamma_grad_a(positive, x), 1.1 * positive, tolerance=1e-6)


@pytest.mark.parametrize(("f", "i", "error"), [
    (lax.polygamma, 0, ValueError),
    (lax.zeta, 0, NotImplementedError),
])  # fmt: skip
def test_an_operand_without_derivative_is_refused_as_jax_refuses_it(f, i, error):
    args = [0.5] * (3 if f is lax.betainc else 2)
    for grad in (jax.grad, fg.grad):
        with pytest.raises(error):
            grad(f, i)(*args)
    fg.grad(f, len(args) - 1)(*args)


# The ends of the domains.

ends = np.array([0, 1, 2, 0.5, 17, 1e-30, 1e30, np.inf, -np.inf, -1, -2.5], np.float32)


@pytest.mark.parametrize("f", [*(f for f, _ in unary.values()), lax.igamma, lax.igammac, lax.betainc])
@pytest.mark.parametrize("order", [1, 2])
def test_no_nan_where_jax_has_none(f, order):
    count = 1 if f in [g for g, _ in unary.values()] else 3 if f is lax.betainc else 2
    args = [x.ravel() for x in np.meshgrid(*[ends[:8] if count == 3 else ends] * count)]

    def slopes(grad):
        g = f
        for _ in range(order):
            g = grad(g, count - 1)
        return np.asarray(jax.jit(jax.vmap(g))(*args))

    got, expected = slopes(fg.grad), slopes(jax.grad)
    # JAX's second derivative of betainc at b = 1e30, x = 1e-30 is 0, where the first is 1e29 and more.
    overflows = (args[1] == 1e30) & (args[2] == 1e-30) if (count, order) == (3, 2) else False
    assert not np.any(np.isnan(got) & ~np.isnan(expected) & np.logical_not(overflows))


@pytest.mark.parametrize(("f", "args", "slope"), [
    (lax.igamma, (1.0, 0.0), 1.0),
    (lax.igamma, (2.0, np.inf), 0.0),
    (lax.igamma, (20.0, np.inf), 0.0),
    (lax.betainc, (1.0, 3.0, 0.0), 3.0),
    (lax.betainc, (3.0, 1.0, 1.0), 3.0),
])  # fmt: skip
def test_densities_are_finite_at_the_ends_where_jax_has_nan(f, args, slope):
    assert np.isnan(jax.grad(f, len(args) - 1)(*args))
    np.testing.assert_allclose(fg.grad(f, len(args) - 1)(*args), slope, rtol=1e-6)


# Float32 over wide ranges.


def spread(low, high, count=500):
    return np.exp(np.random.default_rng(0).uniform(np.log(low), np.log(high), count)).astype(np.float32)


def largest_error(slope, *args):
    """Of ``slope`` in float32, relative to float64."""
    with jax.enable_x64(True):
        exact = np.asarray(jax.jit(slope)(*[x.astype(np.float64) for x in args]))
    found = np.asarray(jax.jit(slope)(*args), np.float64)
    told = np.abs(exact) > 1e-30
    return np.max(np.abs(found[told] / exact[told] - 1))


def slope_of(f, i, grad):
    return jax.vmap(grad(f, i))


def test_the_slope_of_igamma_is_accurate_in_float32_for_large_a():
    a = spread(1e-3, 1e6)
    x = a * np.exp(np.minimum(1, 2 / np.sqrt(a)) * np.random.default_rng(1).normal(size=a.shape)).astype(np.float32)
    assert largest_error(slope_of(lax.igamma, 1, fg.grad), a, x) < 5e-5
    assert largest_error(slope_of(lax.igamma, 1, jax.grad), a, x) > 1e-1


def test_the_slope_of_betainc_is_accurate_in_float32_for_large_a_and_b():
    a, b = spread(1e-1, 1e5), spread(1e-1, 1e5)[::-1].copy()
    x = np.clip(np.random.default_rng(1).beta(a, b), 1e-20, 1 - 1e-6).astype(np.float32)
    assert largest_error(slope_of(lax.betainc, 2, fg.grad), a, b, x) < 1e-4
    assert largest_error(slope_of(lax.betainc, 2, jax.grad), a, b, x) > 1e-2


@pytest.mark.parametrize(("f", "roots"), [(lax.bessel_i0e, []), (lax.bessel_i1e, [1.54])])
def test_the_slopes_of_bessel_functions_are_accurate_in_float32_for_large_x(f, roots):
    x = spread(1e-6, 1e8)
    x = x[[all(abs(x - root) > 0.1 for root in roots) for x in x]]
    assert largest_error(slope_of(f, 0, fg.grad), x) < 5e-5
    assert largest_error(slope_of(f, 0, jax.grad), x) > 1e-1


def test_the_second_derivative_of_i1e_is_accurate_near_zero():
    # e^-x I_1(x) = x/2 - x^2/2 + ...
    np.testing.assert_allclose(fg.grad(fg.grad(lax.bessel_i1e))(1e-6), -1, rtol=1e-4)


def test_the_slope_of_digamma_is_finite_between_its_poles():
    x = np.float32([-0.5, -9.977, -10.02, -100.25])
    slope = (np.pi / np.sin(np.pi * np.float64(x))) ** 2 - np.asarray(
        [np.sum(1 / (1 - np.float64(v) + np.arange(10**6)) ** 2) + 1e-6 for v in x]
    )
    np.testing.assert_allclose(jax.vmap(fg.grad(lax.digamma))(x), slope, rtol=2e-3)
    assert not np.isfinite(jax.grad(lax.digamma)(x[1]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_give_the_slopes_of_float32(dtype):
    a, x = jnp.array([30.0, 100.0], dtype), jnp.array([32.0, 90.0], dtype)
    got = jax.vmap(fg.grad(lax.igamma, 1))(a, x)
    wide = jax.vmap(fg.grad(lax.igamma, 1))(a.astype(np.float32), x.astype(np.float32))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, wide.astype(dtype))


# Samples.


@pytest.mark.parametrize("sample", [jax.random.gamma, jax.random.loggamma])
def test_gamma_samples_move_with_their_shape_parameter_as_in_jax(sample):
    a = jnp.array([0.3, 1.0, 5.0, 40.0])

    def f(a):
        return jnp.sum(jnp.sin(sample(jax.random.key(0), a)))

    assert_close(fg.grad(f)(a), jax.grad(f)(a), 1e-5)


def test_samples_too_small_for_float32_have_the_derivative_of_their_logarithm():
    # log x = log(u) / a and little else, so that a d(log x)/da is -log x.
    a = jnp.full(20, 1e-3)
    log_x, pullback = fg.vjp(lambda a: jax.random.loggamma(jax.random.key(0), a), a)
    (slope,) = pullback(jnp.ones(20))
    assert (log_x < -110).any()
    np.testing.assert_allclose(a * slope, -log_x - np.euler_gamma, rtol=1e-3, atol=5e-3)
