"""Tidying programs."""

from __future__ import annotations

import jax.numpy as jnp

from tests.inspect.source.sources import check, code_of


def test_equal_values_are_computed_once():
    source = check(lambda x: jnp.sum(jnp.exp(x) + jnp.exp(x) * jnp.exp(x)), jnp.arange(3.0))
    assert code_of(source).count("jnp.exp(") == 1
