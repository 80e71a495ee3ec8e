"""Transforms of transforms: ours and JAX's, each around each, over five programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg

X = np.array([0.4, -0.7, 1.1], np.float32)


@jax.custom_jvp
def softened(x):
    return jnp.log1p(jnp.exp(x))


softened.defjvp(lambda xs, ts: (softened(*xs), jax.nn.sigmoid(xs[0]) * ts[0]))


def network(x):
    return jnp.sum(jnp.tanh(jnp.outer(x, x) @ jnp.sin(x)) ** 2)


def loop(x):
    return jnp.sum(lax.scan(lambda h, y: (jnp.sin(h + y * x), h[0]), x, x)[0])


def branching(x):
    y = lax.cond(x[0] > 0, lambda x: jnp.sin(x) * x, jnp.cos, x)
    return jnp.sum(jax.checkpoint(lambda y: jnp.exp(-(y**2)) * y)(y))


def with_a_rule_of_its_own(x):
    return jnp.sum(softened(x) * x[::-1])


def moving(x):
    y = jnp.sort(x).at[jnp.array([0, 2])].max(x[:2] ** 2)
    return jnp.sum(jnp.linalg.solve(jnp.outer(y, y) + 3 * jnp.eye(3), y) * jnp.cumsum(x))


def value_and_slope(m):
    def transform(f):
        def g(x):
            value, gradient = m.value_and_grad(f)(x)
            return value * jnp.sum(gradient)

        return g

    return transform


def pulled(m):
    def transform(f):
        def g(x):
            value, pullback = m.vjp(f, x)
            return jnp.sum(pullback(jnp.cos(value))[0] ** 2)

        return g

    return transform


def linearized(f):
    def g(x):
        value, derivative = jax.linearize(f, x)
        return value * derivative(jnp.cos(x))

    return g


def transforms(m):
    """Makers of functions like ``f``, from three numbers to one, with reverse mode from ``m``."""
    return {
        "grad": lambda f: lambda x: jnp.sum(jnp.sin(m.grad(f)(x))),
        "value_and_grad": value_and_slope(m),
        "vjp": pulled(m),
        "jacrev": lambda f: lambda x: jnp.sum(m.jacrev(lambda x: f(x) * x)(x) ** 2),
        "hessian": lambda f: lambda x: jnp.sum(m.hessian(f)(x) ** 2),
    }


FORWARD = {
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (jnp.sin(x),))[1],
    "linearize": linearized,
    "jacfwd": lambda f: lambda x: jnp.sum(jax.jacfwd(f)(x) ** 2),
    "vmap": lambda f: lambda x: jnp.sum(jax.vmap(f)(jnp.stack([x, 2 * x]))),
    "jit": lambda f: jax.jit(f),
    "checkpoint": lambda f: jax.checkpoint(f),
}
THEIRS, OURS = transforms(jax), transforms(fg)
#: The name of a transform of JAX's for each transform, and the transform.
ALL = [(name, FORWARD[name]) for name in FORWARD] + [(name, t[name]) for t in (OURS, THEIRS) for name in t]
REFERENCES = {**FORWARD, **THEIRS}


@pytest.mark.slow
@pytest.mark.parametrize("program", [network, loop, branching, with_a_rule_of_its_own, moving])
def test_transforms_work_around_each_other(program):
    # What JAX has for both is compared to, and what is JAX's alone needs no test.
    pairs = {
        (outer, inner): [outside(inside(program)) for outer_, outside in ALL for inner_, inside in ALL
                         if (outer_, inner_) == (outer, inner) and not {outside, inside} <= {*REFERENCES.values()}]
        for outer in REFERENCES for inner in REFERENCES
    }  # fmt: skip
    expected = {(outer, inner): REFERENCES[outer](REFERENCES[inner](program)) for outer, inner in pairs}
    for outer in REFERENCES:
        row = [(pair, found) for pair, found in pairs.items() if pair[0] == outer and found]
        both = jax.jit(lambda x, row=row: [(expected[pair](x), [f(x) for f in found]) for pair, found in row])
        for (pair, _), (right, found) in zip(row, both(X), strict=True):
            for value in found:
                np.testing.assert_allclose(value, right, rtol=2e-3, atol=2e-4, err_msg=str(pair))
