"""Programs as statements."""

from __future__ import annotations

import jax.numpy as jnp

from tests.inspect.source.sources import check, comments_of


def test_a_line_is_a_comment_before_what_comes_of_it_on_either_way():
    def loss(x):
        y = jnp.sin(x)
        return jnp.sum(y * x)

    comments = comments_of(check(loss, jnp.arange(3.0)))
    assert comments == [
        "y = jnp.sin(x)",
        "return jnp.sum(y * x)",
        "The way back.",
        "return jnp.sum(y * x)",
        "y = jnp.sin(x)",
    ] or comments == ["y = jnp.sin(x)", "return jnp.sum(y * x)", "The way back.", "y = jnp.sin(x)"]
