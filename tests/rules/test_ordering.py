"""Sorting, ranking and clamping beside JAX's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.rules.against_jax import assert_agrees, draw


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("dimension", [0, 1])
@pytest.mark.parametrize("is_stable", [True, False])
def test_sort_agrees_with_jax(dimension, is_stable):
    assert_agrees(lambda x: jnp.sin(lax.sort(x, dimension=dimension, is_stable=is_stable)), draw(4, 5))


def test_sort_of_complex_numbers_agrees_with_jax():
    assert_agrees(lambda x: lax.sort(x) ** 2, draw(6, dtype=np.complex128))


def test_sort_of_nothing_agrees_with_jax():
    assert_agrees(lax.sort, draw(3, 0), second=False)


def test_equal_entries_keep_their_cotangents_in_order_as_in_jax():
    assert_agrees(lax.sort, jnp.array([1.0, 0.0, 1.0, jnp.nan, 0.0, -0.0, 1.0]))


@pytest.mark.parametrize("num_keys", [1, 2, 3])
def test_sort_of_many_operands_by_many_keys_agrees_with_jax(num_keys):
    x, y, z = jnp.round(draw(3, 6)), jnp.round(draw(3, 6, seed=1)), draw(3, 6, seed=2)
    assert_agrees(lambda x, y, z: lax.sort((x, y, z**2), dimension=1, num_keys=num_keys), x, y, z)


def test_sort_by_an_integer_key_agrees_with_jax():
    key = jnp.array([3, 1, 2, 1])
    assert_agrees(lambda x: lax.sort((key, jnp.sin(x)), num_keys=1)[1], draw(4))


def test_sort_saves_only_where_entries_came_from():
    x = draw(2, 6)
    _, pullback = fg.vjp(lambda x, y: lax.sort((x, y, 2 * y)), x, x)
    (places,) = [leaf for leaf in jax.tree.leaves(pullback) if leaf.shape]
    assert places.shape == x.shape and places.dtype == np.int32


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("k", [0, 2, 4])
def test_top_k_agrees_with_jax(axis, k):
    assert_agrees(lambda x: jnp.sin(lax.top_k(x, k, axis=axis)[0]), draw(4, 5))


def test_batched_top_k_agrees_with_jax():
    assert_agrees(jax.vmap(lambda x: lax.top_k(x, 2), 1), draw(4, 5), second=False)


@pytest.mark.parametrize("select", [lax.approx_max_k, lax.approx_min_k])
@pytest.mark.parametrize("dimension", [0, -1])
def test_approximate_top_k_agrees_with_jax(select, dimension):
    assert_agrees(lambda x: jnp.sin(select(x, 3, reduction_dimension=dimension)[0]), draw(6, 5))


def test_indices_have_no_cotangent():
    assert_agrees(lambda x: x[jnp.argsort(x)] * x[lax.top_k(x, 5)[1]], draw(5))


def test_a_batch_is_clamped_between_limits_that_are_differentiated_and_no_batch():
    """JAX raises here."""
    x = jnp.array([0.2, 1.0, 3.0])
    f = lambda low, high: jnp.sum(jnp.arange(1.0, 4) * jax.vmap(lambda x: lax.clamp(low, x, high))(x))  # noqa: E731
    assert fg.grad(f, (0, 1))(0.5, 2.0) == jax.jit(fg.grad(f, (0, 1)))(0.5, 2.0) == (1, 3)
