"""Models in PyTorch and their ports to JAX, with the bugs that ports have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jax.ad_checkpoint import checkpoint_name as named
from torch import nn
from torch.nn import functional as F


@dataclass
class Port:
    """A module, its loss, the port of both, and a batch. ``bug=`` of ``jax_loss`` plants one."""

    module: nn.Module
    loss: Callable
    jax_loss: Callable
    batch: tuple


def build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make()
        with torch.no_grad():  # No parameter is left at a value, zero or one, that hides a mistake.
            for p in module.parameters():
                p += 0.1 * torch.randn_like(p)
    return module


def linear(p, x):
    return x @ p["weight"].T + p["bias"]


def layer_norm(p, x, eps=1e-5):
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + eps) * p["weight"] + p["bias"]


# A perceptron


def mlp(seed=0, sizes=(6, 5, 5, 2), rows=4) -> Port:
    def make():
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.GELU())]
        return nn.Sequential(*layers[:-1])

    rng = np.random.default_rng(seed)
    batch = rng.normal(size=(rows, sizes[0])).astype(np.float32), rng.normal(size=(rows, sizes[-1])).astype(np.float32)
    return Port(build(make, seed), F.mse_loss, mlp_loss, batch)


def mlp_loss(params, x, y, bug=None):
    last = max(map(int, params))
    for i in range(0, last + 1, 2):
        layer = params[str(i)]
        weight = layer["weight"] if bug == "transposed" and i == 2 else layer["weight"].T
        x = x @ weight if bug == "no bias" and i == 2 else x @ weight + layer["bias"]
        x = named(x, str(i))
        if i < last:
            x = named(jax.nn.gelu(x, approximate=bug == "tanh" and i == 0), str(i + 1))
    return (jnp.sum if bug == "sum" else jnp.mean)((x - y) ** 2)


# A convolutional net, images with their channels last in the port


class ConvNet(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.conv1 = nn.Conv2d(2, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 3, 3, stride=2)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        return self.head(self.conv2(x).mean((2, 3)))


def convnet(seed=0, channels=4, size=8) -> Port:
    rng = np.random.default_rng(seed)
    batch = rng.normal(size=(3, 2, size, size)).astype(np.float32), rng.integers(0, 3, 3)
    return Port(build(partial(ConvNet, channels), seed), F.cross_entropy, convnet_loss, batch)


def conv(p, x, stride=1, padding="VALID"):
    kernel = p["weight"].transpose(2, 3, 1, 0)
    out = lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out + p["bias"]


def convnet_loss(params, x, labels, bug=None):
    x = named(conv(params["conv1"], x.transpose(0, 2, 3, 1), padding="SAME"), "conv1")
    p, axes = params["norm"], (0, 1, 2)
    eps = 1e-6 if bug == "eps" else 1e-5
    x = (x - jnp.mean(x, axes)) * lax.rsqrt(jnp.var(x, axes) + eps) * p["weight"] + p["bias"]
    x = jax.nn.relu(named(x, "norm"))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = named(conv(params["conv2"], x, stride=2), "conv2")
    logits = named(linear(params["head"], jnp.mean(x, (1, 2))), "head")
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


# A transformer block over embedded tokens, with a table of positions in a float32 buffer


class Positions(nn.Module):
    def __init__(self, length, width):
        super().__init__()
        angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], -1))

    def forward(self, x):
        return x + self.table[: x.shape[1]]


class Transformer(nn.Module):
    def __init__(self, width=8, tokens=7, length=5):
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.positions = Positions(length, width)
        self.block = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens):
        causal = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=self.norm.weight.dtype)
        x = self.block(self.positions(self.embed(tokens)), src_mask=causal)
        return self.norm(x) @ self.embed.weight.T


def next_token_loss(logits, tokens):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def transformer(seed=0, width=8, length=5) -> Port:
    tokens = np.random.default_rng(seed).integers(0, 7, (2, length))
    module = build(partial(Transformer, width, 7, length), seed)
    return Port(module, next_token_loss, transformer_loss, (tokens, tokens))


def attention(p, x, heads=2):
    batch, length, width = x.shape
    projected = x @ p["in_proj_weight"].T + p["in_proj_bias"]
    q, k, v = (y.reshape(batch, length, heads, -1) for y in jnp.split(projected, 3, -1))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(width // heads)
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(x.shape)
    return linear(p["out_proj"], mixed)


def transformer_loss(params, tokens, targets, bug=None):
    table = params["embed"]["weight"]
    length, width = tokens.shape[1], table.shape[1]
    angles = jnp.arange(length)[:, None] / 10000 ** (jnp.arange(0, width, 2) / width)
    x = named(table[tokens], "embed")
    x = named(x + jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(x.dtype), "positions")
    p = params["block"]
    normal = named(layer_norm(p["norm1"], x), "block.norm1")
    x = x + named(attention(p["self_attn"], normal), "block.self_attn")
    normal = named(layer_norm(p["norm2"], x, 1e-6 if bug == "eps" else 1e-5), "block.norm2")
    inner = named(linear(p["linear1"], normal), "block.linear1")
    inner = jax.nn.gelu(inner, approximate=bug == "tanh")
    x = x + named(linear(p["linear2"], inner), "block.linear2")
    x = named(layer_norm(params["norm"], named(x, "block")), "norm")
    log_likelihoods = jax.nn.log_softmax((x @ table.T)[:, :-1])
    return -jnp.mean(jnp.take_along_axis(log_likelihoods, targets[:, 1:, None], -1))


# A recurrent net


class Recurrent(nn.Module):
    def __init__(self, hidden=5):
        super().__init__()
        self.lstm = nn.LSTM(3, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def lstm(seed=0, hidden=5, length=6) -> Port:
    rng = np.random.default_rng(seed)
    batch = rng.normal(size=(2, length, 3)).astype(np.float32), rng.normal(size=(2, 1)).astype(np.float32)
    return Port(build(partial(Recurrent, hidden), seed), F.mse_loss, lstm_loss, batch)


def lstm_loss(params, x, y, bug=None):
    p = params["lstm"]

    def step(carry, x):
        h, c = carry
        gates = x @ p["weight_ih_l0"].T + p["bias_ih_l0"] + h @ p["weight_hh_l0"].T
        gates = gates if bug == "no bias" else gates + p["bias_hh_l0"]
        i, f, g, o = jnp.split(gates, 4, -1)
        if bug == "gates":
            f, g = g, f
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros((x.shape[0], p["weight_hh_l0"].shape[1]), x.dtype)
    _, outs = lax.scan(step, (start, start), x.swapaxes(0, 1))
    outs = named(outs, "lstm")
    return jnp.mean((named(linear(params["head"], outs[-1]), "head") - y) ** 2)


PORTS: dict[str, Callable[..., Port]] = {"mlp": mlp, "convnet": convnet, "transformer": transformer, "lstm": lstm}


def in_dtype(tree: Any, dtype: Any) -> Any:
    """``tree`` with its floating-point leaves in ``dtype``."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
