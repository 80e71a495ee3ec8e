"""Functions that are called more than once, loops and branches."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from jax import lax

from tests.inspect.source.sources import check, code_of


@jax.jit
def layer(w, b, x):
    h = jnp.tanh(x @ w + b)
    h = h * jax.nn.sigmoid(h) + x
    return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)


def deep(params, x):
    for w, b in params:
        x = layer(w, b, x)
    return jnp.sum(x * x)


def deep_example(depth: int):
    keys = jax.random.split(jax.random.key(0), depth)
    return [(jax.random.normal(key, (3, 3)), jnp.ones(3)) for key in keys], jnp.linspace(-1, 1, 6).reshape(2, 3)


def test_a_function_called_many_times_is_written_once():
    source = check(deep, *deep_example(4), tolerance=1e-5)
    assert source.count("\ndef layer(") == 1 and source.count("\ndef layer_backward(") == 1
    # The first layer's input has no gradient, so its halves are others and stand where they are used.
    assert code_of(source).count("= layer(") == 3 and code_of(source).count("= layer_backward(") == 3
    assert "residuals" in source
    more = check(deep, *deep_example(6), tolerance=1e-5)
    assert len(more.splitlines()) - len(source.splitlines()) <= 12


def test_a_function_called_once_is_written_in_place():
    source = check(deep, *deep_example(1), tolerance=1e-5)
    assert "def layer" not in source and "x @ w" in source


# Loops and branches.


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
