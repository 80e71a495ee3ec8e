"""What a program is thought to hold, and what XLA holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from funcgrad.budgets.held import Held

X = jnp.cos(jnp.arange(128.0 * 128)).reshape(128, 128)


def squares(x):
    """Each product is read twice: by the next, and in the end."""
    seen = []
    for _ in range(6):
        x = x @ x
        seen.append(x)
    for y in seen:
        x = x @ y
    return x


def fused(x):
    """What one other operation reads is not written."""
    y = jnp.sin(jnp.tanh(x @ x) * 2 + 1)
    return y @ y


def looped(x):
    return lax.scan(lambda c, _: (jnp.sin(c @ c) @ c, jnp.sum(c)), x, None, length=5)[0] @ x


def reshaped(x):
    y = x @ x
    return (y.reshape(256, 64) @ y.reshape(64, 256)).reshape(512, 128) @ x


@pytest.mark.parametrize("f", [squares, fused, looped, reshaped])
def test_what_is_held_is_what_xla_holds(f):
    """But that the place of a result may be used before it is there."""
    program = jax.make_jaxpr(f)(X)
    held = Held(program.eqns, program.jaxpr.outvars).peak
    measured = jax.jit(f).lower(X).compile().memory_analysis().temp_size_in_bytes
    assert held - jax.eval_shape(f, X).size * 4 - 4096 <= measured <= 1.1 * held + 4096
