"""See what a network looks at: three ways to take the gradient of a score with respect to the image.

A small convolutional network learns to read scikit-learn's handwritten digits. Then, for a few digits that it has not
seen, the gradient of its score for the right answer is drawn beside the image: as it is, by guided backpropagation and
by a deconvnet. The last two are other rules for ``jax.nn.relu``, passed to ``fg.grad``; the network is not touched.

    python examples/saliency.py [PICTURE]
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import funcgrad as fg

STEPS = 150
CHANNELS = (1, 16, 32)
ADAM = optax.adam(3e-3)
WAYS = {
    "gradient": fg.rules.default,
    "guided backpropagation": fg.rules.guided_backpropagation,
    "deconvnet": fg.rules.deconvnet,
}


def load() -> tuple[np.ndarray, ...]:
    """Images of shape (images, 8, 8), from 0 to 1, and the digits they show: to train on, and to test."""
    digits = load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        (digits.images / 16).astype(np.float32), digits.target, test_size=0.25, random_state=0
    )
    return x_train, y_train, x_test, y_test


def init(key: jax.Array):
    first, second, last = jax.random.split(key, 3)
    normal = jax.nn.initializers.he_normal(in_axis=1, out_axis=0)
    kernels = [normal(k, (m, n, 3, 3)) for k, n, m in zip((first, second), CHANNELS[:-1], CHANNELS[1:], strict=True)]
    return {"kernels": kernels, "dense": fg.nn.init_mlp(last, [CHANNELS[-1] * 16, 10])}


def scores(params, images):
    """Shape (images, 10), of images of shape (images, 8, 8)."""
    x = images[:, None]
    for kernel in params["kernels"]:
        x = jax.nn.relu(lax.conv(x, kernel, (1, 1), "SAME"))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return fg.nn.mlp(params["dense"], x.reshape(len(images), -1))


def loss(params, images, digits):
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(scores(params, images), digits))


@jax.jit
def step(params, state, images, digits):
    grads = fg.grad(loss)(params, images, digits)
    updates, state = ADAM.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def train(images: np.ndarray, digits: np.ndarray):
    params = init(jax.random.key(0))
    state = ADAM.init(params)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        batch = rng.integers(0, len(images), 128)
        params, state = step(params, state, images[batch], digits[batch])
    return params


@partial(jax.jit, static_argnames="rules")
def saliency(params, image, digit, rules: fg.rules.RuleTable):
    """The gradient of the digit's score with respect to the image, of shape (8, 8)."""
    return fg.grad(lambda image: scores(params, image[None])[0, digit], rules=rules)(image)


class Saliency(NamedTuple):
    """Images and digits that were not trained on, and by each way the gradients, of the images' shape."""

    images: np.ndarray
    digits: np.ndarray
    gradients: dict[str, np.ndarray]
    accuracy: float


def fit() -> Saliency:
    x_train, y_train, x_test, y_test = load()
    params = train(x_train, y_train)
    accuracy = float(jnp.mean(jnp.argmax(scores(params, x_test), -1) == y_test))
    shown = [int(np.argmax(y_test == digit)) for digit in (0, 2, 3, 5, 7, 8)]
    images, digits = x_test[shown], y_test[shown]
    gradients = {
        name: np.stack([saliency(params, image, digit, rules) for image, digit in zip(images, digits, strict=True)])
        for name, rules in WAYS.items()
    }
    return Saliency(images, digits, gradients, accuracy)


def draw(result: Saliency, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: dict[str, Any] = {"image": result.images, **result.gradients}
    figure = Figure(figsize=(1.6 * len(result.digits) + 1.2, 1.7 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(result.digits))
    for (name, pictures), axes_of_row in zip(rows.items(), panels, strict=True):
        for axes, picture in zip(axes_of_row, pictures, strict=True):
            largest = np.abs(picture).max()
            colours = dict(cmap="gray_r", vmin=0) if name == "image" else dict(cmap="RdBu_r", vmin=-largest)
            axes.imshow(picture, vmax=largest, **colours)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        axes_of_row[0].set_ylabel(name.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=11)
    figure.savefig(path, pad_inches=0.15, bbox_inches="tight")


def main(path: Path = Path("saliency.png")) -> Saliency:
    console = Console()
    console.rule("[bold]What a network looks at")
    result = fit()
    console.print(f"The network reads {result.accuracy:.1%} of the digits that it was not trained on.")
    draw(result, path)
    console.print(f"What it looks at, red where more ink would raise the score and blue where less: {path.resolve()}\n")
    return result


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
