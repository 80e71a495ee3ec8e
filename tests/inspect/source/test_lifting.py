"""The pass that is written down, as a program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad as fg
from tests.inspect.source.sources import check


def test_another_rule_table_is_written_as_it_is():
    through = fg.rules.default.override({lax.round_p: lambda ct: ct})
    source = check(lambda x: jnp.sum(jnp.round(x) ** 2), jnp.array([0.3, 1.6]), rules=through)
    assert "ct_x = " in source


def test_it_raises_what_value_and_grad_does():
    with pytest.raises(TypeError, match="scalar-output"):
        fg.backward_source(lambda x: x)(jnp.ones(2))


def test_what_is_checkpointed_is_computed_again():
    block = jax.checkpoint(lambda w, x: jnp.sin(jnp.sin(x @ w)))
    source = check(lambda w, x: jnp.sum(block(w, x)), jnp.ones((2, 2)), jnp.ones(2))
    forward, _, back = source.partition("# The way back.")
    assert "optimization_barrier" in back and "jnp.sin(" in back and "jnp.sin(" in forward


def test_prints_are_left_out():
    def loss(x):
        jax.debug.print("x = {}", x)
        return x * x

    assert "debug" not in check(loss, 2.0).partition("@jax.jit")[2].replace("jax.debug.print(", "", 1)
