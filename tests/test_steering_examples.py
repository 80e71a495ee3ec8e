"""The examples of other rules, on what they return."""

from __future__ import annotations

import numpy as np
import pytest

import funcgrad as fg
from funcgrad.__main__ import example

quantized_mlp = example("quantized_mlp")
saliency = example("saliency")


@pytest.fixture(scope="module")
def accuracies():
    return quantized_mlp.main()


def test_two_bits_are_three_values():
    weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    values = np.unique(quantized_mlp.quantise(weight))
    assert len(values) == 3 and values[1] == 0 and values[0] == -values[2]


def test_the_rule_is_that_of_the_rounding_alone():
    data, params = quantized_mlp.load(), fg.nn.init_mlp(quantized_mlp.jax.random.key(1), quantized_mlp.SIZES)
    at = (data.x_train[:50], data.y_train[:50])
    straight = fg.grad(quantized_mlp.loss, rules=quantized_mlp.STRAIGHT_THROUGH)(params, *at, True)
    at_rounded = fg.grad(quantized_mlp.loss)(quantized_mlp.rounded(params), *at, False)
    for mine, expected in zip(straight, at_rounded, strict=True):
        np.testing.assert_allclose(mine["weight"], expected["weight"], atol=1e-6)


def test_training_through_the_rounding_keeps_what_rounding_afterwards_loses(accuracies):
    full, rounded, by_default, through = accuracies.values()
    assert full > 0.94 and through > 0.9
    assert rounded < through - 0.1 and by_default < through - 0.3


def test_guided_backpropagation_follows_the_ink(tmp_path):
    result = saliency.main(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert result.accuracy > 0.93
    agreement = {
        name: np.mean([np.corrcoef(g.ravel(), x.ravel())[0, 1] for g, x in zip(gradients, result.images, strict=True)])
        for name, gradients in result.gradients.items()
    }
    assert agreement["guided backpropagation"] > agreement["gradient"] + 0.2
    assert agreement["deconvnet"] > agreement["gradient"] + 0.2
