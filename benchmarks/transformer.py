"""A decoder-only transformer in plain JAX: 12 layers, unrolled, each a direct call."""

from __future__ import annotations

import jax
import jax.numpy as jnp

VOCABULARY, WIDTH, HEADS, LAYERS = 256, 64, 4, 12


def init(key: jax.Array, layers: int = LAYERS) -> dict:
    """Parameters as a nested dict; matrices scaled by the root of their fan-in."""
    embed_key, head_key, *layer_keys = jax.random.split(key, layers + 2)

    def matrix(key, rows, columns):
        return jax.random.normal(key, (rows, columns)) / rows**0.5

    def layer(key):
        k = jax.random.split(key, 4)
        return {
            "norm1": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
            "qkv": matrix(k[0], WIDTH, 3 * WIDTH),
            "out": matrix(k[1], WIDTH, WIDTH),
            "norm2": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
            "up": matrix(k[2], WIDTH, 4 * WIDTH),
            "down": matrix(k[3], 4 * WIDTH, WIDTH),
        }

    return {
        "embed": 0.02 * jax.random.normal(embed_key, (VOCABULARY, WIDTH)),
        "layers": [layer(key) for key in layer_keys],
        "norm": {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)},
        "head": matrix(head_key, WIDTH, VOCABULARY),
    }


def layer_norm(params: dict, x: jax.Array) -> jax.Array:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * params["scale"] + params["bias"]


def attention(params: dict, x: jax.Array) -> jax.Array:
    batch, length, width = x.shape
    q, k, v = jnp.split(x @ params["qkv"], 3, axis=-1)
    q, k, v = (t.reshape(batch, length, HEADS, width // HEADS).transpose(0, 2, 1, 3) for t in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / (width // HEADS) ** 0.5
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -1e9), axis=-1)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(batch, length, width) @ params["out"]


def block(params: dict, x: jax.Array) -> jax.Array:
    x = x + attention(params, layer_norm(params["norm1"], x))
    return x + jax.nn.gelu(layer_norm(params["norm2"], x) @ params["up"]) @ params["down"]


def loss(params: dict, tokens: jax.Array) -> jax.Array:
    """Mean next-token cross-entropy of ``tokens``, int32 of shape (batch, length)."""
    x = params["embed"][tokens[:, :-1]]
    for layer in params["layers"]:
        x = block(layer, x)
    logits = layer_norm(params["norm"], x) @ params["head"]
    log_probabilities = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1)
    return -jnp.mean(picked)


def example() -> tuple[dict, jax.Array]:
    return init(jax.random.key(0)), jax.random.randint(jax.random.key(1), (4, 33), 0, VOCABULARY)
