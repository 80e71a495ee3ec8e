"""What an operation was run under on the way forward, it is run under on the way back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax._src.compute_on import extend_compute_type
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import jaxprs_in_params

import funcgrad as fg


def under(context, enter):
    """A function whose operations, and no others, are run under a context."""

    def f(x):
        with enter():
            return jnp.sin(x) * x

    return f, context


CONTEXTS = {
    "metadata": under("xla_metadata", lambda: set_xla_metadata(phase="block")),
    "what it is computed on": under("compute_type", lambda: extend_compute_type("device_host")),
}


PROGRAMS = {
    "as it is": lambda f, x: f(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
    "scan": lambda f, x: lax.scan(lambda h, _: (f(h), None), x, None, length=3)[0],
    "while": lambda f, x: lax.while_loop(lambda s: s[1] < 3, lambda s: (f(s[0]), s[1] + 1), (x, 0))[0],
    "cond": lambda f, x: lax.cond(x > 0, f, f, x),
    "vmap": lambda f, x: jax.vmap(f)(x[None])[0],
    "grad": lambda f, x: fg.grad(f)(x),
}


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def settings(program, name):
    """The setting ``name`` of the equations that are the function's, and not a loop's own."""
    own = ("sin", "cos", "neg")
    return [getattr(e.ctx, name) for e in equations(program.jaxpr) if e.primitive.name in own]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_operation_s_settings_are_those_of_its_pullback(program, context):
    f, name = CONTEXTS[context]
    gradient = jax.make_jaxpr(fg.grad(lambda x: PROGRAMS[program](f, x)))(0.5)
    found = settings(gradient, name)
    assert len(found) >= 2
    assert all(x in ({"phase": "block"}, "device_host") for x in found)


def test_operations_outside_keep_to_themselves():
    def f(x):
        x = jnp.tanh(x)
        with set_xla_metadata(phase="block"):
            x = jnp.sin(x)
        return jnp.exp(x)

    gradient = jax.make_jaxpr(fg.grad(f))(0.5)
    marked = {e.primitive.name for e in equations(gradient.jaxpr) if e.ctx.xla_metadata}
    assert marked >= {"sin", "cos", "mul"}
    assert marked.isdisjoint({"tanh", "exp", "sub"})


def test_a_pullback_called_somewhere_else_has_the_settings_of_both():
    def f(x):
        with set_xla_metadata(phase="block"):
            return jnp.sin(x)

    def both(x):
        out, pullback = fg.vjp(f, x)
        with set_xla_metadata(way="back"):
            return pullback(out)

    fg.grad(f)(0.5)  # what is kept of this is not for elsewhere
    (product,) = [e for e in equations(jax.make_jaxpr(both)(0.5).jaxpr) if e.primitive.name == "mul"]
    assert product.ctx.xla_metadata == {"phase": "block", "way": "back"}


def test_metadata_reaches_what_is_compiled():
    def f(x):
        with set_xla_metadata(phase="block"):
            return jnp.sin(x)

    lines = jax.jit(fg.grad(f)).lower(0.5).as_text().splitlines()
    assert ['phase = "block"' in line for line in lines if "stablehlo.cosine" in line] == [True]


def test_a_cotangent_goes_back_to_the_memory_that_its_operand_is_in():
    def f(x):
        there = jax.device_put(x, jax.memory.Space.Host)
        with extend_compute_type("device_host"):
            there = jnp.sin(there) * there[0]
        return jnp.sum(jax.device_put(there, jax.memory.Space.Device))

    x = jnp.arange(3.0)
    gradient = jax.make_jaxpr(fg.grad(f))(x)
    assert gradient.out_avals == [jax.typeof(x)]
    products = [e for e in equations(gradient.jaxpr) if e.primitive.name == "mul"]
    assert {(e.ctx.compute_type, e.outvars[0].aval.memory_space) for e in products} == {
        ("device_host", jax.memory.Space.Host)
    }
