"""A backward pass in bfloat16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad.rules.tables.wrapping import HALVED
from tests.rules.against_jax import draw
from tests.rules.examples import examples

HALVED_KEYS = {key for family in HALVED for key in family.rules}


@pytest.mark.parametrize("example", [x for x in examples if x.primitive in HALVED_KEYS and x.runs and x.order], ids=str)
def test_every_rule_runs_in_bfloat16_and_gives_the_operands_dtype(example):
    args = tuple([x.astype(np.float32) if getattr(x, "dtype", None) == np.float64 else x for x in example.args])
    f = example.along(example.active, args)
    xs = [args[i] for i in example.active]

    @jax.jit
    def pull(*xs):
        out, pullback = fg.vjp(f, *xs)
        ct = jax.tree.map(lambda x: draw(*x.shape, dtype=x.dtype) if is_inexact(x) else no_cotangent(x), out)
        halved = fg.vjp(f, *xs, rules=fg.rules.in_bfloat16(fg.rules.default))[1]
        return pullback(ct), halved(ct)

    full, halved = pull(*xs)
    for x, y in zip(jax.tree.leaves(full), jax.tree.leaves(halved), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_allclose(y, x, atol=0.1 * (1 + np.max(np.abs(x), initial=0)), rtol=0)


def is_inexact(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def no_cotangent(x):
    return np.zeros(x.shape, jax.dtypes.float0)


def test_products_of_the_way_back_are_in_bfloat16_and_those_of_the_way_forward_are_not():
    w = jnp.ones((4, 4))
    f = jax.jit(lambda w: jnp.sum(jnp.tanh(w @ w)))
    rules = fg.rules.in_bfloat16(fg.rules.default)

    def products(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive is lax.dot_general_p:
                yield tuple([str(x.aval.dtype) for x in eqn.invars])
            for program in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
                yield from products(program.jaxpr) if hasattr(program, "jaxpr") else ()

    found = list(products(jax.make_jaxpr(fg.grad(f, rules=rules))(w).jaxpr))
    assert sorted(found) == [("bfloat16", "bfloat16")] * 2 + [("float32", "float32")]
    assert fg.grad(f, rules=rules)(w).dtype == jnp.float32


def test_a_network_trains_in_bfloat16():
    params = fg.nn.init_mlp(jax.random.key(0), [1, 16, 1])
    x = jnp.linspace(-1, 1, 64)[:, None]
    rules = fg.rules.in_bfloat16(fg.rules.default)
    loss = lambda params: fg.losses.mse(fg.nn.mlp(params, x), jnp.sin(3 * x))  # noqa: E731
    step = jax.jit(lambda params: fg.sgd(params, fg.grad(loss, rules=rules)(params), 0.1))
    start = loss(params)
    for _ in range(200):
        params = step(params)
    assert loss(params) < 0.2 * start
