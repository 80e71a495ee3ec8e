"""Shapes that take care of themselves."""

from __future__ import annotations

import jax.numpy as jnp

from tests.inspect.source.sources import check


def test_broadcasting_is_left_to_the_operators():
    source = check(lambda x, y: jnp.sum((x + y[:, None]) * 2.0), jnp.ones((3, 4)), jnp.ones(3), argnums=(0, 1))
    assert "x + y[:, None]" in source and "broadcast" not in source.partition("way back")[0]
