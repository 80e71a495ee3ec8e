"""Residuals that are handed over together."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tests.inspect.source.sources import check, code_of


def source_of(steps: int) -> str:
    """The source of a function that keeps ``steps`` values for its way back, called three times."""

    @jax.jit
    def wave(w, x):
        for _ in range(steps):
            x = jnp.sin(w * x) * jnp.exp(x)
        return x + jnp.tanh(w)

    return code_of(check(lambda w: wave(w, wave(w, wave(w, w))), 0.3, tolerance=1e-5))


def test_many_residuals_are_passed_as_one_value_and_taken_apart_where_they_are_used():
    source = source_of(4)
    head = source.partition("def wave_backward(")[2].partition("):")[0]
    assert "residuals" in head and len(head.split(",")) <= 4
    assert " = residuals\n" in source
