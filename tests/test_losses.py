"""The mean squared error."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg

PREDICTIONS = jnp.array([[1.0, -2.0], [0.5, 3.0]])
TARGETS = jnp.array([[0.0, 1.0], [0.5, -1.0]])


def test_mse_is_the_mean_of_squared_differences():
    chex.assert_trees_all_close(fg.losses.mse(PREDICTIONS, TARGETS), np.mean((1.0, 9.0, 0.0, 16.0)))


def test_a_scalar_target_stands_for_all():
    chex.assert_trees_all_close(fg.losses.mse(PREDICTIONS, 0.0), jnp.mean(PREDICTIONS**2))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jitted"])
def test_its_gradient_is_twice_the_difference_over_the_count(wrap):
    gradients = wrap(fg.grad(fg.losses.mse, argnums=(0, 1)))(PREDICTIONS, TARGETS)
    expected = 2 * (PREDICTIONS - TARGETS) / 4
    chex.assert_trees_all_close(gradients, (expected, -expected))


def test_a_column_against_a_row_is_an_error_that_names_both_shapes():
    with pytest.raises(ValueError, match=r"\(4, 1\).*\(4,\)"):
        fg.losses.mse(jnp.ones((4, 1)), jnp.ones(4))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_mse_keeps_the_dtype(dtype):
    assert fg.losses.mse(PREDICTIONS.astype(dtype), TARGETS.astype(dtype)).dtype == dtype


@pytest.mark.torch
def test_mse_and_its_gradient_are_torchs(torch):
    predictions = torch.tensor(np.asarray(PREDICTIONS), requires_grad=True)
    loss = torch.nn.functional.mse_loss(predictions, torch.tensor(np.asarray(TARGETS)))
    loss.backward()
    value, gradient = fg.value_and_grad(fg.losses.mse)(PREDICTIONS, TARGETS)
    chex.assert_trees_all_close((value, gradient), (loss.detach().numpy(), predictions.grad.numpy()))
