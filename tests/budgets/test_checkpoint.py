"""A budget of memory: what it keeps to, what it leaves as it is, and what it refuses."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import funcgrad as fg
from benchmarks.flops import count
from benchmarks.workloads.large import programs
from funcgrad.budgets.plan import Plan
from tests.agreement import assert_same

STACK = jnp.asarray(np.random.default_rng(0).normal(size=(12, 64, 64)) / 8, jnp.float32)
W = list(STACK)
X = jnp.asarray(np.random.default_rng(1).normal(size=(256, 64)), jnp.float32)


def layer(x, w):
    return x + jnp.tanh(jnp.sin(x @ w) @ w.T)


def unrolled(ws, x):
    for w in ws:
        x = layer(x, w)
    return jnp.mean(x**2)


def scanned(ws, x):
    return jnp.mean(lax.scan(lambda x, w: (layer(x, w), None), x, jnp.stack(ws))[0] ** 2)


def recurrent(ws, x):
    def step(h, x):
        h = jnp.tanh(h @ ws[0] + x)
        return h, h @ ws[1]

    return jnp.mean(lax.scan(step, jnp.zeros((8, 64)), x.reshape(-1, 8, 64))[1] ** 2)


def jitted(ws, x):
    return jax.jit(scanned)(ws, jax.jit(layer)(x, ws[0]))


PROGRAMS = [unrolled, scanned, recurrent, jitted]


def cost(f, *args):
    program = jax.jit(fg.grad(f)).lower(*args).compile()
    return program.memory_analysis().temp_size_in_bytes, count(program.as_text())


@pytest.mark.parametrize("f", PROGRAMS)
def test_a_gradient_holds_what_it_was_told_and_is_the_same(f):
    """More of a budget never costs more operations, less of it never holds more."""
    plain, operations = cost(f, W, X)
    found = []
    for part in (1.0, 0.8, 0.6, 0.4, 0.05):
        g = fg.checkpoint(f, memory=part)
        try:
            found.append(cost(g, W, X))
        except ValueError:
            continue
        assert found[-1][0] <= (part + 0.1) * plain
        assert_same(jax.jit(fg.grad(g, (0, 1)))(W, X), fg.grad(f, (0, 1))(W, X), 1e-5)
    assert len(found) >= 2
    assert found[-1][0] < 0.75 * plain
    assert found[-1][1] > found[0][1] and found[-1][1] <= 1.4 * operations
    for (more, fewer), (less, rest) in itertools.pairwise(found):
        assert less <= more and rest >= fewer * 0.999


def test_the_least_is_said_with_what_holds_it():
    with pytest.raises(
        ValueError, match=r"cannot be had in 1 KiB; the least is .*iB, of .*iB.*test_checkpoint.py"
    ) as error:
        jax.jit(fg.grad(fg.checkpoint(unrolled, memory="1 KiB"))).lower(W, X)
    least = str(error.value).split("the least is ")[1].split(",")[0]
    size, _ = cost(
        fg.checkpoint(unrolled, memory=least.replace(least.split()[0], str(float(least.split()[0]) * 1.001))), W, X
    )
    assert size < 0.5 * cost(unrolled, W, X)[0]


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("f", PROGRAMS)
def test_any_transform_takes_it(f):
    g = fg.checkpoint(f, memory=0.8)
    ws, x = [np.asarray(w, np.float64) for w in W[:4]], np.asarray(X, np.float64)
    close = lambda a, b: assert_same(a, b, 1e-10)  # noqa: E731
    close(g(ws, x), f(ws, x))
    close(jax.grad(g)(ws, x), jax.grad(f)(ws, x))
    close(jax.jit(jax.grad(g))(ws, x), jax.grad(f)(ws, x))
    v = jnp.cos(x)
    close(jax.jvp(lambda x: g(ws, x), (x,), (v,)), jax.jvp(lambda x: f(ws, x), (x,), (v,)))

    def twice(grad, f):
        return grad(lambda x: jnp.sum(grad(f, 1)(ws, x) * v))(x)

    expected = twice(fg.grad, f)
    close(twice(fg.grad, g), expected)
    close(twice(jax.grad, g), expected)
    xs = jnp.stack([x, v])
    expected = jnp.stack([fg.grad(f, 1)(ws, each) for each in xs])
    close(jax.vmap(fg.grad(g, 1), (None, 0))(ws, xs), expected)
    close(fg.grad(lambda xs: jnp.sum(jax.vmap(g, (None, 0))(ws, xs)))(xs), expected)


def test_it_stands_inside_and_around_loops_and_itself():
    inner = fg.checkpoint(lambda x, w: layer(layer(x, w), w), memory=0.7)
    f = lambda layer: lambda ws, x: jnp.mean(lax.scan(lambda x, w: (layer(x, w), None), x, ws)[0] ** 2)  # noqa: E731
    expected = fg.grad(f(lambda x, w: layer(layer(x, w), w)))(STACK, X)
    assert_same(fg.grad(f(inner))(STACK, X), expected, 1e-5)
    assert_same(fg.grad(fg.checkpoint(f(inner), memory=0.8))(STACK, X), expected, 1e-5)


def test_devices_have_budgets_of_their_own():
    """And wait for each other as often as before."""
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))

    def mean(ws, x):
        return lax.pmean(unrolled(ws, x), "d")

    def gradient(f):
        whole = jax.shard_map(f, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
        return jax.jit(fg.grad(whole)).lower(W, X)

    within, plain = gradient(fg.checkpoint(mean, memory=0.7)), gradient(mean)
    assert_same(within.compile()(W, X), plain.compile()(W, X), 1e-5)
    assert within.as_text().count("all_reduce") == plain.as_text().count("all_reduce")


def test_integers_keys_trees_and_closures_go_through():
    key = jax.random.key(0)

    def f(tree, n, key, *, scale):
        noise = jax.random.normal(key, X.shape)
        for w in tree["ws"]:
            tree["x"] = layer(tree["x"] * (jax.random.uniform(jax.random.fold_in(key, n)) > 0.1), w) + noise
        return {"loss": jnp.sum(tree["x"] ** 2) * scale, "n": n + 1}

    def loss(f, tree, offset):
        return f({**tree, "x": tree["x"] + offset}, 3, key, scale=2.0)["loss"]

    tree = {"ws": list(W[:4]), "x": X}
    g = fg.checkpoint(f, memory=0.5)
    assert g({**tree}, 3, key, scale=2.0)["n"] == 4
    expected = fg.grad(lambda tree, o: loss(f, tree, o), (0, 1))(tree, 0.5)
    assert_same(fg.grad(lambda tree, o: loss(g, tree, o), (0, 1))(tree, 0.5), expected, 1e-5)

    def closed(w):
        return fg.checkpoint(lambda x: unrolled([w, jnp.sin(w)], x), memory=0.7)(X)

    assert_same(fg.grad(closed)(W[0]), fg.grad(lambda w: unrolled([w, jnp.sin(w)], X))(W[0]), 1e-5)
    assert_same(jax.grad(closed)(W[0]), fg.grad(lambda w: unrolled([w, jnp.sin(w)], X))(W[0]), 1e-5)


def into_a_reference(x):
    ref = jax.new_ref(jnp.zeros(6))
    ref[...] = jnp.sin(x)
    ref[...] = ref[...] * x
    return jnp.sum(ref[...])


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x,
        lambda x: 3.0,
        lambda x: lax.scan(lambda c, y: (c, y), 0.0, x)[1],
        lambda x: lax.scan(lambda c, y: (jnp.sin(c * y), c), 1.0, x[:0])[0] * x,
        lambda x: jnp.sin(lax.fori_loop(0, jnp.int32(x[2]), lambda i, y: jnp.sin(y) * y, jnp.cos(x))),
        lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: jnp.cos(x) * x, jnp.tanh(x)),
        lambda x: jnp.abs(jnp.sum(jnp.exp(1j * x) * jnp.fft.fft(x))),
        into_a_reference,
    ],
    ids=["nothing", "a constant", "a loop of nothing", "no step", "while", "cond", "complex", "reference"],
)
def test_programs_with_little_to_choose_are_as_they_were(f):
    g = fg.checkpoint(f, memory=1.0)
    x = jnp.arange(6.0)
    assert_same(g(x), jnp.asarray(f(x)))
    assert_same(fg.grad(lambda x: jnp.sum(g(x)))(x), fg.grad(lambda x: jnp.sum(f(x)))(x), 1e-6)


def test_effects_happen_once():
    seen = []

    def f(ws, x):
        for w in ws:
            jax.debug.callback(lambda v: seen.append(float(v)), x[0, 0], ordered=True)
            x = layer(x, w)
        return jnp.mean(x**2)

    jax.block_until_ready(jax.jit(fg.grad(fg.checkpoint(f, memory=0.4)))(W, X))
    jax.effects_barrier()
    assert len(seen) == len(W)


def test_named_values_are_kept_where_asked_for():
    def f(ws, x):
        for w in ws:
            x = checkpoint_name(jnp.sin(x @ w), "wide") @ w.T
        return jnp.mean(x**2)

    least, _ = cost(fg.checkpoint(f, memory=0.5), W, X)
    kept, _ = cost(fg.checkpoint(f, memory=0.9, keep=("wide",)), W, X)
    assert least < kept
    with pytest.raises(ValueError, match="cannot be had"):
        cost(fg.checkpoint(f, memory=0.5, keep=("wide",)), W, X)


def test_lowered_for_accelerators_it_has_no_conditional():
    traced = jax.jit(fg.grad(fg.checkpoint(unrolled, memory=0.4))).trace(W, X)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.case" not in text and "stablehlo.if" not in text and "optimization_barrier" in text


@pytest.mark.parametrize(
    ("memory", "error", "says"),
    [
        (0, ValueError, "no room"),
        (-1.0, ValueError, "fraction"),
        (1.5, ValueError, "bytes are an int"),
        ("lots", ValueError, "1.5 GiB"),
        ("3 parsecs", ValueError, "MiB"),
        (None, TypeError, "is to be bytes"),
        (True, TypeError, "is to be bytes"),
    ],
)
def test_what_is_no_amount_of_memory_is_refused(memory, error, says):
    with pytest.raises(error, match=says):
        fg.checkpoint(unrolled, memory=memory)


def test_names_to_keep_are_a_sequence():
    with pytest.raises(TypeError, match="keep="):
        fg.checkpoint(unrolled, memory=0.5, keep="attention")


def test_a_loop_in_chunks_has_budgets_between_its_choices():
    """The steps of a chunk need not all keep the same."""

    f, args = programs(1)["LSTM"]
    leaves, tree = jax.tree.flatten(args)
    plan = Plan(jax.make_jaxpr(lambda *xs: f(*jax.tree.unflatten(tree, xs)))(*leaves))
    held = [point.held / plan.curve[0].held for point in plan.curve]
    # A layer's products, kept or not, are 0.17 of all.
    below = [part for part in held if part < 0.6]
    assert max(a - b for a, b in itertools.pairwise(below)) < 0.14
    mine = jax.jit(fg.grad(fg.checkpoint(f, memory=0.5))).lower(*args).compile()
    plain = jax.jit(fg.grad(f)).lower(*args).compile()
    assert mine.memory_analysis().temp_size_in_bytes < 0.6 * plain.memory_analysis().temp_size_in_bytes
    assert count(mine.as_text()) < 1.2 * count(plain.as_text())
    assert_same(mine(*args), plain(*args), 1e-5)
