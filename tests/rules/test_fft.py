"""Fourier transforms beside JAX's."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.rules.against_jax import assert_agrees, assert_agrees_with_differences, draw


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


kinds = pytest.mark.parametrize("kind", list(lax.FftType), ids=lambda kind: kind.name)


def operand(kind, *shape):
    """What a transform of that kind to or from ``shape`` takes."""
    if kind is lax.FftType.RFFT:
        return draw(*shape)
    if kind is lax.FftType.IRFFT:
        shape = (*shape[:-1], shape[-1] // 2 + 1)
    return draw(*shape, dtype=np.complex128)


@kinds
@pytest.mark.parametrize(
    ("shape", "lengths"), [((5,), (5,)), ((2, 4), (4,)), ((2, 3, 5), (3, 5)), ((2, 3, 4), (2, 3, 4))]
)
def test_fft_agrees_with_jax(kind, shape, lengths):
    assert_agrees(partial(lax.fft, fft_type=kind, fft_lengths=lengths), operand(kind, *shape), second=False)


@kinds
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_fft_of_few_points_agrees_with_differences(kind, length):
    f = partial(lax.fft, fft_type=kind, fft_lengths=(length,))
    assert_agrees_with_differences(f, operand(kind, length))


@kinds
def test_second_derivatives_through_fft_agree_with_jax(kind):
    f = partial(lax.fft, fft_type=kind, fft_lengths=(4,))
    assert_agrees(lambda x: f(x * x), operand(kind, 4))


def test_fft_keeps_nothing_for_the_way_back():
    _, pullback = fg.vjp(jnp.fft.rfft, draw(4))
    assert jax.tree.leaves(pullback) == []


def test_fft_may_be_applied_to_a_tangent_by_a_custom_jvp_rule():
    @jax.custom_jvp
    def f(x):
        return jnp.abs(jnp.fft.rfft(x)) ** 2

    @f.defjvp
    def f_jvp(primals, tangents):
        (y,), (dy,) = map(jnp.fft.rfft, primals), map(jnp.fft.rfft, tangents)
        return jnp.abs(y) ** 2, 2 * jnp.real(jnp.conj(y) * dy)

    assert_agrees(f, draw(4), second=False)
