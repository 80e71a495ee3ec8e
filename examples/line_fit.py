"""Fit a line, and see what ``loss.backward()`` really computes.

A PyTorch tutorial article fits ``w * x + b`` to 100 noisy points on the line y = -5 x, with the mean squared error and
steps of 0.1 from w = -10, b = -20. It prints one loss and one pair of gradients: 346.0281, 53.9505 and -32.4779. This
script does the same, and puts four ways to the same gradient side by side: the formula by hand, funcgrad, ``jax.grad``,
and PyTorch where it is installed.

    python examples/line_fit.py
"""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import funcgrad as fg

START = (-10.0, -20.0)  # w, b
STEP_SIZE = 0.1
ITERATIONS = 40
INK, MUTED, ORANGE = "#1f2430", "#8a8f98", "#d9622b"


class Step(NamedTuple):
    """One iteration: the loss at w, b and its derivatives with respect to them."""

    loss: float
    dw: float
    db: float


# The article's noise is not seeded, so its numbers are one draw and ours another. SPREAD is by how much such draws vary
# (standard deviations; to first order the loss varies by 4.50 mean(x noise) + 25.6 mean(noise), and so on). The
# difference of two draws varies by sqrt(2) as much; three times that is "the same but for the noise".
ARTICLE = Step(loss=346.0281, dw=53.9505, db=-32.4779)
SPREAD = Step(loss=1.15, dw=0.154, db=0.064)
TOLERANCE = Step(*(3 * 2**0.5 * spread for spread in SPREAD))


def noisy_line(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x from -5 to 5 by 0.1, and y = -5 x with noise."""
    x = jnp.arange(-50, 50) / 10
    return x, -5 * x + 0.4 * jax.random.normal(key, x.shape)


def forward(w, b, x):
    return w * x + b


def loss(w, b, x, y):
    return fg.losses.mse(forward(w, b, x), y)


# Four ways to one gradient


def by_hand(w, b, x, y) -> Step:
    """L = mean((w x + b - y)^2), so dL/dw = 2 mean((w x + b - y) x) and dL/db = 2 mean(w x + b - y)."""
    residual = forward(w, b, x) - y
    return Step(jnp.mean(residual**2), 2 * jnp.mean(residual * x), 2 * jnp.mean(residual))


def with_funcgrad(w, b, x, y) -> Step:
    value, (dw, db) = fg.value_and_grad(loss, argnums=(0, 1))(w, b, x, y)
    return Step(value, dw, db)


def with_jax(w, b, x, y) -> Step:
    value, (dw, db) = jax.value_and_grad(loss, argnums=(0, 1))(w, b, x, y)
    return Step(value, dw, db)


def with_torch(w, b, x, y) -> Step:
    import torch

    w, b = (torch.tensor(float(v), requires_grad=True) for v in (w, b))
    x, y = (torch.tensor(np.asarray(v)) for v in (x, y))
    value = torch.nn.functional.mse_loss(w * x + b, y)
    value.backward()
    return Step(value.detach(), w.grad, b.grad)


def ways() -> dict:
    known = {"by hand": by_hand, "funcgrad": with_funcgrad, "jax.grad": with_jax}
    return {**known, "PyTorch": with_torch} if importlib.util.find_spec("torch") else known


# The training


class LineFit(NamedTuple):
    """What came of it. ``steps`` has, for the first three iterations, the ``Step`` by each way."""

    x: np.ndarray
    y: np.ndarray
    w: float
    b: float
    losses: list[float]
    steps: list[dict[str, Step]]


def train(x: jax.Array, y: jax.Array) -> LineFit:
    params = START
    losses, steps = [], []
    for iteration in range(ITERATIONS):
        value, *grads = with_funcgrad(*params, x, y)
        losses.append(float(value))
        if iteration < 3:
            steps.append({name: Step(*map(float, way(*params, x, y))) for name, way in ways().items()})
        params = fg.sgd(params, tuple(grads), STEP_SIZE)
    w, b = map(float, params)
    return LineFit(np.asarray(x), np.asarray(y), w, b, losses, steps)


def check(fit: LineFit) -> None:
    """The ways agree, the second iteration is the article's, and the line is found."""
    for step in fit.steps:
        for name, other in step.items():
            assert np.allclose(other, step["by hand"], rtol=1e-5, atol=1e-4), f"{name} differs from the formula: {step}"
    second = fit.steps[1]["funcgrad"]
    for name, ours, article, tolerance in zip(Step._fields, second, ARTICLE, TOLERANCE, strict=True):
        assert abs(ours - article) < tolerance, f"{name} = {ours}, the article has {article}"
    assert abs(fit.w + 5) < 0.06 and abs(fit.b) < 0.2, f"w = {fit.w} should be near -5, b = {fit.b} near 0"


def show(fit: LineFit, console: Console) -> None:
    names = list(fit.steps[0])
    table = Table()
    for name in ("iteration", "", *names, "the article"):
        table.add_column(name, justify="right")
    for i, step in enumerate(fit.steps):
        second = i == 1
        for field in Step._fields:
            values = [f"{getattr(step[name], field):.4f}" for name in names]
            article = f"{getattr(ARTICLE, field):.4f}" if second else ""
            first = f"{'→ ' if second else ''}{i + 1}" if field == "loss" else ""
            table.add_row(first, field, *values, article, style="bold green" if second else None)
        table.add_section()
    console.print(table)
    console.print(
        "The article prints its second iteration. Its noise is another draw than ours, which moves the loss by about "
        f"{SPREAD.loss:.2f}, dw by {SPREAD.dw:.2f} and db by {SPREAD.db:.2f}."
    )
    if "PyTorch" not in names:
        console.print("PyTorch is not installed, so its column is left out.")
    console.print(
        f"After {len(fit.losses)} steps: w = {fit.w:.3f} (the line has -5), b = {fit.b:.3f} (the line has 0), "
        f"loss {fit.losses[-1]:.3f} (the noise alone is 0.16).\n"
    )


def draw(fit: LineFit, points: Any, losses: Any) -> None:
    """The line and its loss, each on axes of its own."""
    points.set_title("A line through noisy points")
    points.scatter(fit.x, fit.y, s=14, color=MUTED, label="100 points, y = -5 x + noise")
    points.plot(fit.x, -10 * fit.x - 20, color=INK, linestyle=":", label="start: -10.00 x - 20.00")
    points.plot(fit.x, fit.w * fit.x + fit.b, color=ORANGE, linewidth=2, label=f"fit: {fit.w:.2f} x {fit.b:+.2f}")
    points.set(xlabel="x", ylabel="y")
    losses.set_title("The loss of the line")
    losses.semilogy(range(1, len(fit.losses) + 1), fit.losses, color=ORANGE, marker="o", markersize=3)
    losses.annotate(
        f"the article's iteration:\n{fit.losses[1]:.1f}", (2, fit.losses[1]), (7, fit.losses[1]), va="center",
        arrowprops={"arrowstyle": "->", "color": INK},
    )  # fmt: skip
    losses.axhline(0.16, color=MUTED, linestyle="--", label="the noise's variance, 0.16")
    losses.set(xlabel="iteration", ylabel="mean squared error")


def main() -> LineFit:
    console = Console()
    console.rule("[bold]A line through noisy points")
    fit = train(*noisy_line(jax.random.key(0)))
    show(fit, console)
    check(fit)
    return fit


if __name__ == "__main__":
    main()
