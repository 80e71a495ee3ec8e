"""What a benchmarked program is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Workload:
    """A scalar loss, differentiated with respect to its first argument.

    Attributes:
      loss: ``loss(params, *data)`` in plain JAX, of any floating dtype.
      example: ``example(size)`` makes ``(params, *data)``, pytrees of float32 and int32 arrays.
      size: what a size counts, in the plural.
      sizes: those measured, ascending.
      tiny: one at which everything is fast, for tests.
      torch: ``torch(module, params, *data)``, the same loss of tensors as PyTorch's users write it, given the module
        so that nothing here imports it; or a string, why there is none.
      bounded: where ``jax.grad`` cannot differentiate ``loss``, what it is given instead: the same value by a loop of
        fixed length.
      nested: whether ``loss`` takes a gradient itself, by the transform in its keyword ``grad``.
      most: the largest size that "jax" or "torch" is measured at, where it could not stand more.
      once: the size at which what hardly depends on it is measured: tracing, an eager call, compiling. The first if 0.
      shown: the sizes with a row of their own in the summary. The last that ``jax.grad`` is measured at if empty.
    """

    loss: Callable
    example: Callable[[int], tuple]
    size: str
    sizes: tuple[int, ...]
    tiny: int
    torch: Callable | str
    bounded: Callable | None = None
    nested: bool = False
    most: tuple[tuple[str, int], ...] = ()
    once: int = 0
    shown: tuple[int, ...] = ()

    def measured(self, rival: str, size: int) -> bool:
        """Whether ``rival``, "jax" or "torch", is measured at ``size``."""
        if rival == "torch" and isinstance(self.torch, str):
            return False
        return size <= dict(self.most).get(rival, size)


class Random:
    """Example data: float32 and int32 arrays from one seeded stream."""

    def __init__(self, seed: int = 0):
        self.stream = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * self.stream.standard_normal(shape), jnp.float32)

    def matrix(self, rows: int, columns: int) -> jax.Array:
        """Entries scaled by the root of the fan-in."""
        return self.normal(rows, columns, scale=rows**-0.5)

    def uniform(self, low: float, high: float, *shape: int) -> jax.Array:
        return jnp.asarray(self.stream.uniform(low, high, shape), jnp.float32)

    def integers(self, high: int, *shape: int) -> jax.Array:
        return jnp.asarray(self.stream.integers(high, size=shape), jnp.int32)


def zeros(*shape: int) -> Any:
    return jnp.zeros(shape, jnp.float32)
