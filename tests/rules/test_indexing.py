"""Slices, gathers and scatters beside JAX's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.rules.against_jax import assert_agrees, assert_close, draw, weighted

REPEATED, UNIQUE, OUTSIDE = np.array([0, 2, 0]), np.array([3, 0, 2]), np.array([1, 7, 2])
modes = pytest.mark.parametrize("mode", ["clip", "fill", "promise_in_bounds"])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def program(f, *args) -> str:
    return str(jax.make_jaxpr(f)(*args))


def saved_shapes(f, *args):
    """The shapes and dtypes of what the pullback keeps."""
    _, pullback = fg.vjp(f, *args)
    return sorted((x.shape, x.dtype.name) for x in jax.tree.leaves(pullback))


# Slices.


@pytest.mark.parametrize("strides", [None, (2, 1), (3, 4)])
def test_slice_agrees_with_jax(strides):
    assert_agrees(lambda x: jnp.sin(lax.slice(x, (1, 0), (5, 4), strides)), draw(6, 5))


def test_slice_of_nothing_agrees_with_jax():
    assert_agrees(lambda x: (lax.slice(x, (2, 0), (2, 4)), x[::-2]), draw(6, 5), second=False)


@pytest.mark.parametrize("start", [1, 5, -9])
def test_dynamic_slice_agrees_with_jax_where_its_start_is_clamped(start):
    assert_agrees(lambda x: jnp.sin(lax.dynamic_slice(x, (start, 1), (3, 2))), draw(6, 5, dtype=np.complex128))


def test_the_cotangent_of_a_dynamic_slice_is_an_update_of_zeros():
    backward = program(fg.grad(lambda x, i: lax.dynamic_slice(x, (i,), (3,)).sum()), draw(6), 1)
    assert "dynamic_update_slice" in backward and "scatter" not in backward


@pytest.mark.parametrize("start", [1, 5, -9])
def test_dynamic_update_slice_agrees_with_jax_where_its_start_is_clamped(start):
    assert_agrees(lambda x, u: jnp.sin(lax.dynamic_update_slice(x, u, (start, 1))), draw(6, 5), draw(3, 2))


@pytest.mark.parametrize("i", [0, 1], ids=["operand", "update"])
def test_dynamic_update_slice_saves_its_starts_only(i):
    x, u = draw(6, 5), draw(3, 2)
    others = [(x, u)[1 - i], jnp.array(2), jnp.array(1)]

    def f(active):
        return lax.dynamic_update_slice_p.bind(*((active, others[0]) if i == 0 else (others[0], active)), *others[1:])

    assert saved_shapes(f, (x, u)[i]) == [((), "int64")] * 2


def test_batched_dynamic_slices_agree_with_jax():
    starts = jnp.array([0, 9, 2])
    assert_agrees(jax.vmap(lambda x: jax.vmap(lambda i: lax.dynamic_slice(x, (i,), (2,)))(starts)), draw(2, 5))


# Gathers.


@modes
@pytest.mark.parametrize("indices", [REPEATED, OUTSIDE], ids=["repeated", "outside"])
def test_gather_agrees_with_jax(indices, mode):
    if mode == "promise_in_bounds":
        indices = indices % 5
    assert_agrees(lambda x: jnp.sin(x.at[indices, 1:3].get(mode=mode, fill_value=0.5)), draw(5, 4))


def test_gather_with_batching_dimensions_agrees_with_jax():
    places = jnp.argsort(draw(3, 5, seed=1), 1)[:, :2]
    assert_agrees(lambda x: jnp.sin(jnp.take_along_axis(x, places, 1)), draw(3, 5))
    assert_agrees(jax.vmap(lambda x: x[jnp.array([1, 1, 0])], 1), draw(3, 5), second=False)


# Scatters.


def scattered(op, indices, **how):
    return lambda x, u: jnp.sin(getattr(x.at[indices], op)(u, **how))


@modes
@pytest.mark.parametrize("op", ["set", "add", "subtract", "min", "max"])
def test_scatter_with_repeated_indices_agrees_with_jax(op, mode):
    assert_agrees(scattered(op, REPEATED, mode=mode), draw(5, 4), draw(3, 4, seed=1))


@pytest.mark.parametrize("op", ["set", "add", "subtract", "multiply", "min", "max"])
def test_scatter_with_unique_indices_agrees_with_jax(op):
    assert_agrees(scattered(op, UNIQUE, unique_indices=True), draw(5, 4), draw(3, 4, seed=1))


@pytest.mark.parametrize("op", ["set", "add", "subtract", "multiply", "min", "max"])
def test_scatter_drops_what_is_outside_as_jax_does(op):
    how = dict(mode="drop", unique_indices=op == "multiply")
    assert_agrees(scattered(op, OUTSIDE, **how), draw(5, 4), draw(3, 4, seed=1), second=False)


@pytest.mark.parametrize("op", ["set", "add", "multiply"])
def test_scatter_of_complex_numbers_agrees_with_jax(op):
    x, u = draw(5, 2, dtype=np.complex128), draw(3, 2, dtype=np.complex128, seed=1)
    assert_agrees(scattered(op, UNIQUE, unique_indices=True), x, u, second=False)


def test_batched_scatters_agree_with_jax():
    indices = jnp.array([[0, 1, 0], [3, 3, 3]])
    f = jax.vmap(lambda x, i, u: jnp.sin(x.at[i].set(u)))
    assert_agrees(lambda x, u: f(x, indices, u), draw(2, 4), draw(2, 3, seed=1))


def test_where_updates_meet_value_and_gradient_come_from_the_same_one():
    x, u = draw(4), jnp.array([1.0, 2.0, 3.0])
    out, pullback = fg.vjp(lambda x, u: x.at[REPEATED].set(u), x, u)
    x_ct, u_ct = pullback(jnp.arange(10.0, 14.0))
    assert out[0] in (1.0, 3.0)
    np.testing.assert_array_equal(u_ct, [10.0 * (out[0] == 1), 12.0, 10.0 * (out[0] == 3)])
    np.testing.assert_array_equal(x_ct, [0.0, 11.0, 0.0, 13.0])


def test_winners_are_sought_only_where_updates_may_meet_and_are_active():
    x, u = draw(5, 4), draw(3, 4)
    assert program(fg.grad(lambda x: x.at[REPEATED].set(u).sum()), x).count(" = scatter[") == 2
    assert program(fg.grad(lambda u: jnp.asarray(x).at[2].set(u).sum()), u[0]).count(" = scatter[") == 1
    assert "scatter_add" in program(fg.grad(lambda u: jnp.asarray(x).at[REPEATED].set(u).sum()), u).replace("-", "_")


@pytest.mark.parametrize("op", ["min", "max"])
def test_all_that_attain_an_extremum_share_its_cotangent_as_in_jax(op):
    x = jnp.array([1.0, 2.0, 3.0, 4.0])
    u = jnp.array([1.0, 1.0, 5.0, 0.0, 5.0, 4.0])
    assert_agrees(scattered(op, np.array([0, 0, 1, 1, 1, 3])), x, u)


def test_scatter_max_at_a_clipped_place_has_the_gradient_of_that_place():
    x, u = draw(5), draw(2, seed=1) + 2
    inside, outside = [fg.grad(weighted(scattered("max", np.array(i), mode="clip")), (0, 1)) for i in ([1, 4], [1, 9])]
    assert_close(outside(x, u), inside(x, u), 0)


def test_scatter_max_saves_no_more_than_jax():
    x, u = draw(1000), draw(3)

    def bytes_of(vjp):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(vjp(lambda x, u: x.at[REPEATED].max(u), x, u)[1]))

    assert bytes_of(fg.vjp) <= bytes_of(jax.vjp)


def test_a_tangent_may_be_scattered_to_repeated_indices():
    @jax.custom_jvp
    def f(x, u):
        return x.at[REPEATED].set(u)

    f.defjvp(lambda primals, tangents: (f(*primals), tangents[0].at[REPEATED].set(tangents[1])))
    x, u = draw(4), draw(3, seed=1)
    got = jax.jit(fg.grad(weighted(f), (0, 1)))(jnp.asarray(x), u)
    assert_close(got, jax.grad(weighted(lambda x, u: x.at[REPEATED].set(u)), (0, 1))(jnp.asarray(x), u), 1e-12)


def test_what_jax_refuses_is_refused_with_its_error():
    x = jnp.asarray(draw(4))
    with pytest.raises(NotImplementedError, match="scatter_apply"):
        fg.grad(lambda x: x.at[0].apply(jnp.sin).sum())(x)


# Products of updates that meet.

INDICES = np.array([0, 1, 1, 3, 1, 9])


def multiply(x, z):
    return x.at[INDICES].multiply(z, mode="drop")


def multiply_one_by_one(x, z):
    for i, place in enumerate(INDICES):
        here = (jnp.arange(len(x)) == place).reshape(-1, *[1] * (x.ndim - 1))
        x = x * jnp.where(here, z[i], 1.0)
    return x


def gradients(grad, f, x, z):
    first = grad(weighted(f), (0, 1))
    return first(x, z), grad(lambda *xs: weighted(lambda *xs: first(*xs))(*xs), (0, 1))(x, z)


@pytest.mark.parametrize("zeros", [[], [1], [1, 2, 3]], ids=str)
@pytest.mark.parametrize("kind", ["entries", "windows", "batch"])
def test_updates_that_meet_in_a_product_get_the_product_of_the_others(kind, zeros):
    shape = () if kind == "entries" else (2,)
    x, z = draw(4, *shape), draw(6, *shape)
    z[zeros] = 0
    x[:1] = 0
    f = jax.vmap(multiply, in_axes=1, out_axes=1) if kind == "batch" else multiply
    right = jax.jit(lambda x, z: gradients(jax.grad, multiply_one_by_one, x, z))(x, z)
    assert_close(jax.jit(lambda x, z: gradients(fg.grad, f, x, z))(x, z), right, 1e-12)
    assert_close(fg.grad(weighted(f), (0, 1))(x, z), right[0], 1e-12)


def test_a_product_of_a_segment_has_a_slope_at_zeros():
    x = jnp.array([0.0, 2.0, 3.0, 4.0, 0.0, 0.0])
    f = lambda x: jnp.sum(jax.ops.segment_prod(x, jnp.array([0, 0, 1, 1, 2, 2]), 3))  # noqa: E731
    assert fg.grad(f)(x).tolist() == [2, 0, 4, 3, 0, 0]


# A cotangent may be wider than its operand: what comes of a float of 8 bits, by a backward function of one's own.


@jax.custom_vjp
def widened(x):
    return x


widened.defvjp(lambda x: (x, None), lambda _, ct: (ct.astype(jnp.bfloat16),))
TAKEN = {
    "gather": lambda x: x[jnp.array([2, 1, 1])],
    "dynamic slice": lambda x: lax.dynamic_slice(x, (jnp.int32(1),), (3,)),
    "update": lambda x: lax.dynamic_update_slice(x, x[:2], (jnp.int32(1),)),
    "scatter": lambda x: x.at[jnp.array([1, 2])].set(x[:2]),
    "top k": lambda x: lax.top_k(x, 3)[0],
}


@pytest.mark.parametrize("f", TAKEN.values(), ids=TAKEN.keys())
def test_a_wider_cotangent_is_put_in_zeros_as_wide(f):
    x = jnp.arange(4, dtype=jnp.float8_e4m3fn)
    right = jax.grad(lambda x: jnp.sum(f(x)))(x.astype(np.float32))
    for wrap in (lambda f: f, jax.jit):
        out, pullback = fg.vjp(wrap(lambda x: widened(f(x))), x)
        (ct,) = pullback(jnp.ones(out.shape, out.dtype))
        assert ct.astype(np.float32).tolist() == right.tolist()
