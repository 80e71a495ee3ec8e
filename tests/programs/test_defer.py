"""Weight gradients of loops: computed after the loop, or a few steps at a time, where that pays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.agreement import assert_agrees, assert_same

WIDTH = 12


def weights(*shape):
    return np.sin(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape) / 4


def recurrent(length, batch, step, **how):
    """The loss of a recurrent network of ``step(h, x, w, b)``, of the weights; and weights."""
    xs = weights(length, batch, WIDTH)

    def loss(w, b):
        h, hs = lax.scan(lambda h, x: 2 * (step(h, x, w, b),), jnp.zeros((batch, WIDTH)), xs, **how)
        return jnp.sum(h**2) + jnp.sum(hs**3)

    return loss, weights(WIDTH, WIDTH), weights(WIDTH)


def plain(h, x, w, b):
    return jnp.tanh(x + h @ w + b)


def transposed(h, x, w, b):
    return jnp.tanh(x + h @ w.T - b)


def in_half_precision(h, x, w, b):
    return jnp.tanh(x + (h.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(np.float32) + b)


def used_twice(h, x, w, b):
    return jnp.tanh(x @ w + jnp.tanh(h @ w) + b)


def jitted(h, x, w, b):
    return jax.jit(plain)(h, x, w, b)


def with_a_scale(h, x, w, b):
    return jnp.tanh(x + (h @ w) * b + b.sum())


steps = {f.__name__: f for f in (plain, transposed, in_half_precision, used_twice, jitted, with_a_scale)}


def loops(f, *args):
    """The scans in the program of ``f``, each with the number of steps and the shapes of what it carries."""
    found = []

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive is lax.scan_p:
                found.append((eqn.params["length"], [v.aval.shape for v in eqn.params["jaxpr"].jaxpr.outvars]))
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
                if hasattr(inner, "jaxpr"):
                    visit(inner.jaxpr)

    visit(jax.make_jaxpr(f)(*args).jaxpr)
    return found


@pytest.mark.parametrize("length", [1, 7, 12])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradient_of_a_recurrent_network_agrees(length, reverse):
    assert_agrees(*recurrent(length, 1, plain, reverse=reverse), tolerance=1e-5)


@pytest.mark.parametrize("name", steps)
def test_gradient_agrees_however_weights_are_used(name):
    tolerance = 2e-2 if name == "in_half_precision" else 1e-5
    assert_agrees(*recurrent(6, 1, steps[name]), second=name in ("used_twice", "jitted"), tolerance=tolerance)


def test_the_backward_loop_does_not_carry_the_weights_of_a_short_loop():
    loss, w, b = recurrent(12, 1, plain)
    backward = [shapes for length, shapes in loops(fg.grad(loss), w, b) if length == 12][-1]
    assert (WIDTH, WIDTH) not in backward


def test_a_long_loop_takes_several_steps_at_once():
    loss, w, b = recurrent(60, 1, plain)
    lengths = [length for length, _ in loops(fg.grad(loss), w, b)]
    assert 60 in lengths and any(1 < n < 60 and 60 // n in lengths for n in lengths)
    assert_same(jax.jit(fg.grad(loss))(w, b), jax.jit(jax.grad(loss))(w, b), 1e-5)


@pytest.mark.parametrize(("length", "batch"), [(12, 8), (61, 2)])
def test_where_stacks_would_be_large_or_steps_do_not_divide_the_loop_is_as_it_was(length, batch):
    loss, w, b = recurrent(length, batch, plain)
    assert {n for n, _ in loops(fg.grad(loss), w, b)} == {length}
    assert_same(jax.jit(fg.grad(loss))(w, b), jax.jit(jax.grad(loss))(w, b), 1e-5)


def test_a_gradient_over_a_batch_of_weights_agrees():
    loss, w, b = recurrent(6, 1, plain)
    over = lambda grad: jax.jit(jax.vmap(grad(loss), (0, None)))(jnp.stack([w, -w]), b)  # noqa: E731
    assert_same(over(fg.grad), over(jax.grad), 1e-5)
