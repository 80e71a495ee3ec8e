"""Dense and ragged contractions beside JAX's."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.rules.against_jax import assert_agrees, assert_close, draw, weighted


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def dot(numbers, **how):
    return lambda x, y: lax.dot_general(x, y, numbers, **how)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128], ids=["real", "complex"])
@pytest.mark.parametrize(
    ("x", "y", "numbers"),
    [
        ((3,), (3,), (((0,), (0,)), ((), ()))),
        ((2, 3), (3, 4), (((1,), (0,)), ((), ()))),
        ((2, 3), (4, 5), (((), ()), ((), ()))),
        ((2, 3, 4), (2, 4, 5), (((2,), (1,)), ((0,), (0,)))),
        ((2, 5, 3, 4), (4, 3, 2, 6), (((2, 3), (1, 0)), ((0,), (2,)))),
        ((4, 2, 3), (3, 5, 2, 4), (((0,), (3,)), ((2, 1), (0, 2)))),
    ],
    ids=["inner", "matrices", "outer", "batched", "two contracted", "two batched"],
)
def test_dot_general_agrees_with_jax(x, y, numbers, dtype):
    assert_agrees(lambda x, y: jnp.sin(dot(numbers)(x, y)), draw(*x, dtype=dtype), draw(*y, dtype=dtype, seed=1))


@pytest.mark.parametrize(("x", "y"), [((0, 3), (3, 4)), ((2, 0), (0, 4)), ((2, 3), (3, 0))])
def test_dot_general_of_nothing_agrees_with_jax(x, y):
    assert_agrees(dot((((1,), (0,)), ((), ()))), draw(*x), draw(*y), second=False)


def test_dot_general_of_one_operand_twice_agrees_with_jax():
    assert_agrees(lambda x: dot((((1,), (1,)), ((), ())))(x, x), draw(3, 4))


ROUNDED = (((1,), (0,)), ((), ()))


@pytest.mark.parametrize(
    ("x_dtype", "y_dtype", "how"),
    [
        ("bfloat16", "bfloat16", {}),
        ("bfloat16", "bfloat16", dict(preferred_element_type=np.float32)),
        ("float32", "bfloat16", dict(preferred_element_type=np.float32)),
        ("float16", "float16", dict(precision="highest")),
        ("float32", "float32", dict(precision=(lax.Precision.DEFAULT, lax.Precision.HIGHEST))),
        ("float32", "float32", dict(precision="F32_F32_F32", preferred_element_type=np.float32)),
        ("float32", "float32", dict(precision="BF16_BF16_F32")),
    ],
    ids=str,
)
def test_dot_general_agrees_with_jax_in_type_and_program_for_all_its_precisions(x_dtype, y_dtype, how):
    x, y = jnp.asarray(draw(2, 3), x_dtype), jnp.asarray(draw(3, 4), y_dtype)
    backward = [jax.make_jaxpr(grad(weighted(dot(ROUNDED, **how)), (0, 1)))(x, y) for grad in (fg.grad, jax.grad)]
    ours, theirs = [
        sorted(
            str((e.params["precision"], e.params["preferred_element_type"], *[v.aval.dtype for v in e.invars]))
            for e in jaxpr.eqns
            if e.primitive is lax.dot_general_p
        )
        for jaxpr in backward
    ]
    assert ours == theirs
    assert [aval.dtype for aval in backward[0].out_avals] == [x_dtype, y_dtype]


def test_batched_contractions_agree_with_jax():
    f = jax.vmap(jax.vmap(jnp.dot, (0, None)), (None, 1))
    assert_agrees(f, draw(2, 3), draw(3, 4), second=False)


# Ragged contractions. JAX has no second derivative of the first kind and none of the second, so dense ones stand in.

SIZES, SIZES_BY_BATCH = np.array([2, 0, 3], np.int32), np.array([[2, 0, 3], [1, 1, 4]], np.int32)


def ragged(numbers, ragged_dimension, group_dimensions, sizes):
    numbers = lax.RaggedDotDimensionNumbers(numbers, [ragged_dimension], group_dimensions)
    return lambda x, y: lax.ragged_dot_general(x, y, sizes, numbers)


def members(sizes, n):
    """Which of ``n`` rows belong to which group."""
    ends = np.cumsum(sizes)
    rows = np.arange(n)[:, None]
    return ((rows >= ends - sizes) & (rows < ends)).astype(float)


def kept(x, y, sizes):
    return jnp.einsum("rg,rk,gkn->rn", members(sizes, len(x)), x, y)


def contracted(x, y, sizes):
    return jnp.einsum("rg,rk,rn->gkn", members(sizes, len(x)), x, y)


def by_batch(dense, x_axis, y_axis, out_axis):
    def f(x, y):
        xs, ys = jnp.moveaxis(x, x_axis, 0), [y, y] if y_axis is None else jnp.moveaxis(y, y_axis, 0)
        return jnp.stack([dense(*each) for each in zip(xs, ys, SIZES_BY_BATCH, strict=True)], out_axis)

    return f


@pytest.mark.parametrize(
    ("f", "dense", "x", "y"),
    [
        (ragged((([1], [1]), ([], [])), 0, [0], SIZES), lambda x, y: kept(x, y, SIZES), (6, 4), (3, 4, 5)),
        (
            ragged((([0], [2]), ([], [])), 1, [1], SIZES),
            lambda x, y: kept(x.T, y.transpose(1, 2, 0), SIZES),
            (4, 6),
            (5, 3, 4),
        ),
        (ragged((([0], [0]), ([], [])), 0, [], SIZES), lambda x, y: contracted(x, y, SIZES), (6, 4), (6, 5)),
        (ragged((([2], [2]), ([1], [1])), 0, [0], SIZES_BY_BATCH), by_batch(kept, 1, 1, 0), (6, 2, 4), (3, 2, 4, 5)),
        (ragged((([0], [1]), ([1], [0])), 0, [], SIZES_BY_BATCH), by_batch(contracted, 1, 0, 1), (6, 2, 4), (2, 6, 5)),
        (
            ragged((([2], [1]), ([], [])), 1, [0], SIZES_BY_BATCH),
            by_batch(kept, 0, None, 0),
            (2, 6, 4),
            (3, 4, 5),
        ),
        (
            ragged((([1, 0], [1, 0]), ([], [])), 0, [], SIZES_BY_BATCH),
            lambda x, y: by_batch(contracted, 1, 1, 0)(x, y).sum(0),
            (6, 2, 4),
            (6, 2, 5),
        ),
        (ragged((([2], [1]), ([0], [0])), 0, [], SIZES), lambda x, y: x @ y, (6, 2, 4), (6, 4, 5)),
    ],
    ids=[
        "kept",
        "kept, transposed",
        "contracted",
        "kept by batch",
        "contracted by batch",
        "kept by row",
        "contracted by row",
        "batch",
    ],
)
def test_ragged_contraction_has_first_and_second_derivatives_of_the_dense_one(f, dense, x, y):
    args = draw(*x), draw(*y, seed=1)

    def second(grad, f):
        return jax.jit(grad(weighted(grad(weighted(lambda x, y: jnp.sin(f(x, y))), (0, 1))), (0, 1)))(*args)

    assert_close(fg.grad(weighted(f), (0, 1))(*args), jax.grad(weighted(dense), (0, 1))(*args), 1e-12)
    assert_close(second(fg.grad, f), second(jax.grad, dense), 1e-10)


@pytest.mark.parametrize("preferred", [None, np.float32])
def test_ragged_contraction_in_bfloat16_agrees_with_jax(preferred):
    x, y = jnp.asarray(draw(6, 4), jnp.bfloat16), jnp.asarray(draw(3, 4, 5), jnp.bfloat16)
    f = weighted(lambda x, y: lax.ragged_dot(x, y, SIZES, preferred_element_type=preferred))
    got, expected = [jax.jit(grad(f, (0, 1)))(x, y) for grad in (fg.grad, jax.grad)]
    assert_close(*[[ct.astype(np.float32) for ct in cts] for cts in (got, expected)], tolerance=0.02)


def test_the_cotangent_of_a_real_factor_of_complex_ones_is_real_without_a_warning():
    x, y = draw(5), draw(5) + 1j * draw(5, seed=1)
    f = lambda x, y: jnp.real(x @ y)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(fg.grad(f, (0, 1))(x, y), jax.grad(f, (0, 1))(x, y), 1e-15)
