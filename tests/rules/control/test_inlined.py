"""Functions that JAX writes out where they are called: one operation, made of halves that are written out too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad import _jax
from tests.agreement import assert_agrees

V = np.array([0.5, -1.5, 2.0], np.float32)


def times_tanh(x, y):
    return x * jnp.tanh(y)


def inlined(f=times_tanh):
    return jax.jit(f, inline=True)


def recorded(f, *args, **how):
    return [node.primitive.name for node in fg.vjp(f, *args, **how)[1].recording().nodes]


def test_gradients_agree():
    f = inlined(lambda x, y: jnp.sum(jnp.where(x > y, x * y, jnp.exp(x)) / (1 + y**2)))
    assert_agrees(f, V, V[::-1].copy(), tolerance=1e-6)
    assert_agrees(lambda x: f(x, x) + f(x, 2.0), V, tolerance=1e-6)


def test_nothing_is_left_of_the_call_in_a_program():
    f = inlined()

    def loss(x):
        for _ in range(5):
            x = f(x, x)
        return jnp.sum(x)

    programs = [jax.make_jaxpr(fg.grad(loss))(V) for _ in range(2)]
    for program in programs:
        assert "jit" not in {eqn.primitive.name for eqn in program.jaxpr.eqns}
    assert str(programs[0]) == str(programs[1])


def test_what_is_written_out_keeps_the_line_of_its_caller():
    def loss(x):
        y = x * x
        return jnp.sum(y * x)

    lines = [_jax.user_line(eqn.source_info) for eqn in jax.make_jaxpr(fg.grad(loss))(V).jaxpr.eqns]
    first = loss.__code__.co_firstlineno
    squares, products = [sum(f"test_inlined.py:{first + k}" in line for line in lines) for k in (1, 2)]
    assert squares >= 3 and products >= 4 and squares + products == len(lines)


def test_run_eagerly_it_is_one_operation_whose_halves_are_compiled_once():
    traced = []

    @inlined
    def f(x):
        traced.append(x)
        return jnp.tanh(x) * x

    assert recorded(f, V) == ["jit"]
    _, pullback = fg.vjp(f, V)
    slope = 1 - np.tanh(V) ** 2
    for ct in (1, 2, 3):
        np.testing.assert_allclose(pullback(ct * jnp.ones(3))[0], ct * (slope * V + np.tanh(V)), rtol=1e-5)
    assert len(traced) == 1


def test_formulas_of_others_may_look_at_values():
    seen = []

    def formula(ct, x):
        seen.append(float(x[0]))
        return 2 * ct

    rules = fg.rules.default.override({lax.tanh_p: formula})
    assert recorded(inlined(), V, V, rules=rules) == ["tanh", "mul"]
    grads = fg.grad(lambda y: jnp.sum(inlined()(jnp.ones(3), y)), rules=rules)(jnp.asarray(V))
    np.testing.assert_array_equal(grads, np.full(3, 2.0))
    assert seen == [0.5]


@pytest.mark.parametrize("setting", ["jax_disable_jit", "jax_debug_nans"])
def test_who_asks_for_single_operations_gets_them(setting):
    before = getattr(jax.config, setting)
    jax.config.update(setting, True)
    try:
        assert {"tanh", "mul"} <= set(recorded(inlined(), V, V))
        np.testing.assert_allclose(fg.grad(lambda y: jnp.sum(inlined()(1.0, y)))(V), 1 - np.tanh(V) ** 2, rtol=1e-5)
    finally:
        jax.config.update(setting, before)


def test_a_cotangent_keeps_its_own_type():
    """As it would from operation to operation: a weak one stays weak, and none is made so."""
    x = 1.5 + 2.0j
    f = lambda x: jnp.real(x * x)  # noqa: E731
    mine, theirs = fg.grad(f)(x), jax.grad(f)(x)
    assert mine.dtype == theirs.dtype and mine.weak_type == theirs.weak_type


def test_cotangents_that_nobody_wants_are_not_computed():
    f = inlined(lambda x, y: x * y)

    def products(wrap):
        def pull(x, y):
            _, pullback = fg.vjp(f, x, y)
            return pullback.with_refs(jax.ad.GradValue(), jax.ad.DontWant())(jnp.ones(3))[0]

        return str(jax.make_jaxpr(wrap(pull))(V, 2 * V)).count("mul"), pull(jnp.asarray(V), 2 * V)

    count, x_ct = products(lambda f: f)
    assert count == 2  # its own, and the one wanted
    np.testing.assert_array_equal(x_ct, 2 * V)


def test_a_number_that_is_differentiated_is_kept_as_an_array():
    assert fg.vjp(jnp.sin, 3.0)[1].opaque_residuals
