"""Neural networks as pure functions over a pytree of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

__all__ = ["init_mlp", "linear", "mlp"]

#: The parameters of one layer: ``weight`` of shape (inputs, outputs) and ``bias`` of shape (outputs,).
Layer = dict[str, jax.Array]


def linear(params: Layer, x: jax.Array) -> jax.Array:
    """``x @ weight + bias``, from shape (..., inputs) to (..., outputs).

    >>> linear({"weight": jnp.eye(2), "bias": jnp.ones(2)}, jnp.array([1.0, 2.0]))
    Array([2., 3.], dtype=float32)
    """
    return x @ params["weight"] + params["bias"]


def init_mlp(key: jax.Array, sizes: Sequence[int]) -> list[Layer]:
    """Parameters of a multilayer perceptron, one layer for each pair of neighbours in ``sizes``.

    Weights are normal with variance 2 / inputs, which keeps the scale of activations through ReLUs (He et al. 2015,
    arXiv:1502.01852); biases are zero.

    >>> params = init_mlp(jax.random.key(0), [10, 32, 1])
    >>> [layer["weight"].shape for layer in params]
    [(10, 32), (32, 1)]
    """
    if len(sizes) < 2:
        raise ValueError(f"an MLP needs at least the sizes of its input and output, such as [10, 1]; got {list(sizes)}")

    def layer(key: jax.Array, inputs: int, outputs: int) -> Layer:
        scale = jnp.sqrt(2 / inputs)
        return {"weight": scale * jax.random.normal(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}

    keys = jax.random.split(key, len(sizes) - 1)
    return [layer(*args) for args in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def mlp(params: Sequence[Layer], x: jax.Array, activation: Callable[[jax.Array], jax.Array] = jax.nn.relu) -> jax.Array:
    """A multilayer perceptron, from shape (..., inputs) to (..., outputs): ``activation`` between linear layers.

    >>> mlp(init_mlp(jax.random.key(0), [10, 32, 1]), jnp.ones((5, 10))).shape
    (5, 1)
    """
    *hidden, last = params
    for layer in hidden:
        x = activation(linear(layer, x))
    return linear(last, x)
