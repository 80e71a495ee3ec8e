"""Weights turned before a backward loop that multiplies a few rows with them the other way round."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.agreement import assert_agrees

WIDTH = 12
W = np.sin(np.arange(WIDTH * 2 * WIDTH, dtype=np.float32)).reshape(WIDTH, 2 * WIDTH) / 4


def network(rows, length=24, **how):
    def loss(w):
        def step(h, x):
            a, b = jnp.split(x + h @ w, 2, axis=-1)
            h = jnp.tanh(a) * b
            return h, h

        width = len(w)
        xs = jnp.cos(jnp.arange(length * rows * 2.0 * width)).reshape(length, rows, 2 * width)
        h, hs = lax.scan(step, jnp.ones((rows, width)), xs, **how)
        return jnp.sum(h**2) + jnp.sum(hs)

    return loss


def contracted(f, w=W, platform="cpu"):
    """Which dimension of the weights, as the backward loop takes them, its products with them contract."""
    found = []

    def look(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive is lax.dot_general_p and sorted(eqn.invars[1].aval.shape) == sorted(w.shape):
                found.append(eqn.params["dimension_numbers"][0][1])
            if eqn.primitive is lax.scan_p:
                look(eqn.params["jaxpr"].jaxpr)
            if eqn.primitive is lax.cond_p:
                platforms = eqn.params["branches_platforms"]
                named = [i for i, names in enumerate(platforms) if platform in (names or ())]
                look(eqn.params["branches"][named[0] if named else platforms.index(None)].jaxpr)

    _, pullback = fg.vjp(f, w)
    look(jax.make_jaxpr(lambda pullback: pullback(1.0))(pullback).jaxpr)
    return found


@pytest.mark.parametrize("how", [{}, {"reverse": True}, {"unroll": 2}], ids=str)
@pytest.mark.parametrize("rows", [1, 4, 40])
def test_gradient_agrees(rows, how):
    assert_agrees(network(rows, **how), W, tolerance=1e-5)


@pytest.mark.parametrize(("rows", "dimension"), [(1, 1), (2, 0), (16, 0), (17, 1)])
def test_weights_are_turned_for_a_few_rows(rows, dimension):
    assert contracted(network(rows)) == [(dimension,)]


def test_weights_stay_where_the_loop_is_short_or_small_beside_them():
    assert contracted(network(4, length=6)) == [(1,)]
    assert contracted(network(2, length=8), np.tile(W, (4, 4))) == [(1,)]


def test_weights_stay_where_something_else_uses_them():
    def loss(w):
        def step(h, x):
            a, b = jnp.split(h @ w, 2, axis=-1)
            return jnp.tanh(a) * b * jnp.sum(w * h[0, 0]) + x, None

        return jnp.sum(lax.scan(step, jnp.ones((4, WIDTH)), jnp.cos(jnp.arange(40.0)))[0])

    assert contracted(loss) == [(1,)]
    assert_agrees(loss, W, tolerance=1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_what_is_made_for_another_platform_turns_nothing(platform):
    assert contracted(network(4), platform=platform) == [(1,)]
    turns = lambda m, p: lowered(m.grad(network(4)), p).count("stablehlo.transpose")  # noqa: E731
    assert turns(fg, platform) <= turns(jax, platform)
    assert turns(fg, "cpu") == turns(fg, platform) + 1


def lowered(f, platform):
    return jax.jit(f).trace(W).lower(lowering_platforms=(platform,)).as_text()
