"""while_loop: reverse mode over a number of steps that is not known, in memory that is."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback
from jax.extend.core.primitives import while_p

import funcgrad as fg
from funcgrad.rules.control.while_loop import DEFAULT_SLOTS, While
from tests.agreement import as_users_compile, assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)


def with_slots(slots):
    return fg.rules.default.override({while_p: While(slots=slots)})


def assert_agrees_with_forward_mode(f, *args, tolerance=1e-5, second=True):
    """The gradient of the scalar function ``f`` is what forward mode says, and so is the gradient of the gradient."""
    argnums = tuple(range(len(args)))
    once = fg.grad(f, argnums)
    expected = jax.jit(jax.jacfwd(f, argnums))(*args)
    assert_same(once(*args), expected, tolerance)
    assert_same(jax.jit(once)(*args), expected, tolerance)
    if second:
        twice = jax.jit(jax.jacfwd(jax.jacfwd(f, argnums), argnums))(*args)
        mine = jax.jit(lambda *args: [d(once, argnums)(*args) for d in (fg.jacrev, jax.jacfwd)])(*args)
        assert_same(mine, [twice, twice], 10 * tolerance)


# Known answers.


def newton(a):
    """The square root of ``a``."""

    def proceeds(state):
        x, last = state
        return jnp.abs(x - last) > 1e-6 * x

    return lax.while_loop(proceeds, lambda s: (0.5 * (s[0] + a / s[0]), s[0]), (a, 2 * a))[0]


def test_newtons_method_has_the_derivative_of_the_root():
    for a in (0.3, 2.0, 50.0):
        np.testing.assert_allclose(fg.grad(newton)(a), 0.5 / math.sqrt(a), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(fg.grad(newton))(2.0), 0.5 / math.sqrt(2), rtol=1e-5)


def test_newtons_method_has_the_second_derivative_of_the_root():
    np.testing.assert_allclose(jax.jit(fg.grad(fg.grad(newton)))(2.0), -0.25 * 2**-1.5, rtol=1e-4)
    np.testing.assert_allclose(fg.hessian(newton)(2.0), -0.25 * 2**-1.5, rtol=1e-4)


def test_a_fixed_point_has_the_derivative_of_the_implicit_function():
    with jax.enable_x64(True):

        def solve(w, b):
            def proceeds(state):
                x, last = state
                return jnp.max(jnp.abs(x - last)) > 1e-13

            return lax.while_loop(proceeds, lambda s: (jnp.tanh(w @ s[0] + b), s[0]), (b, b + 1))[0]

        w, b = np.array([[0.3, -0.2], [0.4, 0.1]]), np.array([0.5, -0.2])
        x = solve(w, b)
        d = np.diag(1 - np.asarray(x) ** 2)
        expected = np.linalg.solve(np.eye(2) - d @ w, d)  # dx/db
        np.testing.assert_allclose(fg.jacrev(solve, 1)(w, b), expected, rtol=1e-9)


def test_an_adaptive_ode_step_loop_agrees_with_forward_mode():
    """Heun's method with Euler's as error estimate; steps are taken again where it is too large."""

    def integrate(x, rate):
        def proceeds(state):
            return state[0] < 1.0

        def step(state):
            t, h, x = state
            h = jnp.minimum(h, 1.0 - t)
            k1 = -rate * x + jnp.sin(5 * t)
            k2 = -rate * (x + h * k1) + jnp.sin(5 * (t + h))
            error = jnp.max(jnp.abs(h * (k2 - k1) / 2)) + 1e-9
            accepted = error < 1e-3
            x = jnp.where(accepted, x + h * (k1 + k2) / 2, x)
            t = jnp.where(accepted, t + h, t)
            return t, 0.9 * h * jnp.clip(jnp.sqrt(1e-3 / error), 0.2, 3.0), x

        return jnp.sum(lax.while_loop(proceeds, step, (0.0, 0.1, x))[2] ** 2)

    expected, got = (as_users_compile(d(integrate, (0, 1)))(V, np.float32(2.0)) for d in (jax.jacfwd, fg.grad))
    assert_same(got, expected, 1e-5)


def test_a_simulation_of_100000_steps_has_the_analytic_gradient():
    """An oscillator by the symplectic Euler method, which turns by a fixed angle each step."""
    steps, h = 100_000, 1e-3
    with jax.enable_x64(True):

        def final(x, n):
            def step(i, state):
                x, v = state
                v = v - h * x
                return x + h * v, v

            return lax.fori_loop(0, n, step, (x, 0.0))[0]

        matrix = np.linalg.matrix_power(np.array([[1 - h * h, h], [-h, 1.0]]), steps)
        value, gradient = jax.jit(fg.value_and_grad(final))(2.0, steps)
        np.testing.assert_allclose([value / 2, gradient], matrix[0, 0], rtol=1e-9)


def test_a_simulation_of_unknown_length_agrees_with_forward_mode():
    """A ball thrown through air until it is on the ground: some 40,000 steps."""
    with jax.enable_x64(True):

        def distance(speed):
            def step(state):
                x, y, u, v = state
                drag = 0.1 * jnp.sqrt(u * u + v * v)
                return x + 5e-5 * u, y + 5e-5 * v, u - 5e-5 * drag * u, v - 5e-5 * (9.81 + drag * v)

            start = (0.0, 1e-9, speed * 0.6, speed * 0.8)
            return lax.while_loop(lambda s: s[1] > 0, step, start)[0]

        _, expected = jax.jit(lambda s: jax.jvp(distance, (s,), (1.0,)))(14.0)
        np.testing.assert_allclose(jax.jit(fg.grad(distance))(14.0), expected, rtol=1e-9)


# Lengths.


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_every_length_is_reversed_with_few_slots(known):
    """Steps that do not commute, so that one too many, too few or out of order shows."""

    def run(x, n):
        def body(i, x):
            return jnp.sin(x) * (1 + 0.1 * i) + 0.2 * x

        if known:
            return lax.fori_loop(0, n, body, x)
        return lax.while_loop(lambda c: c[0] < n + 0 * c[1].astype(int), lambda c: (c[0] + 1, body(*c)), (0, x))[1]

    mine = jax.jit(fg.value_and_grad(run, rules=with_slots(4)))
    theirs = jax.jit(lambda x, n: jax.jvp(lambda x: run(x, n), (x,), (1.0,)))
    for n in (*range(26), 50, 71, 128):
        np.testing.assert_allclose(mine(0.7, n), theirs(0.7, n), rtol=1e-5, err_msg=str(n))


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_loops_of_no_step_or_one_agree(jitted):
    def f(x, n):
        return jnp.sum(lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1] ** 2)

    gradient = jax.jit(fg.grad(f)) if jitted else fg.grad(f)
    assert_same(gradient(V, 0), jnp.asarray(2 * V))
    assert_same(gradient(V, 1), jnp.asarray(2 * np.sin(V) * np.cos(V)), 1e-6)
    assert_same(gradient(V, -3), jnp.asarray(2 * V))


def test_a_fori_loop_with_traced_bounds_agrees():
    def f(x, lower, upper):
        return lax.fori_loop(lower, upper, lambda i, x: jnp.sin(x) * i, x)

    for bounds in ((0, 5), (2, 6), (3, 3), (5, 2), (-2, 2)):
        mine = jax.jit(fg.grad(f))(0.7, *bounds)
        np.testing.assert_allclose(mine, fg.grad(lambda x, b=bounds: f(x, *b))(0.7), rtol=1e-5)
        _, expected = jax.jvp(lambda x, b=bounds: f(x, *b), (0.7,), (1.0,))
        np.testing.assert_allclose(mine, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("lower", "upper", "count"),
    [
        (np.uint8(3), np.uint8(1), 0),
        (np.uint32(5), np.uint32(2), 0),
        (np.int8(-100), np.int8(100), 200),
        (np.int64(0), np.int64(7), 7),
    ],
    ids=str,
)
def test_the_counter_may_be_an_integer_of_any_type(lower, upper, count):
    f = lambda x, lower, upper: lax.fori_loop(lower, upper, lambda i, x: 1.01 * x, x)  # noqa: E731
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(fg.grad(f))(2.0, lower, upper), 1.01**count, rtol=1e-9)


def test_a_counter_that_is_no_integer_is_no_counter():
    f = lambda x, n: lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] * x), (0.0, x))[1]  # noqa: E731
    for n, power in ((2.5, 4), (3.0, 4), (0.1, 2), (-1.0, 1)):
        value, gradient = fg.value_and_grad(f)(2.0, n)
        assert (float(value), float(gradient)) == (2**power, power * 2 ** (power - 1))


# What may be in a loop.


def test_constants_of_the_body_get_their_cotangents():
    def f(x, w, unused):
        def step(c):
            i, x, passed = c
            return i + 1, jnp.sin(w * x) + passed * 0.1, passed

        return jnp.sum(lax.while_loop(lambda c: c[0] < 5, step, (0, x, w * 2))[1] ** 2)

    assert_agrees_with_forward_mode(f, V[:2], V[:2] + 1, V[:2])


def test_the_condition_may_depend_on_active_values():
    def f(x, limit):
        return lax.while_loop(lambda x: jnp.sum(x * x) < limit, lambda x: x * 1.5, x)[0]

    limit = np.float32(100)
    assert_same(fg.grad(f, (0, 1))(V, limit), jax.jit(jax.jacfwd(f, (0, 1)))(V, limit), 1e-6)


def test_integers_flags_and_keys_may_be_carried():
    def f(x):
        def step(c):
            i, flag, key, x, kept = c
            key, other = jax.random.split(key)
            x = jnp.where(flag, x * 1.1, jnp.sin(x)) + 0.1 * jax.random.normal(other, x.shape) * x
            return i + 1, ~flag, key, x, kept.at[i].set(jnp.sum(x))

        start = (0, True, jax.random.key(0), x, jnp.zeros(6))
        out = lax.while_loop(lambda c: c[0] < 6, step, start)
        return jnp.sum(out[3] ** 2) + jnp.sum(jnp.sin(out[4])) + out[0]

    assert_agrees_with_forward_mode(f, V, second=False)


def test_a_carry_that_becomes_active_on_the_way_agrees():
    def f(x):
        step = lambda s: (s[0] + 1, x, s[1] * 2, s[2] * s[3])  # noqa: E731
        _, a, b, c = lax.while_loop(lambda s: s[0] < 4, step, (0, 1.0, 1.0, 1.0))
        return a * b * c

    assert_agrees_with_forward_mode(f, np.float32(1.3), second=False)


def test_outputs_that_are_not_active_stay_so():
    def f(x):
        n, y = lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1.0, c[1] * x), (0.0, 1.0))
        return n * y

    assert float(fg.grad(f)(2.0)) == 3 * 3 * 4


def test_loops_nest():
    def f(x):
        def outer(c):
            i, x = c
            x = lax.while_loop(lambda x: jnp.sum(x * x) < 2.0 + i, lambda x: 1.3 * x + 0.1, x)
            return i + 1, jnp.sin(lax.fori_loop(0, i, lambda j, x: x * (1 + 0.1 * j), x))

        return jnp.sum(lax.while_loop(lambda c: c[0] < 4, outer, (0, x))[1] ** 2)

    assert_agrees_with_forward_mode(f, V, second=False)


def test_a_loop_inside_a_scan_agrees():
    def f(x, xs):
        def body(x, a):
            x = lax.while_loop(lambda x: jnp.sum(x * x) < 4, lambda x: x * (1.2 + 0.1 * a), x)
            return jnp.sin(x), jnp.sum(x)

        x, ys = lax.scan(body, x, xs)
        return jnp.sum(x) + jnp.sum(ys**2)

    assert_agrees_with_forward_mode(f, V, V, second=False)


def test_loops_hold_scan_cond_jit_checkpoint_and_custom_rules():
    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, ct: (3 * ct,))

    def body(x):
        x = lax.scan(lambda c, a: (c * 0.9 + a, None), x, V)[0]
        x = lax.cond(x[0] > 1, jnp.sin, lambda x: x * 1.1, x)
        return jax.jit(jnp.cos)(jax.checkpoint(jnp.sin)(x)) + jax.nn.relu(x)

    def f(x, step):
        return jnp.sum(lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, step(c[1])), (0, x))[1])

    assert_agrees_with_forward_mode(lambda x: f(x, body), V, second=False)
    assert fg.grad(lambda x: f(x, twice))(V).tolist() == [27] * 3


@pytest.mark.parametrize("batched", ["both", "state", "limit"])
def test_loops_whose_length_differs_over_a_batch_agree(batched):
    def f(x, limit):
        return jnp.sum(lax.while_loop(lambda x: x < limit, lambda x: 1.5 * x + 0.1 * jnp.sin(x), x) ** 2)

    x = np.array([0.5, 3.0, 100.0], np.float32) if batched != "limit" else np.float32(0.5)
    limit = np.array([2.0, 50.0, 7.0], np.float32) if batched != "state" else np.float32(20.0)
    axes = (None if batched == "limit" else 0, None if batched == "state" else 0)
    mine = jax.jit(jax.vmap(fg.grad(f), axes))(x, limit)
    one = jax.jit(fg.grad(f))
    pairs = np.broadcast_arrays(x, limit)
    np.testing.assert_allclose(mine, [one(a, b) for a, b in zip(*pairs, strict=True)], rtol=1e-5)
    outside = jax.jit(fg.grad(lambda x: jnp.sum(jax.vmap(f, axes)(x, limit))))(x)
    np.testing.assert_allclose(outside, mine if batched != "limit" else np.sum(mine), rtol=1e-5)


def test_a_pullback_of_a_loop_can_be_batched_and_crosses_jit():
    def f(x):
        return lax.while_loop(lambda x: jnp.sum(x * x) < 40, lambda x: jnp.sin(x) + 1.5 * x, x)

    expected = jax.jit(jax.jacfwd(f))(V)
    assert_same(fg.jacrev(f)(V), expected, 1e-5)
    _, pullback = jax.jit(lambda x: fg.vjp(f, x))(V)
    (x_ct,) = jax.jit(lambda p, ct: p(ct))(pullback, jnp.ones(3))
    np.testing.assert_allclose(x_ct, expected.sum(0), rtol=1e-5)


def test_a_loop_in_a_custom_jvp_rule_is_transposed():
    @jax.custom_jvp
    def f(x, n):
        return x * 2.0**n

    @f.defjvp
    def f_jvp(primals, tangents):
        (x, n), (t, _) = primals, tangents
        return f(x, n), lax.fori_loop(0, n, lambda i, t: 2 * t, t)

    assert float(jax.jit(fg.grad(f))(1.0, 5)) == 32
    assert float(fg.grad(f)(1.0, 5)) == 32


def test_a_loop_over_references_agrees():
    def f(x):
        ref = jax.new_ref(x)

        def step(i):
            ref[...] = jnp.sin(ref[...]) * x
            return i + 1

        lax.while_loop(lambda i: i < 3, step, 0)
        return jnp.sum(ref[...])

    def plain(x):
        y = x
        for _ in range(3):
            y = jnp.sin(y) * x
        return jnp.sum(y)

    assert_same(jax.jit(fg.grad(f))(V), jax.jit(jax.grad(plain))(V), 1e-6)


# Slots: memory and work.


def test_the_number_of_slots_is_a_choice_and_at_least_four():
    f = lambda x: lax.while_loop(lambda x: x < 100, lambda x: 1.1 * x, x)  # noqa: E731
    for slots in (4, 5, 7, 33):
        np.testing.assert_allclose(fg.grad(f, rules=with_slots(slots))(1.0), f(1.0), rtol=1e-5)
        shapes = [x.shape for x in jax.tree.leaves(fg.vjp(f, 1.0, rules=with_slots(slots))[1])]
        assert (slots + 1,) in shapes  # the last is for the state right before the step to be reversed
    assert fg.rules.default[while_p].slots == DEFAULT_SLOTS
    with pytest.raises(ValueError, match=r"at least 4 checkpoint slots.*3"):
        While(slots=3)


def test_what_does_not_change_is_not_checkpointed():
    def f(x, w):
        out = lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, jnp.sin(c[1] @ w), c[2]), (0, x, w * 2))
        return jnp.sum(out[1])

    w = jnp.ones((3, 3))
    shapes = [x.shape for x in jax.tree.leaves(fg.vjp(f, V, w, rules=with_slots(8))[1])]
    assert (9, 3) in shapes and (9, 3, 3) not in shapes


STATE = 1000


def wave(i, x):
    return jnp.sin(x) * 0.999 + 0.1 * x


def of_known_length(x, n):
    return jnp.sum(lax.fori_loop(0, n, wave, x))


def of_unknown_length(x, n):
    def proceeds(c):
        return (c[0] < n) & (c[1][0] < 1e9)

    return jnp.sum(lax.while_loop(proceeds, lambda c: (c[0] + 1, wave(*c)), (0, x))[1])


@pytest.mark.parametrize("f", [of_known_length, of_unknown_length])
def test_memory_is_the_slots_and_a_few_states(f):
    """The memory that the compiled gradient asks for. The number of steps, a traced value, has no part in it."""

    def states(slots):
        gradient = jax.jit(fg.grad(f, rules=with_slots(slots)))
        analysis = gradient.lower(jnp.ones(STATE), 100).compile().memory_analysis()
        return analysis.temp_size_in_bytes / (4 * STATE)

    for slots in (4, 16, DEFAULT_SLOTS):
        assert slots <= states(slots) <= slots + 4


class Counted:
    """A number that is asked for anew in each step: effects happen once, however often a step is run.

    Where XLA sees that it is asked for twice in a row for the same step it asks once.
    """

    def __init__(self, number):
        self.number, self.count = np.float32(number), 0

    def __call__(self, i):
        return jax.pure_callback(self.asked, jax.ShapeDtypeStruct((), np.float32), i)

    def asked(self, i):
        self.count += 1
        return self.number


@pytest.mark.parametrize("f", [of_known_length, of_unknown_length])
def test_at_most_three_forward_evaluations_are_repeated(f, monkeypatch):
    factor = Counted(0.999)

    def counted(i, x):
        return factor(i) * jnp.abs(x)

    monkeypatch.setitem(f.__globals__, "wave", counted)
    gradient = jax.jit(fg.grad(lambda x, n: f(x, n)))
    for n in (1, DEFAULT_SLOTS, 10 * DEFAULT_SLOTS, 100 * DEFAULT_SLOTS):
        factor.count = 0
        np.testing.assert_allclose(gradient(jnp.ones(1), n), 0.999**n, rtol=1e-2)
        assert n - 1 <= factor.count - n <= 3 * n


def test_loops_that_fit_into_the_slots_are_run_once_more():
    factor = Counted(1)

    def body(i, x):
        return jnp.sin(x) * factor(i)

    jax.block_until_ready(jax.jit(fg.grad(lambda x, n: lax.fori_loop(0, n, body, x)))(1.0, DEFAULT_SLOTS))
    assert factor.count - DEFAULT_SLOTS in (DEFAULT_SLOTS - 1, DEFAULT_SLOTS)


def test_a_loop_without_active_values_stays_a_loop():
    def f(x):
        return x * lax.while_loop(lambda i: i < 5.0, lambda i: i + 1, 0.0)

    loops = [eqn for eqn in jax.make_jaxpr(fg.grad(f))(2.0).jaxpr.eqns if eqn.primitive is while_p]
    assert len(loops) == 1 and len(loops[0].outvars) == 1


# Side effects.


def noting(log, seen, step):
    """A step of a loop that takes note of its number in two ways."""

    def noted(s):
        io_callback(lambda i: log.append(int(i)), None, s[1], ordered=True)
        jax.debug.callback(lambda i: seen.append(int(i)), s[1], ordered=True)
        return step(s)

    return noted


def of_known_length(step):
    return lambda x, n: lax.fori_loop(0, n, lambda i, x: step((x, i))[0], x)


def of_unknown_length(step):
    return lambda x, n: lax.while_loop(lambda s: s[0] > 0.2, step, (x, n * 0))[0]


def with_programs_inside(step):
    """The effects are in a jitted function in a scan in a branch of a conditional."""

    def inside(s):
        def some(s):
            return lax.scan(lambda x, i: (jax.jit(step)((x, i))[0], None), s[0], jnp.arange(1, 3))[0]

        return lax.cond(s[1] == 1, some, lambda s: s[0], s), s[1] + 1

    return lambda x, n: lax.while_loop(lambda s: s[1] < n, inside, (x, n * 0))[0]


@pytest.mark.parametrize("loop", [of_known_length, of_unknown_length, with_programs_inside])
def test_the_effects_of_a_loop_happen_once_and_in_order(loop):
    sine = lambda s: (jnp.sin(s[0]) * 0.9, s[1] + 1)  # noqa: E731
    log, seen, rules = [], [], with_slots(4)
    loud, silent = loop(noting(log, seen, sine)), loop(sine)
    x, n = jnp.float32(0.9), jnp.int32(12)
    silent(x, n)
    jax.jit(loud)(x, n)
    jax.effects_barrier()
    ran = log.copy(), seen.copy()
    log.clear(), seen.clear()
    got = jax.jit(fg.grad(loud, rules=rules))(x, n)
    jax.effects_barrier()
    assert len(log) >= 2
    assert (log, seen) == ran
    assert_same(got, jax.jit(fg.grad(silent, rules=rules))(x, n), 0)


def test_effects_that_would_happen_again_are_refused():
    shape = jax.ShapeDtypeStruct((), jnp.float32)

    def given(s):
        return s[0] * io_callback(lambda i: np.float32(i), shape, s[1]), s[1] + 1

    loops = {
        "uses what its side effects return": (lambda s: s[1] < 3, given),
        "condition has side effects": (
            lambda s: noting([], [], lambda s: s)(s)[1] < 3,
            lambda s: (jnp.sin(s[0]), s[1] + 1),
        ),
    }
    for message, (proceeds, step) in loops.items():
        with pytest.raises(NotImplementedError, match=message):
            fg.grad(lambda x, p=proceeds, s=step: lax.while_loop(p, s, (x, 0))[0])(0.3)
