"""Programs whose batch, length or both are open until they are called, and a process that calls what was exported.

``python tests/open_shapes.py DIRECTORY`` reads the gradients there, calls each with two sizes, and prints how far
that is from the gradient of the program as it is.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

import funcgrad as fg

#: By name: a function of parameters and of an array, and the shape of that, with open dimensions by name.
PROGRAMS = {}
SIZES = {"b": (5, 1), "t": (9, 6), "n": (3, 4)}


def program(shape, params=0.7, dtype=np.float32):
    def named(f):
        PROGRAMS[f.__name__] = f, shape, params, dtype
        return f

    return named


def matrix(*shape):
    return 0.4 * np.cos(np.arange(np.prod(shape, dtype=int), dtype=np.float32)).reshape(shape)


def gru(p, h, x):
    r, z, n = jnp.split(x @ p["x"], 3, axis=-1)
    hr, hz, hn = jnp.split(h @ p["h"], 3, axis=-1)
    z = jax.nn.sigmoid(z + hz)
    return (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * h


GRU = {"x": matrix(4, 24), "h": matrix(8, 24)}
ATTENTION = {name: matrix(4, 8) for name in "qkv"}


@program("7, b, 4", matrix(4, 4))
def scan_over_an_open_batch(w, xs):
    step = lambda h, x: (jnp.tanh(h @ w + x), jnp.tanh(h))  # noqa: E731
    return jnp.mean(lax.scan(step, jnp.zeros(xs.shape[1:]), xs)[1] ** 2)


@program("t, 3, 4", matrix(4, 4))
def scan_of_an_open_length(w, xs):
    step = lambda h, x: (jnp.tanh(h @ w + x), jnp.tanh(h))  # noqa: E731
    return jnp.mean(lax.scan(step, jnp.zeros(xs.shape[1:]), xs, reverse=True)[1] ** 2)


@program("64, b, 4", matrix(4, 4))
def long_scan_over_an_open_batch(w, xs):
    step = lambda h, x: (jnp.tanh(h @ w + jnp.sin(x)), None)  # noqa: E731
    return jnp.sum(lax.scan(step, jnp.zeros(xs.shape[1:]), xs)[0] ** 2)


@program("t, b, 4", GRU)
def gru_over_all_open(p, xs):
    h = jnp.zeros((xs.shape[1], 8))
    h, hs = lax.scan(lambda h, x: (gru(p, h, x),) * 2, h, xs)
    return jnp.mean(hs**2) + jnp.sum(h)


@program("64, 2, 4", GRU)
def gru_over_nothing_open(p, xs):
    h, hs = lax.scan(lambda h, x: (gru(p, h, x),) * 2, jnp.zeros((2, 8)), xs)
    return jnp.mean(hs**2) + jnp.sum(h)


@program("t, 2, 4", {"x": matrix(4, 300), "h": matrix(100, 300)})
def gru_of_an_open_length(p, xs):
    h, hs = lax.scan(lambda h, x: (gru(p, h, x),) * 2, jnp.zeros((2, 100)), xs)
    return jnp.mean(hs**2) + jnp.sum(h)


@program("16, b, 4", {"x": matrix(4, 300), "h": matrix(100, 300)})
def gru_in_a_loop_of_minibatches(p, xs):
    def losses(total, x):
        h, _ = lax.scan(lambda h, x: (gru(p, h, x), None), jnp.zeros((x.shape[0], 100)), jnp.stack([x] * 3))
        return total + jnp.mean(h**2), None

    return lax.scan(losses, 0.0, xs)[0]


@program("b, 4")
def sorting(p, x):
    key, value = lax.sort((x * p, jnp.sin(x)), dimension=0, num_keys=1)
    return jnp.sum(jnp.sort(x * p, 0)[-1] + key[0] * value[-1]) + jnp.median(p * x[:3])


@program("b, 4")
def ranks(p, x):
    return jnp.sum(lax.top_k(p * x.T, 1)[0] * jnp.argsort(x, 0)[0]) + jnp.sum(jnp.abs(x[jnp.argmax(x * p, 0)]) ** p)


@program("b, 4")
def cumulative(p, x):
    y = jnp.abs(x * p) + 0.5
    sums = jnp.cumsum(y, 0)[-1] + lax.cumsum(y, 0, reverse=True)[0]
    return jnp.sum(sums + lax.cummax(y, 0)[-1] + lax.cummin(y, 0, reverse=True)[0] + jnp.cumprod(y, 0)[-1])


@program("b, 4")
def cumulative_exponentials(p, x):
    y = x * p
    sums = lax.cumlogsumexp(y, 0)[-1] + lax.cumlogsumexp(y, 0, reverse=True)[0]
    return jnp.sum(sums + lax.cumlogsumexp(y, 1) ** 2)


@program("b, t")
def reductions(p, x):
    y = jnp.abs(x * p) + 0.1
    whole = jnp.max(y) * jnp.min(y, 0).sum() + jnp.std(y) + jnp.var(y, 0).sum() + jnp.linalg.norm(y)
    whole += jax.nn.logsumexp(y, 1).sum() + jnp.mean(y, 0).sum() + jnp.ptp(y) + jnp.prod(y, 1).sum()
    return whole + lax.reduce(y, jnp.float32(1), lambda a, b: a * b + 0 * a, (0,)).sum()


@program("b, t")
def elementwise(p, x):
    y = jnp.where(x > p, x * p, jnp.exp(x)) + x[:1] * x[:, -1:] + jnp.maximum(x, p) + jnp.clip(x, -0.5, p)
    return jnp.sum(y / (1 + jnp.hypot(y, p)) + jnp.broadcast_to(p, x.shape) ** 2 + jnp.arange(x.shape[0])[:, None] * p)


@program("b, t, 4", ATTENTION)
def attention(p, x):
    q, k, v = (jnp.reshape(x @ p[name], (*x.shape[:2], 2, 4)) for name in "qkv")
    return jnp.mean(jax.nn.dot_product_attention(q, k, v, is_causal=True) ** 2)


@program("b, t, 4", ATTENTION)
def attention_by_hand(p, x):
    q, k, v = (jnp.reshape(x @ p[name], (*x.shape[:2], 2, 4)) for name in "qkv")
    logits = jnp.einsum("bthd,bshd->bhts", q, k) / 2
    mask = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
    weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), -1)
    return jnp.mean(jnp.einsum("bhts,bshd->bthd", weights, v) ** 2)


@program("b, t, 4", ATTENTION)
def attention_in_pieces(p, x):
    def one(row):
        q, k, v = (row @ p[name] for name in "qkv")
        return lax.map(lambda query: jax.nn.softmax(k @ query) @ v, q)

    return jnp.mean(jax.vmap(jax.checkpoint(one))(x) ** 2)


@program("b")
def loop_that_fills_an_open_array(p, x):
    def step(i, y):
        return y.at[i].set(jnp.sin(y[i - 1] * p + x[i]))

    return jnp.sum(lax.fori_loop(1, x.shape[0], step, x * p) ** 2)


@program("t")
def scan_that_fills_an_open_array(p, x):
    def step(y, i):
        return y.at[i].set(jnp.sin(y[i] * p + y[i - 1])), y[i] * p

    y, ys = lax.scan(step, x * p, jnp.arange(x.shape[0]))
    return jnp.sum(y**2) + jnp.sum(ys)


@program("t, 300")
def scan_that_fills_rows(p, x):
    def step(y, i):
        y = y.at[i].set(jnp.sin(y[i] * p + y[i - 1]))
        return lax.dynamic_update_slice(y, y[:1] * p, (i, 0)), None

    return jnp.sum(lax.scan(step, x * p, jnp.arange(6))[0] ** 2)


@program("b, 300")
def loop_that_fills_a_closed_array(p, x):
    def step(y, i):
        return y.at[i].set(jnp.sin(y[i] * p + y[i - 1]) + jnp.sum(x[:, i])), y[i]

    y, ys = lax.scan(step, p * jnp.ones(300), jnp.arange(300))
    return jnp.sum(y**2) + jnp.sum(ys)


@program("b, 4")
def loop_of_unknown_length(p, x):
    proceeds = lambda s: jnp.sum(s[0] ** 2) < 40.0 * x.shape[0]  # noqa: E731
    return jnp.sum(lax.while_loop(proceeds, lambda s: (s[0] * (1 + p) + x * p, s[1] + 1), (x, 0))[0])


@program("t, 4")
def loop_as_long_as_an_array(p, x):
    h = lax.fori_loop(0, x.shape[0], lambda i, h: jnp.tanh(h * p + x[i]), jnp.zeros(4))
    return jnp.sum(h**2)


@program("b, 4")
def loop_of_each_its_own_length(p, x):
    f = lambda row: lax.while_loop(lambda s: jnp.sum(s**2) < 40.0, lambda s: s * (1.5 + p) + p, row)  # noqa: E731
    return jnp.sum(jax.vmap(f)(x))


@program("b, 4")
def branches(p, x):
    y = lax.cond(jnp.sum(x) > 0, lambda x: jnp.sin(x * p) * x, lambda x: x * p, x)
    z = lax.switch(x.shape[0] % 3, [lambda x: x * p, jnp.cos, lambda x: jnp.tanh(p * x)], x)
    return jnp.sum(y * z)


@program("b, 4", matrix(4, 4))
def checkpointed(w, x):
    block = lambda x: jnp.tanh(jnp.sin(x @ w) @ w) + x  # noqa: E731
    x = jax.checkpoint(block)(x)
    x = jax.checkpoint(block, policy=jax.checkpoint_policies.dots_saveable)(x)
    return jnp.sum(lax.scan(lambda x, _: (jax.checkpoint(block)(x), None), x, None, length=3)[0] ** 2)


@program("b, t")
def indexing(p, x):
    y, n = x * p, x.shape[0]
    y = y.at[0].add(y[-1] ** 2).at[jnp.array([0, 0])].multiply(y[:1] + 2.0, unique_indices=True)
    y = y.at[jnp.arange(n)[::-1], 0].set(jnp.sin(y[:, 1])).at[:, 0].max(p).at[jnp.int32(n) - 1].min(p)
    z = lax.dynamic_slice_in_dim(y, jnp.int32(n) // 2, 1) * lax.dynamic_index_in_dim(y, n - 1)
    return jnp.sum(jnp.take(y, jnp.array([0, 2, 0]), axis=1) ** 2) + jnp.sum(z) + jnp.sum(y[::-1, ::2] ** 2)


@program("b, t")
def shaping(p, x):
    y = x * p
    y = jnp.concatenate([y, y[:1] ** 2, jnp.roll(y, 1, 0)])
    y = jnp.pad(y, ((1, 0), (0, 2)), constant_values=p) + jnp.tile(jnp.sum(y), (1, 1))
    z = jnp.reshape(x * p, (-1,)) * jnp.repeat(p, x.size)
    return jnp.sum(y.T[1:] ** 2) + jnp.sum(z**3) + jnp.sum(jnp.stack([x * p, x])[1] * p) + jnp.trace(y)


@program("b, 8, 8, 3", {"w": matrix(3, 3, 3, 4), "d": matrix(3, 3, 1, 4)})
def convolutions(p, x):
    how = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = lax.conv_general_dilated(x, p["w"], (2, 2), "SAME", **how)
    x = lax.conv_general_dilated(x, p["d"], (1, 1), "SAME", rhs_dilation=(2, 2), feature_group_count=4, **how)
    x = lax.conv_transpose(x, p["w"][..., :4].transpose(0, 1, 3, 2), (2, 2), "SAME")
    pools = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jnp.mean(pools**2) + jnp.mean(lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") ** 2)


@program("b, t, 3", matrix(3, 3, 4))
def convolution_over_an_open_length(w, x):
    y = lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    y = lax.conv_general_dilated(jnp.sin(y[..., :3]), w, (1,), ((2, 0),), dimension_numbers=("NWC", "WIO", "NWC"))
    return jnp.mean(y**2) + jnp.sum(lax.reduce_window(y, 0.0, lax.add, (1, 2, 1), (1, 1, 1), "SAME") ** 2)


@program("b, 4", {"scale": matrix(4), "shift": matrix(4)})
def normalized(p, x):
    def norm(x, axis):
        x = x - jnp.mean(x, axis, keepdims=True)
        return x / jnp.sqrt(jnp.var(x, axis, keepdims=True) + 1e-2) * p["scale"] + p["shift"]

    return jnp.sum(jax.nn.standardize(norm(norm(x, 0), -1), 0) ** 3)


@program("b, 4", matrix(4, 4))
def losses(w, x):
    logits, labels = x @ w, jnp.arange(x.shape[0]) % 4
    entropy = -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))
    return entropy + jnp.mean(jax.nn.one_hot(labels, 4) * jax.nn.softmax(logits)) + jnp.mean(jax.nn.gelu(logits))


@program("b, 4", matrix(4, 4))
def mapped(w, x):
    f = lambda row: jnp.sum(jnp.linalg.solve(w + 3 * jnp.eye(4), jnp.tanh(row)) ** 2)  # noqa: E731
    return jnp.mean(jax.vmap(f)(x)) + jnp.sum(jax.vmap(jnp.outer, (0, None))(x, x[0]))


@program("n, n")
def matrices(p, x):
    a = p * x @ x.T + jnp.eye(x.shape[0])
    return jnp.sum(jnp.linalg.cholesky(a) ** 2) + jnp.sum(jnp.linalg.solve(a, x)) + jnp.linalg.slogdet(a)[1]


@program("b, n")
def factorizations(p, x):
    a = p * x.T @ x + jnp.eye(x.shape[1])
    q, r = jnp.linalg.qr(a)
    return jnp.sum(jnp.linalg.inv(a) ** 2) + jnp.sum(jnp.abs(q @ r)) + jnp.linalg.det(a)


@program("b, 8, 3")
def frequencies(p, x):
    return jnp.sum(jnp.abs(jnp.fft.fft(x * p, axis=1)) ** 2) + jnp.sum(jnp.fft.rfft(x * p, axis=1).real[:, 1])


@program("b, t")
def windows(p, x):
    y, how = x * p, dict(window_strides=(1, 2), padding="SAME")
    wide = lax.reduce_window(y, -jnp.inf, lax.max, (2, 2), window_dilation=(1, 2), **how)
    apart = lax.reduce_window(y, jnp.inf, lax.min, (1, 2), base_dilation=(1, 2), **how)
    products = lax.reduce_window(y, 1.0, lax.mul, (2, 2), **how)
    return jnp.sum(wide**2) + jnp.sum(apart**2) + jnp.sum(products) + jnp.sum(y[1::2, ::3] ** 2)


@program("b, 4", matrix(4, 4))
def jacobians(w, x):
    rows = jax.jacrev(lambda x: jnp.tanh(x @ w)[:, 0])(x)
    return jnp.sum(rows**2) + jnp.sum(jax.hessian(lambda y: jnp.sum(jnp.sin(x @ (w @ y))))(x[0]) ** 2)


@program("b, 4", matrix(3, 4))
def looked_up(table, x):
    tokens = jnp.int32(jnp.abs(x) * 2) % 3
    return jnp.sum(jnp.mean(table[tokens], 1) ** 2) + jnp.sum(jax.ops.segment_sum(x @ table.T, tokens[:, 0], 3) ** 2)


@program("b, 4", matrix(4, 4))
def curved(w, x):
    f = lambda x: jnp.sum(jnp.tanh(x @ w) ** 2)  # noqa: E731
    return jnp.sum(jax.grad(f)(x) ** 2) + jnp.sum(jax.jvp(f, (x,), (jnp.sin(x),))[1])


def argument(name, which):
    """The array that a program is called with, at one of its two sizes."""
    _, shape, _, dtype = PROGRAMS[name]
    dims = [SIZES[d][which] if d in SIZES else int(d) for d in map(str.strip, shape.split(","))]
    return np.random.default_rng(which).normal(size=dims).astype(dtype)


def arguments_of(name):
    """The types that a program's gradient is exported for."""
    _, shape, params, dtype = PROGRAMS[name]
    return params, jax.ShapeDtypeStruct(export.symbolic_shape(shape), dtype)


def gradient_of(name):
    return jax.jit(fg.grad(PROGRAMS[name][0], (0, 1)))


def distances(path):
    """How far a gradient that was exported is from the one that is not, for either size."""
    exported, gradient = export.deserialize(bytearray(path.read_bytes())), gradient_of(path.stem)
    for which in range(2):
        args = PROGRAMS[path.stem][2], argument(path.stem, which)
        pairs = zip(*map(jax.tree.leaves, (exported.call(*args), gradient(*args))), strict=True)
        yield max(float(np.max(abs(a - b), initial=0) / (1 + np.max(abs(b), initial=0))) for a, b in pairs)


if __name__ == "__main__":
    found = {path.stem: list(distances(path)) for path in sorted(Path(sys.argv[1]).glob("*.export"))}
    print(json.dumps(found))
