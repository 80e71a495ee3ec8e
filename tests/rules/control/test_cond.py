"""cond and switch: the backward half of the branch that was taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.agreement import assert_agrees, assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)


def choose(x, y):
    return lax.cond(x[0] > 0, lambda x, y: jnp.sin(x) * y, lambda x, y: jnp.exp(y), x, y)


@pytest.mark.parametrize("argnums", [0, 1, (0, 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_cond_agrees_with_jax(sign, argnums):
    assert_agrees(lambda x, y: jnp.sum(choose(x, y) ** 2), sign * V, V, argnums=argnums)


@pytest.mark.parametrize("index", [-3, 0, 1, 2, 9])
def test_switch_agrees_with_jax(index):
    def f(x):
        branches = [lambda x: x**2, lambda x: jnp.sin(jnp.exp(x)) * x, lambda x: jnp.ones(3)]
        return jnp.sum(lax.switch(index + 0 * x.astype(int)[0], branches, x))

    assert_agrees(f, V)


def test_branches_may_close_over_active_values():
    def f(x, y):
        return jnp.sum(lax.cond(jnp.sum(x) > 0, lambda: x * y, lambda: jnp.cos(x)))

    assert_agrees(f, V, V + 1)
    assert_agrees(f, -V, V + 1)


def test_a_branch_that_does_not_use_an_operand_gives_it_zeros():
    def f(x, y):
        return jnp.sum(lax.cond(x[0] > 0, lambda x, y: x, lambda x, y: y, x, y))

    assert_same(fg.grad(f, (0, 1))(V, V), (jnp.ones(3), jnp.zeros(3)))
    assert_same(fg.grad(f, (0, 1))(-V, V), (jnp.zeros(3), jnp.ones(3)))


def test_an_output_active_in_one_branch_only_agrees():
    def f(x):
        a, b = lax.cond(x[0] > 0, lambda x: (x, jnp.ones(3)), lambda x: (jnp.ones(3), x**2), x)
        return jnp.sum(jnp.sin(a) * b)

    assert_agrees(f, V)
    assert_agrees(f, -V)


def test_outputs_may_be_integers_trees_and_nothing():
    def f(x):
        out = lax.cond(
            x[0] > 0,
            lambda x: {"y": x, "i": jnp.int32(2), "none": None},
            lambda x: {"y": -x, "i": jnp.argmax(x).astype(jnp.int32), "none": None},
            x,
        )
        return jnp.sum(out["y"]) ** 2 * out["i"]

    assert_agrees(f, V)
    assert_agrees(f, -V)


def test_a_constant_predicate_agrees():
    assert_agrees(lambda x: jnp.sum(lax.cond(True, jnp.sin, jnp.cos, x)), V)


@pytest.mark.parametrize("batched", ["predicate", "operand", "both"])
def test_a_batched_cond_agrees(batched):
    def f(x):
        predicates = jnp.array([True, False]) if batched != "operand" else jnp.array([True, True])
        xs = jnp.stack([x, 2 * x]) if batched != "predicate" else x
        axes = (0 if batched != "operand" else None, 0 if batched != "predicate" else None)
        predicates = predicates if batched != "operand" else predicates[0]
        return jnp.sum(jax.vmap(lambda p, x: lax.cond(p, jnp.sin, lambda x: x**3, x), axes)(predicates, xs))

    assert_agrees(f, V)


def test_the_gradient_of_the_branch_not_taken_is_not_mixed_in():
    f = lambda x: lax.cond(x > 0, jnp.sqrt, lambda x: x, x)  # noqa: E731
    assert float(fg.grad(f)(0.0)) == 1.0 and float(jax.jit(fg.grad(f))(-1.0)) == 1.0


def test_conds_nest_in_each_other_and_in_loops():
    def f(x):
        def body(c, a):
            c = lax.cond(c > 1, lambda c: lax.cond(a > 0, jnp.sin, jnp.cos, c * a), lambda c: c + a, c)
            return c, lax.switch(jnp.int32(a > 0), [lambda: c, lambda: a * c])

        c, cs = lax.scan(body, x[0], x)
        return c + jnp.sum(cs**2)

    assert_agrees(f, V)
    assert_agrees(f, 2 * V + 1)


def test_residuals_of_the_branches_share_places():
    """Each branch fills what it needs of one layout: as many places as the branch that needs most."""
    two = lambda x: jnp.sin(jnp.sin(x))  # noqa: E731
    three = lambda x: jnp.sin(jnp.sin(jnp.sin(x)))  # noqa: E731
    text = jax.make_jaxpr(lambda x: fg.vjp(lambda x: lax.cond(x[0] > 0, two, three, x), x)[1])(V)
    (cond,) = [eqn for eqn in text.jaxpr.eqns if eqn.primitive is lax.cond_p]
    assert len(cond.outvars) == 3  # the output, and two inner values; x itself is forwarded


def test_operands_and_outputs_are_not_passed_through_as_residuals():
    f = lambda x, y: lax.cond(x[0] > 0, lambda x, y: lax.sin(x) * y, lambda x, y: x * y, x, y)  # noqa: E731
    jaxpr = jax.make_jaxpr(lambda y: fg.vjp(lambda y: f(V, y), y)[1])(V)
    (cond,) = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive is lax.cond_p]
    assert len(cond.outvars) == 2


def test_a_cond_in_a_custom_jvp_rule_is_transposed():
    @jax.custom_jvp
    def f(x):
        return jnp.abs(x)

    f.defjvp(lambda p, t: (f(*p), lax.cond(p[0] > 0, lambda t: t, lambda t: -t, t[0])))
    assert_agrees(f, np.float32(2.0), second=False)
    assert_agrees(f, np.float32(-2.0), second=False)


def test_jvp_and_vmap_of_the_gradient_agree():
    f = lambda x: jnp.sum(choose(x, x**2))  # noqa: E731
    xs = jnp.stack([V, -V])
    mine, theirs = (jax.jit(jax.vmap(lambda x, m=m: jax.jvp(m.grad(f), (x,), (x,))))(xs) for m in (fg, jax))
    assert_same(mine, theirs, 1e-5)


def test_platform_dependent_code_agrees():
    assert_agrees(lambda x: jnp.sum(lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)), V)
