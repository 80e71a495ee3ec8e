"""Products of a loop's elements with weights, computed before the loop where that pays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.agreement import assert_agrees

WIDTH = 80
W = np.sin(np.arange(WIDTH * WIDTH, dtype=np.float32)).reshape(WIDTH, WIDTH) / 8


def network(xs, **how):
    def loss(w):
        step = lambda h, x: 2 * (jnp.tanh(x @ w + h @ w),)  # noqa: E731
        h, hs = lax.scan(step, jnp.zeros(xs.shape[1:]), xs, **how)
        return jnp.sum(h**2) + jnp.sum(hs)

    return loss


def inputs(length, *batch):
    return np.cos(np.arange(length * WIDTH, dtype=np.float32)).reshape(length, 1, WIDTH)[:, [0] * (batch or (1,))[0]]


def products_in_loops(f, *args):
    """How many contractions each loop of the program has."""
    scans = [eqn for eqn in jax.make_jaxpr(f)(*args).jaxpr.eqns if eqn.primitive is lax.scan_p]
    return [sum(e.primitive is lax.dot_general_p for e in eqn.params["jaxpr"].jaxpr.eqns) for eqn in scans]


@pytest.mark.parametrize("reverse", [False, True])
def test_gradient_agrees(reverse):
    assert_agrees(network(inputs(5), reverse=reverse), W, tolerance=1e-5)


def test_a_product_of_few_rows_is_taken_out_of_the_loop_and_one_that_needs_the_last_step_is_not():
    assert products_in_loops(lambda w: fg.vjp(network(inputs(5)), w)[0], W) == [1]


def test_a_product_of_many_rows_stays():
    assert products_in_loops(lambda w: fg.vjp(network(inputs(5, 2)), w)[0], W) == [2]


def test_a_constant_that_is_computed_from_constants_is_computed_once():
    def loss(w):
        return jnp.sum(lax.scan(lambda h, x: (h + x @ jnp.sin(w), None), jnp.zeros((1, WIDTH)), inputs(4))[0])

    assert_agrees(loss, W, tolerance=1e-5)
    assert products_in_loops(lambda w: fg.vjp(loss, w)[0], W) == [0]


def test_inputs_get_their_cotangents_too():
    def loss(w, xs):
        return jnp.sum(lax.scan(lambda h, x: (jnp.tanh(h + x @ w), None), jnp.zeros((1, WIDTH)), xs)[0] ** 2)

    assert_agrees(loss, W, inputs(4), tolerance=1e-5)
