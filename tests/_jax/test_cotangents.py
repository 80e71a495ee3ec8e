"""What JAX takes our values for."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import funcgrad as fg


def test_what_is_differentiated_is_hoisted_out_of_a_closure():
    hoisted = []

    def f(x):
        converted, consts = jax.closure_convert(lambda y: jnp.sin(x) * y, 1.0)
        hoisted.append(len(consts))
        return converted(2.0, *consts)

    assert fg.grad(f)(0.5) == jax.grad(f)(0.5)
    assert hoisted[0] == hoisted[1] == 1
