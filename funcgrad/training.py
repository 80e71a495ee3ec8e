"""Training as pure functions: parameters in, parameters out."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

__all__ = ["sgd"]

Params = TypeVar("Params")


def sgd(params: Params, grads: Params, step_size: jax.typing.ArrayLike) -> Params:
    """One step of gradient descent, ``param - step_size * grad`` for every leaf.

    Args:
      params: a pytree of arrays or floats.
      grads: a pytree of the same structure, as ``funcgrad.grad`` returns it.
      step_size: a scalar; it may be an array, so a schedule does not compile anew at every step.

    Returns:
      The new parameters, with the structure and dtypes of ``params``.

    >>> params = {"w": jnp.array(1.0), "b": jnp.array(0.0)}
    >>> sgd(params, {"w": 2.0, "b": -1.0}, 0.5)
    {'b': Array(0.5, dtype=float32), 'w': Array(0., dtype=float32)}
    """

    def step(param: Any, grad: Any) -> jax.Array:
        return jnp.subtract(param, step_size * grad).astype(jnp.result_type(param))

    stepped: Params = jax.tree.map(step, params, grads)
    return stepped
