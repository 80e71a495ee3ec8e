"""The tape: nesting is exact, long programs are no problem, custom rules are recorded as the mathematics says."""

from __future__ import annotations

import math
import sys
import traceback
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_derivatives import SymbolicZero

import funcgrad as fg
from funcgrad.pullback import record
from tests.agreement import assert_agrees, assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)


# Nesting.


def test_every_derivative_of_a_power_is_exact():
    f = lambda x: x * x * x * x * x  # noqa: E731
    x, expected = 3.0, [243, 405, 540, 540, 360, 120, 0]
    for value in expected:
        assert float(f(x)) == value
        f = fg.grad(f)


def test_derivatives_of_sine_go_round():
    f = jnp.sin
    for expected in (math.sin, math.cos, lambda x: -math.sin(x), lambda x: -math.cos(x), math.sin):
        np.testing.assert_allclose(f(0.7), expected(0.7), rtol=1e-6)
        f = fg.grad(f)


def cubic(x):
    return jnp.sum(x**3 * jnp.array([1.0, 2.0, 3.0]))


NESTS = {
    "grad of a jitted grad": lambda grad: grad(lambda x: jnp.sum(jax.jit(grad(cubic))(x) ** 2)),
    "a jitted grad of grad": lambda grad: jax.jit(grad(lambda x: jnp.sum(grad(cubic)(x) ** 2))),
    "jvp of grad": lambda grad: lambda x: jax.jvp(grad(cubic), (x,), (x + 1,)),
    "grad of jvp": lambda grad: grad(lambda x: jax.jvp(cubic, (x,), (x + 1,))[1]),
    "grad of jvp of grad": lambda grad: grad(lambda x: jnp.sum(jax.jvp(grad(cubic), (x,), (x + 1,))[1])),
    "vmap of grad": lambda grad: lambda x: jax.vmap(grad(cubic))(jnp.stack([x, 2 * x])),
    "grad of vmap of grad": lambda grad: grad(
        lambda x: jnp.sum(jnp.sin(jax.vmap(grad(lambda y: jnp.sum(y * x) ** 2))(jnp.stack([x, 2 * x]))))
    ),
    "vmap of grad of grad": lambda grad: jax.vmap(grad(grad(lambda x: jnp.sin(x) * x**2))),
    "grad of linearize": lambda grad: grad(lambda x: jax.linearize(cubic, x)[1](x)),
    "grad inside checkpoint inside grad": lambda grad: grad(jax.checkpoint(lambda x: jnp.sum(grad(cubic)(x) ** 2))),
    "grad inside scan inside grad": lambda grad: grad(
        lambda x: jnp.sum(lax.scan(lambda c, _: (c - 0.01 * grad(cubic)(c), None), x, None, length=3)[0])
    ),
    "jacfwd of grad of jit": lambda grad: jax.jacfwd(grad(jax.jit(cubic))),
    "grad of a grad of JAX": lambda grad: grad(lambda x: jnp.sum(jax.grad(cubic)(x) ** 2)),
    "a grad of JAX of grad": lambda grad: jax.grad(lambda x: jnp.sum(grad(cubic)(x) ** 2)),
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS.keys())
def test_transforms_nest_in_any_order(nest):
    x = V + 1
    assert_same(nest(fg.grad)(x), nest(jax.grad)(x), 1e-6)


def test_gradients_close_over_values_of_outer_gradients():
    def nested(grad):
        def outer(x):
            def middle(y):
                def inner(z):
                    return x * y**2 * z**3

                return x * grad(inner)(y) + y

            return grad(middle)(x) * x

        return grad(outer)(1.5)

    assert_same(nested(fg.grad), nested(jax.grad), 1e-6)


def test_a_jitted_function_closes_over_values_of_an_outer_gradient():
    def nested(grad):
        def outer(x):
            step = jax.jit(lambda y: x * y**2)
            return grad(step)(2.0) + jax.vmap(step)(jnp.arange(3.0)).sum() + step(x)

        return grad(outer)(1.5), jax.jit(grad(outer))(1.5)

    assert_same(nested(fg.grad), nested(jax.grad), 1e-6)


def test_a_loop_closes_over_values_of_an_outer_gradient():
    def nested(grad):
        def outer(x):
            y, ys = lax.scan(lambda c, a: (c * x + a, c * x), x, V)
            return y + lax.cond(y > 0, lambda: x * y, lambda: x) + jnp.sum(ys)

        return grad(outer)(V[0]), grad(grad(outer))(V[0])

    assert_same(nested(fg.grad), nested(jax.grad), 1e-6)


