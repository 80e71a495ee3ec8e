"""Jitted functions: two jitted halves that keep what the user asked of the whole."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec, SingleDeviceSharding

import funcgrad as fg
from tests.agreement import assert_agrees, assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)


def jits(f, *args):
    """The jit equations of ``f``, at the top."""
    return [eqn for eqn in jax.make_jaxpr(f)(*args).jaxpr.eqns if eqn.primitive.name == "jit"]


@jax.jit
def layer(x, w):
    return jnp.sin(x * w), jnp.sum(w)


def test_a_jitted_function_agrees_with_jax():
    assert_agrees(lambda x, w: jnp.sum(layer(x, w)[0] ** 2) * layer(x, w)[1], V, V + 1)


def test_any_of_the_arguments_may_be_active():
    for argnums in (0, 1):
        assert_agrees(lambda x, w: jnp.sum(layer(x, w)[0] ** 2), V, V + 1, argnums=argnums)


def test_functions_jitted_within_each_other_agree():
    inner = jax.jit(lambda x: jnp.sin(x) * x)
    outer = jax.jit(lambda x: inner(inner(x)) + jax.jit(inner)(x))
    assert_agrees(lambda x: jnp.sum(outer(x)), V)


def test_both_halves_keep_the_name():
    eqns = jits(fg.grad(lambda x: jnp.sum(layer(x, V)[0])), V)
    assert [eqn.params["name"] for eqn in eqns].count("layer") == 2


def test_inlined_functions_are_inlined():
    f = jax.jit(lambda x: jnp.sin(x) * x, inline=True)
    assert not jits(fg.grad(lambda x: jnp.sum(f(x))), V)
    assert_agrees(lambda x: jnp.sum(f(x) ** 2), V)


def test_both_halves_keep_whether_unused_arguments_are_kept():
    f = jax.jit(lambda x, y: jnp.sin(x), keep_unused=True)
    assert all(eqn.params["keep_unused"] for eqn in jits(lambda x: fg.vjp(f, x, V)[0], V))


def test_donated_arguments_are_donated_on_the_way_forward_only():
    f = jax.jit(lambda x, w: jnp.sin(x) * w, donate_argnums=0)
    forward, backward = jits(fg.grad(lambda x, w: jnp.sum(f(x, w)), argnums=1), V, V)[:2]
    assert forward.params["donated_invars"] == (True, False)
    assert not any(backward.params["donated_invars"])


def test_shardings_are_those_of_the_arguments_and_outputs():
    here = SingleDeviceSharding(jax.devices()[0])
    f = jax.jit(lambda x, w: jnp.sin(x) * w, in_shardings=(here, None), out_shardings=here)
    eqns = jits(fg.grad(lambda x: jnp.sum(f(x, V))), V)
    forward, backward = [eqn for eqn in eqns if eqn.params["name"] == "<lambda>"]
    assert forward.params["in_shardings"][0] == here and forward.params["out_shardings"][0] == here
    assert backward.params["in_shardings"][-1] == here and backward.params["out_shardings"][-1] == here
    assert_agrees(lambda x: jnp.sum(f(x, V) ** 2), V)


def test_shardings_by_name_are_kept():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        f = jax.jit(lambda x: jnp.sin(x) * x, in_shardings=PartitionSpec("data"), out_shardings=PartitionSpec("data"))
        assert_agrees(lambda x: jnp.sum(f(x) ** 2), V)


def test_static_arguments_are_static():
    @partial(jax.jit, static_argnums=1, static_argnames="mode")
    def f(x, n, *, mode):
        return x**n if mode == "power" else x * n

    assert_agrees(lambda x: jnp.sum(f(x, 3, mode="power") + f(x, 2, mode="times")), V)


def test_an_output_that_is_an_input_or_a_constant_agrees():
    f = jax.jit(lambda x, y: (x, 2.0, V, y, x * y, jnp.int32(3)))
    assert_agrees(lambda x, y: jnp.sum(f(x, y)[0] * f(x, y)[2] * f(x, y)[4]) * f(x, y)[1] * f(x, y)[5], V, V + 1)


def test_integers_and_keys_pass_through():
    @jax.jit
    def f(key, i, x):
        key, other = jax.random.split(key)
        return key, i + 1, x[i] * jax.random.normal(other)

    key = jax.random.key(0)
    assert_agrees(lambda x: f(key, 1, x)[2] ** 2 * f(key, 1, x)[1], V)


def test_the_halves_pass_no_array_that_the_caller_has():
    """Residuals that are arguments or results are not returned a second time."""
    f = jax.jit(lambda x, y: (lax.exp(x), lax.mul(x, y)))
    forward = jits(lambda x, y: fg.vjp(f, x, y)[0], V, V)[0]
    assert len(forward.outvars) == 2
    deep = jax.jit(lambda x: lax.sin(lax.exp(x)))
    assert len(jits(lambda x: fg.vjp(deep, x)[1], V)[0].outvars) == 2


def test_a_jitted_function_of_a_tangent_is_transposed():
    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    scale = jax.jit(lambda t, x: (t * jnp.cos(x), x))
    f.defjvp(lambda p, t: (jnp.sin(p[0]), scale(t[0], p[0])[0]))
    assert_agrees(lambda x: jnp.sum(f(x) ** 2), V)


@pytest.mark.parametrize("wrap", [jax.vmap, jax.checkpoint, lambda f: jax.vmap(jax.jit(f))])
def test_jit_composes(wrap):
    assert_agrees(lambda x: jnp.sum(wrap(lambda x: layer(x, x)[0])(x)), V)


def test_a_gradient_inside_a_jitted_function_inside_a_gradient_agrees():
    def nested(grad):
        inner = jax.jit(lambda x: grad(lambda y: jnp.sum(jnp.sin(y) * x))(x))
        return grad(lambda x: jnp.sum(inner(x) ** 2))(V)

    assert_same(nested(fg.grad), nested(jax.grad), 1e-6)


def test_compiled_halves_are_made_once():
    traced = []

    @jax.jit
    def f(x):
        traced.append(1)
        return jnp.sin(x)

    for _ in range(3):
        fg.grad(lambda x: jnp.sum(f(x)))(V)
    assert traced == [1]


def test_a_debug_print_inside_is_printed_once(capfd):
    @jax.jit
    def f(x):
        jax.debug.print("seen {}", jnp.sum(x))
        return jnp.sum(x**2)

    fg.grad(f)(V)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen 1.0") == 1
