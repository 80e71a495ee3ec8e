"""Every rule of the table applied, and differentiated again, beside JAX's; beside differences where JAX gives up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import primitives as p

import funcgrad as fg
from tests.rules.against_jax import assert_close, draw, weighted
from tests.rules.examples import Example, examples


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def is_inexact(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def pullback_of(vjp, example: Example):
    """The example's pullback, as a function of the operands to differentiate by and of cotangents."""
    out, tree = jax.tree.flatten(jax.eval_shape(example.function, *example.args))

    def pulled(xs, cts):
        given = iter(cts)
        ct = [next(given) if is_inexact(x) else np.zeros(x.shape, jax.dtypes.float0) for x in out]
        return vjp(example.along(example.active, example.args), *xs)[1](jax.tree.unflatten(tree, ct))

    xs = tuple([example.args[i] for i in example.active])
    return pulled, (xs, tuple([draw(*x.shape, dtype=x.dtype, seed=5) for x in out if is_inexact(x)]))


def once_and_twice(vjp, example: Example):
    """What the pullback makes of a cotangent, and the gradient of a combination of that."""
    pulled, at = pullback_of(vjp, example)

    def both(*at):
        value, pullback = vjp(weighted(pulled), *at)
        return pulled(*at), pullback(jnp.ones_like(value))

    return jax.jit(both)(*at)


@pytest.mark.parametrize("example", [x for x in examples if x.order == 2 and x.runs], ids=str)
def test_rule_and_its_derivative_agree_with_jax(example):
    mine, theirs = once_and_twice(fg.vjp, example), once_and_twice(jax.vjp, example)
    assert_close(mine[0], theirs[0], 1e-12)
    assert_close(mine[1], theirs[1], 1e-11)


@pytest.mark.parametrize("example", [x for x in examples if x.order == 1 and x.runs], ids=str)
def test_rule_that_jax_cannot_differentiate_again_agrees_with_jax_once(example):
    mine, theirs = [jax.jit(pulled)(*at) for pulled, at in (pullback_of(vjp, example) for vjp in (fg.vjp, jax.vjp))]
    assert_close(mine, theirs, 1e-12)


# A sample is no smooth function of its shape parameter: what its derivative follows is its quantile.
smooth = [x for x in examples if x.order < 2 and x.runs and x.primitive is not p.random_gamma_p]


def assert_agrees_with_differences(function, *at, step=1e-6):
    """The gradient of a combination of what ``function`` returns is, along a direction, the difference quotient."""
    scalar = jax.jit(weighted(function))
    gradient = jax.jit(fg.grad(weighted(function), tuple(range(len(at)))))(*at)
    leaves, tree = jax.tree.flatten(at)
    direction = [draw(*np.shape(x), dtype=np.asarray(x).dtype, seed=i) for i, x in enumerate(leaves)]
    ahead, behind = [
        scalar(*jax.tree.unflatten(tree, [x + s * d for x, d in zip(leaves, direction, strict=True)]))
        for s in (step, -step)
    ]
    along = sum(jnp.sum(jnp.real(x * d)) for x, d in zip(jax.tree.leaves(gradient), direction, strict=True))
    np.testing.assert_allclose(along, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("example", smooth, ids=str)
def test_rule_and_derivative_that_jax_lacks_agree_with_differences(example):
    pulled, at = pullback_of(fg.vjp, example)
    assert_agrees_with_differences(example.along(example.active, example.args), *at[0])
    assert_agrees_with_differences(pulled, *at)


#: Pullbacks that end in what JAX itself cannot transpose.
NOT_TRANSPOSED = {"while": "a loop of unknown length", "ragged_dot_general": "some modes of a ragged contraction"}


@pytest.mark.parametrize("example", [x for x in examples if str(x.primitive) not in NOT_TRANSPOSED], ids=str)
def test_pullbacks_are_linear_to_jax(example):
    pulled, (xs, cts) = pullback_of(fg.vjp, example)

    def transposed(xs, cts_of_cts):
        return jax.linear_transpose(lambda cts: pulled(xs, cts), cts)(cts_of_cts)

    (shapes,) = jax.eval_shape(transposed, xs, jax.eval_shape(pulled, xs, cts))
    assert [x.shape for x in shapes] == [x.shape for x in cts]
