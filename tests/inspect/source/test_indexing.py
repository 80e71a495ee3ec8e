"""Indexing."""

from __future__ import annotations

import jax.numpy as jnp

from tests.inspect.source.sources import check


def test_rows_are_taken_and_put_back_by_their_index():
    source = check(lambda table, i: jnp.sum(jnp.sin(table[i])), jnp.ones((5, 2)), jnp.array([0, -1, 0]))
    assert "table[i]" in source and "jnp.zeros((5, 2)).at[i].add(" in source
