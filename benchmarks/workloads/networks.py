"""The article's line fit, a multilayer perceptron, and a convolutional network."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.workloads.workload import Random, Workload, zeros

CLASSES = 10


def line_loss(params, x, y):
    """The mean squared error of ``w * x + b``."""
    w, b = params
    return jnp.mean((w * x + b - y) ** 2)


def line_torch(torch, params, x, y):
    w, b = params
    return torch.nn.functional.mse_loss(w * x + b, y)


def line_example(points: int):
    random = Random()
    x = random.uniform(-5, 5, points)
    return (jnp.float32(-10), jnp.float32(-20)), x, -5 * x + random.normal(points, scale=0.4)


def cross_entropy(logits, labels):
    """Mean over a batch of logits (batch, classes) and labels (batch,)."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)
    return -jnp.mean(picked)


def mlp_loss(params, x, labels):
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
    return cross_entropy(x @ last["weight"] + last["bias"], labels)


def mlp_torch(torch, params, x, labels):
    *hidden, last = params
    for layer in hidden:
        x = torch.relu(x @ layer["weight"] + layer["bias"])
    return torch.nn.functional.cross_entropy(x @ last["weight"] + last["bias"], labels)


def mlp_example(batch: int, sizes=(784, 512, 512, CLASSES)):
    random = Random()
    params = [{"weight": random.matrix(rows, columns), "bias": zeros(columns)} for rows, columns in pairwise(sizes)]
    return params, random.normal(batch, sizes[0]), random.integers(CLASSES, batch)


def convnet_loss(params, images, labels):
    """Three 3x3 convolutions, each with ReLU and 2x2 max pooling, of images (batch, channels, height, width)."""
    x = images
    for layer in params["layers"]:
        x = lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME") + layer["bias"][:, None, None]
        x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return cross_entropy(x.mean((2, 3)) @ params["head"], labels)


def convnet_torch(torch, params, images, labels):
    functional, x = torch.nn.functional, images
    for layer in params["layers"]:
        x = functional.conv2d(x, layer["kernel"], layer["bias"], padding=1)
        x = functional.max_pool2d(torch.relu(x), 2)
    return functional.cross_entropy(x.mean((2, 3)) @ params["head"], labels)


def convnet_example(batch: int, channels=(3, 16, 32, 64), side: int = 32):
    random = Random()
    layers = [
        {"kernel": random.normal(outs, ins, 3, 3, scale=(9 * ins) ** -0.5), "bias": zeros(outs)}
        for ins, outs in pairwise(channels)
    ]
    params = {"layers": layers, "head": random.matrix(channels[-1], CLASSES)}
    return params, random.normal(batch, channels[0], side, side), random.integers(CLASSES, batch)


line = Workload(line_loss, line_example, "points", (100, 1_000, 10_000, 100_000), 10, line_torch)
mlp = Workload(mlp_loss, mlp_example, "images", (16, 64, 256), 2, mlp_torch)
convnet = Workload(convnet_loss, convnet_example, "images", (2, 8, 32), 2, convnet_torch)
