"""Convolutions beside JAX's."""

from __future__ import annotations

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


def conv(**how):
    how = {"window_strides": (1, 1), "padding": "SAME", **how}
    return lambda x, w: lax.conv_general_dilated(x, w, **how)


GEOMETRY = {
    "plain": {},
    "valid": dict(padding="VALID"),
    "strided": dict(window_strides=(2, 3)),
    "padded": dict(window_strides=(2, 1), padding=[(1, 2), (3, 0)]),
    "cropped": dict(padding=[(-1, 1), (2, -1)]),
    "dilated": dict(lhs_dilation=(2, 1), rhs_dilation=(1, 2), padding=[(2, 1), (3, 0)]),
    "everything": dict(window_strides=(2, 3), lhs_dilation=(1, 3), rhs_dilation=(2, 1), padding=[(1, 2), (0, 3)]),
}
geometries = pytest.mark.parametrize("geometry", GEOMETRY.values(), ids=GEOMETRY.keys())


@geometries
def test_convolution_agrees_with_jax(geometry):
    assert_agrees(conv(**geometry), draw(2, 3, 6, 7), draw(4, 3, 3, 2))


@geometries
def test_convolution_in_groups_of_features_agrees_with_jax(geometry):
    assert_agrees(conv(feature_group_count=2, **geometry), draw(2, 4, 6, 7), draw(6, 2, 3, 2), second=False)


@geometries
def test_convolution_in_groups_of_the_batch_agrees_with_jax(geometry):
    assert_agrees(conv(batch_group_count=2, **geometry), draw(4, 3, 6, 7), draw(6, 3, 3, 2), second=False)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("groups", ["feature_group_count", "batch_group_count"])
def test_grouped_convolution_has_a_second_derivative_in_the_form_for_each_backend(groups, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, w = draw(2, 4, 6, 5), draw(4, 4 // (2 if groups == "feature_group_count" else 1), 3, 2)
    assert_agrees(conv(**{groups: 2}), x, w)


@pytest.mark.parametrize(
    ("layout", "x", "w", "how"),
    [
        (("NHWC", "HWIO", "NHWC"), (2, 6, 5, 3), (3, 2, 3, 4), {}),
        (("NHWC", "HWIO", "NHWC"), (2, 6, 5, 4), (3, 2, 1, 8), dict(feature_group_count=4)),
        (("CHWN", "OHWI", "WNHC"), (4, 6, 5, 2), (6, 3, 2, 2), dict(feature_group_count=2)),
        (("HWCN", "IOHW", "CNHW"), (6, 5, 3, 4), (3, 6, 3, 2), dict(batch_group_count=2)),
    ],
    ids=["NHWC", "depthwise", "CHWN in groups", "HWCN in groups of the batch"],
)
def test_convolution_in_any_layout_agrees_with_jax(layout, x, w, how):
    assert_agrees(conv(dimension_numbers=layout, window_strides=(2, 1), **how), draw(*x), draw(*w), second=False)


def test_convolution_in_one_and_three_dimensions_agrees_with_jax():
    assert_agrees(lambda x, w: lax.conv(x, w, (2,), "SAME"), draw(2, 3, 7), draw(4, 3, 3), second=False)
    assert_agrees(
        lambda x, w: lax.conv(x, w, (1, 2, 1), "SAME"), draw(1, 2, 3, 4, 3), draw(2, 2, 2, 3, 1), second=False
    )


def test_convolution_of_complex_numbers_agrees_with_jax():
    x, w = draw(2, 3, 6, 5, dtype=np.complex128), draw(4, 3, 3, 2, dtype=np.complex128)
    assert_agrees(conv(window_strides=(2, 1)), x, w, second=False)


@pytest.mark.parametrize("shape", [(0, 3, 6, 5), (2, 3, 1, 1)], ids=["no batch", "no output"])
def test_convolution_of_nothing_agrees_with_jax(shape):
    assert_agrees(conv(padding="VALID"), draw(*shape), draw(4, 3, 3, 2), second=False)


@pytest.mark.parametrize("preferred", [None, np.float32])
def test_convolution_in_bfloat16_agrees_with_jax_in_any_preferred_type(preferred):
    x, w = draw(2, 4, 6, 5).astype(jnp.bfloat16), draw(4, 2, 3, 2).astype(jnp.bfloat16)
    f = conv(feature_group_count=2, preferred_element_type=preferred)
    got, expected = [jax.jit(grad(weighted(f), (0, 1)))(x, w) for grad in (fg.grad, jax.grad)]
    assert_close(*[[ct.astype(np.float32) for ct in cts] for cts in (got, expected)], tolerance=0.02)
    assert [ct.dtype for ct in got] == [x.dtype, w.dtype]


@pytest.mark.parametrize("precision", ["highest", (lax.Precision.DEFAULT, lax.Precision.HIGH)])
def test_cotangents_are_computed_in_the_precision_asked_for(precision):
    backward = jax.make_jaxpr(fg.grad(lambda x, w: conv(precision=precision)(x, w).sum(), (0, 1)))
    precisions = {
        eqn.params["precision"]
        for eqn in backward(draw(2, 3, 6, 5), draw(4, 3, 3, 2)).eqns
        if eqn.primitive is lax.conv_general_dilated_p
    }
    assert precisions == {(lax.Precision.HIGHEST,) * 2 if precision == "highest" else precision}


def test_batched_kernels_agree_with_jax():
    assert_agrees(jax.vmap(conv(feature_group_count=2), (None, 0)), draw(2, 4, 5, 4), draw(2, 4, 2, 3, 2), second=False)


def test_each_cotangent_is_one_convolution_and_saves_the_other_operand():
    x, w = draw(2, 3, 6, 5), draw(4, 3, 3, 2)
    gradient = jax.make_jaxpr(fg.grad(lambda x, w: conv()(x, w).sum(), (0, 1)))(x, w)
    assert sum(eqn.primitive is lax.conv_general_dilated_p for eqn in gradient.eqns) == 3
    _, pullback = fg.vjp(lambda x: conv()(x, w), x)
    assert [leaf.shape for leaf in jax.tree.leaves(pullback)] == [w.shape]
