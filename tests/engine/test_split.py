"""Splitting a program: once for each choice of active inputs and rules, keeping nothing twice."""

from __future__ import annotations

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad.engine import split as engine_split
from funcgrad.engine.split import Activity, Split, split
from tests.agreement import assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)
NONE, VALUE, TANGENT = Activity
RULES = fg.rules.default


def jaxpr_of(f, *args):
    return jax.make_jaxpr(f)(*args)


@pytest.fixture
def splits(monkeypatch):
    """The activities of the splits made meanwhile, but for those of JAX's own functions that are written out."""
    made = []
    original = Split.__init__

    def counted(self, program, activity, rules, inlined=False):
        if not inlined or "/jax/" not in program.jaxpr.debug_info.func_src_info:
            made.append(tuple(activity))
        original(self, program, activity, rules, inlined)

    monkeypatch.setattr(Split, "__init__", counted)
    return made


# The cache.


def test_the_same_program_activity_and_rules_give_the_same_halves():
    jaxpr = jaxpr_of(lambda x, y: jnp.sin(x) * y, V, V)
    halves = split(jaxpr, (VALUE, VALUE), RULES)
    assert split(jaxpr, (VALUE, VALUE), RULES) is halves
    assert split(jaxpr, (VALUE, VALUE), RULES.override({})) is halves
    assert split(jaxpr, (VALUE, NONE), RULES) is not halves
    assert split(jaxpr, (VALUE, VALUE), RULES.override({lax.sin_p: lambda ct: ct})) is not halves


def test_halves_go_with_their_program():
    jaxpr = jaxpr_of(lambda x: jnp.sin(x) * 3, V)
    forward = weakref.ref(split(jaxpr, (VALUE,), RULES).forward)
    assert forward() is not None
    del jaxpr
    gc.collect()
    assert forward() is None


def test_a_jitted_function_is_split_once_however_often_it_is_traced(splits):
    layer = jax.jit(lambda w, x: jnp.tanh(w * x))

    def loss(w):
        x = V
        for _ in range(5):
            x = layer(w, x)
        return jnp.sum(x)

    jax.make_jaxpr(fg.grad(loss))(V)
    # The first layer's input is a constant; all other layers are alike.
    assert sorted(splits) == [(VALUE, NONE), (VALUE, VALUE), *sorted(splits)[2:]]
    count = len(splits)
    for _ in range(3):
        jax.make_jaxpr(fg.grad(loss))(V)
        fg.grad(loss)(V)
    assert len(splits) == count


def test_equal_layers_share_their_jaxprs():
    layer = jax.jit(lambda w, x: jnp.tanh(w * x))

    def loss(ws, x):
        for w in ws:
            x = layer(w, x)
        return jnp.sum(x)

    eqns = jax.make_jaxpr(fg.grad(loss))([V] * 6, V).jaxpr.eqns
    programs = [id(eqn.params["jaxpr"]) for eqn in eqns if "jaxpr" in eqn.params and eqn.params["name"] == "<lambda>"]
    assert len(programs) == 12 and len(set(programs)) <= 4


@pytest.mark.parametrize(
    "f",
    [
        lambda x: lax.scan(body, x, V)[0],
        lambda x: lax.cond(jnp.sum(x) > 0, positive, negative, x),
        lambda x: lax.while_loop(small, double, x),
        jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
    ],
    ids=["scan", "cond", "while", "checkpoint"],
)
def test_a_program_in_a_primitive_is_split_once_however_often_it_is_traced(f, splits):
    def loss(x):
        return jnp.sum(f(x))

    fg.grad(loss)(V)
    jax.make_jaxpr(fg.grad(loss))(V)
    count = len(splits)
    assert count
    fg.grad(loss)(V)
    jax.make_jaxpr(fg.grad(loss))(V)
    assert len(splits) == count


def body(c, a):
    return jnp.sin(c) * a, None


def positive(x):
    return jnp.sin(x)


def negative(x):
    return jnp.cos(x)


def small(x):
    return jnp.sum(x) < 40


def double(x):
    return x * 2


