"""Train a network whose weights take three values, through a rounding that has no gradient.

A small network learns to read scikit-learn's handwritten digits with weights of two bits: each is -s, 0 or s, for one s
per layer. Rounding a trained network to that costs much of what it has learned. Training the rounded one leads nowhere:
rounding is flat, so that but for s no gradient comes through to the weights. A straight-through estimator takes the
gradient at the rounded weights for that at the weights behind them. It is a rule of the rounding, an argument of
``fg.grad``; the model is the same in all cases.

    python examples/quantized_mlp.py
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import funcgrad as fg

SIZES = (64, 32, 10)
STEPS = 300
BITS = 2
ADAM = optax.adam(1e-2)


@jax.jit
def quantise(weight):
    """``weight`` rounded to 2**BITS - 1 evenly spaced values, zero among them."""
    step = 2 * jnp.std(weight) / (2 ** (BITS - 1) - 1)
    return step * jnp.clip(jnp.round(weight / step), 1 - 2 ** (BITS - 1), 2 ** (BITS - 1) - 1)


#: The rule of all of ``quantise``, wherever it is called: the cotangent passes. Without it the table would let the
#: cotangent through the rounding, but not through the clipping.
STRAIGHT_THROUGH = fg.rules.straight_through.override({quantise: lambda ct: ct})


class Data(NamedTuple):
    """Images of shape (images, 64), from 0 to 1, and the digits they show."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load() -> Data:
    images, digits = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images / 16, digits, test_size=0.25, random_state=0)
    return Data(x_train.astype(np.float32), y_train, x_test.astype(np.float32), y_test)


def rounded(params):
    """The network with its weights quantised. Biases are few, and stay as they are."""
    return [{**layer, "weight": quantise(layer["weight"])} for layer in params]


def loss(params, x, y, quantised: bool):
    logits = fg.nn.mlp(rounded(params) if quantised else params, x)
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, y))


@partial(jax.jit, static_argnames=("quantised", "rules"))
def step(params, state, x, y, quantised: bool, rules: fg.rules.RuleTable):
    value, grads = fg.value_and_grad(loss, rules=rules)(params, x, y, quantised)
    updates, state = ADAM.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value


def train(data: Data, quantised: bool, rules: fg.rules.RuleTable) -> Any:
    params = fg.nn.init_mlp(jax.random.key(0), SIZES)
    state = ADAM.init(params)
    for _ in range(STEPS):
        params, state, _ = step(params, state, data.x_train, data.y_train, quantised, rules)
    return params


def accuracy(params, data: Data) -> float:
    return float(jnp.mean(jnp.argmax(fg.nn.mlp(params, data.x_test), -1) == data.y_test))


def main() -> dict[str, float]:
    console = Console()
    console.rule("[bold]Digits, by a network of two-bit weights")
    data = load()
    full = train(data, False, fg.rules.default)
    by_default, through = (train(data, True, rules) for rules in (fg.rules.default, STRAIGHT_THROUGH))
    accuracies = {
        "float32": accuracy(full, data),
        "float32, then rounded": accuracy(rounded(full), data),
        "rounded, the rounding's own gradient": accuracy(rounded(by_default), data),
        "rounded, straight through": accuracy(rounded(through), data),
    }
    table = Table()
    table.add_column("how it was trained")
    table.add_column(f"of {len(data.y_test)} digits right", justify="right")
    for name, share in accuracies.items():
        table.add_row(name, f"{share:.1%}")
    console.print(table)
    values = [len(np.unique(layer["weight"])) for layer in rounded(through)]
    console.print(f"Its layers have weights of {values} different values.\n")
    return accuracies


if __name__ == "__main__":
    main()
