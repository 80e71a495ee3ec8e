"""Jaxprs as programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tests.inspect.source.sources import check


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
