"""Functions that bring their own derivative, solves among them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_derivatives import SymbolicZero, linear_call
from jax.experimental.ode import odeint

import funcgrad as fg
from tests.agreement import assert_agrees, assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)
A = np.array([[4.0, 1.0, 0.5], [0.5, 3.0, -1.0], [0.2, 0.1, 5.0]], np.float32)


# custom_gradient and closure_convert.


def test_a_custom_gradient_is_used():
    @jax.custom_gradient
    def f(x):
        return x**2, lambda ct: 10 * ct * x

    assert float(fg.grad(f)(3.0)) == 30 and float(jax.jit(fg.grad(f))(3.0)) == 30
    assert float(fg.grad(fg.grad(f))(3.0)) == 10
    assert_agrees(lambda x: jnp.sum(jax.vmap(f)(x)), V)


def test_a_custom_gradient_of_several_arguments_and_outputs_is_used():
    @jax.custom_gradient
    def f(x, y):
        def pullback(cts):
            return cts["a"] * y, cts["b"] * x * 2

        return {"a": x * y, "b": x + y}, pullback

    assert_agrees(lambda x, y: jnp.sum(f(x, y)["a"] ** 2) + jnp.sum(jnp.sin(f(x, y)["b"])), V, V + 1)


@jax.custom_vjp
def metered(x, total):
    """What it is called with on the way back is added up where the gradient of ``total`` is expected."""
    return 2 * x


metered.defvjp(lambda x, total: (2 * x, total), lambda total, ct: (ct, total + ct + 10))


@jax.custom_vjp
def first(x, y):
    """``x`` with the derivative of ``y``."""
    return x


first.defvjp(lambda x, y: (x, None), lambda _, ct: (None, ct))


def both(x, s):
    return 3 * x, metered(x, s)


def of_both(wrap):
    def f(x, s):
        a, b = wrap(both)(x, s)
        return a + first(b, x)

    return f


def in_scan(x, s):
    return lax.scan(lambda c, _: (1.5 * c + first(metered(c, s), c), None), x, None, length=3)[0]


def carried_by_scan(x, s):
    a, b = lax.scan(lambda c, _: ((1.5 * c[0], metered(c[1], s)), None), (x, x), None, length=3)[0]
    return a + first(b, x)


ZEROS = {
    "alone": lambda x, s: first(metered(x, s), x),
    "one after the other": lambda x, s: first(metered(3 * metered(x, s), s), x),
    "beside another output": of_both(lambda f: f),
    "in jit": of_both(jax.jit),
    "in jit, written out": of_both(lambda f: jax.jit(f, inline=True)),
    "in checkpoint": of_both(jax.checkpoint),
    "in cond": of_both(lambda f: lambda x, s: lax.cond(x > 0, f, lambda x, s: (x, x), x, s)),
    "in vmap": lambda x, s: jnp.sum(jax.vmap(lambda a: of_both(jax.jit)(a, s))(x * jnp.arange(3.0))),
    "in scan": in_scan,
    "carried by scan": carried_by_scan,
    "in fori_loop": lambda x, s: lax.fori_loop(0, 3, lambda i, c: 1.5 * c + first(metered(c, s), c), x),
    "where none of a program is needed": lambda x, s: x + first(jax.jit(metered)(x, s), x),
    "after a rule without derivative": lambda x, s: x + jnp.round(metered(x, s)),
    "where it leads nowhere": lambda x, s: (3 * x, metered(x, s))[0],
}


def one_row_after_the_other(x, s):
    """Newer JAX calls the backward function of a batch once where the zeros are not batched, and not for each row."""
    return sum(of_both(jax.jit)(x * i, s) for i in jnp.arange(3.0))


@pytest.mark.parametrize("where", ZEROS)
def test_a_backward_function_is_called_with_zeros(where):
    """As JAX does: what it returns need not be zero then, such as a scale of numbers in 8 bits."""
    f = ZEROS[where]
    expected = jax.grad(one_row_after_the_other if where == "in vmap" else f, (0, 1))(2.0, 1.0)
    assert_same(fg.grad(f, (0, 1))(2.0, 1.0), expected)
    assert_same(jax.jit(fg.grad(f, (0, 1)))(2.0, 1.0), expected)


def test_a_backward_function_of_symbolic_zeros_is_given_one():
    seen = []
    f = jax.custom_vjp(lambda x: 2 * x)
    f.defvjp(lambda x: (2 * x.value, None), lambda _, ct: (seen.append(type(ct)), (ct,))[1], symbolic_zeros=True)
    assert fg.grad(lambda x: first(f(x), x))(1.0) == 1 and seen == [SymbolicZero]


def test_values_that_a_function_closes_over_can_be_made_arguments():
    def minimize(objective, x):
        converted, consts = jax.closure_convert(objective, x)
        return _minimize(converted, x, *consts)

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def _minimize(objective, x, *consts):
        return x - objective(x, *consts)

    def fwd(objective, x, *consts):
        return _minimize(objective, x, *consts), (x, consts)

    def bwd(objective, residuals, ct):
        x, consts = residuals
        _, pullback = jax.vjp(lambda *consts: objective(x, *consts), *consts)
        return (ct, *pullback(7 * ct))

    _minimize.defvjp(fwd, bwd)
    f = lambda a, x: minimize(lambda x: jnp.sin(a * x), x) ** 2  # noqa: E731
    assert_agrees(f, np.float32(0.7), np.float32(1.3))


def test_a_custom_vjp_rule_with_optimized_remat_agrees():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (2 * ct * jnp.cos(x),), optimize_remat=True)
    assert_agrees(lambda x: jnp.sum(f(x) ** 2), V, second=False)
    assert_agrees(jax.checkpoint(lambda x: jnp.sum(f(x) ** 2)), V, second=False)


def test_cotangents_can_be_clipped_on_their_way():
    """A rule that changes nothing on the way forward, inside a scan inside a checkpoint inside jit."""

    @jax.custom_vjp
    def clip(x):
        return x

    clip.defvjp(lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -1, 1),))
    run = jax.jit(jax.checkpoint(lambda x: lax.scan(lambda c, a: (clip(c * 3) + a, None), x, V)[0]))
    assert_agrees(run, np.float32(0.5), second=False)
    assert float(fg.grad(run)(0.5)) == 3


# linear_call.


def division(x, y):
    """``x / y``, with a transpose that is told."""
    return linear_call(lambda r, x: x / r, lambda r, ct: ct / r, y, x)


def test_a_linear_call_is_pulled_back_by_its_transpose():
    assert_agrees(lambda x: jnp.sum(division(jnp.sin(x), V + 4)), V, second=False)
    wrong = lambda x: linear_call(lambda _, x: 2 * x, lambda _, ct: 100 * ct, (), x)  # noqa: E731
    assert float(fg.grad(wrong)(1.0)) == 100 and float(jax.jit(fg.grad(wrong))(1.0)) == 100


def test_a_linear_call_of_trees_agrees():
    def f(x):
        out = linear_call(
            lambda r, t: {"s": t[0] * r + t[1]}, lambda r, ct: (ct["s"] * r, ct["s"]), V, (jnp.sin(x), 2 * x)
        )
        return jnp.sum(out["s"] * V)

    assert_agrees(f, V, second=False)


def test_a_linear_call_in_a_custom_jvp_rule_is_transposed():
    @jax.custom_jvp
    def f(x):
        return x * 2

    f.defjvp(lambda p, t: (f(*p), division(t[0], jnp.float32(0.25))))
    assert float(fg.grad(f)(1.0)) == 4


# custom_linear_solve.


def solve(a, b, **options):
    matvec = lambda x: a @ x  # noqa: E731
    options.setdefault("transpose_solve", lambda vecmat, b: jnp.linalg.inv(a).T @ b)
    return lax.custom_linear_solve(matvec, b, lambda matvec, b: jnp.linalg.inv(a) @ b, **options)


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
def test_a_linear_solve_agrees(argnums):
    assert_agrees(lambda a, b: jnp.sum(jnp.sin(solve(a, b))), A, V, argnums=argnums, tolerance=1e-5)


def test_a_symmetric_linear_solve_needs_no_transpose():
    def f(a, b):
        return jnp.sum(jnp.sin(solve(a + a.T, b, symmetric=True, transpose_solve=None)))

    assert_agrees(f, A, V, tolerance=1e-5)


def test_a_linear_solve_with_auxiliary_output_agrees():
    def f(a, b):
        inverse = lambda matvec, b: (jnp.linalg.inv(a) @ b, {"steps": 3})  # noqa: E731
        transposed = lambda vecmat, b: (jnp.linalg.inv(a).T @ b, {"steps": 3})  # noqa: E731
        x, aux = lax.custom_linear_solve(lambda x: a @ x, b, inverse, transposed, has_aux=True)
        return jnp.sum(x**2) * aux["steps"]

    assert_agrees(f, A, V, tolerance=1e-5)


def test_a_linear_solve_by_iteration_agrees():
    def f(a, b):
        x, _ = jax.scipy.sparse.linalg.cg(lambda x: a @ x + a.T @ x, b, tol=1e-6)
        return jnp.sum(x**2)

    assert_agrees(f, A, V, second=False, tolerance=1e-4)


def test_how_a_system_is_solved_is_not_differentiated():
    def f(b):
        return jnp.sum(
            lax.custom_linear_solve(
                lambda x: 2 * x,
                b,
                lambda matvec, b: lax.while_loop(lambda x: jnp.any(matvec(x) > b), lambda x: x * 0.5, b),
                lambda vecmat, b: b / 2,
            )
        )

    assert fg.grad(f)(V).tolist() == [0.5] * 3


def test_a_linear_solve_without_transpose_is_refused_on_the_way_back():
    f = lambda b: jnp.sum(solve(jnp.asarray(A), b, transpose_solve=None))  # noqa: E731
    assert np.isfinite(f(V))
    for grad in (jax.grad, fg.grad):
        with pytest.raises(TypeError, match="transpose_solve required"):
            grad(f)(V)


def test_a_batched_linear_solve_agrees():
    def f(a, b):
        return jnp.sum(jax.vmap(solve, (None, 0))(a, b) ** 2)

    assert_agrees(f, A, np.stack([V, 2 * V]), second=False, tolerance=1e-5)


# custom_root.


def cube_root(a):
    """By bisection, which has no derivative of its own."""

    def bisect(f, guess):
        def half(_, bounds):
            low, high = bounds
            middle = (low + high) / 2
            return jnp.where(f(middle) > 0, low, middle), jnp.where(f(middle) > 0, middle, high)

        return lax.fori_loop(0, 40, half, (jnp.zeros_like(guess), guess))[0]

    return lax.custom_root(lambda x: x**3 - a, a + 1, bisect, lambda g, y: y / g(1.0))


def test_a_root_has_the_derivative_of_the_implicit_function():
    with jax.enable_x64(True):
        x = 2.0
        np.testing.assert_allclose(fg.grad(cube_root)(x), x ** (-2 / 3) / 3, rtol=1e-9)
        np.testing.assert_allclose(fg.grad(fg.grad(cube_root))(x), -2 / 9 * x ** (-5 / 3), rtol=1e-8)
        assert_agrees(cube_root, x, tolerance=1e-9)


def test_a_root_with_auxiliary_output_agrees():
    def f(a):
        newton = lambda g, x: (x - g(x) / 2, {"steps": 1.0})  # noqa: E731
        x, aux = lax.custom_root(lambda x: 2 * x - a, a, newton, lambda g, y: y / g(1.0), has_aux=True)
        return x**2 * aux["steps"]

    assert_agrees(f, np.float32(3.0), second=False)


def test_a_vector_root_agrees():
    def f(a, b):
        step = lambda g, x: lax.fori_loop(0, 30, lambda _, x: x - g(x) * 0.2, x)  # noqa: E731
        linear = lambda g, y: jnp.linalg.solve(jax.jacobian(g)(y), y)  # noqa: E731
        return jnp.sum(lax.custom_root(lambda x: a @ x + 0.1 * jnp.tanh(x) - b, b, step, linear) ** 2)

    assert_agrees(f, A, V, second=False, tolerance=1e-4)


# odeint.


def test_an_ode_agrees():
    def f(y, rate):
        times = jnp.linspace(0.0, 1.0, 3)
        return jnp.sum(odeint(lambda y, t, r: jnp.sin(t) - r * y, y, times, rate, rtol=1e-6, atol=1e-6) ** 2)

    mine, theirs = (jax.jit(m.grad(f, (0, 1)))(V, np.float32(1.5)) for m in (fg, jax))
    assert_same(mine, theirs, 1e-5)


def test_an_ode_has_the_analytic_gradient():
    with jax.enable_x64(True):

        def final(y, rate):
            return odeint(lambda y, t, r: -r * y, y, np.array([0.0, 1.0]), rate, rtol=1e-9, atol=1e-9)[-1]

        y_ct, rate_ct = fg.grad(final, (0, 1))(2.0, 0.7)
        np.testing.assert_allclose([y_ct, rate_ct], [np.exp(-0.7), -2 * np.exp(-0.7)], rtol=1e-6)


# What JAX refuses is refused.


def callback(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@jax.custom_batching.custom_vmap
def own_batching(x):
    return jnp.sin(x)


@own_batching.def_vmap
def own_batching_rule(axis_size, in_batched, x):
    return jnp.sin(x), True


composite = lax.composite(jnp.sin, name="test.sin")
REFUSED = {"pure_callback": callback, "custom_vmap": own_batching, "composite": composite}


@pytest.mark.parametrize("f", REFUSED.values(), ids=REFUSED.keys())
def test_what_jax_cannot_differentiate_is_refused_with_its_exception(f):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        jax.grad(lambda x: jnp.sum(f(x)))(V)
    with pytest.raises(type(theirs.value)):
        fg.grad(lambda x: jnp.sum(f(x)))(V)
    assert fg.grad(lambda x: jnp.sum(x * f(lax.stop_gradient(x))))(V).shape == (3,)


def test_a_composite_is_refused_in_the_words_of_jax():
    refusals = []
    for grad in (jax.grad, fg.grad):
        with pytest.raises(ValueError, match="composite") as refused:
            grad(composite)(1.0)
        refusals.append(str(refused.value).splitlines()[0])
    assert refusals[0] == refusals[1]


def test_a_callback_with_a_custom_rule_is_differentiated():
    f = jax.custom_jvp(callback)
    f.defjvp(lambda p, t: (f(*p), jnp.cos(p[0]) * t[0]))
    assert_agrees(lambda x: jnp.sum(f(x) ** 2), V, second=False, tolerance=1e-5)
