"""Loops and branches."""

from __future__ import annotations

import re

import jax.numpy as jnp
from jax import lax

from tests.inspect.source.sources import check


def test_a_scan_has_a_named_body_on_either_way_that_carries_the_users_names():
    def loss(w, xs):
        def cell(carry, x):
            h, c = carry
            c = jnp.tanh(h @ w) + c
            h = jnp.sin(c) * x
            return (h, c), h

        (_, c), hs = lax.scan(cell, (jnp.zeros(2), jnp.ones(2)), xs)
        return jnp.sum(hs) + jnp.sum(c)

    source = check(loss, jnp.ones((2, 2)), jnp.arange(3.0))
    assert "    def cell(carry, x):\n        h, c = carry\n" in source
    assert "    def cell_backward(carry, inputs):\n        ct_w, ct_h, ct_c = carry\n" in source
    assert "reverse=True" in source


def test_a_while_loop_is_two_functions_and_a_call():
    def loss(x):
        return lax.while_loop(lambda s: s < 10, lambda s: s * s, x)

    source = check(loss, 2.0)
    assert re.search(r"lax\.while_loop\(\s*proceeds,", source) and "def proceeds(" in source


def test_a_condition_is_the_predicate_and_a_function_for_each_branch():
    def loss(flag, x):
        def double(x):
            return 2 * x

        def cube(x):
            return x**3

        return lax.cond(flag, double, cube, x)

    source = check(loss, True, 2.0, argnums=1)
    assert "lax.cond(flag, double, cube)" in source
    assert "lax.cond(flag, double_backward, cube_backward)" in source
    assert "    def cube():\n        return x**3\n" in source


def test_a_switch_is_a_list_of_functions():
    source = check(lambda i, x: lax.switch(i, [jnp.sin, jnp.cos, jnp.tanh], x), 2, 0.5, argnums=1)
    assert "lax.switch(i, [" in source or "lax.switch(" in source
