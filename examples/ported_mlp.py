"""Port a model from PyTorch, and train both: is the difference rounding or a bug?

A small network learns to read scikit-learn's handwritten digits. It is written in PyTorch, then ported: its weights
are taken over, its loss is written again, and ``fg.parity.compare`` says whether the gradients are the same. Then both
train for 200 steps on the same batches, and their losses are drawn in one picture. In float32 the curves are not equal
to the last bit, since rounding adds up from step to step; how much it may is seen by training both in float64 too.

    python examples/ported_mlp.py [PICTURE]
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from torch import nn

import funcgrad as fg

STEPS = 200
BATCH = 64
LEARNING_RATE = 3e-3
MAX_NORM = 1.0


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Images of shape (64, 64), a row each, and the digits they show, in the order both sides see them."""
    images, digits = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).integers(0, len(images), (STEPS, BATCH))
    return [((images[i] / 16).astype(np.float32), digits[i]) for i in rows]


# The original


def original() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def train_original(model: nn.Module, data: list, dtype: torch.dtype) -> np.ndarray:
    """The loss at each step."""
    model = copy.deepcopy(model).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.tensor(x, dtype=dtype)), torch.tensor(y))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


# The port


def loss(params, x, y):
    logits = fg.nn.mlp(list(params.values()), x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


# Not optax.clip_by_global_norm, which does not add PyTorch's 1e-6, nor optax.adamw's own default decay.
OPTIMIZER = optax.chain(fg.parity.optimizers.clip_grad_norm(MAX_NORM), optax.adamw(LEARNING_RATE, weight_decay=0.01))


@jax.jit
def step(params, state, x, y):
    value, grads = fg.value_and_grad(loss)(params, x, y)
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


def train_port(params: Any, data: list, dtype: Any) -> np.ndarray:
    """The loss at each step."""
    with jax.enable_x64(dtype == np.float64):
        params = jax.tree.map(lambda p: np.asarray(p, dtype), params)
        state = OPTIMIZER.init(params)
        losses = []
        for x, y in data:
            params, state, value = step(params, state, x.astype(dtype), y)
            losses.append(float(value))
        return np.array(losses)


# Both


class Ported(NamedTuple):
    """The comparison before training, and the losses of both sides in both precisions."""

    report: fg.parity.ParityReport
    torch: np.ndarray
    jax: np.ndarray
    torch64: np.ndarray
    jax64: np.ndarray


def main() -> Ported:
    console = Console()
    console.rule("[bold]A network for handwritten digits, ported from PyTorch")
    data = batches()
    model = original()
    params = fg.parity.params_of(model, layout="jax")
    torch_loss = fg.parity.module_loss(model, nn.functional.cross_entropy, layout="jax")
    report = fg.parity.compare(loss, torch_loss, params, *data[0])
    print(report)
    report.raise_if_mismatch()

    ported = Ported(
        report,
        train_original(model, data, torch.float32),
        train_port(params, data, np.float32),
        train_original(model, data, torch.float64),
        train_port(params, data, np.float64),
    )
    console.print(
        f"\nAfter {STEPS} steps the losses are {ported.torch[-1]:.7f} and {ported.jax[-1]:.7f}. On the way they are at "
        f"most {np.abs(ported.torch - ported.jax).max():.1e} apart, and in float64 "
        f"{np.abs(ported.torch64 - ported.jax64).max():.1e}."
    )
    return ported


def draw(ported: Ported, path: Path) -> None:
    """Both loss curves, and below them how far apart they are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    curves, gaps = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    curves.set_title("One network, trained in PyTorch and in JAX", fontweight="bold")
    curves.plot(ported.torch, color="#d9622b", linewidth=4, alpha=0.5, label="PyTorch")
    curves.plot(ported.jax, color="#2a6fbb", linewidth=1, label="JAX, gradients by funcgrad")
    curves.set(ylabel="cross entropy of the batch")
    apart = [
        (ported.torch - ported.jax, "#1f2430", "-", "float32: PyTorch to JAX"),
        (ported.torch - ported.torch64, "#d9622b", ":", "PyTorch: float32 to float64"),
        (ported.jax - ported.jax64, "#2a6fbb", ":", "JAX: float32 to float64"),
        (ported.torch64 - ported.jax64, "#8a8f98", "-", "float64: PyTorch to JAX"),
    ]
    for gap, color, style, label in apart:
        gaps.semilogy(np.where(gap == 0, np.nan, np.abs(gap)), color=color, linestyle=style, linewidth=1, label=label)
    gaps.set(xlabel="step", ylabel="distance of losses")
    for axes in (curves, gaps):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    picture = Path(sys.argv[1] if len(sys.argv) > 1 else "ported_mlp.png").resolve()
    draw(main(), picture)
    print(f"The picture of it: {picture}")
