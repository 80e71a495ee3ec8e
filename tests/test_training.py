"""Gradient descent as a pure step."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcgrad as fg

PARAMS = {"w": jnp.array([1.0, 2.0]), "b": (jnp.array(3.0),)}
GRADS = {"w": jnp.array([10.0, -10.0]), "b": (jnp.array(1.0),)}


def test_sgd_goes_against_the_gradient_by_the_step_size():
    chex.assert_trees_all_close(fg.sgd(PARAMS, GRADS, 0.1), {"w": jnp.array([0.0, 3.0]), "b": (jnp.array(2.9),)})


def test_sgd_leaves_its_arguments_as_they_are():
    before = jax.tree.map(np.array, PARAMS)
    fg.sgd(PARAMS, GRADS, 0.1)
    chex.assert_trees_all_equal(PARAMS, before)


def test_sgd_is_optaxs():
    optimizer = optax.sgd(0.1)
    updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS))
    chex.assert_trees_all_close(fg.sgd(PARAMS, GRADS, 0.1), optax.apply_updates(PARAMS, updates))


def test_sgd_takes_python_floats():
    assert fg.sgd((1.0, 2.0), (jnp.array(1.0), jnp.array(0.0)), 0.5) == (0.5, 2.0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sgd_keeps_the_dtype_whatever_the_step_size_has(dtype):
    params = jnp.ones(2, dtype)
    assert fg.sgd(params, params, jnp.float32(0.5)).dtype == dtype


def test_a_step_size_that_is_an_array_compiles_once():
    step = jax.jit(chex.assert_max_traces(fg.sgd, n=1))
    for step_size in (0.1, 0.2):
        step(PARAMS, GRADS, jnp.asarray(step_size))


def test_gradients_of_another_structure_are_an_error():
    with pytest.raises(ValueError, match="b"):
        fg.sgd(PARAMS, {"w": GRADS["w"]}, 0.1)


@pytest.mark.torch
def test_three_steps_are_torchs(torch):
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    params = jnp.array([1.0, 2.0])
    for _ in range(3):
        optimizer.zero_grad()
        torch.sum(torch.sin(w) * w).backward()
        optimizer.step()
        params = fg.sgd(params, fg.grad(lambda w: jnp.sum(jnp.sin(w) * w))(params), 0.1)
    chex.assert_trees_all_close(params, w.detach().numpy(), rtol=1e-6)