# Perturbation confusion: derivatives with respect to different variables are kept apart (Siskind and Pearlmutter 2005).


def test_the_derivative_of_an_inner_constant_is_zero():
    assert float(fg.grad(lambda x: x * fg.grad(lambda y: x + y)(1.0))(1.0)) == 1.0


def test_an_inner_derivative_is_a_function_of_the_outer_variable():
    assert float(fg.grad(lambda x: x * fg.grad(lambda y: x * y)(2.0))(3.0)) == 6.0


def test_an_inner_derivative_at_the_outer_variable_counts_both():
    assert float(fg.grad(lambda x: fg.grad(lambda y: x * y**2)(x))(3.0)) == 12.0
    assert float(fg.grad(lambda x: x * fg.grad(lambda y: y**2)(x))(3.0)) == 12.0


def test_forward_and_reverse_mode_keep_their_variables_apart():
    push = lambda f, x: jax.jvp(f, (x,), (1.0,))[1]  # noqa: E731
    assert float(fg.grad(lambda x: x * push(lambda y: x + y, 1.0))(1.0)) == 1.0
    assert float(push(lambda x: x * fg.grad(lambda y: x + y)(1.0), 1.0)) == 1.0
    assert float(push(lambda x: fg.grad(lambda y: x * y**2)(x), 3.0)) == 12.0


def test_a_pullback_of_an_outer_value_can_be_used_inside():
    def f(x):
        _, pullback = fg.vjp(lambda y: x * y**2, x)
        return fg.grad(lambda z: z * pullback(z)[0])(x)

    # 2 x^2 z is pulled back, so z * it has the slope 4 x^2 z = 4 x^3.
    assert float(f(2.0)) == 32.0 and float(fg.grad(f)(2.0)) == 48.0


# Long programs.


def chain(length):
    def f(x):
        for _ in range(length):
            x = lax.neg(x)
        return x

    return f


def taped(f, *args):
    """The recording of ``f`` at ``args``."""
    leaves, tree = jax.tree.flatten(args)
    return record(f, [jnp.asarray(x) for x in leaves], tree, False, fg.rules.default)[1]


def test_a_program_of_100000_operations_differentiates():
    limit = sys.getrecursionlimit()
    value, gradient = fg.value_and_grad(chain(100_001))(np.float32(2.0))
    assert (float(value), float(gradient)) == (-2, -1)
    assert sys.getrecursionlimit() == limit


def test_the_tape_has_one_node_per_active_operation():
    def f(x, y):
        a = jnp.exp(y) + jnp.cos(y)  # not active
        b = lax.sin(x)
        c = lax.mul(b, a)
        lax.exp(c)  # not used
        return lax.add(c, b)

    for length in (10, 20):
        assert len(taped(chain(length), V).nodes) == length
    assert [str(node.primitive) for node in taped(lambda x: f(x, 1.0), V).nodes] == ["sin", "mul", "add"]


def test_each_node_is_pulled_back_once_however_often_its_output_is_used():
    calls = []

    def counted(ct, out):
        calls.append(ct)
        return lax.mul(ct, out)

    def f(x):
        y = lax.exp(x)
        for _ in range(30):
            y = y + y  # 2^30 paths lead back from here
        return y

    rules = fg.rules.default.override({lax.exp_p: counted})
    assert float(fg.grad(f, rules=rules)(0.0)) == 2.0**30
    assert len(calls) == 1


def test_the_way_back_has_as_many_operations_as_the_way_there():
    """Linear in the operations: equations of the traced gradient, for programs of doubling length."""
    counts = [len(jax.make_jaxpr(fg.grad(chain(n)))(2.0).jaxpr.eqns) for n in (50, 100, 200)]
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])
    assert counts[2] <= 2 * 200 + 10


def test_zero_cotangents_are_not_computed():
    def f(x):
        dead = lax.stop_gradient(jnp.exp(x)) * 3 + jnp.round(jnp.sin(x))
        return x * 2 + dead

    jaxpr = str(jax.make_jaxpr(fg.grad(f))(2.0))
    assert "cos" not in jaxpr
    assert float(fg.grad(f)(2.0)) == 2.0


# Custom JVP rules.


@jax.custom_jvp
def squash(x, y):
    return jnp.tanh(x) * y


