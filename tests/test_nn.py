"""Networks as pure functions."""

from __future__ import annotations

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import funcgrad as fg

SIZES = [3, 5, 4, 2]


@pytest.fixture
def params():
    return fg.nn.init_mlp(jax.random.key(0), SIZES)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (6, 3))


def loss(params, x, activation=jax.nn.relu):
    return fg.losses.mse(fg.nn.mlp(params, x, activation), jnp.sin(x[:, :2]))


def test_init_gives_one_layer_for_each_pair_of_sizes(params):
    chex.assert_trees_all_equal_shapes(
        params, [{"weight": jnp.zeros(shape), "bias": jnp.zeros(shape[1])} for shape in pairwise(SIZES)]
    )


def test_init_draws_weights_of_variance_two_over_inputs_and_zero_biases():
    (layer,) = fg.nn.init_mlp(jax.random.key(0), [200, 500])
    assert np.std(layer["weight"]) == pytest.approx((2 / 200) ** 0.5, rel=0.02)
    assert not layer["bias"].any()


def test_init_draws_another_network_for_another_key_and_for_every_layer():
    first, second = fg.nn.init_mlp(jax.random.key(0), [3, 3, 3])
    (other,) = fg.nn.init_mlp(jax.random.key(1), [3, 3])
    assert len({float(layer["weight"][0, 0]) for layer in (first, second, other)}) == 3


def test_init_without_an_output_size_says_what_is_missing():
    with pytest.raises(ValueError, match="input and output"):
        fg.nn.init_mlp(jax.random.key(0), [10])


def test_linear_is_a_product_and_a_sum(x):
    params = {"weight": jnp.arange(6.0).reshape(3, 2), "bias": jnp.array([1.0, -1.0])}
    chex.assert_trees_all_close(fg.nn.linear(params, x), np.asarray(x) @ np.arange(6.0).reshape(3, 2) + [1.0, -1.0])


def test_the_last_layer_has_no_activation(params, x):
    assert (fg.nn.mlp(params, x) < 0).any()


@pytest.mark.parametrize("shape", [(3,), (6, 3), (2, 6, 3)])
def test_mlp_maps_the_last_axis(params, shape):
    assert fg.nn.mlp(params, jnp.ones(shape)).shape == (*shape[:-1], 2)


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jitted"])
def test_gradients_of_an_mlp_are_jaxs(params, x, wrap, activation):
    def of(value_and_grad):
        return wrap(value_and_grad(lambda params, x: loss(params, x, activation), argnums=(0, 1)))(params, x)

    chex.assert_trees_all_close(of(fg.value_and_grad), of(jax.value_and_grad), rtol=1e-6, atol=1e-6)


def test_gradients_of_an_mlp_are_its_finite_differences(params, x):
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
        flat, unravel = ravel_pytree(params)

        def flat_loss(flat):
            return loss(unravel(flat), x, jnp.tanh)

        basis = 1e-6 * jnp.eye(len(flat))
        differences = jax.vmap(lambda step: flat_loss(flat + step) - flat_loss(flat - step))(basis) / 2e-6
        chex.assert_trees_all_close(fg.grad(flat_loss)(flat), differences, atol=1e-9)


@pytest.mark.torch
def test_an_mlp_and_its_gradients_are_torchs(torch, params, x):
    layers = []
    for layer in params:
        linear = torch.nn.Linear(*layer["weight"].shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(np.asarray(layer["weight"].T)))
            linear.bias.copy_(torch.tensor(np.asarray(layer["bias"])))
        layers += [linear, torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers[:-1])
    torch_x = torch.tensor(np.asarray(x))
    torch_loss = torch.nn.functional.mse_loss(module(torch_x), torch.sin(torch_x[:, :2]))
    torch_loss.backward()

    value, gradients = fg.value_and_grad(loss)(params, x)
    expected = [{"weight": m.weight.grad.T.numpy(), "bias": m.bias.grad.numpy()} for m in layers[::2]]
    chex.assert_trees_all_close((value, gradients), (torch_loss.detach().numpy(), expected), rtol=1e-5, atol=1e-6)
