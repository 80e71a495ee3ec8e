"""Losses: pure functions from predictions and targets to a scalar."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["mse"]


def mse(predictions: jax.typing.ArrayLike, targets: jax.typing.ArrayLike) -> jax.Array:
    """The mean squared error, mean((predictions - targets)^2).

    Args:
      predictions: an array of any shape.
      targets: an array of the same shape, or a scalar for all of them.

    Raises:
      ValueError: the shapes differ. Broadcasting (n, 1) against (n,) would silently compare every pair.

    >>> mse(jax.numpy.array([1.0, 2.0]), jax.numpy.array([1.0, 4.0]))
    Array(2., dtype=float32)
    """
    shape, target_shape = jnp.shape(predictions), jnp.shape(targets)
    if shape != target_shape and target_shape != ():
        raise ValueError(
            f"predictions have shape {shape} but targets have shape {target_shape}. Give both the same shape, for "
            "instance with .reshape or [:, None]."
        )
    return jnp.mean(jnp.square(jnp.subtract(predictions, targets)))
