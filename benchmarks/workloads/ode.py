"""A neural ordinary differential equation, solved with steps as long as its error allows.

How many steps that takes is known only afterwards, so the loop is dynamic and ``jax.grad`` raises. It is given the same
loop as a scan of fixed length that does nothing once the end is reached.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from benchmarks.workloads.workload import Random, Workload, zeros

BATCH, DIMENSIONS, HIDDEN, TOLERANCE = 16, 4, 64, 1e-3
TURNS_PER_TIME = 16  # of the loop of fixed length: about half as many again as are needed


def field(params, y):
    """dy/dt of states (batch, dimensions): a network, and a rotation that keeps the solution from settling."""
    rotated = jnp.stack([-y[:, 1], y[:, 0], -y[:, 3], y[:, 2]], axis=1)
    return rotated + jnp.tanh(y @ params["up"] + params["bias"]) @ params["down"]


def advance(params, end, state):
    """One attempted step of Bogacki and Shampine's 3(2) pair (Appl. Math. Lett. 2, 1989), and the next's length."""
    t, y, length = state
    h = jnp.minimum(length, end - t)
    k1 = field(params, y)
    k2 = field(params, y + h / 2 * k1)
    k3 = field(params, y + 3 * h / 4 * k2)
    third = y + h * (2 * k1 + 3 * k2 + 4 * k3) / 9
    k4 = field(params, third)
    error = h * (-5 * k1 / 72 + k2 / 12 + k3 / 9 - k4 / 8)
    size = jnp.sqrt(jnp.mean((error / TOLERANCE) ** 2) + 1e-12)
    accepted = size <= 1
    longer = h * jnp.clip(0.9 * size ** (-1 / 3), 0.2, 5.0)
    return jnp.where(accepted, t + h, t), jnp.where(accepted, third, y), longer


def begin(start, end):
    return jnp.zeros_like(end), start, end / 100


def unfinished(end, state):
    return end - state[0] > 1e-5 * end


def dynamic_loss(params, start, end, ticks):
    """The mean square of the state at the time ``end``. The length of ``ticks`` is not made use of."""
    _, y, _ = lax.while_loop(lambda s: unfinished(end, s), lambda s: advance(params, end, s), begin(start, end))
    return jnp.mean(y**2)


def bounded_loss(params, start, end, ticks):
    def turn(state, _):
        return lax.cond(unfinished(end, state), lambda s: advance(params, end, s), lambda s: s, state), None

    (_, y, _), _ = lax.scan(turn, begin(start, end), ticks)
    return jnp.mean(y**2)


def torch_loss(torch, params, start, end, ticks):
    def field(y):
        rotated = torch.stack([-y[:, 1], y[:, 0], -y[:, 3], y[:, 2]], dim=1)
        return rotated + torch.tanh(y @ params["up"] + params["bias"]) @ params["down"]

    t, y, length = torch.zeros_like(end), start, end / 100
    while end - t > 1e-5 * end:
        h = torch.minimum(length, end - t)
        k1 = field(y)
        k2 = field(y + h / 2 * k1)
        k3 = field(y + 3 * h / 4 * k2)
        third = y + h * (2 * k1 + 3 * k2 + 4 * k3) / 9
        k4 = field(third)
        error = h * (-5 * k1 / 72 + k2 / 12 + k3 / 9 - k4 / 8)
        size = torch.sqrt(torch.mean((error / TOLERANCE) ** 2) + 1e-12)
        if size <= 1:
            t, y = t + h, third
        length = h * torch.clip(0.9 * size ** (-1 / 3), 0.2, 5.0)
    return torch.mean(y**2)


def example(horizon: int):
    random = Random()
    params = {
        "up": random.matrix(DIMENSIONS, HIDDEN),
        "bias": random.normal(HIDDEN),
        "down": random.matrix(HIDDEN, DIMENSIONS) / 4,
    }
    return params, random.normal(BATCH, DIMENSIONS), jnp.float32(horizon), zeros(TURNS_PER_TIME * horizon)


neural_ode = Workload(
    dynamic_loss, example, "time units", (4, 16, 64), 1, torch_loss, bounded=bounded_loss, most=(("torch", 16),)
)
