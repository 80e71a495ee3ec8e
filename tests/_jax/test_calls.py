"""How a jitted function was batched, which JAX does not say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from funcgrad import _jax
from funcgrad._jax.calls import known_batchings


@jax.jit
def scaled(x, y):
    return x * jnp.sum(y)


def program_of(f, *args):
    (eqn,) = jax.make_jaxpr(f)(*args).eqns
    return eqn.params["jaxpr"]


def test_jax_still_keeps_what_it_has_batched():
    """If this fails, JAX has other keys in the cache that known_batchings reads, or batches elsewhere."""
    single = program_of(scaled, jnp.ones(()), jnp.ones(3))
    program_of(jax.vmap(scaled, in_axes=(0, None)), jnp.ones(2), jnp.ones(3))
    assert (2, (0, None)) in [(axis.size, in_axes) for program, axis, in_axes in known_batchings() if program is single]


@pytest.mark.parametrize(
    ("in_axes", "x", "y"), [((0, None), (3,), (3,)), ((None, 1), (), (3, 3)), ((0, 0), (3,), (3, 3))]
)
def test_a_batched_program_leads_back_to_that_of_one_call(in_axes, x, y):
    f = jax.vmap(scaled, in_axes=in_axes, axis_name="rows")
    program = program_of(f, jnp.ones(x), jnp.ones(y))
    assert not _jax.is_own_program(program)
    single, batching = _jax.batching_of(program)
    assert _jax.is_own_program(single)
    assert [aval.shape for aval in single.in_avals] == [(), (3,)]
    assert (batching.size, batching.name) == (3, "rows")
    assert tuple(batching.in_axes) == in_axes and tuple(batching.out_axes) == (0,)


def test_what_was_never_batched_leads_nowhere():
    assert _jax.batching_of(program_of(scaled, jnp.ones(()), jnp.ones(3))) is None


def test_a_jitted_function_is_found_inside_of_a_custom_one():
    custom = jax.custom_jvp(scaled)
    assert _jax.jitted(scaled) is scaled and _jax.jitted(custom) is scaled
    assert _jax.jitted(jnp.std) is None and _jax.jitted(jax.vmap(scaled)) is None


def plain(x, n, m):
    return x


@pytest.mark.parametrize(
    "given",
    [dict(static_argnums=(1, 2)), dict(static_argnames=("n", "m")), dict(static_argnums=1, static_argnames="m")],
)
def test_static_arguments_have_names(given):
    assert _jax.static_names(jax.jit(plain, **given)) == {"n", "m"}
