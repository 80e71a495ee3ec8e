"""Algebra that is left out."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from tests.inspect.source.sources import body_of, check


def test_what_changes_nothing_is_left_out():
    def loss(x):
        y = lax.reshape(x * 1.0 + 0.0, (3,)).astype(jnp.float32)
        return jnp.sum(jnp.where(True, y, -y) / 1.0)

    assert body_of(check(loss, jnp.arange(3.0)))[0] == "value = jnp.sum(x)"
