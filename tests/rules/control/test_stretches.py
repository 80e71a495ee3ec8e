"""scan in the memory of a few states: the same derivatives, and no more held than was told."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import io_callback

import funcgrad as fg
from funcgrad.rules.control.revolve import advances
from funcgrad.rules.control.stretches import stretch_within
from tests.agreement import assert_same
from tests.rules.control.test_while_loop import Counted


def keeping(**told):
    return fg.rules.default.override({lax.scan_p: fg.rules.Scan(**told)})


FEW = keeping(slots=4)
XS = np.linspace(0.1, 1.0, 37, dtype=np.float32)


def assert_agrees(f, *args, argnums=None, rules=FEW, tolerance=1e-5):
    argnums = tuple(range(len(args))) if argnums is None else argnums
    args = [np.asarray(x, np.float32) for x in args]
    expected = jax.jit(jax.grad(f, argnums))(*args)
    mine = fg.grad(f, argnums, rules=rules)
    assert_same(mine(*args), expected, tolerance)


def recurrent(w, h, xs, **options):
    """Constants, a carry of which a part changes, is passed on or counts, and elements."""

    def step(carry, x):
        h, same, count = carry
        h = jnp.sin(w * h + x * same)
        return (h, same, count + 1), (h * x, count)

    (h, same, _), (ys, counts) = lax.scan(step, (h, 1.5 * h, 0), xs, **options)
    return h * same + jnp.sum(jnp.cos(ys) * counts)


@pytest.mark.parametrize("argnums", [c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)])
def test_any_mix_of_constants_carry_and_elements_may_be_active(argnums):
    assert_agrees(recurrent, 0.9, 0.4, XS, argnums=argnums)


def test_second_derivatives_agree():
    def f(x):
        return lax.scan(lambda c, e: (jnp.sin(c * e), None), x, XS[:13])[0]

    expected = jax.grad(jax.grad(f))(np.float32(0.4))
    once = fg.grad(f, rules=FEW)
    mine = jax.jit(lambda x: (fg.grad(once)(x), jax.jacfwd(once)(x)))(np.float32(0.4))
    assert_same(mine, (expected, expected), 1e-5)


@pytest.mark.parametrize("slots", [4, 6, 9])
@pytest.mark.parametrize("reverse", [False, True])
def test_loops_of_any_length_are_reversed(slots, reverse):
    for length in (0, 1, 5, 24, 37):
        f = lambda w, h, xs: recurrent(w, h, xs, reverse=reverse)  # noqa: E731
        assert_agrees(f, 0.9, 0.4, XS[:length], rules=keeping(slots=slots))


def test_only_the_carry_or_only_the_outputs_may_be_used():
    def step(c, x):
        return c * jnp.sin(x), c * x

    assert_agrees(lambda c, xs: lax.scan(step, c, xs)[0], 0.9, XS)
    assert_agrees(lambda c, xs: jnp.sum(lax.scan(step, c, xs)[1]), 0.9, XS)


def test_a_loop_without_a_carry_agrees():
    assert_agrees(lambda w: jnp.sum(lax.scan(lambda _, x: (None, jnp.sin(w * x)), None, XS)[1]), 0.9)


def test_a_carry_that_becomes_active_or_is_swapped_agrees():
    def f(x):
        def step(carry, e):
            a, b, c = carry
            return (jnp.sin(b), a, c + a * e), c

        (a, b, c), ys = lax.scan(step, (x, jnp.float32(2), jnp.float32(0)), XS)
        return a * b + c * jnp.sum(ys)

    assert_agrees(f, 0.5)


def test_keys_and_numbers_drawn_are_the_same_again():
    def f(x):
        def step(carry, _):
            key, x = carry
            key, own = jax.random.split(key)
            return (key, x * jax.random.normal(own)), own

        (_, x), keys = lax.scan(step, (jax.random.key(0), x), length=20)
        return x * jax.random.normal(keys[3])

    assert_agrees(f, 1.0)


def test_loops_nest():
    def f(x):
        def outer(c, e):
            c, ys = lax.scan(lambda a, b: (jnp.sin(a * b), a), c, XS * e)
            return c + jnp.sum(ys), c

        return jnp.sum(lax.scan(outer, x, XS[:20])[1])

    assert_agrees(f, 0.5)


def test_references_are_carried():
    def f(x):
        ref = jax.new_ref(x)

        def step(c, _):
            ref[...] = jnp.sin(ref[...]) * c
            return c * 1.01, ref[...]

        c, ys = lax.scan(step, x, length=20)
        return c + jnp.sum(ys) + ref[...]

    assert_agrees(f, 1.1)


def test_pullbacks_are_batched_and_cross_jit():
    f = lambda h: recurrent(0.9, h, XS)  # noqa: E731
    hs = jnp.linspace(0.1, 0.9, 3)
    assert_same(jax.vmap(fg.grad(f, rules=FEW))(hs), jax.vmap(jax.grad(f))(hs), 1e-5)
    _, pull = jax.jit(lambda h: fg.vjp(f, h, rules=FEW))(hs[1])
    slope = jax.grad(f)(hs[1])
    assert_same(jax.vmap(pull)(hs), (hs * slope,), 1e-5)


def test_a_loop_of_open_length_is_exported():
    (n,) = export.symbolic_shape("n")
    gradient = jax.jit(fg.grad(lambda h, xs: recurrent(0.9, h, xs), (0, 1), rules=keeping(slots=5)))
    types = jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((n,), np.float32)
    exported = export.export(gradient)(*types)
    for length in (1, 20, 37):
        expected = jax.grad(lambda h, xs: recurrent(0.9, h, xs), (0, 1))(np.float32(0.4), XS[:length])
        assert_same(exported.call(np.float32(0.4), XS[:length]), expected, 1e-5)
    fraction = jax.jit(fg.grad(lambda h, xs: recurrent(0.9, h, xs), rules=keeping(memory=0.5)))
    with pytest.raises(ValueError, match="whose length is open is no number of bytes"):
        export.export(fraction)(*types)


# What it holds, and what it costs.

STATE = 256
BYTES = 4 * STATE


def wave(x, length):
    def step(x, _):
        return x + 0.01 * jnp.sin(x), None

    return jnp.sum(lax.scan(step, x, length=length)[0] ** 2)


def held(length, **told):
    gradient = jax.jit(fg.grad(lambda x: wave(x, length), rules=keeping(**told)))
    return gradient.lower(jnp.ones(STATE)).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("slots", [4, 16, 64])
@pytest.mark.parametrize("length", [100, 6_000, 100_000])
def test_no_more_is_held_than_the_slots_and_a_few_states(slots, length):
    assert held(length, slots=slots) <= (slots + 6) * BYTES + 2048


def test_memory_is_bytes_or_a_text_or_a_fraction_of_keeping_everything():
    assert held(1000, memory=100 * BYTES) == held(1000, memory="100 KiB") == held(1000, memory=0.1)
    assert 0.5 * 100 * BYTES <= held(1000, memory=0.1) <= 106 * BYTES
    assert held(1000, memory=1.0) == held(1000, slots=1000) == held(1000)


def test_what_fits_is_kept_as_it_is_without_a_limit():
    plain = fg.grad(lambda x: wave(x, 50))
    few = fg.grad(lambda x: wave(x, 50), rules=keeping(slots=64))
    assert str(jax.make_jaxpr(few)(jnp.ones(3))) == str(jax.make_jaxpr(plain)(jnp.ones(3)))


def test_too_little_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"cannot be reversed in 3 KiB: it takes 5 KiB at least, 4 states of 1 KiB"):
        jax.make_jaxpr(fg.grad(lambda x: wave(x, 1000), rules=keeping(memory="3 KiB")))(jnp.ones(STATE))


def test_what_is_no_amount_is_refused():
    for told, error in [({"slots": 3}, ValueError), ({"memory": 1.5}, ValueError), ({"memory": "much"}, ValueError)]:
        with pytest.raises(error):
            fg.rules.Scan(**told)
    with pytest.raises(TypeError, match="not by both"):
        fg.rules.Scan(slots=5, memory=100)


def test_tables_made_anew_are_one():
    assert keeping(slots=5) == keeping(slots=5) != keeping(slots=6)
    assert keeping(memory=1) != keeping(memory=1.0) != fg.rules.default


@pytest.mark.parametrize(("slots", "length", "times"), [(16, 100, 2), (16, 1000, 3), (64, 1000, 2), (64, 6000, 2)])
def test_steps_are_run_again_as_often_as_the_schedule_says(slots, length, times):
    """``times`` is how often at most, on the whole, a step is run besides the way forward. (Places are rounded.)"""
    factor = Counted(0.999)

    def f(x):
        def step(c, i):
            return jnp.sin(c) * factor(i), None

        return lax.scan(step, x, jnp.arange(length))[0]

    jax.block_until_ready(jax.jit(fg.grad(f, rules=keeping(slots=slots)))(1.0))
    state, row = 4, 8
    count, own = stretch_within(length, slots * state + row, state, row)
    assert factor.count <= 1.01 * (count * advances(length // count, own) + length + length % count)
    assert factor.count - length <= times * length


def test_a_schedule_of_fewer_advances_does_not_exist():
    def least(length, slots, known={}):  # noqa: B006
        """By trying every place for the first checkpoint."""
        if length == 1:
            return 0
        if slots == 1:
            return length * (length - 1) // 2
        if (length, slots) not in known:
            splits = (k + least(length - k, slots - 1) + least(k, slots) for k in range(1, length))
            known[length, slots] = min(splits)
        return known[length, slots]

    for length in range(1, 40):
        for slots in range(1, 8):
            assert advances(length, slots) == least(length, slots)


def test_what_is_within_the_limit_takes_the_longest_stretch_that_helps():
    count, slots = stretch_within(6_000, 65 * BYTES, BYTES, BYTES)
    assert (slots + count) * BYTES <= 65 * BYTES
    assert all(
        count * advances(6_000 // count, slots) <= other * advances(6_000 // other, 65 - other)
        for other in range(1, 60)
        if 6_000 % other == 0
    )
    assert math.isclose(count * advances(6_000 // count, slots) / 6_000, 2.0, rel_tol=0.3)


# Effects.


def test_effects_happen_once_and_in_order():
    seen = []

    def f(x):
        def step(c, i):
            io_callback(lambda i: seen.append(int(i)), None, i, ordered=True)
            return jnp.sin(c), None

        return lax.scan(step, x, jnp.arange(20))[0]

    jax.block_until_ready(jax.jit(fg.grad(f, rules=FEW))(1.0))
    assert seen == list(range(20))


def test_effects_that_would_happen_again_are_refused():
    def f(x):
        def step(c, _):
            return c * io_callback(lambda: np.float32(2), jax.ShapeDtypeStruct((), np.float32)), None

        return lax.scan(step, x, length=20)[0]

    with pytest.raises(NotImplementedError, match="let the rule of scan keep everything"):
        fg.grad(f, rules=FEW)(1.0)


# Looked into.


def test_a_nan_is_found_at_its_step():
    def f(x):
        return jnp.sum(lax.scan(lambda c, e: (jnp.sqrt(c - e), None), x, XS)[0])

    found = fg.find_nonfinite(f, rules=FEW)(0.5)
    assert found.iterations == fg.find_nonfinite(f)(0.5).iterations and found.primitive == "sqrt"


def test_steps_are_explained():
    report = fg.explain(lambda h: recurrent(0.9, h, XS), rules=FEW)(0.4)
    plain = fg.explain(lambda h: recurrent(0.9, h, XS))(0.4)
    assert [step.primitive for step in report.steps] == [step.primitive for step in plain.steps]
