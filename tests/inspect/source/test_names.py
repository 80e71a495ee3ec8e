"""What values are called."""

from __future__ import annotations

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tests.inspect.source.sources import body_of, check


def test_values_have_the_names_of_the_users_lines_and_cotangents_are_named_after_them():
    def loss(params, x):
        h = jnp.tanh(x @ params["w"] + params["b"])
        scale = jnp.sum(h**2)
        return scale * jnp.sum(h)

    source = check(loss, {"w": jnp.ones((3, 2)) / 3, "b": jnp.ones(2)}, jnp.ones((4, 3)))
    body = body_of(source)
    assert body[:3] == ["b, w = (params['b'], params['w'])", "h = jnp.tanh(x @ w + b)", "scale = jnp.sum(h ** 2)"]
    assert any(line.startswith("ct_h = ") for line in body)
    assert body[-1] == "return (value, {'b': ct_b, 'w': ct_w})"


def test_checkpoint_names_are_used():
    source = check(lambda x: jnp.sum(jnp.exp(checkpoint_name(jnp.sin(x) * x, "energy")) ** 2), jnp.arange(3.0))
    assert "energy = sine_x * x" in source
    assert "ct_energy = " in source


def test_a_name_assigned_twice_gets_a_number():
    def loss(x):
        x = jnp.sin(x)
        x = jnp.exp(x)
        return jnp.sum(x)

    body = body_of(check(loss, jnp.arange(3.0)))
    assert body[:3] == ["x_2 = jnp.sin(x)", "x_3 = jnp.exp(x_2)", "value = jnp.sum(x_3)"]
