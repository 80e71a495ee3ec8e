"""Programs for several devices: gradients of ``shard_map`` and through it, and every collective."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import funcgrad as fg
from tests.agreement import assert_agrees, assert_same

DEVICES = 4
X = np.linspace(-1, 2, 32, dtype=np.float32).reshape(8, 4)


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((DEVICES,), ("i",), axis_types=(AxisType.Auto,))


def weights(n):
    return jnp.linspace(1, 2, n)


# Each takes a device's own (2, 4) and returns what varies from device to device.
collectives = {
    "psum": lambda x: lax.psum(jnp.sin(x), "i") * x,
    "psum of several": lambda x: sum(lax.psum((x, jnp.cos(x)), "i")) * x,
    "pmean": lambda x: lax.pmean(x, "i") * x**2,
    "pmax of what is constant": lambda x: x * lax.pmax(lax.stop_gradient(x), "i"),
    "all_gather": lambda x: jnp.sum(jnp.sin(lax.all_gather(x, "i")) * weights(DEVICES)[:, None, None], 0) * x,
    "all_gather tiled": lambda x: jnp.sum(lax.all_gather(x, "i", axis=1, tiled=True) ** 2 * weights(16)) * x,
    "psum_scatter": lambda x: lax.psum_scatter(jnp.sin(x.T), "i") * x[0, 0],
    "psum_scatter tiled": lambda x: lax.psum_scatter(jnp.sin(x), "i", scatter_dimension=1, tiled=True) * x,
    "ppermute": lambda x: lax.ppermute(jnp.sin(x), "i", [(k, (k + 1) % DEVICES) for k in range(DEVICES)]) * x,
    "ppermute to some": lambda x: lax.ppermute(jnp.sin(x), "i", [(0, 2), (3, 1)]) * x,
    "pshuffle": lambda x: lax.pshuffle(jnp.sin(x), "i", [2, 0, 3, 1]) * x,
    "all_to_all tiled": lambda x: lax.all_to_all(x**2, "i", 1, 0, tiled=True) * weights(8)[:, None],
    "axis_index": lambda x: x * jnp.sin(x * lax.axis_index("i")),
}  # fmt: skip


@pytest.mark.parametrize("checked", [True, False], ids=["with types of replication", "without"])
@pytest.mark.parametrize("name", collectives)
def test_collective_agrees_with_jax(mesh, name, checked):
    over_devices = jax.shard_map(collectives[name], mesh=mesh, in_specs=P("i"), out_specs=P("i"), check_vma=checked)

    def loss(x):
        out = over_devices(x)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

    assert_agrees(loss, X)


@pytest.mark.parametrize(("split", "concat"), [(1, 0), (0, 1), (1, 1), (0, 2)])
def test_an_exchange_along_different_axes_agrees_with_forward_mode(mesh, split, concat):
    """Where JAX's own reverse mode fails."""
    x = np.linspace(-1, 1, 128, dtype=np.float32).reshape(16, 4, 2)

    def loss(x):
        def exchange(x):
            return lax.all_to_all(jnp.sin(x), "i", split, concat)

        out = jax.shard_map(exchange, mesh=mesh, in_specs=P("i"), out_specs=P("i"))(x)
        return jnp.sum(out**2 * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

    assert_same(jax.jit(fg.grad(loss))(x), jax.jit(jax.jacfwd(loss))(x), 1e-6)


@pytest.mark.parametrize("checked", [True, False])
def test_a_model_with_shared_weights_over_a_sharded_batch_agrees(mesh, checked):
    def loss(w, x):
        def mean_over_devices(w, x):
            return lax.pmean(jnp.mean(jnp.tanh(x @ w) ** 2), "i")

        specs = dict(in_specs=(P(), P("i")), out_specs=P())
        return jax.shard_map(mean_over_devices, mesh=mesh, check_vma=checked, **specs)(w, x)

    assert_agrees(loss, X[:4, :3], X)


def test_a_gradient_taken_on_each_device_agrees(mesh):
    def step(grad):
        def on_each(w, x):
            return lax.pmean(grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(lax.pcast(w, "i", to="varying")), "i")

        return jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=(P(), P("i")), out_specs=P()))

    assert_same(step(fg.grad)(X[:4], X), step(jax.grad)(X[:4], X), 1e-6)


def test_a_gradient_taken_on_each_device_with_respect_to_shared_weights_is_summed(mesh):
    def step(grad):
        def on_each(w, x):
            return grad(lambda w: lax.psum(jnp.sum(jnp.tanh(x @ w) ** 2), "i"))(w)

        return jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=(P(), P("i")), out_specs=P()))

    assert_same(step(fg.grad)(X[:4], X), step(jax.grad)(X[:4], X), 1e-6)


def test_what_the_body_closes_over_gets_its_cotangent(mesh):
    def loss(w, x):
        return jnp.sum(jax.shard_map(lambda x: jnp.sin(x @ w), mesh=mesh, in_specs=P("i"), out_specs=P("i"))(x))

    assert_agrees(loss, X[:4, :3], X)


def test_programs_inside_and_around_agree(mesh):
    """A loop, a branch and a checkpoint inside of a map inside of a loop."""

    def ring(x):
        def step(carry, _):
            passed = lax.ppermute(carry, "i", [(k, (k + 1) % DEVICES) for k in range(DEVICES)])
            return jax.checkpoint(jnp.sin)(passed) + lax.cond(jnp.sum(x) > 0, jnp.sin, jnp.cos, x), None

        return lax.scan(step, x, None, length=3)[0]

    def loss(x):
        over_devices = jax.shard_map(ring, mesh=mesh, in_specs=P("i"), out_specs=P("i"))
        return jnp.sum(lax.fori_loop(0, 2, lambda _, x: over_devices(x), x) ** 2)

    assert_agrees(loss, X)


def test_a_map_over_one_axis_of_two_agrees():
    mesh = jax.make_mesh((2, 2), ("i", "j"), axis_types=(AxisType.Auto,) * 2)

    def loss(x):
        summed = jax.shard_map(
            lambda x: lax.psum(jnp.sin(x), "j"),
            mesh=mesh,
            in_specs=P("i", "j"),
            out_specs=P("i"),
            axis_names={"i", "j"},
        )
        return jnp.sum(summed(x) ** 2)

    assert_agrees(loss, X)


@pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit])
def test_cotangents_are_sharded_like_their_values(axis):
    mesh = jax.make_mesh((DEVICES,), ("i",), axis_types=(axis,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P("i")))
        w = jax.device_put(X[:4, :3], NamedSharding(mesh, P(None, None)))
        loss = lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2)  # noqa: E731
        mine, theirs = (jax.jit(grad(loss, (0, 1)))(w, x) for grad in (fg.grad, jax.grad))
        assert_same(mine, theirs, 1e-6)
        assert [ct.sharding for ct in mine] == [ct.sharding for ct in theirs]
        eager = fg.grad(loss, (0, 1))(w, x)
        assert [ct.sharding.is_equivalent_to(x.sharding, 2) for ct, x in zip(eager, (w, x), strict=True)] == [True] * 2
