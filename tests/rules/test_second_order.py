"""Every rule applied, and differentiated again, beside JAX's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg
from tests.rules.against_jax import assert_close, draw, quick_jit, weighted
from tests.rules.examples import Example, examples


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def is_inexact(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def first_and_second(vjp, example: Example, *args):
    """What the pullback makes of a cotangent, and the gradient of a combination of that by operands and cotangent."""
    active = example.active
    out, tree = jax.tree.flatten(jax.eval_shape(example.function, *args))

    def pulled(xs, cts):
        given = iter(cts)
        ct = [next(given) if is_inexact(x) else np.zeros(x.shape, jax.dtypes.float0) for x in out]
        return vjp(example.along(active, args), *xs)[1](jax.tree.unflatten(tree, ct))

    xs = [args[i] for i in active]
    cts = [draw(*x.shape, dtype=x.dtype, seed=5) for x in out if is_inexact(x)]
    value, pullback = vjp(weighted(pulled), xs, cts)
    return pulled(xs, cts), pullback(jnp.ones_like(value))


@pytest.mark.parametrize("example", [x for x in examples if x.in_jax and x.runs], ids=str)
def test_rule_and_its_derivative_agree_with_jax(example):
    mine, theirs = [
        quick_jit(lambda *args, vjp=vjp: first_and_second(vjp, example, *args))(*example.args)
        for vjp in (fg.vjp, jax.vjp)
    ]
    assert_close(mine[0], theirs[0], 1e-12)
    assert_close(mine[1], theirs[1], 1e-11)
