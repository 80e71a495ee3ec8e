"""What a loop returns at every step and never differs, returned once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcgrad.programs.hoist import hoist
from funcgrad.programs.loop import Loop
from tests.agreement import assert_same

XS = jnp.arange(3.0)


def loop_of(body, *args):
    return Loop.of(jax.make_jaxpr(body)(*args), num_fixed=1, num_carry=1, length=3)


def step(w, c, x):
    slope = jnp.cos(w)
    return c * slope + x, c, slope, 2.0


def test_what_does_not_differ_is_returned_once():
    plain = loop_of(step, 0.5, 1.0, 2.0)
    total, carries, slope, two = hoist(plain, [2, 3]).run(jnp.float32(0.5), jnp.float32(1), XS)
    expected = plain.run(jnp.float32(0.5), jnp.float32(1), XS)
    assert_same((total, carries), tuple(expected[:2]))
    assert (slope.shape, np.shape(two)) == ((), ())
    np.testing.assert_array_equal([slope] * 3, expected[2])
    np.testing.assert_array_equal([two] * 3, expected[3])


@pytest.mark.parametrize("outputs", [[], [1], [0, 1]])
def test_what_differs_or_is_not_asked_for_is_stacked(outputs):
    plain = loop_of(step, 0.5, 1.0, 2.0)
    assert hoist(plain, outputs) is plain


def test_a_hoisted_loop_is_hoisted_again():
    once = hoist(loop_of(step, 0.5, 1.0, 2.0), [3])
    *_, slope, two = hoist(once, [2]).run(jnp.float32(0.5), jnp.float32(1), XS)
    assert (float(slope), float(two)) == (float(jnp.cos(jnp.float32(0.5))), 2.0)
