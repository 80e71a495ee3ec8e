"""A decoder-only transformer: its layers called one by one, or scanned with their parameters stacked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.workloads.networks import cross_entropy
from benchmarks.workloads.workload import Random, Workload, zeros

VOCABULARY, WIDTH, HEADS, BATCH, LENGTH = 256, 64, 4, 4, 32


def layer_norm(params, x):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5) * params["scale"] + params["bias"]


def attention(params, x):
    batch, length, width = x.shape
    q, k, v = jnp.split(x @ params["qkv"], 3, axis=-1)
    q, k, v = (t.reshape(batch, length, HEADS, width // HEADS).transpose(0, 2, 1, 3) for t in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / (width // HEADS) ** 0.5
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -1e9), axis=-1)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(batch, length, width) @ params["out"]


def block(params, x):
    x = x + attention(params, layer_norm(params["norm1"], x))
    return x + jax.nn.gelu(layer_norm(params["norm2"], x) @ params["up"]) @ params["down"]


def head(params, x, tokens):
    """Mean cross-entropy of the tokens after the first, given what stands before each."""
    logits = layer_norm(params["norm"], x) @ params["head"]
    return cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))


def unrolled_loss(params, tokens):
    """``params["layers"]`` is a list; ``tokens`` has shape (batch, length + 1)."""
    x = params["embed"][tokens[:, :-1]]
    for layer in params["layers"]:
        x = block(layer, x)
    return head(params, x, tokens)


def scanned_loss(params, tokens):
    """``params["layers"]`` is one layer whose arrays have a leading axis for the layers."""
    x = params["embed"][tokens[:, :-1]]
    x, _ = lax.scan(lambda x, layer: (block(layer, x), None), x, params["layers"])
    return head(params, x, tokens)


def unrolled_example(layers: int):
    random = Random()

    def norm():
        return {"scale": 1 + zeros(WIDTH), "bias": zeros(WIDTH)}

    def layer():
        return {
            "norm1": norm(),
            "qkv": random.matrix(WIDTH, 3 * WIDTH),
            "out": random.matrix(WIDTH, WIDTH),
            "norm2": norm(),
            "up": random.matrix(WIDTH, 4 * WIDTH),
            "down": random.matrix(4 * WIDTH, WIDTH),
        }

    params = {
        "embed": random.normal(VOCABULARY, WIDTH, scale=0.02),
        "layers": [layer() for _ in range(layers)],
        "norm": norm(),
        "head": random.matrix(WIDTH, VOCABULARY),
    }
    return params, random.integers(VOCABULARY, BATCH, LENGTH + 1)


def scanned_example(layers: int):
    params, tokens = unrolled_example(layers)
    return {**params, "layers": jax.tree.map(lambda *xs: jnp.stack(xs), *params["layers"])}, tokens


def torch_norm(torch, params, x):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], params["scale"], params["bias"], 1e-5)


def torch_block(torch, params, x):
    batch, length, width = x.shape
    functional = torch.nn.functional
    q, k, v = (torch_norm(torch, params["norm1"], x) @ params["qkv"]).chunk(3, -1)
    q, k, v = (t.view(batch, length, HEADS, width // HEADS).transpose(1, 2) for t in (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + mixed.transpose(1, 2).reshape(batch, length, width) @ params["out"]
    hidden = functional.gelu(torch_norm(torch, params["norm2"], x) @ params["up"], approximate="tanh")
    return x + hidden @ params["down"]


def torch_loss(torch, params, tokens, layers):
    x = params["embed"][tokens[:, :-1]]
    for layer in layers:
        x = torch_block(torch, layer, x)
    logits = torch_norm(torch, params["norm"], x) @ params["head"]
    return torch.nn.functional.cross_entropy(logits.view(-1, VOCABULARY), tokens[:, 1:].reshape(-1))


def unrolled_torch(torch, params, tokens):
    return torch_loss(torch, params, tokens, params["layers"])


def scanned_torch(torch, params, tokens):
    count = len(params["layers"]["qkv"])
    unbound = jax.tree.map(lambda x: x.unbind(0), params["layers"])
    layers = [jax.tree.map(lambda xs, i=i: xs[i], unbound, is_leaf=lambda x: type(x) is tuple) for i in range(count)]
    return torch_loss(torch, params, tokens, layers)


unrolled = Workload(unrolled_loss, unrolled_example, "layers", (3, 6, 12), 1, unrolled_torch, once=12)
scanned = Workload(scanned_loss, scanned_example, "layers", (3, 6, 12), 2, scanned_torch, once=12)
