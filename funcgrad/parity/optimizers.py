"""``torch.optim`` in optax: a table of spellings that compute the same, and where the obvious ones do not.

The rows of ``OPTIMIZERS``, ``SCHEDULES`` and ``CLIPPING`` are Python expressions. The tests evaluate both sides and
take 100 steps with each, in float64; they also see to it that every ``literal`` spelling, the one that suggests itself,
is not the same. The functions here are what optax has no spelling for.

Two things need no row. optax computes schedules in float32, whatever the parameters are. And ``scheduler.step()`` is
called after each ``optimizer.step()``, so the first update uses the learning rate of step 0, as an optax schedule does;
a scheduler that is stepped once an epoch is, in optax, ``lambda count: schedule(count // steps_per_epoch)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

__all__ = [
    "CLIPPING",
    "OPTIMIZERS",
    "SCHEDULES",
    "Spelling",
    "adagrad",
    "amsgrad",
    "clip_grad_norm",
    "damped_trace",
    "onecycle",
]


class Spelling(NamedTuple):
    """One optimizer or schedule on both sides.

    ``torch`` is an expression of ``params`` or, for a schedule, of ``optimizer``; ``optax`` takes the same steps.
    ``literal`` is what one might write instead, and ``differs`` says what it does then.
    """

    torch: str
    optax: str
    literal: str = ""
    differs: str = ""


OPTIMIZERS = (
    Spelling(
        "torch.optim.SGD(params, lr=0.1)",
        "optax.sgd(0.1)",
    ),
    Spelling(
        "torch.optim.SGD(params, lr=0.1, momentum=0.9)",
        "optax.sgd(0.1, momentum=0.9)",
    ),
    Spelling(
        "torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True)",
        "optax.sgd(0.1, momentum=0.9, nesterov=True)",
    ),
    Spelling(
        "torch.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.5)",
        "optax.chain(damped_trace(0.9, 0.5), optax.scale_by_learning_rate(0.1))",
        "optax.chain(optax.scale(0.5), optax.sgd(0.1, momentum=0.9))",
        "torch does not dampen the first gradient: the momentum starts as it is.",
    ),
    Spelling(
        "torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01)",
        "optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9))",
        "optax.chain(optax.sgd(0.1, momentum=0.9), optax.add_decayed_weights(-0.1 * 0.01))",
        "torch adds the decay to the gradient, so that it goes through the momentum.",
    ),
    Spelling(
        "torch.optim.Adam(params, lr=0.01)",
        "optax.adam(0.01)",
        "optax.adam(0.01, eps=0.0, eps_root=1e-8)",
        "eps is outside the root in both; eps_root is the one inside, and torch has none.",
    ),
    Spelling(
        "torch.optim.Adam(params, lr=0.01, weight_decay=0.01)",
        "optax.chain(optax.add_decayed_weights(0.01), optax.adam(0.01))",
        "optax.adamw(0.01, weight_decay=0.01)",
        "Adam's decay is part of the gradient that is rescaled; only AdamW's is decoupled from it.",
    ),
    Spelling(
        "torch.optim.Adam(params, lr=0.01, amsgrad=True)",
        "optax.chain(amsgrad(), optax.scale_by_learning_rate(0.01))",
        "optax.amsgrad(0.01)",
        "torch takes the maximum of second moments before correcting their bias, optax after.",
    ),
    Spelling(
        "torch.optim.AdamW(params, lr=0.01)",
        "optax.adamw(0.01, weight_decay=0.01)",
        "optax.adamw(0.01)",
        "The default decay is 1e-2 in torch and 1e-4 in optax. Both multiply it by the learning rate.",
    ),
    Spelling(
        "torch.optim.RMSprop(params, lr=0.01)",
        "optax.rmsprop(0.01, decay=0.99, eps_in_sqrt=False)",
        "optax.rmsprop(0.01, decay=0.99)",
        "torch adds eps to the root, optax to what is under it. The default decay is 0.99 in torch and 0.9 in optax.",
    ),
    Spelling(
        "torch.optim.RMSprop(params, lr=0.01, centered=True, momentum=0.9)",
        "optax.rmsprop(0.01, decay=0.99, eps_in_sqrt=False, centered=True, momentum=0.9)",
        "optax.rmsprop(0.01, decay=0.99, centered=True, momentum=0.9)",
        "As above.",
    ),
    Spelling(
        "torch.optim.lr_scheduler.ExponentialLR(torch.optim.RMSprop(params, lr=0.01, momentum=0.9), gamma=0.97)",
        "optax.chain(optax.scale_by_rms(0.99, eps_in_sqrt=False), optax.trace(0.9), "
        "optax.scale_by_learning_rate(lambda count: 0.01 * 0.97**count))",
        "optax.rmsprop(lambda count: 0.01 * 0.97**count, decay=0.99, eps_in_sqrt=False, momentum=0.9)",
        "optax.rmsprop scales by the rate before the momentum, which then remembers old rates; torch scales after it.",
    ),
    Spelling(
        "torch.optim.Adagrad(params, lr=0.1)",
        "optax.chain(adagrad(), optax.scale_by_learning_rate(0.1))",
        "optax.adagrad(0.1)",
        "optax starts the sum of squares at 0.1, with eps = 1e-7 inside the root; torch at 0, with 1e-10 outside.",
    ),
    Spelling(
        "torch.optim.Adagrad(params, lr=0.1, lr_decay=0.01)",
        "optax.chain(adagrad(), optax.scale_by_learning_rate(lambda count: 0.1 / (1 + 0.01 * count)))",
        "optax.chain(adagrad(), optax.scale_by_learning_rate(lambda count: 0.1 / (1 + 0.01 * (count + 1))))",
        "torch's first step is not decayed.",
    ),
)

#: Each with ``torch.optim.SGD(params, lr=0.1)``, the optax schedule being its learning rate.
SCHEDULES = (
    Spelling(
        "torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=10)",
        "optax.piecewise_constant_schedule(0.05, {10: 2.0})",
    ),
    Spelling(
        "torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)",
        "optax.exponential_decay(0.1, transition_steps=30, decay_rate=0.1, staircase=True)",
        "optax.exponential_decay(0.1, transition_steps=30, decay_rate=0.1)",
        "Without staircase the rate falls a little at every step.",
    ),
    Spelling(
        "torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[30, 80], gamma=0.1)",
        "optax.piecewise_constant_schedule(0.1, {30: 0.1, 80: 0.1})",
        "optax.piecewise_constant_schedule(0.1, {30: 0.1, 80: 0.01})",
        "Each scale multiplies what those before it have left.",
    ),
    Spelling(
        "torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.97)",
        "optax.exponential_decay(0.1, transition_steps=1, decay_rate=0.97)",
    ),
    Spelling(
        "torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=20)",
        "optax.linear_schedule(0.1 * 0.1, 0.1, transition_steps=20)",
        "optax.linear_schedule(0.0, 0.1, transition_steps=20)",
        "torch's start_factor must not be 0: a warm-up there does not begin at nothing.",
    ),
    Spelling(
        "torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=80, power=2.0)",
        "optax.polynomial_schedule(0.1, 0.0, power=2.0, transition_steps=80)",
    ),
    Spelling(
        "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=0.001)",
        "optax.cosine_decay_schedule(0.1, decay_steps=100, alpha=0.001 / 0.1)",
        "optax.cosine_decay_schedule(0.1, decay_steps=100, alpha=0.001)",
        "eta_min is a learning rate, alpha a fraction of the first one. After T_max torch's rate rises again.",
    ),
    Spelling(
        "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=40)",
        "lambda count: optax.cosine_decay_schedule(0.1, decay_steps=40)(count % 40)",
        "optax.cosine_decay_schedule(0.1, decay_steps=40)",
        "optax's schedule ends after one decay.",
    ),
    Spelling(
        "torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=100, cycle_momentum=False)",
        "onecycle(0.1, total_steps=100)",
        "optax.cosine_onecycle_schedule(100, 0.1)",
        "torch reaches the peak at step 0.3 * 100 - 1 and the end at step 99, optax one step later each. torch cycles "
        "the momentum too unless told not to.",
    ),
    Spelling(
        "torch.optim.lr_scheduler.SequentialLR(optimizer, ["
        "torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10), "
        "torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)], milestones=[10])",
        "optax.warmup_cosine_decay_schedule(0.1 * 0.1, 0.1, warmup_steps=10, decay_steps=100)",
        "optax.warmup_cosine_decay_schedule(0.1 * 0.1, 0.1, warmup_steps=10, decay_steps=90)",
        "optax's decay_steps counts the warm-up.",
    ),
)

CLIPPING = (
    Spelling(
        "torch.nn.utils.clip_grad_norm_(params, 0.5)",
        "clip_grad_norm(0.5)",
        "optax.clip_by_global_norm(0.5)",
        "torch divides by the norm plus 1e-6.",
    ),
    Spelling("torch.nn.utils.clip_grad_value_(params, 0.1)", "optax.clip(0.1)"),
)


# What optax has no spelling for. ``updates`` are gradients on their way through a chain.


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


class Moments(NamedTuple):
    steps: jax.Array
    first: Any
    second: Any
    largest: Any


def amsgrad(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """The rescaling of ``torch.optim.Adam(amsgrad=True)``: by the largest second moment so far, then unbiased.

    The maximum is that of Reddi et al. 2018 (arXiv:1904.09237), who correct no bias.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros, zeros)

    def update(updates, state, params=None):
        steps = state.steps + 1
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.first, updates)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.second, updates)
        largest = jax.tree.map(jnp.maximum, state.largest, second)

        def scaled(m, v):
            return (m / (1 - b1**steps)) / (jnp.sqrt(v / (1 - b2**steps)) + eps)

        return jax.tree.map(scaled, first, largest), Moments(steps, first, second, largest)

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