@squash.defjvp
def squash_jvp(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    t = jnp.tanh(x)
    return t * y, (1 - t**2) * y * dx + t * dy


def test_a_custom_jvp_rule_is_transposed():
    assert_agrees(lambda x, y: jnp.sum(squash(x, y) ** 2), V, V + 1)
    assert_agrees(lambda x: jnp.sum(squash(x, V) ** 2), V)
    assert_agrees(lambda y: jnp.sum(squash(V, y) ** 2), V)
    assert_agrees(lambda x: jnp.sum(squash(x, x)), V)


def test_a_custom_jvp_rule_is_used_instead_of_the_function():
    @jax.custom_jvp
    def f(x):
        return x**2

    f.defjvp(lambda primals, tangents: (f(*primals), 10 * tangents[0]))
    assert float(fg.grad(f)(3.0)) == 10 and float(jax.jit(fg.grad(f))(3.0)) == 10
    assert float(fg.grad(jax.jit(f))(3.0)) == 10 and fg.grad(lambda x: jax.vmap(f)(x).sum())(V).tolist() == [10] * 3
    assert float(fg.grad(fg.grad(f))(3.0)) == 0


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=1)[0],
        lambda f: lambda x: lax.cond(x > 0, f, lambda x: x, x),
    ],
    ids=["jit", "checkpoint", "scan", "cond"],
)
def test_a_custom_jvp_rule_inside_a_program_is_used_at_every_order(wrap):
    """The rule says more than the function's derivative, so it shows where the function is differentiated instead."""
    sine = jax.custom_jvp(jnp.sin)
    sine.defjvp(lambda p, t: (sine(*p), 2 * jnp.cos(p[0]) * t[0]))
    f = wrap(lambda x: sine(x) ** 2)
    np.testing.assert_allclose(fg.grad(fg.grad(f))(0.3), jax.jacfwd(jax.jacfwd(f))(0.3), rtol=1e-5)


