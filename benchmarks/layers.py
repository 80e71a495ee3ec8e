"""Equal layers called through one jitted function: the engine splits the layer once, however many there are."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def layer(params: dict, x: jax.Array) -> jax.Array:
    hidden = jax.nn.gelu(x @ params["up"] + params["bias"])
    x = x + hidden @ params["down"]
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def loss() -> Callable:
    """A loss through one jitted layer, which no cache has seen yet."""
    jitted = jax.jit(lambda params, x: layer(params, x))

    def fourth_moment(params, x):
        for p in params:
            x = jitted(p, x)
        return jnp.mean(x**4)

    return fourth_moment


def example(count: int, width: int = 16) -> tuple:
    """Parameters of ``count`` layers and an input of shape (2, width)."""
    key = jax.random.key(0)
    params = [
        {
            "up": jax.random.normal(jax.random.fold_in(key, 2 * i), (width, 4 * width)) / 4,
            "bias": jnp.zeros(4 * width),
            "down": jax.random.normal(jax.random.fold_in(key, 2 * i + 1), (4 * width, width)) / 8,
        }
        for i in range(count)
    ]
    return params, jnp.ones((2, width))
