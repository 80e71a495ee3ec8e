"""Functions that are called more than once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

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
