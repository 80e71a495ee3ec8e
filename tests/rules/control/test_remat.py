"""jax.checkpoint: what a policy names is kept, the rest is computed again."""

from __future__ import annotations

import collections
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import checkpoint_policies as policies
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import io_callback, key_reuse
from jax.extend.core import jaxprs_in_params

import funcgrad as fg
from tests.agreement import assert_agrees, assert_same

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
W = np.linspace(-0.5, 0.7, 20, dtype=np.float32).reshape(4, 5)
U = np.linspace(0.6, -0.4, 30, dtype=np.float32).reshape(5, 6)


def model(x, w, u):
    """Values of shapes (3, 5), named "hidden"; (3, 6), named "out"; and (3, 1, 1), of a product over a batch."""
    hidden = checkpoint_name(jnp.sin(x @ w), "hidden")
    out = checkpoint_name(jnp.sin(hidden @ u), "out")
    squares = lax.batch_matmul(out[:, None, :], out[:, :, None])
    return jnp.sum(jnp.sin(squares))


def primitives(f, *args):
    """How often each primitive occurs in ``f``, at any depth."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn.primitive.name
            for inner in jaxprs_in_params(eqn.params):
                yield from walk(inner)

    return collections.Counter(walk(jax.make_jaxpr(f)(*args).jaxpr))


def saved(f, *args, vjp=fg.vjp):
    """The shapes of what the pullback keeps besides the arguments and scalars."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda *args: vjp(f, *args)[1], *args))
    mine = {x.shape for x in args}
    return sorted(x.shape for x in leaves if x.shape not in mine and x.size > 1)


HIDDEN, OUT, SQUARES = (3, 5), (3, 6), (3, 1, 1)

#: A policy; the shapes that it saves; how many products are computed again.
POLICIES = {
    "none": (None, [], 3),
    "nothing_saveable": (policies.nothing_saveable, [], 3),
    "dots_saveable": (policies.dots_saveable, [SQUARES, HIDDEN, OUT], 0),
    "checkpoint_dots": (policies.checkpoint_dots, [SQUARES, HIDDEN, OUT], 0),
    "dots_with_no_batch_dims_saveable": (policies.dots_with_no_batch_dims_saveable, [HIDDEN, OUT], 1),
    "checkpoint_dots_with_no_batch_dims": (policies.checkpoint_dots_with_no_batch_dims, [HIDDEN, OUT], 1),
    "save_only_these_names": (policies.save_only_these_names("hidden"), [HIDDEN], None),
    "save_only_these_names, both": (policies.save_only_these_names("hidden", "out"), [HIDDEN, OUT], None),
    "save_only_these_names, none there": (policies.save_only_these_names("other"), [], 3),
    "save_any_names_but_these": (policies.save_any_names_but_these("hidden"), [OUT], None),
    "save_from_both_policies": (
        policies.save_from_both_policies(
            policies.save_only_these_names("out"), policies.dots_with_no_batch_dims_saveable
        ),
        [HIDDEN, OUT, OUT],
        None,
    ),
    "of one's own": (lambda prim, *_, **params: prim is lax.sin_p, None, None),
    "everything_saveable": (policies.everything_saveable, None, 0),
    "save_anything_except_these_names": (policies.save_anything_except_these_names("hidden"), None, 0),
}
each_policy = pytest.mark.parametrize(("policy", "shapes", "again"), POLICIES.values(), ids=POLICIES.keys())


@each_policy
def test_gradients_agree_under_every_policy(policy, shapes, again):
    assert_agrees(jax.checkpoint(model, policy=policy), X, W, U, tolerance=1e-5, second=policy is None)


@each_policy
def test_what_a_policy_names_is_saved_and_nothing_else(policy, shapes, again):
    f = jax.checkpoint(model, policy=policy)
    if shapes is not None:
        assert saved(f, X, W, U) == shapes
    elif policy is POLICIES["of one's own"][0]:
        assert set(saved(f, X, W, U)) <= {HIDDEN, OUT, SQUARES}
    else:
        # Where everything may be saved, that is what is saved without a checkpoint.
        assert saved(f, X, W, U) == saved(model, X, W, U)


@each_policy
def test_what_is_not_saved_is_computed_again_and_nothing_else(policy, shapes, again):
    products = primitives(fg.grad(jax.checkpoint(model, policy=policy), (0, 1, 2)), X, W, U)["dot_general"]
    without = primitives(fg.grad(model, (0, 1, 2)), X, W, U)["dot_general"]
    expected = primitives(jax.grad(jax.checkpoint(model, policy=policy), (0, 1, 2)), X, W, U)["dot_general"]
    assert products <= expected
    if again is not None:
        assert products - without == again


