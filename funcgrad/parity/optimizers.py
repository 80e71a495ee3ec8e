"""What of ``torch.optim`` optax has no spelling for, as optax has it.

``docs/optimizers.md`` has the spellings of all else, those that compute the same and the obvious ones that do not.
``updates`` are gradients on their way through a chain.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

__all__ = ["adagrad", "amsgrad", "clip_grad_norm", "damped_trace", "onecycle"]


def clip_grad_norm(max_norm: float) -> optax.GradientTransformation:
    """``torch.nn.utils.clip_grad_norm_``: gradients times max_norm / (norm + 1e-6) where that is less than 1.

    >>> updates, _ = clip_grad_norm(1.0).update({"w": jnp.array([3.0, 4.0])}, optax.EmptyState())
    >>> print(updates["w"])
    [0.59999... 0.79999...]
    """

    def clipped(updates: Any, params: Any) -> Any:
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates)

    return optax.stateless(clipped)


def adagrad(initial_accumulator_value: float = 0.0, eps: float = 1e-10) -> optax.GradientTransformation:
    """The rescaling of ``torch.optim.Adagrad``: g / (sqrt(sum of g^2) + eps), with no learning rate yet."""

    def init(params):
        return optax.tree.full_like(params, initial_accumulator_value)

    def update(updates, sums, params=None):
        sums = jax.tree.map(lambda s, g: s + g * g, sums, updates)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), updates, sums), sums

    return optax.GradientTransformation(init, update)


def amsgrad(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """The rescaling of ``torch.optim.Adam(amsgrad=True)``: by the largest second moment so far, then unbiased.

    The maximum is that of Reddi et al. 2018 (arXiv:1904.09237), who correct no bias.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAmsgradState(jnp.zeros((), jnp.int32), zeros, zeros, zeros)

    def update(updates, state, params=None):
        steps = state.count + 1
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        largest = jax.tree.map(jnp.maximum, state.nu_max, second)

        def scaled(m, v):
            return (m / (1 - b1**steps)) / (jnp.sqrt(v / (1 - b2**steps)) + eps)

        return jax.tree.map(scaled, first, largest), optax.ScaleByAmsgradState(steps, first, second, largest)

    return optax.GradientTransformation(init, update)


def damped_trace(momentum: float, dampening: float) -> optax.GradientTransformation:
    """The momentum of ``torch.optim.SGD(dampening=...)``: all gradients but the first are times 1 - dampening."""
    damp = optax.scale_by_schedule(lambda count: jnp.where(count == 0, 1.0, 1.0 - dampening))
    return optax.chain(damp, optax.trace(momentum))


def onecycle(
    max_lr: float, total_steps: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> optax.Schedule:
    """``torch.optim.lr_scheduler.OneCycleLR``: cosines from max_lr / div_factor up to max_lr at step
    pct_start * total_steps - 1, and down to max_lr / div_factor / final_div_factor at step total_steps - 1."""
    start, peak, last = max_lr / div_factor, pct_start * total_steps - 1, total_steps - 1

    def between(a, b, fraction):
        return b + (a - b) * (1 + jnp.cos(jnp.pi * fraction)) / 2

    def schedule(count):
        rising = between(start, max_lr, count / peak)
        falling = between(max_lr, start / final_div_factor, (count - peak) / (last - peak))
        return jnp.where(count <= peak, rising, falling)

    return schedule
