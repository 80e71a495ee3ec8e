"""What is computed again waits for what it is for: less memory on the CPU, and the same program elsewhere."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import checkpoint_policies as policies
from jax import lax
from jax.sharding import PartitionSpec as P

import funcgrad as fg
from tests.agreement import assert_same

WIDTH, INNER, ROWS, BLOCKS = 32, 256, 128, 12


def block(weights, x):
    """A residual block that makes eight times of what it takes."""
    return x + jnp.tanh(jnp.tanh(x @ weights[0]) * 1.1) @ weights[1]


def network(block):
    def loss(weights, x):
        for each in weights:
            x = block(each, x)
        return jnp.sum(x**2)

    return loss


WEIGHTS = [(jnp.full((WIDTH, INNER), 0.01 * (i + 1)), jnp.full((INNER, WIDTH), 0.02 / (i + 1))) for i in range(BLOCKS)]
X = jnp.cos(jnp.arange(ROWS * WIDTH, dtype=jnp.float32)).reshape(ROWS, WIDTH)


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile()


def temporary(f, *args):
    return compiled(f, *args).memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "checkpoint",
    [
        jax.checkpoint,
        lambda f: jax.checkpoint(f, policy=policies.nothing_saveable),
        lambda f: jax.checkpoint(jax.jit(f)),
    ],
    ids=["plain", "with a policy", "around jit"],
)
def test_the_blocks_of_a_network_are_computed_again_one_after_the_other(checkpoint):
    plain, again = fg.grad(network(block)), fg.grad(network(checkpoint(block)))
    assert temporary(again, WEIGHTS, X) <= 0.2 * temporary(plain, WEIGHTS, X)
    assert_same(jax.jit(again)(WEIGHTS, X), jax.jit(plain)(WEIGHTS, X), 1e-5)


def test_under_vmap_the_blocks_still_wait():
    plain, again = (jax.vmap(fg.grad(network(f)), (None, 0)) for f in (block, jax.checkpoint(block)))
    xs = jnp.stack([X, X / 2])
    assert temporary(again, WEIGHTS, xs) <= 0.3 * temporary(plain, WEIGHTS, xs)
    assert_same(jax.jit(again)(WEIGHTS, xs), jax.jit(plain)(WEIGHTS, xs), 1e-5)


def test_checkpointed_loops_in_a_row_keep_the_states_of_one_of_them():
    states, steps, loops = 10_000, 100, 10

    def step(x, _):
        return jnp.sin(x) * 1.01, None

    def loop(x):
        return lax.scan(jax.checkpoint(step), x, None, length=steps)[0]

    def loss(x):
        for _ in range(loops):
            x = jax.checkpoint(loop)(x)
        return jnp.sum(x)

    assert temporary(fg.grad(loss), jnp.ones(states)) <= 1.5 * steps * states * 4


def test_checkpoints_in_checkpoints_wait_as_well():
    def pair(weights, x):
        return jax.checkpoint(block)(weights[1], jax.checkpoint(block)(weights[0], x))

    pairs = list(zip(WEIGHTS[::2], WEIGHTS[1::2], strict=True))
    once, twice = (fg.grad(network(f)) for f in (lambda w, x: block(w[1], block(w[0], x)), jax.checkpoint(pair)))
    assert temporary(twice, pairs, X) <= 0.2 * temporary(once, pairs, X)
    assert_same(jax.jit(twice)(pairs, X), jax.jit(once)(pairs, X), 1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_a_barrier_is_enough(platform):
    again = fg.grad(network(jax.checkpoint(block)))
    text = jax.jit(again).trace(WEIGHTS, X).lower(lowering_platforms=(platform,)).as_text()
    assert "optimization_barrier" in text
    assert "stablehlo.case" not in text
    assert "stablehlo.if" not in text


def test_where_sharing_work_is_allowed_nothing_waits():
    again = fg.grad(network(jax.checkpoint(block, prevent_cse=False)))
    text = jax.jit(again).lower(WEIGHTS, X).as_text()
    assert "stablehlo.case" not in text


@pytest.mark.parametrize("kind", ["Auto", "Explicit", "Manual"])
def test_on_many_devices_no_values_are_exchanged_for_it(kind):
    types = (jax.sharding.AxisType[kind if kind != "Manual" else "Auto"],)
    mesh = jax.make_mesh((4,), ("rows",), axis_types=types, devices=jax.devices()[:4])

    def gradient(block):
        def whole(weights, x):
            return fg.grad(network(block), 1)(weights, x)

        if kind == "Manual":
            return jax.shard_map(whole, mesh=mesh, in_specs=(P(), P("rows")), out_specs=P("rows"))
        return whole

    with jax.set_mesh(mesh):
        x = jax.device_put(X, P("rows"))
        weights = jax.device_put(WEIGHTS, P())
        plain, again = (compiled(gradient(f), weights, x) for f in (block, jax.checkpoint(block)))
        assert_same(again(weights, x), plain(weights, x), 1e-5)
    for exchange in ("all-reduce", "all-gather", "collective-permute", "all-to-all"):
        assert again.as_text().count(exchange) == plain.as_text().count(exchange)
    assert again.as_text().count(" conditional(") >= BLOCKS - 1


@pytest.mark.parametrize(
    "transform",
    {
        "the gradient of it": lambda g: fg.grad(lambda x: jnp.sum(g(x) ** 2)),
        "jax's gradient of it": lambda g: jax.grad(lambda x: jnp.sum(jax.jit(g)(x) ** 2)),
        "its tangent": lambda g: lambda x: jax.jvp(jax.jit(g), (x,), (x,))[1],
        "linearized and transposed": lambda g: lambda x: jax.linear_transpose(jax.linearize(jax.jit(g), x)[1], x)(x)[0],
        "a gradient in a checkpoint": lambda g: fg.grad(jax.checkpoint(lambda x: jnp.sum(g(x) ** 2))),
        "the third derivative": lambda g: fg.grad(lambda x: jnp.sum(fg.grad(lambda x: jnp.sum(g(x) ** 2))(x) ** 2)),
    }.items(),
    ids=lambda item: item[0],
)
def test_derivatives_of_the_gradient_agree(transform):
    f = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x) * x))
    ours, theirs = (grad(lambda x: jnp.sum(f(f(x)))) for grad in (fg.grad, jax.grad))
    x = jnp.linspace(-1, 2, 7)
    assert_same(jax.jit(transform[1](ours))(x), jax.jit(transform[1](theirs))(x), 1e-4)


def test_the_pullback_is_linear_to_jax():
    f = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x) * x))
    x = jnp.linspace(-1, 2, 7)
    (pullback,) = fg.vjp(f, x)[1:]
    (back,) = jax.linear_transpose(jax.jit(lambda ct: pullback(ct)[0]), x)(np.ones(7, np.float32))
    assert_same(back, jax.jvp(f, (x,), (jnp.ones(7),))[1], 1e-5)


LAYOUTS = [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("CHWN", "IHWO", "HWCN")]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_convolutions_are_brought_into_a_form_that_is_fast_inside_of_a_conditional(layout):
    def of(spec, **sizes):
        return [sizes[axis] for axis in spec]

    x = jnp.cos(jnp.arange(3 * 8 * 9 * 4.0)).reshape(of(layout[0], N=3, H=8, W=9, C=4))
    w = jnp.sin(jnp.arange(3 * 3 * 4 * 4.0)).reshape(of(layout[1], H=3, W=3, I=4, O=4))

    @jax.jit
    def convolved(x, w):
        return jnp.tanh(lax.conv_general_dilated(x, w, (1, 1), "SAME", (1, 1), (1, 2), layout))

    def loss(wrap):
        return lambda x, w: jnp.sum(jnp.cos(wrap(lambda x, w: jnp.tanh(convolved(x, w)) ** 2)(x, w)))

    program = compiled(fg.grad(loss(jax.checkpoint), (0, 1)), x, w)
    assert_same(program(x, w), fg.grad(loss(lambda f: f), (0, 1))(x, w), 1e-5)
    inside, _ = program.as_text().split("\nENTRY")
    assert set(re.findall(r"dim_labels=(\S+?),? ", inside)) == {"b01f_01io->b01f"}


@pytest.mark.parametrize(("after", "conditionals"), [(jnp.linalg.inv, 1), (lambda c: 2 * c, 0)], ids=["later", "first"])
def test_what_the_step_of_a_loop_computes_again_first_does_not_wait(after, conditionals):
    block = jax.checkpoint(lambda c: jnp.sin(jnp.sin(c)))
    loss = lambda x: jnp.sum(lax.scan(lambda c, _: (after(block(c)), None), x, None, length=3)[0])  # noqa: E731
    assert jax.jit(fg.grad(loss)).lower(jnp.eye(3)).as_text().count("stablehlo.case") == conditionals
