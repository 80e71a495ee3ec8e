"""``fg.rules.accurate``: beside mpmath, in programs, and where it must not take one thing for another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax import lax, nn
from jax.scipy import special
from jax.scipy.stats import norm

import funcgrad as fg
from benchmarks import references, ulps

ACCURATE = fg.rules.accurate
# Compiling takes most of the time.


def grad(f):
    return fg.grad(f, rules=ACCURATE)


def of_sum(f, rules=ACCURATE):
    return fg.grad(lambda *xs: jnp.sum(f(*xs)), rules=rules)


LEAN = [
    "lax.exp2", "lax.expm1", "lax.logistic", "lax.tanh", "lax.tan", "lax.asin", "lax.acos", "lax.atan", "lax.sinh",
    "lax.asinh", "lax.acosh", "lax.atanh", "lax.rsqrt", "lax.cbrt", "lax.integer_pow(x, -7)", "lax.pow(x, -100.5)",
    "lax.atan2(1.5, x)", "lax.erf", "jnp.logaddexp(x, 0.75)", "jnp.logaddexp2(x, 0)", "nn.softplus", "nn.silu",
    "nn.gelu", "nn.selu", "special.logit", "special.ndtr",
]  # fmt: skip


@pytest.mark.parametrize("name", LEAN)
def test_first_and_second_derivatives_are_right_to_4_ulp(name):
    (case,) = (case for case in ulps.CASES if case.name == name)
    for row in ulps.sweep(case, 6, ["accurate"], [np.float32]):
        assert row.worst["accurate"][0] <= 4, row


def test_tails_are_right_in_double_precision_too():
    with jax.enable_x64(True):
        e = np.exp(-40.0)
        f = jax.jit(
            lambda x, y: (grad(nn.sigmoid)(x), grad(jnp.tanh)(y), grad(grad(nn.softplus))(x), grad(jnp.expm1)(-x))
        )
        np.testing.assert_allclose(f(40.0, 20.0), [e, 4 * e, e, e], rtol=1e-15)
        assert fg.grad(jnp.tanh)(20.0) == 0
        np.testing.assert_allclose(grad(nn.selu)(-700.0), 1.7334290832552396e-304, rtol=1e-15)


def test_the_slope_of_the_normal_distributions_logarithm_is_right_to_third_order():
    points = np.array([-1e3, -40.0, -24.0, -5.0, -0.5, 0.0, 1.0, 5.0])
    third = jax.jit(of_sum(of_sum(of_sum(norm.logcdf))))
    with mp.workprec(400), jax.enable_x64(True):
        ratio = lambda x: mp.exp(-(x**2) / 2) / mp.sqrt(2 * mp.pi) / (mp.erfc(-x / mp.sqrt(2)) / 2)  # noqa: E731
        hs = [(mp.mpf(float(x)), ratio(mp.mpf(float(x)))) for x in points]
        true = [h * ((h + x) * (2 * h + x) - 1) for x, h in hs]
        for found, t in zip(np.asarray(third(points)), true, strict=True):
            assert ulps.ulps(found, t, np.float64) <= 4


@pytest.mark.parametrize("f", [nn.softmax, nn.log_softmax])
def test_a_softmax_far_out(f):
    x, e = np.array([60.0, 0.0], np.float32), np.exp(-60.0)
    for program in (f, jax.jit(f), lambda x: jax.vmap(f)(x[None])[0], jax.checkpoint(lambda x: f(x))):
        found = grad(lambda x, p=program: p(x)[0])(x)
        np.testing.assert_allclose(found, [e, -e], rtol=1e-6)
    assert fg.grad(lambda x: f(x)[0])(x)[0] == 0


def test_a_softmax_of_any_shape_is_what_it_was():
    x = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    for f in (nn.softmax, nn.log_softmax):
        for axis in (0, -1, (0, 2)):
            g = lambda x, f=f, axis=axis: f(x, axis) * weights  # noqa: E731
            np.testing.assert_allclose(of_sum(g)(x), of_sum(g, fg.rules.default)(x), rtol=1e-4, atol=1e-6)
            curved = [of_sum(lambda x, r=r: of_sum(g, r)(x) ** 2, r)(x) for r in (ACCURATE, fg.rules.default)]  # noqa: B023
            np.testing.assert_allclose(*curved, rtol=1e-3, atol=1e-5)


# A function that leaves nothing but its operations, at -6: its first derivative to a few ulp.

PROGRAMS = {
    "as it is": lambda f: f,
    "jit": jax.jit,
    "vmap": jax.vmap,
    "vmap of jit": lambda f: jax.vmap(jax.jit(f)),
    "checkpoint": lambda f: jax.checkpoint(lambda x: f(x)),
    "scan": lambda f: lambda x: lax.scan(lambda c, _: (c + f(x), None), jnp.zeros_like(x), None, 1)[0],
    "cond": lambda f: lambda x: lax.cond(x[0] < 0, f, lambda x: x, x),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", ["nn.gelu", "special.ndtr"])
def test_functions_are_known_by_their_operations_in_programs(name, program):
    (case,) = (case for case in ulps.CASES if case.name == name)
    x = np.array([-6.0, -3.5], np.float32)
    true = [references.derivatives(case.reference, float(p))[0] for p in x]
    f = PROGRAMS[program](case.f)
    for found in (of_sum(f)(x), jax.jit(of_sum(f))(x)):
        assert max(ulps.ulps(v, t, np.float32) for v, t in zip(np.asarray(found), true, strict=True)) <= 4


def test_forward_over_reverse_is_as_accurate():
    x, one = jnp.float32(-60.0), jnp.float32(1)
    np.testing.assert_allclose(fg.hvp(nn.softplus, (x,), (one,), rules=ACCURATE), np.exp(-60.0), rtol=3e-7)
    _, curvature = jax.jvp(grad(jnp.tanh), (jnp.float32(30),), (one,))
    np.testing.assert_allclose(curvature, -8 * np.exp(-60.0), rtol=3e-7)


ALIKE = {
    "another number": lambda x: x * (0.5 * (2.0 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))),
    "another power": lambda x: x * (0.5 * (1.0 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**2)))),
    "another factor": lambda x: jnp.sin(x) * (0.5 * (1.0 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))),
    "a difference the other way": lambda x: 0.5 * x * (lax.erfc(-x * np.float32(np.sqrt(0.5))) - 2.0),
    "a sum over another axis": lambda x: x / jnp.sum(x, 0)[:, None],
    "the sum of something else": lambda x: x / jnp.sum(jnp.exp(x), 1, keepdims=True),
    "exponentials of something else": lambda x: x - jnp.log(jnp.sum(jnp.exp(2 * x), 1, keepdims=True)),
    "exponentials over another axis": lambda x: x - jnp.log(jnp.sum(jnp.exp(x), 0))[:, None],
    "rows added to columns": lambda x: jax.vmap(jnp.logaddexp, (0, 1))(x, x),
    "all pairs": lambda x: jax.vmap(jax.vmap(jnp.logaddexp, (None, 0)), (0, None))(x[0], x[1]),
}  # fmt: skip


@pytest.mark.parametrize("f", ALIKE.values(), ids=ALIKE)
def test_what_only_looks_alike_is_differentiated_as_it_is(f):
    x = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32) + 2
    weighted = lambda x: jnp.cos(f(x))  # noqa: E731
    np.testing.assert_allclose(of_sum(weighted)(x), jax.grad(lambda x: jnp.sum(weighted(x)))(x), rtol=1e-4, atol=1e-5)
    jitted = jax.jit(of_sum(jax.jit(weighted)))(x)
    np.testing.assert_allclose(jitted, jax.grad(lambda x: jnp.sum(weighted(x)))(x), rtol=1e-4, atol=1e-5)


def test_other_dtypes_are_taken():
    functions = [jnp.tanh, lambda x: x**1.5, lambda x: x**3, jnp.sqrt, jnp.arcsinh, nn.sigmoid, jnp.exp2]
    for dtype, tolerance in ((jnp.bfloat16, 0.02), (np.float16, 0.003), (np.complex64, 1e-4)):
        x = jnp.array([0.5, 0.75], dtype)
        f = lambda x: jnp.real(sum(f(x) for f in functions if x.dtype != np.complex64 or f is not nn.sigmoid))  # noqa: E731
        found, usual = of_sum(f)(x), of_sum(f, fg.rules.default)(x)
        assert found.dtype == dtype
        np.testing.assert_allclose(*(np.asarray(v, np.complex64) for v in (found, usual)), rtol=tolerance)


def test_powers_of_negative_numbers_and_of_zero():
    x = np.array([-2.0, -1.5, 0.0, 3.0], np.float32)
    for n in (3.0, 2.0, 1.0):
        slope = of_sum(lambda x, n=n: lax.pow(x, jnp.full_like(x, n)))
        np.testing.assert_allclose(slope(x), n * x ** (n - 1), rtol=1e-6)
        np.testing.assert_allclose(of_sum(slope)(x)[x != 0], (n * (n - 1) * x ** (n - 2.0))[x != 0], rtol=1e-6)
    assert np.isnan(of_sum(lambda y: lax.pow(jnp.full_like(y, -2.0), y))(x[3:])).all()


def test_tables_can_be_made_of_it():
    doubled = ACCURATE.override({nn.softplus: lambda ct: 2 * ct})
    assert fg.grad(nn.softplus, rules=doubled)(1.0) == 2
    safe = fg.rules.nan_safe(ACCURATE)
    np.testing.assert_allclose(fg.grad(special.log_ndtr, rules=safe)(1.0), 0.2876, rtol=1e-3)
