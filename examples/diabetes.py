"""A real regression: how far diabetes will have progressed in a year.

scikit-learn ships the data of 442 patients: ten measurements each, and a score of the disease's progression one year
later. A small network learns the score from the measurements, first by gradient descent written out, then by Adam from
optax. Both use one jitted step whose gradients funcgrad computes. Beside the error on patients the network has not seen
stand those of predicting the mean and of a linear regression, which is hard to beat on so few patients.

    python examples/diabetes.py
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

import funcgrad as fg

# From 331 patients a network soon learns by heart. Five-fold cross-validation on the training part chose these.
SIZES = (10, 64, 1)
STEPS = 100
SGD_STEP_SIZE = 0.0075
ADAM = optax.adam(1e-3)
MUTED, BLUE, ORANGE = "#8a8f98", "#2a6fbb", "#d9622b"


class Data(NamedTuple):
    """Measurements of shape (patients, 10) and scores of shape (patients, 1), standardised on the training part."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    y_mean: np.ndarray
    y_scale: np.ndarray

    def score(self, y) -> np.ndarray:
        """``y`` in the score's own units."""
        return np.asarray(y * self.y_scale + self.y_mean)


def load() -> Data:
    x, y = load_diabetes(return_X_y=True, scaled=False)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.float32), y.astype(np.float32)[:, None], test_size=0.25, random_state=0
    )
    x_mean, x_scale, y_mean, y_scale = x_train.mean(0), x_train.std(0), y_train.mean(0), y_train.std(0)
    return Data(
        (x_train - x_mean) / x_scale, (y_train - y_mean) / y_scale,
        (x_test - x_mean) / x_scale, (y_test - y_mean) / y_scale, y_mean, y_scale,
    )  # fmt: skip


def init(key: jax.Array):
    """An MLP whose last layer is small, so that training starts close to predicting the mean."""
    *hidden, last = fg.nn.init_mlp(key, SIZES)
    return [*hidden, jax.tree.map(lambda p: 0.1 * p, last)]


def loss(params, x, y):
    return fg.losses.mse(fg.nn.mlp(params, x), y)


# Two ways to use a gradient, each a pure function


def descend(params, grads, state):
    return fg.sgd(params, grads, SGD_STEP_SIZE), state


def adam(params, grads, state):
    updates, state = ADAM.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@partial(jax.jit, static_argnames="update")
def step(update, params, state, x, y):
    value, grads = fg.value_and_grad(loss)(params, x, y)
    params, state = update(params, grads, state)
    return params, state, value


class Training(NamedTuple):
    """Parameters at the end, and the losses on the way in units of the score's variance."""

    params: Any
    train_losses: list[float]
    test_losses: list[float]


def train(update, params, state, data: Data, progress: Progress, name: str) -> Training:
    task = progress.add_task(name, total=STEPS, loss=float("nan"))
    test_loss = jax.jit(loss)
    train_losses, test_losses = [], []
    for _ in range(STEPS):
        test_losses.append(float(test_loss(params, data.x_test, data.y_test)))
        params, state, value = step(update, params, state, data.x_train, data.y_train)
        train_losses.append(float(value))
        progress.update(task, advance=1, loss=train_losses[-1])
    return Training(params, train_losses, test_losses)


class Regression(NamedTuple):
    """What came of it: by model, the scores predicted on the test part and their mean squared errors."""

    data: Data
    sgd: Training
    adam: Training
    predictions: dict[str, np.ndarray]
    errors: dict[str, float]


def fit(data: Data, console: Console) -> Regression:
    params = init(jax.random.key(0))
    loss_column = TextColumn("loss {task.fields[loss]:.3f}")
    with Progress(TextColumn("{task.description}"), BarColumn(), loss_column, console=console) as progress:
        by_sgd = train(descend, params, None, data, progress, "gradient descent")
        by_adam = train(adam, params, ADAM.init(params), data, progress, "Adam            ")
    linear = LinearRegression().fit(data.x_train, data.y_train)
    predictions = {
        "predicting the mean": np.zeros_like(data.y_test),
        "scikit-learn's LinearRegression": linear.predict(data.x_test),
        "MLP, gradient descent": fg.nn.mlp(by_sgd.params, data.x_test),
        "MLP, Adam": fg.nn.mlp(by_adam.params, data.x_test),
    }
    predictions = {name: data.score(y) for name, y in predictions.items()}
    errors = {name: float(fg.losses.mse(y, data.score(data.y_test))) for name, y in predictions.items()}
    return Regression(data, by_sgd, by_adam, predictions, errors)


def show(regression: Regression, console: Console) -> None:
    data = regression.data
    baseline = regression.errors["predicting the mean"]
    table = Table()
    table.add_column(f"{len(data.y_test)} patients not trained on")
    table.add_column("mean squared error", justify="right")
    table.add_column("variance explained", justify="right")
    for name, error in regression.errors.items():
        table.add_row(name, f"{error:.0f}", f"{1 - error / baseline:.0%}")
    console.print(table)


def draw(regression: Regression, predictions: Any, losses: Any) -> None:
    """What is predicted beside what was measured, and the losses, each on axes of its own."""
    measured = regression.data.score(regression.data.y_test)
    ends = [measured.min(), measured.max()]
    predictions.set_title(f"Diabetes: {len(measured)} patients not trained on")
    predictions.plot(ends, ends, color=MUTED, linestyle="--", label="a perfect prediction")
    predictions.scatter(measured, regression.predictions["MLP, Adam"], s=14, color=BLUE, label="MLP, Adam")
    predictions.set(xlabel="progression measured a year later", ylabel="progression predicted")
    losses.set_title("The loss of the network")
    for name, training, color in (("gradient descent", regression.sgd, ORANGE), ("Adam", regression.adam, BLUE)):
        losses.plot(training.train_losses, color=color, linestyle=":", label=f"{name}, training part")
        losses.plot(training.test_losses, color=color, label=f"{name}, test part")
    linear = regression.errors["scikit-learn's LinearRegression"] / regression.data.y_scale.item() ** 2
    losses.axhline(linear, color=MUTED, linestyle="--", label="linear regression, test part")
    losses.set(xlabel="step", ylabel="mean squared error / variance")


def main() -> Regression:
    console = Console()
    console.rule("[bold]The progression of diabetes in 442 patients")
    regression = fit(load(), console)
    show(regression, console)
    return regression


if __name__ == "__main__":
    main()
