"""Algebra that is left out, and identities as a table."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad as fg
from tests.inspect.source.sources import body_of, check


def written(function) -> str:
    """What is written first for a function of two arrays, by which nothing is differentiated."""
    source = fg.backward_source(lambda w, x, y: w * jnp.max(function(x, y)))(1.0, jnp.arange(3.0), jnp.ones(3))
    return body_of(source)[0].partition(" = ")[2]


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (lambda x, y: x + -y, "x - y"),
        (lambda x, y: -x + y, "y - x"),
        (lambda x, y: x - -y, "x + y"),
        (lambda x, y: -(x - y), "y - x"),
        (lambda x, y: x + -2.0 * y, "x - 2.0 * y"),
        (lambda x, y: x + -0.5, "x - 0.5"),
        (lambda x, y: 0.0 - x, "-x"),
        (lambda x, y: -1.0 * x, "-x"),
        (lambda x, y: -x * y, "-(x * y)"),
        (lambda x, y: x / -y, "-(x / y)"),
        (lambda x, y: 2.0 * -x, "-2.0 * x"),
        (lambda x, y: x * 2.0, "2.0 * x"),
        (lambda x, y: lax.max(x, jnp.float32(-jnp.inf)), "jnp.max(x)"),
    ],
)
def test_expressions_are_written_as_what_they_equal(function, shown):
    assert written(function) == shown


def test_a_value_that_is_used_elsewhere_too_keeps_its_sign():
    assert written(lambda x, y: (lambda z: jnp.cos(z) * (z * y))(-x)) == "-x"


def test_what_changes_nothing_is_left_out():
    def loss(x):
        y = lax.reshape(x * 1.0 + 0.0, (3,)).astype(jnp.float32)
        return jnp.sum(jnp.where(True, y, -y) / 1.0)

    assert body_of(check(loss, jnp.arange(3.0)))[0] == "value = jnp.sum(x)"
