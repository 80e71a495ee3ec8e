"""Constants and parameters as expressions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg
from tests.inspect.source.sources import check


def test_small_constants_are_spelled_and_large_ones_packed():
    small, large = np.array([1.5, -2.0], np.float32), np.random.default_rng(0).normal(size=300).astype(np.float32)
    assert "jnp.array([1.5, -2.0], jnp.float32)" in check(lambda x: jnp.sum(x * small), jnp.ones(2))
    source = check(lambda x: jnp.sum(x * large), jnp.ones(300))
    assert "zlib.decompress" in source


def test_a_huge_constant_is_refused_with_advice():
    huge = np.random.default_rng(0).normal(size=2**19)
    with pytest.raises(ValueError, match=r"Pass it as an argument"):
        fg.backward_source(lambda x: jnp.sum(x * huge))(1.0)


def test_random_keys_can_be_constants():
    key = jax.random.key(3)
    check(lambda x: x * jax.random.normal(key), 2.0)
