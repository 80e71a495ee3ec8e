"""Tidying programs, and leaving out what nothing depends on."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from tests.inspect.source.sources import check, code_of


def test_equal_values_are_computed_once():
    source = check(lambda x: jnp.sum(jnp.exp(x) + jnp.exp(x) * jnp.exp(x)), jnp.arange(3.0))
    assert code_of(source).count("jnp.exp(") == 1


def test_values_that_are_not_used_are_not_computed():
    source = check(lambda x: (jnp.sum(x**2), jnp.tanh(x))[0], jnp.arange(3.0))
    assert "tanh" not in code_of(source)


def test_a_loop_carries_only_what_comes_out_in_the_end():
    def loss(x):
        def step(carry, _):
            kept, dropped = carry
            return (kept * x, jnp.cos(dropped)), jnp.tanh(dropped)

        return lax.scan(step, (1.0, 0.0), None, length=3)[0][0]

    code = code_of(check(loss, 2.0))
    assert "cos" not in code and "tanh" not in code


def test_what_another_carried_value_needs_is_kept():
    def loss(x):
        return lax.fori_loop(0, 3, lambda _, carry: (carry[0] * carry[1], jnp.cos(carry[1])), (x, x))[0]

    assert "cos" in code_of(check(loss, 0.5))
