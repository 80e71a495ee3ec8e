"""Slopes at numbers large and small, at zeros and at single points: right where JAX's overflow, vanish or cancel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax import lax
from jax.scipy import special

import funcgrad as fg
from tests.agreement import as_users_compile, assert_same

LARGE, SMALL = np.float32(1e25), np.float32(1e-30)
X = np.array([[0.3, -1.2, 2.1, 0.7], [1.4, 0.2, -0.6, -2.2], [0.9, 1.1, 0.4, -0.1]])


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def both(f, *args):
    """``f`` run eagerly and jitted, which must agree: XLA may multiply divisors."""
    eager, jitted = np.asarray(f(*args)), np.asarray(as_users_compile(f)(*args))
    np.testing.assert_allclose(eager, jitted, rtol=1e-5)
    return jitted


def second(f):
    return fg.grad(lambda x: jnp.sum(fg.grad(f)(x)))


# Squares that overflow or vanish.


@pytest.mark.parametrize("scale", [LARGE, SMALL, np.float32(1e-15)])
def test_arctan2_has_slopes_of_any_scale(scale):
    x, y = 3 * scale, 4 * scale
    np.testing.assert_allclose(both(fg.grad(jnp.arctan2), x, y) * scale, 0.16, rtol=1e-5)
    np.testing.assert_allclose(both(fg.grad(jnp.arctan2, 1), x, y) * scale, -0.12, rtol=1e-5)


def test_arctan2_has_curvature_where_squares_vanish():
    hessian = both(fg.hessian(lambda p: jnp.arctan2(p[0], p[1])), np.float32([3e-18, 4e-18]))
    np.testing.assert_allclose(hessian * np.float32(1e-36), [[-0.0384, -0.0112], [-0.0112, 0.0384]], rtol=1e-4)


def test_arctan2_of_infinity_is_flat():
    assert both(fg.grad(jnp.arctan2), np.float32(np.inf), np.float32(1)) == 0


@pytest.mark.parametrize(("f", "x", "slope", "curvature"), [
    (lambda x: jnp.arcsinh(x) * 1e20, 4e20, 0.25, None),
    (jnp.arcsinh, 4e15, 2.5e-16, -6.25e-32),
    (jnp.arctan, 1e11, None, -2e-33),
    (lambda x: 1e30 * jnp.arctan(x), 1e25, 1e-20, None),
    (lambda x: 1e30 * jnp.reciprocal(x), 1e25, -1e-20, None),
    (lambda x: 1e25 * lax.rsqrt(x), 1e30, -5e-21, None),
    (jnp.arctanh, 1e-10, 1, 2e-10),
    (lax.digamma, 1e25, 1e-25, None),
    (lax.lgamma, 1e20, None, 1e-20),
    (jax.nn.soft_sign, 1e10, 1e-20, -2e-30),
    (jax.nn.mish, 2e38, 1, None),
])  # fmt: skip
def test_no_power_overflows_or_vanishes_before_the_slope_does(f, x, slope, curvature):
    x = np.float32(x)
    if slope is not None:
        np.testing.assert_allclose(both(fg.grad(f), x), slope, rtol=1e-5)
    if curvature is not None:
        np.testing.assert_allclose(both(second(f), x), curvature, rtol=1e-5)


def test_exp2_has_a_slope_at_the_top_of_its_range():
    assert np.isfinite(both(fg.grad(lambda x: 1.2 * lax.exp2(x)), np.float32(127.9)))


@pytest.mark.parametrize("scale", [1, LARGE, SMALL, np.float32(3e38)])
@pytest.mark.parametrize(("x", "y"), [(1, 1), (-1, 1), (0.25, 1), (1, 1e-4), (0, 1)])
def test_hypot_has_slopes_and_curvatures_where_its_operands_are_equal_and_where_they_are_not(x, y, scale):
    at = scale * np.float32(x), scale * np.float32(y)
    norm = np.hypot(x, y)
    np.testing.assert_allclose([both(fg.grad(jnp.hypot, i), *at) for i in (0, 1)], [x / norm, y / norm], rtol=1e-5)
    if scale < 1e38:
        curvatures = [
            [both(fg.grad(lambda *at, i=i: scale * fg.grad(jnp.hypot, i)(*at), k), *at) for k in (0, 1)] for i in (0, 1)
        ]
        np.testing.assert_allclose(curvatures, np.array([[y * y, -x * y], [-x * y, x * x]]) / norm**3, rtol=1e-5)


def test_hypot_has_slopes_at_its_ends_and_takes_all_that_it_takes_in_jax():
    inf = np.float32(np.inf)
    diagonal = 0.5**0.5
    for at, right in (
        ((inf, 1), (1, 0)), ((1, -inf), (0, -1)), ((-inf, inf), (-diagonal, diagonal)), ((0, 0), (0.5, 0.5)),
    ):  # fmt: skip
        np.testing.assert_allclose([both(fg.grad(jnp.hypot, i), *np.float32(at)) for i in (0, 1)], right, rtol=1e-6)
    assert_same(fg.grad(jnp.hypot, (0, 1))(3.0, 4.0), jax.grad(jnp.hypot, (0, 1))(3.0, 4.0), 1e-6)
    f = lambda x, y: jnp.sum(jnp.cos(jnp.hypot(x, 2 * y)))  # noqa: E731
    x, y = np.float32(X), jnp.bfloat16(X[:, :1])
    assert_same(fg.grad(f, (0, 1))(x, y), jax.grad(f, (0, 1))(x, y), 1e-2)
    assert_same(fg.grad(f)(x, 3), jax.grad(f)(x, 3), 1e-5)


@pytest.mark.parametrize("f", [jnp.logaddexp, jnp.logaddexp2])
def test_sums_of_exponentials_have_shares_where_they_are_infinite(f):
    inf = np.float32(np.inf)
    at = np.float32([[inf, 1], [1, inf], [inf, inf], [-inf, -inf], [-inf, 1], [inf, -inf]]).T
    right = [1, 0, 0.5, 0.5, 0, 1]
    assert_same(both(jax.vmap(fg.grad(f)), *at), np.float32(right))
    assert_same(both(jax.vmap(fg.grad(f, 1)), *at), 1 - np.float32(right))
    assert_same(both(jax.vmap(fg.hessian(lambda p: f(*p))), at.T)[:2], np.zeros((2, 2, 2), np.float32))
    shapes = lambda x, y: jnp.sum(jnp.cos(f(x, f(2.0, jax.vmap(f, (0, None))(x[:, 0], y)))))  # noqa: E731
    x, y = np.float32(X[:, :3]), np.float32(0.3)
    assert_same(fg.grad(shapes, (0, 1))(x, y), jax.grad(shapes, (0, 1))(x, y), 1e-5)
    of_complex = lambda z: jnp.sum(jnp.abs(jnp.logaddexp(z, 1j * z)))  # noqa: E731
    z = np.complex64([0.3 + 1j, -2j])
    assert_same(fg.grad(of_complex)(z), jax.grad(of_complex)(z), 1e-5)


# Norms.

NORMS = {
    "2": {},
    "of all": {"axis": None},
    "rows": {"axis": 1},
    "kept": {"axis": 0, "keepdims": True},
    "fro": {"ord": "fro"},
    "axes": {"axis": (1, 0)},
    "1": {"ord": 1},
    "inf": {"ord": np.inf, "axis": 0},
    "-inf": {"ord": -np.inf},
    "nuc": {"ord": "nuc"},
    "matrix 2": {"ord": 2},
    "3": {"ord": 3, "axis": 0},
    "2.5": {"ord": 2.5, "axis": 1, "keepdims": True},
    "0.5": {"ord": 0.5, "axis": 1},
    "-2": {"ord": -2, "axis": 1},
}


@pytest.mark.parametrize("scale", [1, LARGE, SMALL])
@pytest.mark.parametrize("how", NORMS.values(), ids=NORMS.keys())
def test_a_norm_has_the_same_slope_at_all_scales(how, scale, double):
    def total(x):
        out = jnp.linalg.norm(x, **how)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size, dtype=x.dtype)).reshape(out.shape))

    np.testing.assert_allclose(both(fg.grad(total), np.float32(X * scale)), jax.grad(total)(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"ord": 3}], ids=["2", "3"])
@pytest.mark.parametrize("scale", [1, 1e18, 1e-18])
def test_a_norm_has_curvature_at_all_scales(how, scale, double):
    f = lambda x: jnp.linalg.norm(x, axis=0, **how)[1]  # noqa: E731
    weighted = lambda grad: grad(lambda x: jnp.sum(jnp.sin(jnp.asarray(X, x.dtype)) * grad(f)(x)))  # noqa: E731
    got, right = both(weighted(fg.grad), np.float32(X * scale)), jax.jit(weighted(jax.grad))(X)
    np.testing.assert_allclose(np.float64(got) * scale, right, rtol=1e-4, atol=1e-6)


def test_a_complex_norm_has_a_slope_at_all_scales(double):
    z = X + 1j * X[::-1]
    for how in ({}, {"ord": 3, "axis": 0}):
        f = lambda z: jnp.sum(jnp.linalg.norm(z, **how))  # noqa: B023, E731
        np.testing.assert_allclose(both(fg.grad(f), np.complex64(z * LARGE)), jax.grad(f)(z), rtol=1e-5)


@pytest.mark.parametrize(("axis", "keepdims"), [(0, False), (1, True)])
def test_a_batch_of_norms_is_known_as_norms(axis, keepdims):
    f = jax.vmap(lambda x: jnp.linalg.norm(x, axis=0, keepdims=keepdims), in_axes=axis)
    x = np.float32(X)
    right = fg.grad(lambda x: jnp.sum(f(x)))(x)
    np.testing.assert_allclose(both(fg.grad(lambda x: jnp.sum(f(x))), x * LARGE), right, rtol=1e-5)


def test_a_batch_of_gradients_of_norms_keeps_one_branch():
    assert " cond[" in str(jax.make_jaxpr(jax.vmap(fg.grad(jnp.linalg.norm)))(np.float32(X)))
    mixed = np.float32([[3, 4], [3e25, 4e25], [3e-30, 4e-30]])
    np.testing.assert_allclose(both(jax.vmap(fg.grad(jnp.linalg.norm)), mixed), [[0.6, 0.8]] * 3, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_a_norm_in_half_precision_has_a_slope_where_its_squares_overflow(dtype):
    np.testing.assert_allclose(np.float32(fg.grad(jnp.linalg.norm)(jnp.full((3, 3), 300, dtype))), 1 / 3, rtol=1e-2)


def test_a_norm_of_zeros_has_the_slope_that_jax_gives_it():
    assert np.all(np.isnan(fg.grad(jnp.linalg.norm)(jnp.zeros(3))))


def test_a_norm_s_slope_nests_in_jax_s_transforms():
    x = np.float32([3, 4])
    right = jax.hessian(jnp.linalg.norm)(x)
    for hessian in (jax.jacfwd(fg.grad(jnp.linalg.norm)), jax.jacrev(fg.grad(jnp.linalg.norm))):
        np.testing.assert_allclose(hessian(x), right, rtol=1e-5, atol=1e-6)


# Remainders.


@pytest.mark.parametrize(("f", "slope"), [(jnp.fmod, -1025), (jnp.remainder, -1025), (lax.rem, -1025)])
def test_a_remainder_s_quotient_is_not_rounded_up(f, slope, double):
    x, y = 7618.099477185603, 7.4250482233777815
    assert both(fg.grad(lambda y: f(x, y)), y) == slope
    assert both(fg.grad(lambda y: jnp.fmod(-x, y)), y) == -slope


def test_nextafter_moves_with_its_first_operand():
    f = lambda x, y: jnp.sum(lax.nextafter(x, y) * x)  # noqa: E731
    x, y = np.float32([1, 2]), np.float32([3, 0])
    np.testing.assert_allclose(fg.grad(f)(x, y), 2 * x, rtol=1e-6)
    assert fg.grad(f, 1)(x, y).tolist() == [0, 0]


# Single points, and their neighbours.


@pytest.mark.parametrize(("f", "x", "slope", "curvature"), [
    (special.i0, 0.0, 0, 0.5),
    (special.i1, 0.0, 0.5, 0),
    (jnp.i0, 0.0, 0, 0.5),
    (jnp.i0, 1e-300, 5e-301, 0.5),
    (jnp.sinc, 0.0, 0, -np.pi**2 / 3),
    (jnp.sinc, -1.1e-16, np.pi**2 / 3 * 1.1e-16, -np.pi**2 / 3),
    (special.spence, 1.0, -1, 0.5),
    (lambda x: jnp.ldexp(x, 1), 0.0, 2, 0),
])  # fmt: skip
def test_a_function_in_pieces_has_the_derivatives_of_the_whole(f, x, slope, curvature, double):
    for g, right in ((fg.grad(f), slope), (second(f), curvature)):
        np.testing.assert_allclose(both(g, x), right, rtol=1e-12, atol=1e-320)
        np.testing.assert_allclose(jax.jit(jax.vmap(g))(np.full(2, x)), right, rtol=1e-12, atol=1e-320)
        batched = lambda x: jnp.sum(jax.vmap(jax.vmap(f), in_axes=1)(x))  # noqa: E731
    np.testing.assert_allclose(both(fg.grad(batched), np.full((2, 3), x)), slope, rtol=1e-12, atol=1e-320)


@pytest.mark.parametrize("x", [1e-300, 0.1, 0.87, 0.95, 1.12, 1.13, 30.0, 1e300])
def test_spence_and_sinc_are_right_on_both_sides_of_their_series(x, double):
    right = mpmath.log(x) / (1 - mpmath.mpf(x))
    np.testing.assert_allclose(both(fg.grad(special.spence), x), float(right), rtol=1e-12)
    t = mpmath.mpf(x) * 0.57
    right = mpmath.cospi(t) / t - mpmath.sincpi(t) / t
    if 1e-3 < x < 1e3:
        np.testing.assert_allclose(both(fg.grad(jnp.sinc), float(t)), float(right), rtol=1e-11)


def test_ldexp_of_a_batch_beside_one_exponent(double):
    exponents = jnp.arange(3)
    f = jax.vmap(jnp.ldexp, in_axes=(1, 0))
    assert fg.grad(lambda x: jnp.sum(f(x, exponents)))(np.zeros((2, 3))).tolist() == [[1, 2, 4]] * 2
    f = jax.vmap(jnp.ldexp, in_axes=(None, 0))
    assert fg.grad(lambda x: jnp.sum(f(x, exponents)))(np.zeros(2)).tolist() == [7, 7]


# Incomplete functions, in all their parameters.


def gamma(a, x):
    return mpmath.gammainc(a, 0, x, regularized=True)


def beta(a, b, x):
    return mpmath.betainc(a, b, 0, x, regularized=True)


GAMMA = np.array([[0.3, 2.0], [2.5, 1.1], [30.0, 40.0], [400.0, 390.0], [0.01, 0.5]])
BETA = np.array([[2.0, 3.0, 0.4], [0.5, 0.5, 0.3], [20.0, 30.0, 0.5], [1e3, 2e3, 0.34], [5.0, 0.02, 0.9]])


@pytest.mark.parametrize("f", [lax.igamma, lambda a, x: -lax.igammac(a, x)], ids=["igamma", "igammac"])
def test_igamma_has_derivatives_in_both_operands(f, double):
    assert_derivatives(f, gamma, GAMMA)


def test_betainc_has_derivatives_in_all_operands(double):
    assert_derivatives(lax.betainc, beta, BETA)


def test_incomplete_functions_have_derivatives_in_single_precision():
    for f, points in ((lax.igamma, GAMMA), (lax.betainc, BETA)):
        g = jax.jit(lambda *xs: fg.grad(fg.grad(f), 0)(*xs))  # noqa: B023
        single = np.array([g(*np.float32(p)) for p in points])
        with jax.enable_x64(True):
            double = np.array([g(*np.float64(np.float32(p))) for p in points])
        np.testing.assert_allclose(single, double, rtol=1e-4)


def assert_derivatives(f, exact, points):
    count = points.shape[1]
    for i in range(count):
        gradients = jax.jit(jax.vmap(lambda *xs: fg.value_and_grad(fg.grad(f, i), tuple(range(count)))(*xs)))  # noqa: B023
        slope, seconds = gradients(*points.T)
        for j, got in [(None, slope), *enumerate(seconds)]:
            times = [(k == i) + (k == j) for k in range(count)]
            with mpmath.workdps(25):
                right = [float(mpmath.diff(exact, tuple(map(float, p)), tuple(times))) for p in points]
            np.testing.assert_allclose(got, right, rtol=1e-10)


def test_the_ends_of_betainc_are_flat_in_its_parameters(double):
    a, b = np.full(2, 2.0), np.full(2, 3.0)
    for i in (0, 1):
        assert fg.grad(lambda *ab: jnp.sum(lax.betainc(*ab, np.array([0.0, 1.0]))), i)(a, b).tolist() == [0, 0]


# Functions of which JAX's own derivative overflows on the way.


@pytest.mark.parametrize("hermitian", [False, True])
def test_a_pseudoinverse_has_the_same_slope_at_all_scales(hermitian, double):
    matrices = [np.array([[1.0, 2], [2, 7]]), np.array([[1.0, 2], [2, 4]])]
    matrices += [] if hermitian else [np.array([[1.0, 2], [3, 4], [5, 7]]), np.array([[1.0, 3, 5], [2, 4, 7]])]
    for a in matrices:
        weights = np.cos(np.arange(a.size)).reshape(a.shape[::-1])

        def f(a, scale):
            return jnp.sum(jnp.linalg.pinv(a, hermitian=hermitian) * (weights * scale).astype(a.dtype))  # noqa: B023

        right = jax.grad(f)(a, 1.0)
        slope = jax.jit(fg.grad(f))
        for scale in (1, 1e22, 1e-22):
            got = slope(np.float32(a * scale), scale)
            np.testing.assert_allclose(np.float64(got) * scale, right, rtol=1e-4, atol=1e-5 * np.abs(right).max())
        twice = [m.grad(lambda a, m=m: jnp.sum(m.grad(f)(a, 1.0) * weights.T))(a) for m in (fg, jax)]  # noqa: B023
        np.testing.assert_allclose(*twice, rtol=1e-10)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_bessel_functions_have_slopes_at_zero_and_near_it(order, double):
    f = lambda z: jnp.sum(special.bessel_jn(z, v=order) * jnp.cos(jnp.arange(order + 1.0)))  # noqa: E731
    points = np.array([0.0, 1e-10, 0.1, 2.9, 3.1, 10.0, -2.0, -5.0])
    for times, got in enumerate(jax.jit(jax.vmap(lambda z: (fg.grad(f)(z), second(f)(z))))(points), 1):
        right = [float(sum(mpmath.cos(n) * mpmath.besselj(n, z, times) for n in range(order + 1))) for z in points]
        np.testing.assert_allclose(got, right, rtol=1e-12, atol=1e-14)
    single = fg.grad(lambda z: jnp.sum(special.bessel_jn(z, v=2, n_iter=30)[1]))(np.float32([0, 0.1, 8]))
    np.testing.assert_allclose(single, [float(mpmath.besselj(1, z, 1)) for z in (0, 0.1, 8)], rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_infinities_share_what_is_as_infinite_as_they_are(reverse):
    inf = np.inf
    rows = np.float32([
        [inf, 0, inf, 1], [-inf, -inf, 0, -inf], [-inf, -inf, -inf, -inf], [0, inf, 100, inf], [0.3, 0.1, -1, 2],
    ])  # fmt: skip
    ct = np.cos(np.arange(4, dtype=np.float32))
    _, pullback = fg.vjp(lambda x: lax.cumlogsumexp(x, 1, reverse), rows)
    (got,) = jax.jit(pullback)(np.broadcast_to(ct, rows.shape))
    for x, slopes in zip(rows, got, strict=True):
        right = np.zeros(4)
        for j in range(4):
            seen = slice(j, None) if reverse else slice(j + 1)
            top = x[seen].max()
            terms = x[seen] == top if np.isinf(top) else np.exp(x[seen] - top)
            right[seen] += ct[j] * terms / terms.sum()
        np.testing.assert_allclose(slopes, right, rtol=1e-5, atol=1e-6)
