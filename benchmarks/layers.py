"""Equal layers called through one jitted function: the engine splits the layer once, however many there are."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


@jax.jit
def layer(params: dict, x: jax.Array) -> jax.Array:
    hidden = jax.nn.gelu(x @ params["up"] + params["bias"])
    x = x + hidden @ params["down"]
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def example(count: int, width: int = 16) -> tuple[Callable, tuple]:
    """The loss of ``count`` layers, and arguments for it."""
    key = jax.random.key(0)
    params = [
        {
            "up": jax.random.normal(jax.random.fold_in(key, 2 * i), (width, 4 * width)) / 4,
            "bias": jnp.zeros(4 * width),
            "down": jax.random.normal(jax.random.fold_in(key, 2 * i + 1), (4 * width, width)) / 8,
        }
        for i in range(count)
    ]

    def loss(params, x):
        for p in params:
            x = layer(p, x)
        return jnp.mean(x**2)

    return loss, (params, jnp.ones((2, width)))
