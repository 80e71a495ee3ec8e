"""Writes ``optimizers.md``: ``torch.optim`` in optax, from the table that the tests verify.

python -m docs.generate_optimizers

The rows of ``OPTIMIZERS``, ``SCHEDULES`` and ``CLIPPING`` are Python expressions. The tests evaluate both sides and
take 100 steps with each, in float64; they also see to it that every ``literal`` spelling, the one that suggests itself,
is not the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).parent / "optimizers.md"

INTRODUCTION = """\
# PyTorch's optimizers in optax

Each pair below takes the same steps. The tests take 100 of them with both, in float64, and see to it that the spelling
that suggests itself, where one is given, takes others. `clip_grad_norm`, `adagrad`, `amsgrad`, `damped_trace` and
`onecycle` are in `fg.parity.optimizers`: optax has no spelling for them.

Two things hold for all. `scheduler.step()` is called after each `optimizer.step()`, so the first update uses the
learning rate of step 0, as an optax schedule does; a scheduler that is stepped once an epoch is, in optax,
`lambda count: schedule(count // steps_per_epoch)`. And optax computes schedules and Adam's bias corrections in float32
where PyTorch uses Python's floats, so in float32 training the last digits differ.
"""


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


def page() -> str:
    sections = [
        INTRODUCTION,
        *section("Optimizers", OPTIMIZERS),
        *section("Learning rates", SCHEDULES, "The optimizer has lr=0.1, and the optax schedule stands for its rate."),
        *section("Clipping", CLIPPING, "In optax, clipping comes first in the chain."),
    ]
    return "\n".join(sections)


def section(title: str, rows: Iterable[Spelling], text: str = "") -> Iterable[str]:
    yield f"## {title}\n"
    if text:
        yield f"{text}\n"
    yield "| PyTorch<br>optax | what suggests itself | and what it does |\n| --- | --- | --- |"
    for row in rows:
        differs = row.differs.replace("_", "\\_").replace("*", "\\*")
        yield f"| {code(row.torch)}<br>{code(row.optax)} | {code(row.literal)} | {differs} |"
    yield ""


def code(text: str) -> str:
    return text and f"`{text.replace('torch.optim.lr_scheduler.', 'lr_scheduler.')}`"


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
