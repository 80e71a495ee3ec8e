"""Models of other libraries: the gradient of their losses is jax.grad's, and the library needs no change."""

from __future__ import annotations

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import lax

import funcgrad as fg
from tests.agreement import assert_same

KEY = jax.random.key(0)
X = np.linspace(-1, 1, 2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
FLAT = X.reshape(6, 4)
TOKENS = np.array([[1, 4, 2, 0, 3], [3, 3, 1, 2, 4]])


def assert_trains_alike(loss, params, *batch, eager=False):
    """The losses and gradients of three steps of gradient descent, each with its own gradients."""
    mine, theirs = (jax.jit(m.value_and_grad(loss)) for m in (fg, jax))
    my_params, their_params = params, params
    if eager:
        assert_same(fg.value_and_grad(loss)(params, *batch), theirs(params, *batch), 1e-5)
    for _ in range(3):
        (value, gradient), (their_value, their_gradient) = mine(my_params, *batch), theirs(their_params, *batch)
        assert_same((value, gradient), (their_value, their_gradient), 1e-5)
        my_params, their_params = step(my_params, gradient), step(their_params, their_gradient)


@jax.jit
def step(params, gradient):
    return fg.sgd(params, gradient, 0.1)


# flax.


@pytest.mark.parametrize("cell", [linen.LSTMCell, linen.GRUCell, linen.SimpleCell])
def test_a_flax_rnn_trains_alike(cell):
    model = linen.RNN(cell(5), reverse=True, keep_order=True)
    params = model.init(KEY, X)
    assert_trains_alike(lambda params, x: jnp.mean(model.apply(params, x) ** 2), params, X, eager=True)


def test_a_flax_network_with_batch_statistics_and_dropout_trains_alike():
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.BatchNorm(use_running_average=False)(linen.Dense(8)(x)))
            x = linen.Dropout(0.5, deterministic=False)(x)
            return linen.Dense(1)(linen.LayerNorm()(x))

    model = Network()
    variables = model.init({"params": KEY, "dropout": KEY}, FLAT)

    def loss(params, statistics, x):
        out, updated = model.apply(
            {"params": params, "batch_stats": statistics}, x, rngs={"dropout": KEY}, mutable=["batch_stats"]
        )
        return jnp.mean(out**2), updated

    arguments = (variables["params"], variables["batch_stats"], FLAT)
    mine, theirs = (jax.jit(m.value_and_grad(loss, has_aux=True))(*arguments) for m in (fg, jax))
    assert_same(mine, theirs, 1e-5)


def test_a_flax_network_of_scanned_and_checkpointed_blocks_trains_alike():
    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            y = linen.MultiHeadDotProductAttention(num_heads=2)(linen.LayerNorm()(x))
            return x + linen.Dense(4)(jnp.tanh(linen.Dense(8)(x + y))), None

    blocks = linen.scan(linen.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    params = blocks.init(KEY, X, None)
    assert_trains_alike(lambda params, x: jnp.mean(blocks.apply(params, x, None)[0] ** 2), params, X)


def test_an_nnx_module_trains_alike():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)

        def __call__(self, x):
            return self.second(nnx.gelu(self.first(x)))

    graph, params = nnx.split(Network(nnx.Rngs(0)))
    assert_trains_alike(lambda params, x: jnp.mean(nnx.merge(graph, params)(x) ** 2), params, FLAT)


# equinox.


def test_an_equinox_network_trains_alike():
    params, static = eqx.partition(eqx.nn.MLP(4, 1, 8, 2, key=KEY), eqx.is_inexact_array)

    def loss(params, x):
        return jnp.mean(jax.vmap(eqx.combine(params, static))(x) ** 2)

    assert_trains_alike(loss, params, FLAT, eager=True)


def test_an_equinox_network_under_filter_jit_trains_alike():
    model = eqx.nn.MLP(4, 1, 8, 2, activation=jax.nn.silu, key=KEY)

    def gradient(grad):
        @eqx.filter_jit
        def step(model, x):
            params, static = eqx.partition(model, eqx.is_inexact_array)
            loss = lambda params: jnp.mean(jax.vmap(eqx.combine(params, static))(x) ** 2)  # noqa: E731
            return grad(loss)(params)

        return jax.tree.leaves(step(model, FLAT))

    assert_same(gradient(fg.grad), gradient(jax.grad), 1e-5)


def test_an_equinox_recurrent_network_trains_alike():
    params, static = eqx.partition(eqx.nn.GRUCell(4, 5, key=KEY), eqx.is_inexact_array)

    def loss(params, xs):
        cell = eqx.combine(params, static)
        run = lambda xs: lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(5), xs)[0]  # noqa: E731
        return jnp.mean(eqx.filter_jit(jax.vmap(run))(xs) ** 2)

    assert_trains_alike(loss, params, X)


def test_an_equinox_network_with_checkpoint_and_attention_trains_alike():
    keys = jax.random.split(KEY, 2)
    network = (eqx.nn.MultiheadAttention(2, 4, key=keys[0]), eqx.nn.LayerNorm(4), eqx.nn.Linear(4, 4, key=keys[1]))
    params, static = eqx.partition(network, eqx.is_inexact_array)

    @eqx.filter_checkpoint
    def block(network, x):
        attention, norm, linear = network
        return attention(x, x, x) + jax.vmap(lambda x: linear(norm(x)))(x)

    def loss(params, x):
        return jnp.mean(jax.vmap(lambda x: block(eqx.combine(params, static), x))(x) ** 2)

    assert_trains_alike(loss, params, X)


# haiku: functions with parameters by name.


def test_a_haiku_network_trains_alike():
    def forward(x):
        out, _ = hk.dynamic_unroll(hk.LSTM(5), x, hk.LSTM(5).initial_state(2), time_major=False)
        return hk.nets.MLP([6, 1])(hk.Flatten()(out))

    model = hk.without_apply_rng(hk.transform(forward))
    params = model.init(KEY, X)
    assert_trains_alike(lambda params, x: jnp.mean(model.apply(params, x) ** 2), params, X)


# Plain JAX.


def test_a_scanned_transformer_trains_alike():
    width, heads, layers, vocabulary = 8, 2, 3, 6
    keys = iter(jax.random.split(KEY, 8))
    matrix = lambda *shape: 0.3 * jax.random.normal(next(keys), shape)  # noqa: E731
    params = {
        "embed": matrix(vocabulary, width),
        "layers": {
            "qkv": matrix(layers, width, 3 * width),
            "out": matrix(layers, width, width),
            "up": matrix(layers, width, 2 * width),
            "down": matrix(layers, 2 * width, width),
            "scale": jnp.ones((layers, width)),
        },
    }

    def norm(x, scale):
        return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale

    @jax.checkpoint
    def block(x, layer):
        q, k, v = jnp.split(norm(x, layer["scale"]) @ layer["qkv"], 3, axis=-1)
        q, k, v = (t.reshape(*t.shape[:2], heads, -1) for t in (q, k, v))
        x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ layer["out"]
        return x + jax.nn.gelu(norm(x, layer["scale"]) @ layer["up"]) @ layer["down"], None

    def loss(params, tokens):
        x = params["embed"][tokens[:, :-1]]
        x, _ = lax.scan(block, x, params["layers"])
        return optax.softmax_cross_entropy_with_integer_labels(x @ params["embed"].T, tokens[:, 1:]).mean()

    assert_trains_alike(loss, params, TOKENS)
