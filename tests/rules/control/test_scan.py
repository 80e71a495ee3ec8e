"""scan: the backward half of the body, scanned in reverse, over residuals of which none is kept that does not vary."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad import _jax
from tests.agreement import assert_agrees, assert_same

XS = np.array([[0.5, -1.5], [2.0, 0.3], [-0.7, 1.1]], np.float32)
W = np.array([[0.4, -0.2], [0.1, 0.6]], np.float32)
H = np.array([0.2, -0.3], np.float32)


def cell(w, h, x):
    h = jnp.sin(w @ h + x)
    return h, h * x


def rnn(w, h, xs, **options):
    h, ys = lax.scan(lambda h, x: cell(w, h, x), h, xs, **options)
    return jnp.sum(h**2) + jnp.sum(jnp.cos(ys))


@pytest.mark.parametrize("argnums", [c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)])
def test_any_mix_of_constants_carry_and_elements_may_be_active(argnums):
    assert_agrees(rnn, W, H, XS, argnums=argnums, second=len(argnums) != 2)


OPTIONS = [{"reverse": True}, {"unroll": 2}, {"unroll": 5}, {"unroll": True, "reverse": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_are_kept_on_the_way_back(options):
    assert_agrees(lambda w, h, xs: rnn(w, h, xs, **options), W, H, XS)
    eqns = jax.make_jaxpr(fg.grad(lambda h: rnn(W, h, XS, **options)))(H).jaxpr.eqns
    forward, backward = [eqn.params for eqn in eqns if eqn.primitive is lax.scan_p]
    assert forward["reverse"] != backward["reverse"] and forward["unroll"] == backward["unroll"]


@pytest.mark.parametrize("length", [0, 1])
def test_short_loops_agree(length):
    assert_agrees(lambda w, h, xs: rnn(w, h, xs[:length]), W, H, XS)


def test_only_the_carry_or_only_the_elements_may_be_used():
    assert_agrees(lambda w, h, xs: jnp.sum(lax.scan(lambda h, x: cell(w, h, x), h, xs)[0]), W, H, XS)
    assert_agrees(lambda w, h, xs: jnp.sum(lax.scan(lambda h, x: cell(w, h, x), h, xs)[1]), W, H, XS)


def test_a_loop_without_elements_agrees():
    assert_agrees(lambda w, h: jnp.sum(lax.scan(lambda h, _: cell(w, h, 0.1), h, None, length=4)[0]), W, H)


def test_a_loop_without_carry_agrees():
    assert_agrees(lambda w, xs: jnp.sum(lax.map(lambda x: jnp.sin(w @ x), xs) ** 2), W, XS)
    assert_agrees(lambda w, xs: jnp.sum(lax.map(lambda x: jnp.sin(w @ x), xs, batch_size=2) ** 2), W, XS)


def test_carries_that_are_counters_flags_and_keys_agree():
    def f(h, xs):
        def body(carry, x):
            i, flag, key, h = carry
            key, other = jax.random.split(key)
            h = jnp.where(flag, h * x, jnp.sin(h)) * (1 + i) + jax.random.normal(other)
            return (i + 1, ~flag, key, h), (i, h[i % 2])

        (_, _, _, h), (_, ys) = lax.scan(body, (0, True, jax.random.key(0), h), xs)
        return jnp.sum(h**2) + jnp.sum(ys)

    assert_agrees(f, H, XS, tolerance=1e-5)


def test_a_carry_that_becomes_active_on_the_way_agrees():
    def f(x):
        def body(carry, _):
            a, b, c = carry
            return (x, a * 2, b * c), c

        (a, b, c), cs = lax.scan(body, (1.0, 1.0, 1.0), None, length=4)
        return a * b * c + jnp.sum(cs)

    assert_agrees(f, np.float32(1.3))


def test_outputs_that_do_not_depend_on_active_values_agree():
    def f(x):
        def body(carry, a):
            c, d = carry
            return (c * x, d + a), (d, c, 1.0, a)

        (c, d), (ds, cs, ones, xs) = lax.scan(body, (x, 0.0), XS[:, 0])
        return c * d + jnp.sum(cs * ds * ones * xs)

    assert_agrees(f, np.float32(0.9))


def test_a_carry_that_is_passed_on_or_swapped_agrees():
    def f(x, y):
        (x, y, z), ys = lax.scan(lambda c, a: ((c[1], c[0], c[2]), c[0] * a * c[2]), (x, y, x * y), XS[:, 0])
        return x * y**2 * z + jnp.sum(ys)

    assert_agrees(f, np.float32(0.9), np.float32(1.2))


def test_trees_go_through():
    def f(params, xs):
        def body(carry, x):
            h = jnp.sin(params["w"] @ carry["h"] + x["a"] + params["b"])
            return {"h": h, "n": carry["n"] + 1}, (h, None)

        carry, (hs, _) = lax.scan(body, {"h": H, "n": 0}, {"a": xs})
        return jnp.sum(hs**2) * carry["n"]

    assert_agrees(f, {"w": W, "b": H}, XS)


def test_loops_nest():
    def f(w, h, xs):
        def outer(h, x):
            h, ys = lax.scan(lambda h, a: (jnp.sin(w @ h) * a, h[0]), h, x)
            return h, jnp.sum(ys)

        h, ys = lax.scan(outer, h, xs)
        return jnp.sum(h) + jnp.sum(ys**2)

    assert_agrees(f, W, H, XS)


def test_loops_hold_jit_cond_checkpoint_and_custom_rules():
    @jax.custom_vjp
    def clip(x):
        return x

    clip.defvjp(lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -0.5, 0.5),))

    def f(w, h, xs):
        def body(h, x):
            h = jax.jit(cell)(w, h, x)[0]
            h = lax.cond(h[0] > 0, lambda h: h * h, jnp.sin, h)
            return clip(jax.checkpoint(jnp.cos)(h)), jax.nn.relu(h)

        h, ys = lax.scan(body, h, xs)
        return jnp.sum(h) + jnp.sum(ys)

    assert_agrees(f, W, H, XS)


def test_a_fori_loop_of_known_length_agrees():
    assert_agrees(lambda w, h: jnp.sum(lax.fori_loop(0, 4, lambda i, h: jnp.sin(w @ h) * (i + 1), h)), W, H)


def test_an_associative_scan_agrees():
    assert_agrees(lambda x: jnp.sum(lax.associative_scan(jnp.multiply, x) ** 2), XS[:, 0] + 2)
    matrices = np.stack([W, W + 1, 2 * W])
    assert_agrees(lambda x: jnp.sum(lax.associative_scan(jnp.matmul, x, reverse=True) ** 2), matrices)


@pytest.mark.parametrize("axes", [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0)])
def test_batched_loops_agree(axes):
    arguments = [np.stack([x, 2 * x]) if a == 0 else x for x, a in zip((W, H, XS), axes, strict=True)]
    mine, theirs = (jax.jit(jax.vmap(m.grad(rnn, (0, 1, 2)), axes))(*arguments) for m in (fg, jax))
    assert_same(mine, theirs, 1e-5)


def test_forward_mode_over_the_gradient_agrees():
    mine, theirs = (jax.jit(jax.jacfwd(m.grad(rnn, 1), 1))(W, H, XS) for m in (fg, jax))
    assert_same(mine, theirs, 1e-5)


def test_a_loop_in_a_custom_jvp_rule_is_transposed():
    @jax.custom_jvp
    def f(x):
        return lax.scan(lambda c, a: (c * a, c), x, XS[:, 0])

    f.defjvp(lambda p, t: (f(*p), lax.scan(lambda c, a: (c * a, c), t[0], XS[:, 0])))
    assert_agrees(lambda x: f(x)[0] + jnp.sum(f(x)[1] ** 2), np.float32(1.5))


def test_half_precision_loops_agree():
    bf16 = lambda x: jnp.asarray(x, jnp.bfloat16)  # noqa: E731
    assert_agrees(rnn, bf16(W), bf16(H), bf16(XS), second=False, tolerance=0.02)


# What is kept. The stacks are the forward loop's outputs beyond those of the user's.


def scan_of(f, *args):
    jaxpr = jax.make_jaxpr(f)(*args).jaxpr
    (eqn,) = [eqn for eqn in jaxpr.eqns if eqn.primitive is lax.scan_p]
    return jaxpr, eqn


def stacks(f, *args):
    """The shapes of the stacked residuals of the one loop in ``f``."""
    mine = len(scan_of(f, *args)[1].outvars)
    jaxpr, eqn = scan_of(lambda *args: fg.vjp(f, *args), *args)
    used = set(map(id, jaxpr.outvars))
    return [v.aval.shape for v in eqn.outvars[mine:] if id(v) in used]


def test_residuals_that_vary_are_stacked():
    assert stacks(lambda h: lax.scan(lambda h, x: (h * x, None), h, XS)[0], H) == []
    assert stacks(lambda h: lax.scan(lambda h, x: (h * jnp.sin(h), None), h, XS)[0], H) == [(3, 2), (3, 2)]


def test_constants_are_not_stacked():
    big = np.ones((2, 2), np.float32)
    assert stacks(lambda h: lax.scan(lambda h, x: (big @ h, None), h, XS)[0], H) == []
    assert stacks(lambda w: lax.scan(lambda h, x: (w @ h, None), H, XS)[0], W) == [(3, 2)]


def test_what_is_computed_from_constants_alone_is_computed_once():
    def f(h, w):
        return lax.scan(lambda h, x: (jnp.exp(w) @ h, None), h, XS)[0]

    assert stacks(lambda h: f(h, W), H) == []
    jaxpr = jax.make_jaxpr(fg.grad(lambda h: jnp.sum(f(h, W))))(H)
    _, backward = [eqn for eqn in jaxpr.eqns if eqn.primitive is lax.scan_p]
    assert "exp" not in str(backward.params["jaxpr"])


def test_elements_and_outputs_are_not_stacked_a_second_time():
    assert stacks(lambda xs: lax.scan(lambda _, x: (None, lax.mul(x, x)), None, xs)[1], XS) == []
    assert stacks(lambda xs: lax.scan(lambda _, x: (None, lax.exp(x)), None, xs)[1], XS) == []


def test_a_carry_that_is_also_an_output_of_each_step_is_not_stacked_a_second_time():
    def body(h, x):
        h = lax.tanh(lax.add(h, x))
        return h, h

    assert stacks(lambda h: lax.scan(body, h, XS), H) == []
    assert_agrees(lambda h: jnp.sum(lax.scan(body, h, XS)[1] ** 2), H)


def test_nothing_is_carried_back_for_a_constant_without_derivative():
    jaxpr = jax.make_jaxpr(fg.grad(lambda h: rnn(W, h, XS)))(H)
    _, backward = [eqn for eqn in jaxpr.eqns if eqn.primitive is lax.scan_p]
    assert _jax.scan_layout(backward.params)[1] == 1


def test_effects_happen_once(capfd):
    def body(c, x):
        jax.debug.print("step {}", x)
        return c * x, None

    fg.grad(lambda h: lax.scan(body, h, XS[:, 0])[0])(1.0)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("step") == 3
