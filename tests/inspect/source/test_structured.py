"""Operations of many parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad as fg
from tests.inspect.source.sources import check


@pytest.mark.parametrize(
    ("function", "written"),
    [
        (lambda x: lax.sort(x), "lax.sort(x, dimension=0)"),
        (lambda x: lax.top_k(x, 2)[0], "lax.top_k(x, 2)"),
        (lambda x: lax.cumsum(x, reverse=True), "lax.cumsum(x, axis=0, reverse=True)"),
        (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID"), "lax.reduce_window("),
        (lambda x: jnp.fft.fft(x).real, "lax.FftType.FFT, (4,)"),
        (lambda x: jax.random.bits(jax.random.key(x[0].astype(int)), (4,)), "(4,), jnp.uint32"),
        (lambda x: jax.random.key_data(jax.random.split(jax.random.key(x[0].astype(int)))), 'impl="threefry2x32"), 2)'),
    ],
)
def test_calls_say_what_is_not_as_it_is_by_default(function, written):
    source = fg.backward_source(lambda w, x: w * jnp.sum(function(x)))(1.0, jnp.arange(4.0))
    assert "".join(written.split()) in "".join(source.split())


def test_references_are_read_and_written_by_index():
    def filled(x):
        ref = jax.new_ref(jnp.zeros(3))
        ref[0] = jnp.sin(x)
        ref[1] += 2 * x
        return jnp.sum(ref[...])

    source = check(lambda w, x: w * filled(x), 1.0, 2.0)
    assert "ref[0] = jnp.sin(x)" in source and "ref[1] = content + 2.0 * x" in source
