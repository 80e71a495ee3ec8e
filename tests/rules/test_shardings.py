"""Where shardings are part of types: a cotangent's type is a function of its primal's, in every program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, reshard
from jax.sharding import PartitionSpec as P

import funcgrad as fg
from tests.agreement import assert_same

X = np.linspace(-1, 2, 32, dtype=np.float32).reshape(8, 4)
W = np.linspace(2, -1, 12, dtype=np.float32).reshape(4, 3)
SQUARE = np.linspace(-0.5, 0.5, 16, dtype=np.float32).reshape(4, 4)
WHOLE, ROWS, COLUMNS = P(None, None), P("x", None), P(None, "x")
REDUCED, UNREDUCED = P(None, None, reduced={"x"}), P(None, None, unreduced={"x"})


@pytest.fixture(scope="module", autouse=True)
def mesh():
    made = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(made):
        yield made


def twice(x):
    return x + x


def layers(ws, x):
    return jnp.sum(lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, ws)[0])


def minibatches(w, xs):
    """The sum over minibatches of gradients that are reduced once, at the end."""

    def step(total, x):
        ct = fg.grad(lambda w: jnp.sum(jnp.sin(x @ w) ** 2))(w)
        return total + ct, None

    start = reshard(jnp.zeros_like(w), UNREDUCED)
    total, _ = lax.scan(step, start, jnp.stack([xs, xs + 1]))
    return jnp.sum(reshard(total, WHOLE) ** 2)


@jax.sharding.auto_axes
def in_auto(x):
    return jnp.sin(x) * x[0]


def by_shard_map(w, x):
    mapped = jax.shard_map(lambda w, x: jnp.sin(x) @ w, in_specs=(WHOLE, ROWS), out_specs=ROWS, axis_names={"x", "y"})
    return jnp.sum(mapped(w, x) ** 2)


def with_gather(x):
    return x.at[:, jnp.array([0, 1, 1])].get(out_sharding=WHOLE) ** 2


programs = {
    "a sum of what is sharded and what is not": (lambda w, x: x + w[0], (W, WHOLE), (X[:, :3], ROWS)),
    "a product with a stretched dimension": (lambda x, y: x * y, (X, ROWS), (X[:, :1], P("x", None))),
    "a sum of exponentials along it": (lambda x: lax.cumlogsumexp(x, 0), (X, COLUMNS)),
    "the same backwards": (lambda x: lax.cumlogsumexp(x, 0, reverse=True), (X, COLUMNS)),
    "a product by a constant of no mesh": (lambda x: x @ np.ones((4, 3), np.float32), (X, ROWS)),
    "weights that are reduced": (lambda w, x: x @ jnp.sin(w), (W, REDUCED), (X, ROWS)),
    "operations on what is reduced": (
        lambda w: reshard(jnp.concatenate([jnp.where(w > 0, w, w * w).T.reshape(6, 2), w[:2, :2]]), WHOLE),
        (W, REDUCED),
    ),
    "a maximum of what is reduced": (lambda w: reshard(jnp.maximum(jnp.clip(w, -1, 1), w * w), WHOLE), (W, REDUCED)),
    "a reduction of what is reduced": (lambda w: reshard(jnp.sum(w * w, 0), P(None)), (W, REDUCED)),
    "one reduced and one sharded": (lambda w, x: reshard(w, ROWS) * x, (X, REDUCED), (X, ROWS)),
    "a contraction to what is unreduced": (
        lambda x, y: reshard(twice(jnp.einsum("ij,jk->ik", x, y, out_sharding=UNREDUCED)), WHOLE),
        (SQUARE, COLUMNS),
        (SQUARE, ROWS),
    ),
    "a gather": (with_gather, (X, COLUMNS)),
    "a batched gather": (lambda x: jax.vmap(lambda row: row[jnp.array([0, 2, 2])])(x), (X, ROWS)),
    "an update of a slice": (
        lambda x, y, z: lax.dynamic_update_slice(x, y, (1,)) + z,
        (X[:, 0], P(None)), (W[:, 0], P(None)), (X[:, 1], P("x")),
    ),
    "a scatter": (lambda x, y: x.at[jnp.array([1, 3])].set(y, unique_indices=True) * 3, (X, COLUMNS), (X[:2], COLUMNS)),
    "a tile": (lambda x: jnp.tile(x, (1, 3)) * np.arange(12, dtype=np.float32), (X, ROWS)),
    "a split": (lambda x: [part**2 for part in jnp.split(x, 2, axis=1)], (X, ROWS)),
    "a loop over layers": (layers, (np.stack([SQUARE] * 3), P(None, None, None, reduced={"x"})), (X, ROWS)),
    "a loop of steps": (
        lambda w, x: lax.fori_loop(0, 3, lambda _, h: jnp.sin(h @ w), x), (SQUARE, REDUCED), (X, ROWS),
    ),
    "a branch": (
        lambda w, x: lax.cond(jnp.sum(x) > 0, lambda w, x: x @ w, lambda w, x: jnp.sin(x) @ w, w, x),
        (W, REDUCED), (X, ROWS),
    ),
    "what is computed again": (jax.checkpoint(lambda w, x: jnp.sin(x @ jnp.sin(w))), (W, REDUCED), (X, ROWS)),
    "a call": (jax.jit(lambda w, x: jnp.sin(x @ jnp.sin(w))), (W, REDUCED), (X, ROWS)),
    "a part that is left to the compiler": (lambda x: in_auto(x, out_sharding=ROWS) ** 2, (X, ROWS)),
    "such a part in a loop": (
        lambda x: lax.scan(lambda h, _: (in_auto(h, out_sharding=ROWS), None), x, None, length=2)[0], (X, ROWS),
    ),
    "a program for each device": (by_shard_map, (W, WHOLE), (X, ROWS)),
}  # fmt: skip


def laid_out(given):
    """An argument and its layout; what is reduced is the same on all devices, which ``device_put`` takes as whole."""
    x, spec = given
    return reshard(jnp.asarray(x), spec)


def total(f):
    return lambda *args: sum(jnp.sum(jnp.sin(out)) for out in jax.tree.leaves(f(*args)))


@pytest.mark.parametrize("name", programs)
def test_cotangents_have_the_types_that_those_of_jax_have(name):
    f, *given = programs[name]
    args = [laid_out(x) for x in given]
    places = tuple(range(len(args)))
    mine, theirs = (jax.jit(grad(total(f), places))(*args) for grad in (fg.grad, jax.grad))
    assert [str(jax.typeof(ct)) for ct in mine] == [str(jax.typeof(ct)) for ct in theirs]
    whole = [[reshard(ct, P()) for ct in cts] for cts in (mine, theirs)]
    assert_same(*whole, 1e-5)


@pytest.mark.parametrize("name", ["weights that are reduced", "a gather", "an update of a slice"])
def test_operations_run_one_by_one_have_them_too(name):
    f, *given = programs[name]
    args = [laid_out(x) for x in given]
    mine, theirs = (grad(total(f))(*args) for grad in (fg.grad, jax.grad))
    assert jax.typeof(mine) == jax.typeof(theirs)
    assert_same(reshard(mine, P()), reshard(theirs, P()), 1e-5)


def test_a_scatter_that_jax_refuses_in_columns_has_the_derivative_it_has_whole():
    f = total(lambda x, y: x.at[jnp.array([1, 3, 3])].set(y) * 3)
    x, y = laid_out((X, COLUMNS)), laid_out((X[:3], COLUMNS))
    mine = jax.jit(fg.grad(f, (0, 1)))(x, y)
    assert [jax.typeof(ct) for ct in mine] == [jax.typeof(x), jax.typeof(y)]
    theirs = jax.grad(f, (0, 1))(reshard(x, WHOLE), reshard(y, WHOLE))
    assert_same([reshard(ct, P()) for ct in mine], [reshard(ct, P()) for ct in theirs], 1e-5)


def test_a_pullback_is_given_and_gives_what_is_unreduced():
    w, x = laid_out((W, REDUCED)), laid_out((X, ROWS))
    _, pullback = fg.vjp(lambda w: x @ w, w)
    ct = jax.jit(lambda ct: pullback(ct)[0])(laid_out((np.ones((8, 3), np.float32), ROWS)))
    assert jax.typeof(ct) == jax.typeof(w).to_ct_aval()
    np.testing.assert_allclose(reshard(ct, P()), X.T @ np.ones((8, 3)), 1e-6)


def test_gradients_of_minibatches_are_summed_before_they_are_reduced():
    w, xs = laid_out((W, REDUCED)), laid_out((X, ROWS))
    compiled = jax.jit(minibatches).lower(w, xs).compile()
    expected = jax.grad(lambda w: jnp.sum(jnp.sin(np.concatenate([X, X + 1]) @ w) ** 2))(jnp.asarray(W))
    np.testing.assert_allclose(jax.jit(minibatches)(w, xs), jnp.sum(expected**2), 1e-5)
    assert compiled.as_text().count("all-reduce(") <= 2


def test_a_rule_that_forgets_a_sharding_is_given_it_back():
    forgetful = fg.rules.default.override({lax.sin_p: lambda ct, x: reshard(ct * lax.cos(x), WHOLE)})
    x = laid_out((X, ROWS))
    ct = jax.jit(fg.grad(lambda x: jnp.sum(jnp.sin(x)), rules=forgetful))(x)
    assert jax.typeof(ct) == jax.typeof(x)
    np.testing.assert_allclose(ct, np.cos(X), 1e-5)


def test_error_functions_of_what_is_reduced():
    """Newer JAX has no derivative of them."""
    places, grads = (0, 1), []
    for spec in (REDUCED, WHOLE):
        args = laid_out((W, spec)), laid_out((X, ROWS))
        f = total(lambda w, x: x @ (lax.erf(w) + lax.erfc(w * w)))
        grads.append(jax.jit(fg.grad(f, places))(*args))
    expected = jax.jit(jax.grad(f, places))(*args)
    assert jax.typeof(grads[0][0]).sharding.spec.unreduced == {"x"}
    for cts in grads:
        assert_same([reshard(ct, P()) for ct in cts], [reshard(ct, P()) for ct in expected], 1e-5)


def test_a_sum_over_some_devices_becomes_one_over_others():
    """XLA aborts on such a program of ``jax.grad``, so the derivative is compared with that of what is whole."""

    def f(w):
        return jnp.sum(reshard(jnp.sin(reshard(w, P("y", None, reduced={"x"}))), WHOLE) ** 2)

    w = laid_out((SQUARE, P("x", None, reduced={"y"})))
    ct = jax.jit(fg.grad(f))(w)
    assert jax.typeof(ct).sharding.spec == P("x", None, unreduced={"y"})
    np.testing.assert_allclose(reshard(ct, P()), np.sin(2 * SQUARE), 1e-5)


@pytest.mark.parametrize("f", [
    jnp.exp2, jnp.arccos, jnp.cos, jnp.negative, lambda x: 1 - x, lambda x: lax.rem(x, x * x), jnp.linalg.norm,
    jax.nn.softplus, jax.nn.mish, jnp.abs,
])  # fmt: skip
@pytest.mark.parametrize("spec", [P(None, None, reduced={"x"}), P("y", None, reduced={"x"}), P(reduced={"x"})])
def test_functions_of_what_is_reduced(f, spec):
    """JAX has no derivative of some."""
    x = laid_out((SQUARE[:2] / 3 + 0.4 if spec.partitions else np.float32(0.4), spec))
    loss = lambda x: jnp.sum(reshard(f(x), P())) * 1.5  # noqa: E731
    ct = jax.jit(fg.grad(loss))(x)
    assert jax.typeof(ct).sharding.spec.unreduced == {"x"}
    whole = reshard(x, P())
    np.testing.assert_allclose(reshard(ct, P()), jax.jit(jax.grad(loss))(whole), 1e-5)


@pytest.mark.parametrize("f", [lambda x: lax.sort(x, dimension=0), lambda x: jnp.median(x, 0)], ids=["sort", "median"])
def test_a_sort_that_jax_cannot_differentiate_in_columns_has_the_derivative_it_has_whole(f):
    x = laid_out((np.cos(40 * X), COLUMNS))
    loss = lambda x: jnp.sum(reshard(jnp.sin(f(x)), P()))  # noqa: E731
    ct = jax.jit(fg.grad(loss))(x)
    assert jax.typeof(ct) == jax.typeof(x)
    assert_same(reshard(ct, P()), jax.jit(jax.grad(loss))(reshard(x, P())), 1e-6)
