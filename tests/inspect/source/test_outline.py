"""Blocks that a program repeats."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp

from tests.inspect.source.sources import check, code_of


def unrolled(params, x):
    for layer in params["layers"]:
        h = jnp.tanh(x @ layer["in"]["w"] + layer["in"]["b"])
        gate = jax.nn.sigmoid(h) * jnp.cos(h)
        x = x + (h * gate) @ layer["out"]
    return jnp.mean(x**2)


def test_layers_of_an_unrolled_network_become_calls_of_one_function_that_pass_their_containers():
    def example(depth):
        layer = {"in": {"w": jnp.eye(3), "b": jnp.ones(3)}, "out": jnp.ones((3, 3)) / 3}
        return {"layers": [layer] * depth, "start": jnp.ones(())}, jnp.linspace(-1, 1, 6).reshape(2, 3)

    source = check(unrolled, *example(4), tolerance=1e-5)
    code = code_of(source)
    assert code.count("\ndef ") == 3
    # The first layer's input has no gradient, so its way back is another and takes the residuals apart.
    assert "x_2, (h, " in code and ') = block(x, params["layers"][0])' in code
    assert 'x_3, residuals = block(x_2, params["layers"][1])' in code
    assert re.search(r'ct_layer_1, \w+ = block_backward\(\w+, params\["layers"\]\[1\], residuals, x_2\)', code)
    more = check(unrolled, *example(6), tolerance=1e-5)
    assert len(more.splitlines()) - len(source.splitlines()) <= 8
