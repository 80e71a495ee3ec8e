"""What crosses from the way forward to the way back: the fewest bytes, from which the rest is computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad as fg
from funcgrad.programs.cut import cut
from funcgrad.programs.evaluation import evaluate
from funcgrad.programs.flow import size
from tests.agreement import assert_agrees, assert_same

X = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)


def kept(f, *args, free=()):
    """What is kept of ``f`` so that all its outputs can be computed: the primitives that make it, None for an input."""
    program = jax.make_jaxpr(f)(*args)
    makers = {v: eqn.primitive for eqn in program.jaxpr.eqns for v in eqn.outvars}
    cost = lambda v: 0 if v in program.jaxpr.invars and program.jaxpr.invars.index(v) in free else size(v)  # noqa: E731
    found = cut(program, program.jaxpr.outvars, cost)
    return None if found is None else sorted(str(makers.get(v)) for v in found)


def test_one_value_is_kept_for_many_that_are_cheap_to_compute_from_it():
    assert kept(lambda x: (x + 1, x * 2, jnp.tanh(x), jnp.where(x > 0, x, 0.0)), X) == ["None"]


def test_where_it_is_the_same_nothing_is_computed_twice():
    assert kept(lambda x: jnp.tanh(x), X) is None
    assert kept(lambda x: x * 2 + 1, X) is None


def test_what_is_small_is_kept_instead_of_what_it_is_broadcast_to():
    assert kept(lambda x: lax.broadcast_in_dim(jnp.sum(x, 1), (3, 4), (0,)), X) == ["reduce_sum"]


def test_what_is_narrow_is_kept_instead_of_what_it_is_widened_to():
    assert kept(lambda x: lax.convert_element_type(x.astype(jnp.bfloat16), np.float32), X) == ["convert_element_type"]
    assert kept(lambda x: jnp.where(jnp.sin(x) > 0, 1.0, 2.0), X) == ["gt"]


def test_what_is_dear_is_not_computed_again():
    assert kept(lambda x, w: (lambda y: (y, jnp.exp(y)))(x @ w), X, X.T, free=(0, 1)) == ["dot_general"]
    assert kept(lambda x: (jnp.sin(x), jnp.cos(x)), X, free=(0,)) is None


def test_a_long_chain_is_not_computed_again():
    def chain(x):
        for i in range(40):
            x = x * (1.0 + i)
        return x

    assert kept(lambda x: chain(x), X, free=(0,)) is None
    assert kept(lambda x: x * 2.0 + 1.0, X, free=(0,)) == ["None"]


def gelu_network(x, w):
    def layer(x, w):
        return x + jax.nn.gelu(jax.nn.softmax(x @ w) @ w.T), None

    return jnp.sum(lax.scan(layer, x, w)[0] ** 2)


def test_gradients_agree_where_residuals_are_computed_again():
    w = np.sin(np.arange(2 * 4 * 4, dtype=np.float32)).reshape(2, 4, 4)
    assert_agrees(gelu_network, X, w, tolerance=1e-5)
    branches = lambda x: jnp.sum(lax.cond(x[0, 0] > 0, jnp.tanh, lambda x: jax.nn.gelu(x) * x.sum(), x))  # noqa: E731
    assert_agrees(branches, X)
    assert_agrees(branches, -X)
    assert_agrees(jax.jit(lambda x: jnp.sum(jax.nn.gelu(x) * jnp.exp(jnp.tanh(x)))), X, tolerance=1e-5)


def temporary(grad, f, *args):
    return jax.jit(grad(f)).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_a_scanned_network_takes_less_memory_than_in_jax():
    x, w = np.ones((64, 32), np.float32), np.ones((16, 32, 32), np.float32)
    assert temporary(fg.grad, gelu_network, x, w) < 0.6 * temporary(jax.grad, gelu_network, x, w)


def test_a_jitted_function_called_eagerly_hands_on_fewer_residuals():
    f = jax.jit(lambda x: jnp.sum(jax.nn.gelu(jnp.sin(x)) * 2.0))

    def residual_bytes(pullback):
        return sum(x.nbytes for x in jax.tree.leaves(pullback) if isinstance(x, jax.Array) and x is not X)

    big = jnp.linspace(-1, 1, 1000)
    mine, theirs = fg.vjp(f, big)[1], jax.vjp(f, big)[1]
    assert residual_bytes(mine) <= 2 * big.nbytes < residual_bytes(theirs)
    assert_same(mine(1.0), theirs(1.0), 1e-5)
    assert_same(jax.jit(fg.grad(f))(big), theirs(1.0)[0], 1e-5)


def test_the_program_that_computes_the_rest_computes_it():
    def f(x):
        y = jnp.sin(x)
        return y, jnp.tanh(y) * 2, y > 0

    from funcgrad.engine.split import Activity
    from funcgrad.rules.control.lean import split_lean

    program = jax.make_jaxpr(f)(X)
    halves = split_lean(program, (Activity.VALUE,), fg.rules.default)
    results = evaluate(halves.forward, X)
    residuals = halves.residuals([X], results)
    cts = [jnp.ones_like(X), jnp.ones_like(X), None]
    expected = jax.vjp(lambda x: f(x)[:2], X)[1]((cts[0], cts[1]))
    assert_same(halves.pull(residuals, cts), list(expected), 1e-6)
