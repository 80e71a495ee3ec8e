"""The table of optimizers, schedules and clipping: 100 steps on both sides."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from docs.generate_optimizers import CLIPPING, OPTIMIZERS, SCHEDULES, Spelling
from funcgrad.parity import optimizers

pytestmark = pytest.mark.torch

STEPS = 100
NAMES = {"torch": torch, "optax": optax, **{name: getattr(optimizers, name) for name in optimizers.__all__}}
#: A bowl that is steep in some directions and flat in others; nothing has converged after 100 steps.
CURVATURE = np.linspace(0.01, 1.0, 6)
START = np.random.default_rng(0).normal(size=6)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def meaning(text: str, **names):
    return eval(text, NAMES | names)


def torch_steps(optimizer_text: str, scheduler_text: str = "", clip_text: str = "") -> np.ndarray:
    """The parameters after each step, downhill in the bowl."""
    params = [torch.tensor(START, requires_grad=True)]
    optimizer = meaning(optimizer_text, params=params)
    scheduler = meaning(scheduler_text, optimizer=optimizer) if scheduler_text else None
    if isinstance(optimizer, torch.optim.lr_scheduler.LRScheduler):
        scheduler, optimizer = optimizer, optimizer.optimizer
    path = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        (torch.tensor(CURVATURE) * params[0] ** 2 / 2).sum().backward()
        if clip_text:
            meaning(clip_text, params=params)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        path.append(params[0].detach().numpy().copy())
    return np.array(path)


def optax_steps(transformation: optax.GradientTransformation) -> np.ndarray:
    def step(carry, _):
        x, state = carry
        updates, state = transformation.update(CURVATURE * x, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.asarray(START)
    return np.asarray(jax.lax.scan(step, (start, transformation.init(start)), None, length=STEPS)[1])


def gap(expected: np.ndarray, got: np.ndarray) -> float:
    return float(np.max(np.abs(expected - got)) / np.max(np.abs(START)))


def check(row: Spelling, expected: np.ndarray, transformation) -> None:
    assert gap(expected, optax_steps(transformation(row.optax))) < 1e-12
    assert bool(row.literal) <= bool(row.differs)
    if row.literal:
        assert gap(expected, optax_steps(transformation(row.literal))) > 1e-9


def name(row: Spelling) -> str:
    return row.torch.removeprefix("torch.optim.").removeprefix("lr_scheduler.").removeprefix("torch.nn.utils.")[:60]


@pytest.mark.parametrize("row", OPTIMIZERS, ids=name)
def test_optax_takes_the_steps_of_an_optimizer_and_the_literal_spelling_does_not(row):
    check(row, torch_steps(row.torch), meaning)


@pytest.mark.parametrize("row", SCHEDULES, ids=name)
def test_an_optax_schedule_is_the_scheduler_and_the_literal_spelling_is_not(row):
    # With an integer count optax computes in float32.
    def descend(text):
        return optax.sgd(lambda count: meaning(text)(count.astype(np.float64)))

    check(row, torch_steps("torch.optim.SGD(params, lr=0.1)", row.torch), descend)


@pytest.mark.parametrize("row", CLIPPING, ids=name)
def test_gradients_are_clipped_alike(row):
    expected = torch_steps("torch.optim.SGD(params, lr=0.1)", clip_text=row.torch)
    check(row, expected, lambda s: optax.chain(meaning(s), optax.sgd(0.1)))
