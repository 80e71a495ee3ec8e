"""Reductions over windows, and cumulative ones, beside JAX's."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.rules.against_jax import (
    assert_agrees,
    assert_agrees_with_differences,
    assert_close,
    draw,
    weighted,
)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


# Windows: (dimensions, strides, padding, base dilation, window dilation).

OVERLAPPING = [
    ((2, 3), (1, 2), "SAME", None, None),
    ((2, 2), (3, 1), [(0, 3), (1, 2)], None, None),
    ((2, 1), (1, 2), [(1, 0), (2, 1)], (2, 3), None),
]
TILING = [
    ((2, 3), (2, 3), "VALID", None, None),
    ((2, 3), (2, 3), [(1, 0), (2, 4)], None, None),
    ((4, 6), (4, 6), "VALID", None, None),
]
DILATED = [((2, 2), (1, 1), "VALID", None, (1, 3)), ((2, 2), (2, 1), [(1, 2), (0, 1)], (1, 2), (2, 1))]


@pytest.mark.parametrize("window", OVERLAPPING + TILING + DILATED)
def test_window_sum_agrees_with_jax(window):
    assert_agrees(lambda x: jnp.sin(lax.reduce_window(x, 0.0, lax.add, *window)), draw(4, 6))


def test_window_sum_of_complex_numbers_agrees_with_jax():
    x = draw(4, 6, dtype=np.complex128)
    assert_agrees(lambda x: lax.reduce_window(x, 0j, lax.add, *OVERLAPPING[0]), x, second=False)


@pytest.mark.parametrize("window", OVERLAPPING + TILING[1:])
@pytest.mark.parametrize(("start", "op"), [(-np.inf, lax.max), (np.inf, lax.min)], ids=["max", "min"])
def test_window_extremum_agrees_with_jax(start, op, window):
    assert_agrees(lambda x: jnp.sin(lax.reduce_window(x, start, op, *window)), draw(4, 6))


def test_of_equal_maxima_the_first_gets_the_cotangent_as_in_jax():
    x = jnp.array([[0.0, 1.0, 1.0, 1.0, 0.0, 0.0]])
    assert_agrees(lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 3), (1, 2), "SAME"), x)


@pytest.mark.parametrize("window", DILATED)
@pytest.mark.parametrize(("start", "op"), [(-np.inf, lax.max), (np.inf, lax.min)], ids=["max", "min"])
def test_extremum_of_a_dilated_window_has_a_gradient_though_not_in_jax(start, op, window):
    def f(x):
        return jnp.sin(lax.reduce_window(x, start, op, *window))

    assert_agrees_with_differences(f, draw(4, 6))
    assert_agrees_with_differences(fg.grad(weighted(f)), draw(4, 6))


def test_dilated_and_plain_windows_choose_the_same_of_equal_maxima():
    x = jnp.array([[0.0, 1.0, 1.0, 1.0, 0.0, 0.0]])
    plain, dilated = (
        fg.grad(weighted(lambda x, d=d: lax.reduce_window(x, -np.inf, lax.max, (d, 2), (1, 1), "VALID", None, (d, 1))))
        for d in (1, 2)
    )
    both = jnp.concatenate([x, jnp.zeros_like(x) - 1, x - 1])
    assert_close(dilated(both)[:1], plain(x), 0)


def test_window_sums_over_tiles_are_repeated_and_not_summed_again():
    gradient = fg.grad(lambda x: jnp.sum(jnp.sin(lax.reduce_window(x, 0.0, lax.add, *TILING[0]))))
    assert str(jax.make_jaxpr(gradient)(draw(4, 6))).count("reduce_window") == 1


@pytest.mark.parametrize("window", [OVERLAPPING[0], OVERLAPPING[2], DILATED[1]])
def test_window_product_has_a_gradient_though_not_in_jax(window):
    def f(x):
        return lax.reduce_window(x, 1.0, lambda a, b: a * b, *window)

    assert_agrees_with_differences(f, draw(4, 6))
    assert_agrees_with_differences(fg.grad(weighted(f)), draw(4, 6))


def test_window_log_sum_exp_has_a_gradient_though_not_in_jax():
    assert_agrees_with_differences(lambda x: lax.reduce_window(x, -np.inf, jnp.logaddexp, *OVERLAPPING[0]), draw(4, 6))


def test_window_reduction_of_pairs_has_a_gradient():
    def add_and_multiply(a, b):
        return a[0] + b[0], a[1] * b[1]

    def f(x):
        return lax.reduce_window((x, 1 + x), (0.0, 1.0), add_and_multiply, *OVERLAPPING[0])

    assert_agrees_with_differences(f, draw(4, 6))


# Cumulative reductions.

directions = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
OPS = [lax.cumsum, lax.cumprod, lax.cummax, lax.cummin, lax.cumlogsumexp]


@directions
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_cumulative_reduction_agrees_with_jax(op, reverse):
    axis = int(reverse)
    assert_agrees(lambda x: jnp.sin(op(x, axis=axis, reverse=reverse)), draw(5, 6))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
@pytest.mark.parametrize("n", [0, 1])
def test_cumulative_reduction_of_next_to_nothing_agrees_with_jax(op, n):
    assert_agrees(partial(op, axis=1), draw(2, n), second=False)


@pytest.mark.parametrize("op", [lax.cumsum, lax.cumprod, lax.cumlogsumexp], ids=lambda op: op.__name__)
def test_cumulative_reduction_of_complex_numbers_agrees_with_jax(op):
    assert_agrees(partial(op, axis=0), draw(5, dtype=np.complex128))


@directions
@pytest.mark.parametrize("op", [lax.cummax, lax.cummin], ids=lambda op: op.__name__)
def test_equal_entries_share_a_cumulative_extremum_as_in_jax(op, reverse):
    x = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0])
    assert_agrees(partial(op, axis=0, reverse=reverse), x)


def test_cumulative_product_with_zeros_agrees_with_jax():
    x = jnp.array([2.0, 0.0, 3.0, 0.0, 0.5])
    assert_agrees(lambda x: lax.cumprod(x, axis=0), x)
    assert np.all(np.isfinite(fg.grad(lambda x: lax.cumprod(x).sum())(x)))


@directions
def test_cumulative_log_sum_exp_has_the_softmax_for_a_gradient_even_beside_infinities(reverse):
    x = jnp.array([-np.inf, -np.inf, 0.0, 1000.0, -1000.0, 1001.0])[:: -1 if reverse else 1]
    gradient = jax.jit(fg.grad(lambda x, i: lax.cumlogsumexp(x, axis=0, reverse=reverse)[i]))
    for i in range(2, 6):
        i = 5 - i if reverse else i
        seen = x[i:] if reverse else x[: i + 1]
        expected = np.zeros(6)
        expected[slice(i, None) if reverse else slice(0, i + 1)] = jax.nn.softmax(seen)
        np.testing.assert_allclose(gradient(x, i), expected, atol=1e-12)


def test_cumulative_log_sum_exp_saves_its_operand_and_output():
    x = draw(8)
    _, pullback = fg.vjp(lax.cumlogsumexp, x)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pullback)) == 2 * x.nbytes
