"""Gradients beside jax.grad's, and beside finite differences, for functions of arrays real or complex."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg


def draw(*shape, dtype=np.float64, seed=0):
    """Normal numbers, complex ones where the dtype is."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.normal(size=shape)
    return (x + 1j * rng.normal(size=shape) if np.issubdtype(dtype, np.complexfloating) else x).astype(dtype)


def weighted(f):
    """The real part of a fixed random combination of all that ``f`` returns, integers left out."""

    def scalar(*args):
        leaves = [x for x in jax.tree.leaves(f(*args)) if jnp.issubdtype(x.dtype, jnp.inexact)]
        return sum(jnp.sum(jnp.real(draw(*x.shape, dtype=x.dtype, seed=i) * x)) for i, x in enumerate(leaves))

    return scalar


def hvp_like(grad, f, argnums):
    """The gradient of a combination of the gradient."""
    return grad(weighted(grad(weighted(f), argnums)), argnums)


def assert_close(got, expected, tolerance):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        scale = 1 + np.max(np.abs(y), initial=0)
        np.testing.assert_allclose(x / scale, y / scale, rtol=0, atol=tolerance)


def assert_agrees(f, *args, second=True, tolerance=1e-12):
    """``fg.grad`` is ``jax.grad``: run eagerly, and compiled, twice where ``second``."""
    argnums = tuple(range(len(args)))
    expected = jax.jit(jax.grad(weighted(f), argnums))(*args)
    gradient = fg.grad(weighted(f), argnums)
    assert_close(gradient(*args), expected, tolerance)
    if not second:
        assert_close(jax.jit(gradient)(*args), expected, tolerance)
    else:
        expected = jax.jit(hvp_like(jax.grad, f, argnums))(*args)
        assert_close(jax.jit(hvp_like(fg.grad, f, argnums))(*args), expected, 100 * tolerance)


def assert_agrees_with_differences(f, x, step=1e-6, tolerance=1e-7):
    """The gradient along a random direction is the central difference quotient."""
    g = weighted(f)
    direction = draw(*x.shape, dtype=x.dtype, seed=7)
    difference = (g(x + step * direction) - g(x - step * direction)) / (2 * step)
    along = jnp.sum(jnp.real(fg.grad(g)(x) * direction))
    np.testing.assert_allclose(along, difference, rtol=tolerance, atol=tolerance)
