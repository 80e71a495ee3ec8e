"""Programs whose gradients take memory: a small GPT-2, unrolled and scanned, a ResNet, a U-Net and an LSTM."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Program = tuple[Callable[..., Any], tuple[Any, ...]]


class Weights:
    """Draws weights: each call returns an array of the shape asked for, scaled by what it is multiplied with."""

    def __init__(self) -> None:
        self.numbers = np.random.default_rng(0)

    def __call__(self, *shape: int) -> Any:
        return jnp.asarray(self.numbers.normal(size=shape) / math.sqrt(math.prod(shape[:-1])), jnp.float32)


def normalized(scale: Any, bias: Any, x: Any, axes: Any) -> Any:
    mean, variance = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5) * scale + bias


def affine(size: int) -> Any:
    return jnp.ones(size), jnp.zeros(size)


# GPT-2.


def block(p: Any, x: Any, heads: int = 4) -> Any:
    batch, length, width = x.shape
    q, k, v = jnp.split(normalized(*p["before"], x, -1) @ p["qkv"], 3, axis=-1)
    q, k, v = (a.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3) for a in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(width // heads)
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e9)
    attended = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    x = x + attended @ p["projection"]
    return x + jax.nn.gelu(normalized(*p["between"], x, -1) @ p["up"]) @ p["down"]


def gpt(params: Any, tokens: Any, wrap: Callable = lambda block: block) -> Any:
    x, each = params["embedding"][tokens] + params["position"], wrap(block)
    for p in params["blocks"]:
        x = each(p, x)
    return prediction(params, x, tokens)


def scanned_gpt(params: Any, tokens: Any, wrap: Callable = lambda block: block) -> Any:
    x, each = params["embedding"][tokens] + params["position"], wrap(block)
    x, _ = lax.scan(lambda x, p: (each(p, x), None), x, params["blocks"])
    return prediction(params, x, tokens)


def prediction(params: Any, x: Any, tokens: Any) -> Any:
    logits = normalized(*params["last"], x, -1) @ params["embedding"].T
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1))


def gpt_params(layers: int = 12, width: int = 128, vocabulary: int = 256, length: int = 128) -> Any:
    w = Weights()
    blocks = [
        {"before": affine(width), "between": affine(width), "qkv": w(width, 3 * width), "projection": w(width, width),
         "up": w(width, 4 * width), "down": w(4 * width, width)}
        for _ in range(layers)
    ]  # fmt: skip
    return {"embedding": w(vocabulary, width), "position": w(length, width), "blocks": blocks, "last": affine(width)}


# Images.


def convolved(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def resnet(params: Any, x: Any, labels: Any) -> Any:
    x = convolved(x, params["stem"])
    for first, one, second, two in params["blocks"]:
        h = jax.nn.relu(normalized(*one, convolved(x, first), (0, 1, 2)))
        x = jax.nn.relu(x + normalized(*two, convolved(h, second), (0, 1, 2)))
    logits = jnp.mean(x, (1, 2)) @ params["out"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1))


def resnet_params(depth: int = 8, width: int = 16) -> Any:
    w = Weights()
    blocks = [(w(3, 3, width, width), affine(width), w(3, 3, width, width), affine(width)) for _ in range(depth)]
    return {"stem": w(3, 3, 3, width), "blocks": blocks, "out": w(width, 10)}


def stage(p: Any, x: Any) -> Any:
    for w, scale in p:
        x = jax.nn.silu(normalized(*scale, convolved(x, w), (0, 1, 2)))
    return x


def unet(params: Any, x: Any, y: Any) -> Any:
    skips = []
    for p in params["down"]:
        skips.append(stage(p, x))
        x = lax.reduce_window(skips[-1], -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = stage(params["middle"], x)
    for p in params["up"]:
        x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        x = stage(p, jnp.concatenate([x, skips.pop()], -1))
    return jnp.mean((convolved(x, params["out"]) - y) ** 2)


def unet_params(levels: int = 3, width: int = 8) -> Any:
    w = Weights()

    def two(taken: int, made: int) -> Any:
        return [(w(3, 3, taken, made), affine(made)), (w(3, 3, made, made), affine(made))]

    widths = [width * 2**k for k in range(levels + 1)]
    down = [two(taken, made) for taken, made in zip([3, *widths], widths[:-1], strict=False)]
    up = [two(widths[k + 1] + widths[k], widths[k]) for k in reversed(range(levels))]
    return {"down": down, "middle": two(widths[-2], widths[-1]), "up": up, "out": w(1, 1, width, 1)}


# Three layers of an LSTM, one above the other.


def cell(p: Any, state: Any, x: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(jnp.concatenate([x, h], -1) @ p[0] + p[1], 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def lstm(params: Any, xs: Any, y: Any) -> Any:
    def step(states: Any, x: Any) -> Any:
        after = []
        for p, state in zip(params["cells"], states, strict=True):
            after.append(cell(p, state, x))
            x = after[-1][0]
        return after, None

    zeros = jnp.zeros(xs.shape[1:])
    states, _ = lax.scan(step, [(zeros, zeros)] * len(params["cells"]), xs)
    return jnp.mean((states[-1][0] @ params["out"] - y) ** 2)


def lstm_params(layers: int = 3, width: int = 64) -> Any:
    w = Weights()
    return {"cells": [(w(2 * width, 4 * width), jnp.zeros(4 * width)) for _ in range(layers)], "out": w(width, 1)}


def programs(layers: int = 12) -> dict[str, Program]:
    """Losses of parameters and data, by name, with arguments."""
    numbers = np.random.default_rng(1)

    def draw(*shape: int) -> Any:
        return jnp.asarray(numbers.normal(size=shape), jnp.float32)

    tokens = jnp.asarray(numbers.integers(0, 256, (8, 128)))
    params = gpt_params(layers)
    stacked = {**params, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])}
    images, labels = draw(8, 32, 32, 3), jnp.asarray(numbers.integers(0, 10, 8))
    return {
        "GPT-2": (gpt, (params, tokens)),
        "GPT-2, scanned": (scanned_gpt, (stacked, tokens)),
        "ResNet": (resnet, (resnet_params(), images, labels)),
        "U-Net": (unet, (unet_params(), images, draw(8, 32, 32, 1))),
        "LSTM": (lstm, (lstm_params(), draw(256, 8, 64), jnp.ones((8, 1)))),
    }
