"""The benchmarked programs have the gradients they are timed for."""

import jax
import pytest

import funcgrad as fg
from benchmarks import layers, transformer
from benchmarks.__main__ import difference
from benchmarks.measure import compare


def test_the_transformers_gradient_equals_jaxs_to_float32_rounding():
    params, tokens = transformer.init(jax.random.key(0), layers=2), transformer.example()[1]
    ours = jax.jit(fg.value_and_grad(transformer.loss))(params, tokens)
    theirs = jax.jit(jax.value_and_grad(transformer.loss))(params, tokens)
    assert difference(ours, theirs) < 1e-5


def test_the_gradient_through_equal_layers_equals_jaxs():
    params, x = layers.example(3)
    loss = layers.loss()
    assert difference(fg.grad(loss)(params, x), jax.grad(loss)(params, x)) < 1e-5


def test_a_comparison_takes_its_ratio_within_each_turn(monkeypatch):
    seconds = iter([9.0, 9.0, 1.0, 2.0, 10.0, 20.0, 3.0, 6.0])
    monkeypatch.setattr("benchmarks.measure.seconds", lambda call: next(seconds))
    measured = compare(lambda: None, lambda: None, turns=3)
    assert measured.ratio == pytest.approx(2.0)
    assert (measured.reference, measured.ours) == (3.0, 6.0)