def test_a_custom_jvp_rule_runs_operations_of_every_linear_kind_on_tangents():
    @jax.custom_jvp
    def f(x, y):
        return x @ y, jnp.sum(x)

    @f.defjvp
    def f_jvp(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        pushed = jnp.linalg.matmul(dx, y) + jnp.dot(x, dy)
        pushed = jnp.where(y[0, 0] > 0, pushed.T.T, 0 * pushed).astype(jnp.float32)
        pushed = lax.cond(x[0, 0] > 0, lambda t: 2 * t, lambda t: t, pushed)
        pushed = lax.scan(lambda c, row: (c + jnp.sum(row), row * 0.5), jnp.float32(0), pushed)[1]
        total = jax.jit(jnp.sum)(jnp.concatenate([dx, dx[::-1]])) + jnp.cumsum(dx, 0)[-1, 0] - dx[0, 0]
        return f(x, y), (pushed, lax.stop_gradient(2.0) * total)

    x = np.arange(1.0, 7, dtype=np.float32).reshape(2, 3) / 7
    y = x.reshape(3, 2)
    assert_agrees(lambda x, y: jnp.sum(f(x, y)[0] ** 2) * f(x, y)[1], x, y, second=False)


def test_a_custom_jvp_rule_takes_trees_and_arguments_without_derivative():
    @partial(jax.custom_jvp, nondiff_argnums=(0, 2))
    def apply(fun, params, mode):
        return {"y": fun(params["w"]) * params["b"], "mode": jnp.sum(params["b"])}

    @apply.defjvp
    def apply_jvp(fun, mode, primals, tangents):
        assert mode == "train"
        (params,), (t,) = primals, tangents
        out = apply(fun, params, mode)
        return out, {"y": 3 * t["w"] * params["b"] + fun(params["w"]) * t["b"], "mode": jnp.sum(t["b"])}

    def f(params):
        out = apply(jnp.sin, params, "train")
        return jnp.sum(out["y"] ** 2) + out["mode"]

    assert_agrees(f, {"w": V, "b": V + 1})


def test_a_custom_jvp_rule_of_integers_and_floats_agrees():
    @jax.custom_jvp
    def pick(x, i):
        return x[i], i + 1

    @pick.defjvp
    def pick_jvp(primals, tangents):
        (x, i), (dx, di) = primals, tangents
        assert di.dtype == jax.dtypes.float0
        return pick(x, i), (dx[i], di)

    assert_agrees(lambda x: pick(x, 1)[0] ** 2 * pick(x, 1)[1], V)


def test_a_custom_jvp_rule_sees_symbolic_zeros_where_it_asks_for_them():
    seen = []

    def f(x, y):
        return x * y

    def rule(primals, tangents):
        seen.append([type(t) is SymbolicZero for t in tangents])
        (x, y), (dx, dy) = primals, tangents
        terms = [t * other for t, other in ((dx, y), (dy, x)) if type(t) is not SymbolicZero]
        return x * y, sum(terms)

    f = jax.custom_jvp(f)
    f.defjvp(rule, symbolic_zeros=True)
    assert float(fg.grad(f)(2.0, 3.0)) == 3 and float(fg.grad(f, 1)(2.0, 3.0)) == 2
    assert float(fg.grad(lambda x: f(x, x))(3.0)) == 6
    assert seen == [[False, True], [True, False], [False, False]]


def test_an_output_whose_tangent_is_zero_has_no_derivative():
    @jax.custom_jvp
    def f(x):
        return x * 2, jnp.round(x)

    f.defjvp(lambda p, t: (f(*p), (2 * t[0], jnp.zeros_like(p[0]))))
    assert_agrees(lambda x: f(x)[0] * f(x)[1], np.float32(2.4))


def test_defjvps_rules_add_up():
    @jax.custom_jvp
    def f(x, y):
        return jnp.sin(x) * y

    f.defjvps(lambda dx, out, x, y: jnp.cos(x) * dx * y, lambda dy, out, x, y: jnp.sin(x) * dy)
    assert_agrees(f, np.float32(0.3), np.float32(2.0))
    f.defjvps(lambda dx, out, x, y: jnp.cos(x) * dx * y, None)
    assert_agrees(f, np.float32(0.3), np.float32(2.0))


def test_a_rule_that_is_not_linear_in_its_tangents_is_refused():
    for rule in (lambda t: jnp.sin(t), lambda t: t * t, lambda t: t / t, lambda t: jnp.exp(t) - 1):
        f = jax.custom_jvp(lambda x: x)
        f.defjvp(lambda p, t, rule=rule: (p[0], rule(t[0])))
        with pytest.raises(NotImplementedError, match="linear in its tangents"):
            fg.grad(f)(1.0)


# Custom VJP rules.


def custom(f, fwd, bwd, **options):
    f = jax.custom_vjp(f, **{k: v for k, v in options.items() if k != "symbolic_zeros"})
    f.defvjp(fwd, bwd, symbolic_zeros=options.get("symbolic_zeros", False))
    return f


def test_a_custom_vjp_rule_is_used_instead_of_the_function():
    f = custom(lambda x: x**2, lambda x: (x**2, x), lambda x, ct: (10 * ct * x,))
    assert float(fg.grad(f)(3.0)) == 30 and float(jax.jit(fg.grad(f))(3.0)) == 30
    assert float(fg.grad(jax.jit(f))(3.0)) == 30
    assert fg.grad(lambda x: jax.vmap(f)(x).sum())(V).tolist() == (10 * V).tolist()
    assert fg.grad(lambda x: lax.scan(lambda c, a: (c + f(a), None), 0.0, x)[0])(V).tolist() == (10 * V).tolist()
    assert float(fg.grad(jax.checkpoint(f))(3.0)) == 30
    assert float(fg.grad(fg.grad(f))(3.0)) == 10


def test_a_custom_vjp_rule_takes_trees_none_and_arguments_without_derivative():
    def f(fun, params, scale, x):
        return fun(params["w"] * x) * scale["s"], params["b"]

    def fwd(fun, params, scale, x):
        return f(fun, params, scale, x), (params, x)

    def bwd(fun, residuals, cts):
        _, x = residuals
        y_ct, b_ct = cts
        return {"w": y_ct * x * 3, "b": b_ct}, None, jnp.sum(y_ct) * x

    f = custom(f, fwd, bwd, nondiff_argnums=(0,))

    def loss(params, scale, x):
        y, b = f(jnp.sin, params, scale, x)
        return jnp.sum(y**2) + jnp.sum(b)

    arguments = ({"w": V, "b": V + 1}, {"s": np.float32(2.0)}, V)
    assert_agrees(loss, *arguments)
    assert_same(fg.grad(loss, 1)(*arguments), {"s": jnp.float32(0)})


def test_a_custom_vjp_rule_may_have_integer_arguments_and_outputs():
    def f(x, i):
        return x[i] * 2, i + 1

    def bwd(residuals, cts):
        assert cts[1].dtype == jax.dtypes.float0
        return jnp.zeros(3).at[residuals].set(5 * cts[0]), np.zeros((), jax.dtypes.float0)

    g = custom(f, lambda x, i: (f(x, i), i), bwd)
    assert fg.grad(lambda x: g(x, 1)[0] * g(x, 1)[1])(V).tolist() == [0, 10, 0]
    assert_agrees(lambda x: g(x, 1)[0] * g(x, 1)[1], V)


def test_a_custom_vjp_rule_sees_symbolic_zeros_where_it_asks_for_them():
    seen = []

    def fwd(x, y):
        seen.append((x.perturbed, y.perturbed))
        return (x.value * y.value, x.value), (x.value, y.value)

    def bwd(residuals, cts):
        seen.append(tuple(type(ct) is SymbolicZero for ct in cts))
        x, y = residuals
        return cts[0] * y, cts[0] * x

    f = custom(lambda x, y: (x * y, x), fwd, bwd, symbolic_zeros=True)
    assert float(fg.grad(lambda x: f(x, 3.0)[0])(2.0)) == 3
    assert float(fg.grad(lambda y: f(2.0, y)[0])(2.0)) == 2
    assert seen == [(True, False), (False, True), (False, True), (False, True)]


def test_cotangents_of_a_custom_vjp_rule_are_zeros_where_it_does_not_ask():
    def bwd(_, cts):
        assert all(isinstance(ct, jax.Array) for ct in cts)
        return (cts[0] + cts[1],)

    f = custom(lambda x: (x, 2 * x), lambda x: ((x, 2 * x), None), bwd)
    assert float(fg.grad(lambda x: f(x)[0])(1.0)) == 1


def test_a_custom_vjp_rule_under_a_second_derivative_is_differentiated_itself():
    f = custom(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x) * 2,))
    g = lambda x: jnp.sum(f(x) ** 3)  # noqa: E731
    assert_agrees(g, V)
    assert_same(jax.jit(jax.jacfwd(fg.grad(g)))(V), jax.jit(jax.jacfwd(jax.grad(g)))(V), 1e-6)