def test_a_backward_half_is_traced_once_for_each_type_of_cotangents():
    layer = jax.jit(lambda x: (jnp.sin(x), jnp.exp(x)))
    jaxpr = jaxpr_of(layer, V).jaxpr.eqns[0].params["jaxpr"]
    halves = split(jaxpr, (VALUE,), RULES)
    residuals = (jax.typeof(V),) * len(halves.sources)
    ct = jax.typeof(V)
    both, one = halves.backward(residuals, (ct, ct)), halves.backward(residuals, (ct, None))
    assert halves.backward(residuals, (ct, ct)) is both and halves.backward(residuals, (ct, None)) is one
    assert len(one[0].jaxpr.eqns) < len(both[0].jaxpr.eqns)


# The halves.


def test_the_halves_together_are_the_pullback():
    def f(x, y):
        return jnp.sin(x) * y, jnp.sum(y)

    halves = split(jaxpr_of(f, V, V), (VALUE, VALUE), RULES)
    results = jax.core.eval_jaxpr(halves.forward.jaxpr, halves.forward.consts, V, V + 1)
    outs = results[:2]
    residuals = halves.residuals([V, V + 1], results)
    cts = [jnp.asarray(V), jnp.float32(2)]
    program, mask = halves.backward(tuple(map(jax.typeof, residuals)), tuple(map(jax.typeof, cts)))
    pulled = jax.core.eval_jaxpr(program.jaxpr, program.consts, *residuals, *cts)
    expected_out, pullback = jax.vjp(f, V, V + 1)
    assert_same(tuple(outs), expected_out)
    assert mask == [True, True] and halves.out_active == [True, True]
    assert_same(tuple(pulled), pullback(tuple(cts)), 1e-6)


def test_residuals_that_are_inputs_or_outputs_are_forwarded():
    def sources(f, *activity):
        return split(jaxpr_of(f, *[V] * len(activity)), activity, RULES).sources

    assert sources(lambda x, y: x * y, VALUE, VALUE) == [("in", 1), ("in", 0)]
    assert sources(lambda x, y: x * y, VALUE, NONE) == [("in", 1)]
    assert sources(lambda x: lax.exp(x), VALUE) == [("out", 0)]
    assert sources(lambda x: lax.tanh(lax.exp(x)), VALUE) == [("new", 0), ("out", 0)]
    assert sources(lambda x: x + x, VALUE) == []


def test_nothing_is_computed_twice_or_saved_twice():
    def f(x):
        y = lax.exp(x)
        return lax.mul(y, y), lax.mul(y, x)

    halves = split(jaxpr_of(f, V), (VALUE,), RULES)
    assert [str(eqn.primitive) for eqn in halves.forward.jaxpr.eqns] == ["exp", "mul", "mul"]
    assert sorted(halves.sources) == [("in", 0), ("new", 0)]


def test_what_no_active_input_reaches_has_no_derivative():
    def f(x, y):
        return jnp.sin(x), jnp.exp(y), jnp.argmax(x), lax.stop_gradient(x)

    halves = split(jaxpr_of(f, V, V), (VALUE, NONE), RULES)
    assert halves.out_active == [True, False, False, False]


def test_a_tangent_has_a_type_and_no_value():
    halves = split(jaxpr_of(lambda x, t: (jnp.sin(x), jnp.cos(x) * t), V, V), (NONE, TANGENT), RULES)
    assert halves.out_known == [True, False] and halves.out_active == [False, True]
    assert len(halves.forward.in_avals) == 1


def test_a_program_of_no_active_input_is_not_split(splits):
    def loss(x):
        return jnp.sum(x) * jax.jit(lambda v: jnp.sum(jnp.sin(v)))(V)

    fg.grad(loss)(V)
    assert not [a for a in splits if VALUE not in a]


def test_tracing_again_looks_up_and_does_nothing_else(monkeypatch):
    layer = jax.jit(lambda x: jnp.sin(x) * 2)
    fg.grad(lambda x: jnp.sum(layer(x)))(V)

    def fail(*args, **kwargs):
        raise AssertionError("split or traced again")

    monkeypatch.setattr(engine_split, "Split", fail)
    monkeypatch.setattr(engine_split._jax, "trace_to_jaxpr", fail)
    fg.grad(lambda x: jnp.sum(layer(x)))(V)
