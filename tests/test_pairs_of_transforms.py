"""Transforms of transforms: ours and JAX's, each around each, over five programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.stepwise import stepwise

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
    return jnp.sum(jax.checkpoint(lambda y: jnp.sin(y) * y)(y))


def with_a_rule_of_its_own(x):
    return jnp.sum(softened(x) * x[::-1])


def moving(x):
    y = jnp.sort(x).at[jnp.array([0, 2])].max(x[:2] ** 2)
    diagonal = 3 + y * y
    z = lax.custom_linear_solve(lambda z: diagonal * z, y, lambda _, b: b / diagonal, symmetric=True)
    return jnp.sum(z * jnp.cumsum(x))


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


PROGRAMS = [network, loop, branching, with_a_rule_of_its_own, moving]


def test_what_is_run_step_by_step_is_what_is_compiled():
    gradients = lambda x: [fg.grad(program)(x) for program in PROGRAMS]  # noqa: E731
    np.testing.assert_allclose(stepwise(gradients)(X), jax.jit(gradients)(X), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_transforms_work_around_each_other(program):
    for outer, reference in REFERENCES.items():
        # What JAX has for both is compared to, and what is JAX's alone needs no test.
        pairs = {
            inner: [outside(inside(program)) for outer_, outside in ALL for inner_, inside in ALL
                    if (outer_, inner_) == (outer, inner) and not {outside, inside} <= {*REFERENCES.values()}]
            for inner in REFERENCES
        }  # fmt: skip
        pairs = {inner: [reference(REFERENCES[inner](program)), *found] for inner, found in pairs.items() if found}
        values = stepwise(lambda x, pairs=pairs: [[f(x) for f in both] for both in pairs.values()])(X)
        for inner, (right, *found) in zip(pairs, values, strict=True):
            for value in found:
                np.testing.assert_allclose(value, right, rtol=2e-3, atol=2e-4, err_msg=f"{outer} of {inner}")
