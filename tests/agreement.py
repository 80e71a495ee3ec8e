"""Derivatives beside JAX's: the same trees of the same types, and the same numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad as fg


def assert_same(got, expected, tolerance=0.0):
    """Two trees agree in structure, types (weak or not) and, relative to its largest, every number."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        aval = jax.typeof(y)
        assert jax.typeof(x) == aval and jax.typeof(x).weak_type == aval.weak_type
        if aval.dtype == jax.dtypes.float0:
            continue
        if jnp.issubdtype(aval.dtype, np.floating):
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        scale = np.max(np.abs(y), initial=0, where=np.isfinite(y)) if tolerance else 0
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * (1 + scale))


def as_users_compile(f):
    """``f``, compiled as users compile it: what is run for its rounding, where tests else compile quickly."""
    return lambda *args: jax.jit(f).lower(*args).compile()(*args)


def squares(tree):
    """A scalar that depends on every number in a tree, each by its own amount."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return sum(jnp.sum(jnp.square(jnp.abs(x)) * (1 + i)) for i, x in enumerate(leaves))


def assert_agrees(f, *args, argnums=None, second=True, tolerance=1e-6):
    """``fg.grad`` of the scalar function ``f`` is ``jax.grad`` of it, run eagerly and compiled; and so once more."""
    argnums = tuple(range(len(args))) if argnums is None else argnums

    def gradients(grad):
        once = grad(f, argnums)
        return once, grad(lambda *args: squares(once(*args)), argnums)

    (mine, mine_again), (theirs, theirs_again) = gradients(fg.grad), gradients(jax.grad)
    if not second:
        mine_again = theirs_again = lambda *args: ()
    expected, expected_again = jax.jit(lambda *args: (theirs(*args), theirs_again(*args)))(*args)
    assert_same(mine(*args), expected, tolerance)
    once, again = jax.jit(lambda *args: (mine(*args), mine_again(*args)))(*args)
    assert_same(once, expected, tolerance)
    assert_same(again, expected_again, 10 * tolerance)
