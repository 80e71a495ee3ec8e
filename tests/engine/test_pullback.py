"""The pullback: a pytree that can be kept, sent through jit, batched, used again and dropped."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from tests.agreement import assert_same

V = np.array([0.5, -1.5, 2.0], np.float32)


def f(x, y):
    return jnp.sin(x) * y, jnp.sum(jnp.exp(y))


def pulled(x, y):
    _, pullback = jax.vjp(f, x, y)
    return pullback((V, jnp.float32(2.0)))


CT = (V, np.float32(2.0))


def test_a_pullback_can_be_used_again():
    _, pullback = fg.vjp(f, V, V + 1)
    for _ in range(3):
        assert_same(pullback(CT), pulled(V, V + 1), 1e-6)
    assert_same(pullback((2 * V, np.float32(4.0))), jax.tree.map(lambda x: 2 * x, pulled(V, V + 1)), 1e-6)


def test_a_pullback_is_a_tree_of_arrays():
    _, pullback = fg.vjp(f, V, V + 1)
    leaves, tree = jax.tree.flatten(pullback)
    assert leaves and all(isinstance(x, jax.Array | np.ndarray) for x in leaves)
    assert_same(jax.tree.unflatten(tree, leaves)(CT), pulled(V, V + 1), 1e-6)
    assert_same(jax.tree.map(lambda x: x, pullback)(CT), pulled(V, V + 1), 1e-6)
    assert_same(jax.block_until_ready(pullback)(CT), pulled(V, V + 1), 1e-6)


def test_a_pullback_goes_into_a_jitted_function_and_comes_out_of_one():
    forward = jax.jit(lambda x, y: fg.vjp(f, x, y))
    backward = jax.jit(lambda pullback, ct: pullback(ct))
    expected = pulled(V, V + 1)
    assert_same(forward(V, V + 1)[1](CT), expected, 1e-6)
    assert_same(backward(fg.vjp(f, V, V + 1)[1], CT), expected, 1e-6)
    assert_same(backward(forward(V, V + 1)[1], CT), expected, 1e-6)


def test_pullbacks_of_one_jitted_function_share_one_compiled_way_back():
    traced = []

    @jax.jit
    def forward(x, y):
        return fg.vjp(f, x, y)[1]

    @jax.jit
    def backward(pullback, ct):
        traced.append(1)
        return pullback(ct)

    for scale in (1, 2, 3):
        assert_same(backward(forward(scale * V, V), CT), pulled(scale * V, V), 1e-6)
    assert traced == [1]


def test_the_halves_of_a_scan_may_be_in_two_jitted_functions():
    def g(x, w):
        return lax.scan(lambda c, a: (jnp.tanh(c * w + a), c), x, V)

    _, pullback = jax.jit(lambda x, w: fg.vjp(g, x, w))(V[0], V[1])
    _, expected = jax.vjp(g, V[0], V[1])
    assert_same(jax.jit(lambda p, ct: p(ct))(pullback, (V[0], V)), expected((V[0], V)), 1e-6)


def test_a_pullback_can_be_batched_over_cotangents():
    _, pullback = fg.vjp(f, V, V + 1)
    _, expected = jax.vjp(f, V, V + 1)
    cts = (np.stack([V, 2 * V]), np.array([1.0, 3.0], np.float32))
    assert_same(jax.vmap(pullback)(cts), jax.vmap(expected)(cts), 1e-6)


def test_pullbacks_can_be_batched():
    xs = np.stack([V, 2 * V])
    pullbacks = jax.vmap(lambda x: fg.vjp(f, x, V)[1])(xs)
    assert_same(jax.vmap(lambda p: p(CT))(pullbacks), jax.vmap(lambda x: pulled(x, V))(xs), 1e-6)


def test_a_pullback_is_linear_and_can_be_differentiated():
    _, pullback = fg.vjp(f, V, V + 1)
    _, tangent = jax.jvp(pullback, (CT,), (CT,))
    assert_same(tangent, pulled(V, V + 1), 1e-6)
    again, expected = (m.grad(lambda ct: jnp.sum(pullback(ct)[0]))(CT) for m in (fg, jax))
    assert_same(again, expected, 1e-6)

    def through_its_residuals(vjp):
        return lambda x: jnp.sum(vjp(f, x, V)[1](CT)[0] ** 2)

    assert_same(fg.grad(through_its_residuals(fg.vjp))(V), jax.grad(through_its_residuals(jax.vjp))(V), 1e-6)


def test_a_pullback_says_what_it_is_the_pullback_of():
    assert repr(fg.vjp(f, V, V)[1]) == "<pullback of f: 4 operations>"


# What is kept.


def sizes(pullback):
    """The sizes of the arrays a pullback keeps, constants of the program (which are scalars) left out."""
    return sorted(x.size for x in jax.tree.leaves(pullback) if x.size > 1)


def test_a_pullback_keeps_what_the_rules_ask_for_and_each_array_once():
    big = jnp.ones((4, 5))
    assert sizes(fg.vjp(lambda x: jnp.sum(2 * x + 1), big)[1]) == []
    assert sizes(fg.vjp(lambda x: lax.exp(x), big)[1]) == [20]
    assert sizes(fg.vjp(lambda x: lax.mul(lax.mul(x, x), x), big)[1]) == [20, 20]  # x and x^2
    assert sizes(fg.vjp(lambda x, y: lax.mul(x, y), big, 2 * big)[1]) == [20, 20]
    assert sizes(fg.vjp(lambda x: lax.mul(x, 2 * big), big)[1]) == [20]
    assert sizes(fg.vjp(lambda x: jnp.sum(x * x), big)[1]) == [20]


def test_what_the_output_does_not_depend_on_is_not_kept():
    def g(x):
        jnp.exp(x) * x
        return 2 * x, jax.lax.stop_gradient(jnp.exp(x))

    assert sizes(fg.vjp(g, jnp.ones(5))[1]) == []


def test_arguments_among_the_residuals_are_told_apart_and_can_be_replaced():
    _, pullback = fg.vjp(lambda x, y: x * y, jnp.float32(3.0), jnp.float32(4.0))
    _, expected = jax.vjp(lambda x, y: x * y, jnp.float32(3.0), jnp.float32(4.0))
    assert jax.tree.structure(pullback.args_res) == jax.tree.structure(expected.args_res)
    assert pullback.opaque_residuals == []
    pullback.args_res = [jnp.float32(5.0), jnp.float32(6.0)]
    assert [float(ct) for ct in pullback(1.0)] == [6, 5]


def test_an_argument_that_is_not_kept_is_marked():
    _, pullback = fg.vjp(lambda x, y: jnp.sin(x) * 2 + y, V, V + 1)
    _, expected = jax.vjp(lambda x, y: jnp.sin(x) * 2 + y, V, V + 1)
    x, not_needed = pullback.args_res
    assert np.array_equal(x, V) and type(not_needed) is type(expected.args_res[1])


def test_cotangents_can_be_added_to_references():
    def run(vjp):
        ref = jax.new_ref(jnp.ones(3))
        _, pullback = vjp(lambda x, y: jnp.sum(jnp.sin(x) * y), V, V + 1)
        pulled = pullback.with_refs(ref, jax.ad.GradValue())(1.0)
        pullback.with_refs(ref, jax.ad.DontWant())(1.0)
        return ref[...], pulled[1]

    assert_same(run(fg.vjp), run(jax.vjp), 1e-6)


def test_what_nobody_wants_is_not_computed():
    def pulled(vjp, unwanted, wanted):
        _, pullback = vjp(lambda x, y: jnp.sin(x) * jnp.exp(y) * x, V, V + 1)
        return pullback.with_refs(unwanted, wanted)(V)

    wanted = (jax.ad.DontWant(), jax.ad.GradValue())
    mine, theirs = pulled(fg.vjp, *wanted), pulled(jax.vjp, *wanted)
    assert mine[0] == theirs[0]
    assert_same(mine[1], theirs[1], 1e-6)
    operations = str(jax.make_jaxpr(lambda: pulled(fg.vjp, *wanted)[1])())
    assert "cos" not in operations and "cos" in str(jax.make_jaxpr(lambda: pulled(fg.vjp, *wanted[::-1])[0])())


# Memory. With the collector off, only the last reference's going frees an array.


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


PROGRAMS = {
    "operations": lambda x: lax.mul(lax.exp(x), lax.sin(x)),
    "jit": jax.jit(lambda x: jnp.exp(x) * x),
    "scan": lambda x: lax.scan(lambda c, _: (jnp.sin(c) * x, c), x, None, length=2)[1],
    "cond": lambda x: lax.cond(True, lambda x: jnp.exp(x) * x, lambda x: x, x),
    "while": lambda x: lax.while_loop(lambda c: jnp.sum(c) < 40, lambda c: c * 2, x),
    "checkpoint": jax.checkpoint(lambda x: jnp.exp(x) * x),
    "custom rule": lambda x: jax.nn.silu(jax.nn.relu(x)) * jax.numpy.linalg.norm(x),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_the_arrays_of_a_pullback_go_when_it_goes(program, no_collector):
    fg.vjp(program, jnp.ones(3) + 1)  # caches are filled the first time
    x = jnp.ones(3) + 1
    out, pullback = fg.vjp(program, x)
    pulled = pullback(jax.tree.map(jnp.ones_like, out))
    arrays = [weakref.ref(a) for a in jax.tree.leaves((pullback, out, x, pulled)) if isinstance(a, jax.Array)]
    assert len(arrays) > 2
    whole = weakref.ref(pullback)
    del x, out, pullback, pulled
    assert whole() is None and [a() for a in arrays if a() is not None] == []


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_gradient_leaves_no_arrays_behind(program, no_collector):
    gradient = fg.grad(lambda x: jnp.sum(program(x)))
    for wrap in (lambda f: f, jax.jit, lambda f: fg.grad(lambda x: jnp.sum(f(x)))):
        call = wrap(gradient)
        call(jnp.ones(3) + 1)
        call(jnp.ones(3) + 1)
        before = len(jax.live_arrays())
        call(jnp.ones(3) + 1)
        assert len(jax.live_arrays()) <= before


def test_a_gradient_leaves_no_reference_cycles(no_collector):
    def loss(x):
        y, _ = lax.scan(lambda c, _: (jax.jit(jnp.sin)(c) * x, None), x, None, length=2)
        return jnp.sum(jax.checkpoint(jnp.exp)(y))

    fg.grad(loss)(V)
    gc.collect()
    fg.grad(loss)(V)
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        mine = [x for x in gc.garbage if type(x).__module__.startswith("funcgrad")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert mine == []


def test_an_error_in_the_function_keeps_nothing(no_collector):
    class Failed(Exception):
        pass

    def g(x):
        y = jnp.exp(x)
        arrays.append(weakref.ref(y))
        raise Failed

    arrays = []
    for _ in range(2):
        with pytest.raises(Failed) as caught:
            fg.grad(g)(V)
        del caught
    gc.collect()
    assert [a() for a in arrays] == [None, None]


# Threads.


def test_threads_differentiate_at_the_same_time():
    barrier = threading.Barrier(4)

    def work(seed):
        x = V * (seed + 1)

        def g(x):
            y = x
            for _ in range(30):
                y = jnp.sin(y) + x
            return jnp.sum(jax.jit(jnp.cos)(y) + lax.scan(lambda c, a: (c * a, None), 1.0, x)[0])

        barrier.wait()
        eager = [fg.grad(g)(x) for _ in range(3)]
        nested = fg.grad(lambda x: jnp.sum(fg.grad(g)(x) ** 2))(x)
        return eager, nested, jax.jit(fg.grad(g))(x), jax.jit(jax.grad(g))(x)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    for seed, (eager, nested, jitted, expected) in enumerate(results):
        assert all(np.array_equal(e, eager[0]) for e in eager) and np.all(np.isfinite(nested)), seed
        assert_same(jitted, expected, 1e-5)
        assert_same(eager[0], expected, 1e-5)


def test_a_thread_inside_a_gradient_may_differentiate_on_its_own():
    results = []

    def g(x):
        thread = threading.Thread(target=lambda: results.append(float(fg.grad(lambda y: y**3)(2.0))))
        thread.start()
        thread.join()
        return x**2

    assert float(fg.grad(g)(3.0)) == 6 and results == [12]


def test_a_pullback_may_be_used_in_another_thread():
    _, pullback = fg.vjp(f, V, V + 1)
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(pullback, [CT] * 4):
            assert_same(result, pulled(V, V + 1), 1e-6)