def test_a_custom_vjp_rule_of_the_wrong_shape_is_refused():
    f = custom(lambda x: x * 2, lambda x: (x * 2, None), lambda _, ct: (ct[:1],))
    with pytest.raises(ValueError, match=r"bwd rule.*shape"):
        fg.grad(lambda x: jnp.sum(f(x)))(V)


# What JAX asks of a trace.


def test_leaks_are_looked_for_when_jax_is_told_to():
    with jax.checking_leaks():
        assert float(fg.grad(lambda x: jax.jit(jnp.sin)(x) * x)(0.0)) == 0
        assert float(jax.jit(fg.grad(fg.grad(lambda x: jnp.sin(x) * x)))(0.0)) == 2
        assert float(fg.grad(lambda x: lax.scan(lambda c, _: (c * x, None), x, None, length=2)[0])(2.0)) == 12
        kept = []
        with pytest.raises(Exception, match="Leaked"):
            fg.grad(lambda x: (kept.append(x), x * 2)[1])(1.0)


def test_a_gradient_says_what_it_is_when_printed():
    shown = []
    fg.grad(lambda x: (shown.append(str(x * 2)), x)[1])(1.0)
    jax.jit(fg.grad(lambda x: (shown.append(str(x * 2)), x)[1]))(1.0)
    assert shown[0] == "GradTracer(primal=2.0, typeof(tangent)=f32[])"
    assert shown[1].startswith("GradTracer(primal=JitTracer(")


def test_backward_operations_carry_the_line_and_scope_of_their_forward_operation():
    def f(x):
        with jax.named_scope("block"):
            return jnp.sin(x)

    text = jax.jit(fg.value_and_grad(f)).lower(1.0).as_text(debug_info=True)
    assert "block/sin" in text and "backward(block)/mul" in text


def test_an_error_about_a_nan_on_the_way_back_is_said_to_be_caused_by_the_line_forward():
    def f(x):
        y = jnp.sqrt(x)
        return jnp.sum(y * 0.0)

    with jax.debug_nans(True), pytest.raises(FloatingPointError) as found:
        fg.grad(f)(jnp.zeros(3))
    lines = [frame.line for frame in traceback.extract_tb(found.value.__cause__.__traceback__)]
    assert lines[-1] == "y = jnp.sqrt(x)"
