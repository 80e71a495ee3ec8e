"""Reductions over axes beside JAX's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.rules.against_jax import assert_agrees, assert_agrees_with_differences, draw, weighted

all_axes = pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 2), (1, 2), (0, 1, 2)], ids=str)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@all_axes
def test_product_agrees_with_jax(axes):
    assert_agrees(lambda x: jnp.sin(lax.reduce_prod(x, axes)), draw(2, 3, 4))


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_product_of_any_number_agrees_with_jax(n):
    assert_agrees(lambda x: lax.reduce_prod(x, (0,)), draw(n, 2, dtype=np.complex128), second=n > 1)


@pytest.mark.parametrize("zeros", [[2], [0, 3], [1, 2, 4]], ids=["one", "two", "three"])
def test_product_with_zeros_has_exact_first_and_second_derivatives(zeros):
    x = draw(5)
    x[zeros] = 0
    assert_agrees(lambda x: lax.reduce_prod(x, (0,)), x)
    expected = [np.prod(np.delete(x, i)) for i in range(5)]
    np.testing.assert_allclose(fg.grad(jnp.prod)(x), expected, atol=1e-15)


def test_product_divides_by_nothing_and_saves_its_operand():
    x = draw(1000)
    assert " div " not in str(jax.make_jaxpr(fg.grad(lambda x: lax.reduce_prod(x, (0,))))(x))
    _, pullback = fg.vjp(lambda x: lax.reduce_prod(x, (0,)), x)
    assert [leaf.shape for leaf in jax.tree.leaves(pullback)] == [(1000,)]


@pytest.mark.parametrize("op", [lax.reduce_max, lax.reduce_min])
@all_axes
def test_extremum_agrees_with_jax_and_is_shared_where_entries_are_equal(op, axes):
    assert_agrees(lambda x: jnp.sin(op(x, axes)), jnp.round(draw(2, 3, 4)), second=axes == (1, 2))


@all_axes
def test_sum_agrees_with_jax(axes):
    assert_agrees(lambda x: jnp.sin(lax.reduce_sum(x, axes)), draw(2, 3, 4, dtype=np.complex128), second=False)


# Reductions by any function.


@all_axes
def test_reduction_of_pairs_agrees_with_jax(axes):
    def f(x, y):
        return lax.reduce((x, y), (0.0, 1.0), lambda a, b: (a[0] + b[0], a[1] * b[1]), axes)

    assert_agrees(f, draw(2, 3, 5), draw(2, 3, 5, seed=1), second=axes in [(1,), (0, 2)])


def test_reduction_of_numbers_by_integer_keys_has_a_gradient_though_not_in_jax():
    keys = np.array([[3, 1, 2], [0, 5, 4]])

    def at_the_largest(a, b):
        return tuple(lax.select(a[0] >= b[0], x, y) for x, y in zip(a, b, strict=True))

    gradient = fg.grad(lambda x: lax.reduce((keys, x), (-1, 0.0), at_the_largest, (1,))[1].sum())
    np.testing.assert_array_equal(gradient(draw(2, 3)), [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("n", [0, 1, 6])
def test_reduction_by_log_sum_exp_agrees_with_jax(n):
    assert_agrees(lambda x: lax.reduce(x, -np.inf, jnp.logaddexp, (1,))[:, None] ** 2, 1 + draw(2, n), second=False)


def test_reduction_counts_its_initial_value_though_not_in_jax():
    def f(x):
        return lax.reduce(x, 2.0, lambda a, b: a * b, (0,))

    assert_agrees_with_differences(f, draw(5))
    assert_agrees_with_differences(fg.grad(weighted(f)), draw(5))
    gradient = fg.grad(lambda start, x: lax.reduce(x, start, lambda a, b: a * b, (0,)))
    np.testing.assert_allclose(gradient(jnp.array(2.0), draw(5)), np.prod(draw(5)))


def test_reduction_by_any_function_runs_as_one_on_the_way_forward_and_saves_its_operands():
    x = draw(9)
    _, pullback = fg.vjp(lambda x: lax.reduce(x, 1.0, lambda a, b: a * b + 0 * a, (0,)), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(pullback)) <= x.size + 1


def test_batched_reductions_agree_with_jax():
    f = jax.vmap(lambda x: lax.reduce(x, 1.0, lambda a, b: a * b + 0 * a, (0,)), 1)
    assert_agrees(f, draw(3, 4), second=False)
    assert_agrees(jax.vmap(lambda x: lax.reduce_prod(x, (0,)), 1), draw(3, 4), second=False)