# Offloading.


def offloaded(f, *args):
    """The memory that each transfer in ``f`` goes to."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "device_put":
                yield from map(str, eqn.params["devices"])
            for inner in jaxprs_in_params(eqn.params):
                yield from walk(inner)

    return list(walk(jax.make_jaxpr(f)(*args).jaxpr))


OFFLOADING = {
    "names": policies.save_and_offload_only_these_names(
        names_which_can_be_saved=["out"],
        names_which_can_be_offloaded=["hidden"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
    "products": policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
}


@pytest.mark.parametrize("policy", OFFLOADING.values(), ids=OFFLOADING.keys())
def test_offloaded_values_go_to_the_host_and_come_back(policy):
    f = jax.checkpoint(model, policy=policy)
    transfers = offloaded(fg.grad(f), X, W, U)
    assert sorted(transfers) == sorted(offloaded(jax.grad(f), X, W, U))
    assert any("Host" in place for place in transfers) and any("Device" in place for place in transfers)
    assert_same(fg.grad(f)(X, W, U), jax.grad(model)(X, W, U), 1e-5)
    assert_same(jax.jit(fg.grad(f))(X, W, U), jax.grad(model)(X, W, U), 1e-5)


def test_only_what_is_to_be_offloaded_is():
    leaves = jax.tree.leaves(fg.vjp(jax.checkpoint(model, policy=OFFLOADING["names"]), X, W, U)[1])
    kinds = {x.shape: x.sharding.memory_kind for x in leaves if x.shape in (HIDDEN, OUT)}
    assert kinds == {HIDDEN: "pinned_host", OUT: jax.devices()[0].default_memory().kind}


def looped(step, x, w):
    return lax.scan(lambda x, w: (step(x, w), None), x, jnp.stack([w, 2 * w]))[0]


def branched(step, x, w):
    return lax.cond(x[0, 0] < 10, step, lambda x, w: x, x, w)


@pytest.mark.parametrize("around", [looped, branched])
def test_what_loops_and_branches_offload_goes_to_the_host_and_comes_back(around):
    def step(x, w):
        return jnp.sin(checkpoint_name(jnp.sin(x) @ w, "hidden"))

    def loss(x, w):
        return jnp.sum(around(step, x, w) ** 2)

    x, w = X[:, :3], W[:3, :3]
    gradient = fg.grad(jax.checkpoint(loss, policy=OFFLOADING["names"]), (0, 1))
    assert sorted(set(offloaded(gradient, x, w))) == ["MemorySpace.Device", "MemorySpace.Host"]
    _, pullback = fg.vjp(jax.checkpoint(loss, policy=OFFLOADING["names"]), jnp.asarray(x), jnp.asarray(w))
    kinds = [x.sharding.memory_kind for x in jax.tree.leaves(pullback) if isinstance(x, jax.Array)]
    assert kinds.count("pinned_host") == 1
    for wrap in (lambda f: f, jax.jit):
        assert_same(wrap(gradient)(x, w), jax.grad(loss, (0, 1))(x, w), 1e-5)


# Common subexpressions.


@pytest.mark.parametrize("prevent_cse", [True, False])
def test_the_two_passes_share_work_only_where_that_is_not_prevented(prevent_cse):
    f = jax.checkpoint(lambda x: jnp.sum(jnp.sin(jnp.sin(x))), prevent_cse=prevent_cse)
    text = jax.jit(fg.value_and_grad(f)).lower(X).as_text()
    assert ("optimization_barrier" in text) == prevent_cse
    assert_agrees(f, X)


def test_common_subexpressions_may_be_prevented_by_argument():
    f = jax.checkpoint(lambda x, w: jnp.sum(jnp.sin(jnp.sin(x)) @ w), prevent_cse=(True, False))
    assert "optimization_barrier" in jax.jit(fg.grad(f)).lower(X, W).as_text()
    assert_agrees(f, X, W)


def test_what_is_computed_again_is_said_to_be_so():
    text = jax.jit(fg.grad(jax.checkpoint(lambda x: jnp.sum(jnp.sin(jnp.sin(x)))))).lower(X).as_text(debug_info=True)
    assert "rematted_computation/sin" in text


# Memory.


def test_a_chain_of_checkpointed_blocks_keeps_one_value_for_each():
    def chain(x, wrap):
        for _ in range(4):
            x = wrap(lambda x: jnp.sin(jnp.sin(jnp.sin(x))))(x)
        return x

    def count(wrap):
        _, pullback = fg.vjp(lambda x: chain(x, wrap), jnp.ones(7))
        return len(jax.tree.leaves(pullback))

    assert count(lambda f: f) == 12 and count(jax.checkpoint) == 4


def test_a_scan_over_checkpointed_blocks_stacks_their_inputs():
    def f(x, wrap):
        return jnp.sum(lax.scan(wrap(lambda c, _: (jnp.sin(jnp.sin(c) * c), None)), x, None, length=5)[0])

    assert saved(lambda x: f(x, jax.checkpoint), jnp.ones(3)) == [(5, 3)]
    assert len(saved(lambda x: f(x, lambda g: g), jnp.ones(3))) > 1


# Composition.


def test_checkpoints_nest():
    inner = jax.checkpoint(lambda x, w: jnp.sin(x @ w), policy=policies.dots_saveable)
    outer = jax.checkpoint(lambda x, w, u: jnp.sum(jnp.sin(inner(inner(x, w), u))))
    assert_agrees(outer, X, W, U)


def test_checkpoints_hold_jit_scan_cond_and_custom_rules():
    def body(c, a):
        c = lax.cond(c[0] > 0, jnp.sin, jnp.cos, c * a)
        return jax.nn.relu(c) + jax.jit(jnp.cos)(c), c

    @jax.checkpoint
    def f(x):
        c, cs = lax.scan(body, x[0], x)
        return jnp.sum(c) + jnp.sum(cs**2)

    assert_agrees(f, X)
    assert_agrees(lambda x: lax.scan(lambda c, a: (c + f(a * x), None), 0.0, X[:, :1])[0], X, second=False)


@pytest.mark.parametrize("loop", ["scan", "cond"])
def test_policies_reach_into_loops_and_branches(loop):
    def inside(x, w):
        if loop == "scan":
            return lax.scan(lambda c, a: (checkpoint_name(jnp.sin(c @ w) * a, "kept"), None), x, jnp.arange(3.0))[0]
        return lax.cond(x[0, 0] > 0, lambda: checkpoint_name(jnp.sin(jnp.sin(x @ w)), "kept"), lambda: jnp.cos(x))

    square = np.linspace(-0.4, 0.5, 16, dtype=np.float32).reshape(4, 4)
    policy = policies.save_only_these_names("kept")
    f = jax.checkpoint(lambda x, w: jnp.sum(jnp.sin(inside(x, w))), policy=policy)
    kept = [x.shape for x in jax.tree.leaves(jax.eval_shape(lambda *a: fg.vjp(f, *a)[1], X, square))]
    assert ((3, 3, 4) in kept) if loop == "scan" else (kept.count((3, 4)) == 2)
    assert_agrees(f, X, square)


def test_static_arguments_are_static():
    f = jax.checkpoint(lambda x, power: jnp.sum(x**power) if power else jnp.sum(x), static_argnums=1)
    assert_same(fg.grad(f)(X, 3), jax.grad(f)(X, 3), 1e-6)
    assert_same(fg.grad(f)(X, 0), jax.grad(f)(X, 0))


def test_any_of_the_arguments_may_be_active_and_of_any_type():
    @jax.checkpoint
    def f(x, i, key, w):
        noise = jax.random.normal(key, (4, 5))
        return jnp.sum(jnp.sin(x @ (w + noise))[i]), i + 1

    key = jax.random.key(0)
    for argnums in (0, 3, (0, 3)):
        assert_agrees(lambda *args: f(*args)[0] * f(*args)[1], X, 1, key, W, argnums=argnums, second=False)


def test_vmap_and_forward_mode_over_the_gradient_agree():
    f = jax.checkpoint(lambda x: jnp.sum(jnp.sin(x) * x), policy=policies.dots_saveable)
    mine, theirs = (jax.jit(jax.vmap(lambda x, m=m: jax.jvp(m.grad(f), (x,), (x,))))(X) for m in (fg, jax))
    assert_same(mine, theirs, 1e-6)


def test_saved_values_are_what_the_way_forward_saw():
    """In bfloat16, XLA may hold more digits between two operations than the type has, which a kept value has not."""

    def f(x):
        return jnp.sum(jnp.sin(checkpoint_name(jnp.exp(x) * 1.01, "y")).astype(jnp.float32))

    x = jnp.asarray(X, jnp.bfloat16)
    kept = jax.checkpoint(f, policy=policies.save_only_these_names("y"))
    assert_same(jax.jit(fg.grad(kept))(x), jax.jit(jax.grad(kept))(x), 0.01)


def test_effects_in_a_checkpoint_are_refused_as_by_jax():
    def f(x):
        io_callback(lambda x: None, None, lax.stop_gradient(x))
        return jnp.sum(jnp.sin(x))

    with pytest.raises(NotImplementedError, match="Effects not supported") as theirs:
        jax.grad(jax.checkpoint(f))(X)
    with pytest.raises(type(theirs.value), match="Effects not supported"):
        fg.grad(jax.checkpoint(f))(X)


def test_debug_prints_are_printed_on_both_passes(capfd):
    @jax.checkpoint
    def f(x):
        jax.debug.print("seen {}", x[0, 0])
        return jnp.sum(jnp.sin(jnp.sin(x)))

    def printed(grad):
        grad(f)(X)
        jax.effects_barrier()
        return capfd.readouterr().out.count("seen")

    assert printed(fg.grad) == printed(jax.grad)


def all_but(*names):
    """A policy that saves all that has none of these names."""
    return lambda primitive, *_, **params: params.get("name") not in names


@pytest.mark.parametrize(
    ("policy", "times"),
    [
        (all_but(), 1),
        (all_but("second"), 1),
        (all_but("first", "second"), 2),
        (policies.save_only_these_names("first", "second"), 2),
        (policies.nothing_saveable, 2),
    ],
    ids=["all saved", "one saved", "none saved", "names saved", "nothing"],
)
def test_a_debug_print_is_printed_as_often_as_the_policy_says(policy, times, capfd):
    def f(x):
        first, second = checkpoint_name(jnp.sin(x), "first"), checkpoint_name(jnp.sin(2 * x), "second")
        jax.debug.print("seen {} {}", first, second)
        return jnp.sin(first) * jnp.sin(second)

    for grad in (fg.grad, jax.grad):
        grad(jax.checkpoint(f, policy=policy))(2.0)
        jax.effects_barrier()
        assert capfd.readouterr().out.count("seen") == times


def test_keys_are_seen_to_be_used_once_in_what_is_computed_again():
    def f(x, key):
        return jax.checkpoint(lambda x: x * jax.random.bernoulli(key).astype(x.dtype))(x)

    def twice(x, key):
        return f(x, key) + f(x, key)

    check = key_reuse._core.check_key_reuse
    check(jax.grad(f), 1.0, jax.random.key(0))
    check(fg.grad(f), 1.0, jax.random.key(0))
    with pytest.raises(jax.errors.KeyReuseError):
        check(fg.grad(twice), 1.0, jax.random.key(0))


@pytest.mark.parametrize("prevent_cse", [True, False], ids=["waiting", "sharing"])
@pytest.mark.parametrize(
    "policy", [policies.dots_saveable, policies.save_only_these_names("hidden", "out")], ids=["products", "names"]
)
def test_what_checkpoints_inside_and_outside_of_a_loop_save_is_kept_once(policy, prevent_cse):
    checkpoint = partial(jax.checkpoint, policy=policy, prevent_cse=prevent_cse)

    def layer(x, weights):
        hidden = checkpoint_name(x @ weights[0], "hidden")
        out = checkpoint_name((jnp.tanh(hidden) * jnp.sin(hidden)) @ weights[1], "out")
        return x + jnp.tanh(out) * jnp.sin(out), None

    def loss(weights, x):
        layers = lambda x: lax.scan(checkpoint(layer), x, weights)[0]  # noqa: E731
        return jnp.sum(checkpoint(layers)(x) ** 2)

    weights, x = (jnp.ones((12, 32, 128)) * 0.01, jnp.ones((12, 128, 32)) * 0.01), jnp.ones((64, 32))
    ours, theirs = (jax.jit(grad(loss, (0, 1))).lower(weights, x).compile() for grad in (fg.grad, jax.grad))
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (ours, theirs)]
    assert sizes[0] <= sizes[1]
    assert_same(ours(weights, x), theirs(weights, x), 1e-5)


def test_the_carries_of_a_loop_are_kept_where_what_is_saved_would_only_make_them_again():
    """As many bytes, and no loop runs again."""

    def layer(x, w):
        return x + checkpoint_name(jnp.sin(x) @ w, "added"), None

    def loss(weights, x, policy):
        layers = jax.checkpoint(lambda x: lax.scan(jax.checkpoint(layer), x, weights)[0], policy=policy)
        return jnp.sum(layers(x) ** 2)

    weights, x = jnp.ones((5, 3, 3)) * 0.1, jnp.ones((2, 3))

    def loops(policy):
        return str(jax.make_jaxpr(fg.grad(partial(loss, policy=policy), (0, 1)))(weights, x)).count("= scan[")

    saved = policies.save_only_these_names("added")
    offloaded = policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["added"],
        offload_src="device",
        offload_dst="pinned_host",
    )
    assert (loops(saved), loops(policies.nothing_saveable), loops(offloaded)) == (2, 3, 3)
    assert_agrees(partial(loss, policy=saved), weights, x, tolerance=1e-5)
