"""An LSTM and a GRU as scans over time, with PyTorch's formulas; beside them, PyTorch's fused ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.workloads.workload import Random, Workload, zeros

LENGTH, INPUTS, HIDDEN = 64, 128, 256


def lstm_loss(params, inputs, targets):
    """The mean squared error of the hidden states, (length, batch, hidden), to ``targets``."""

    def step(state, x):
        h, c = state
        gates = x @ params["input"] + h @ params["hidden"] + params["bias"]
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros((inputs.shape[1], params["hidden"].shape[0]), inputs.dtype)
    _, outputs = lax.scan(step, (start, start), inputs)
    return jnp.mean((outputs - targets) ** 2)


def gru_loss(params, inputs, targets):
    def step(h, x):
        r_x, z_x, n_x = jnp.split(x @ params["input"] + params["input_bias"], 3, axis=-1)
        r_h, z_h, n_h = jnp.split(h @ params["hidden"] + params["hidden_bias"], 3, axis=-1)
        r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
        n = jnp.tanh(n_x + r * n_h)
        h = (1 - z) * n + z * h
        return h, h

    start = jnp.zeros((inputs.shape[1], params["hidden"].shape[0]), inputs.dtype)
    _, outputs = lax.scan(step, start, inputs)
    return jnp.mean((outputs - targets) ** 2)


# What torch.nn.LSTM and torch.nn.GRU call. It takes matrices transposed, and two biases.


def lstm_torch(torch, params, inputs, targets):
    start = inputs.new_zeros(1, inputs.shape[1], len(params["hidden"]))
    weights = [params["input"].T, params["hidden"].T, params["bias"], torch.zeros_like(params["bias"])]
    outputs, *_ = torch.lstm(inputs, (start, start), weights, True, 1, 0.0, True, False, False)
    return torch.nn.functional.mse_loss(outputs, targets)


def gru_torch(torch, params, inputs, targets):
    start = inputs.new_zeros(1, inputs.shape[1], len(params["hidden"]))
    weights = [params["input"].T, params["hidden"].T, params["input_bias"], params["hidden_bias"]]
    outputs, _ = torch.gru(inputs, start, weights, True, 1, 0.0, True, False, False)
    return torch.nn.functional.mse_loss(outputs, targets)


def sequences(random: Random, batch: int):
    return random.normal(LENGTH, batch, INPUTS), random.normal(LENGTH, batch, HIDDEN)


def lstm_example(batch: int):
    random = Random()
    params = {
        "input": random.matrix(INPUTS, 4 * HIDDEN),
        "hidden": random.matrix(HIDDEN, 4 * HIDDEN),
        "bias": zeros(4 * HIDDEN),
    }
    return params, *sequences(random, batch)


def gru_example(batch: int):
    random = Random()
    params = {
        "input": random.matrix(INPUTS, 3 * HIDDEN),
        "hidden": random.matrix(HIDDEN, 3 * HIDDEN),
        "input_bias": zeros(3 * HIDDEN),
        "hidden_bias": zeros(3 * HIDDEN),
    }
    return params, *sequences(random, batch)


BATCHES = (1, 8, 32, 64)
lstm = Workload(lstm_loss, lstm_example, "sequences", BATCHES, 1, lstm_torch, shown=BATCHES)
gru = Workload(gru_loss, gru_example, "sequences", BATCHES, 1, gru_torch, shown=BATCHES)
