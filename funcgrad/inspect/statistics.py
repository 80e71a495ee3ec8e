"""Statistics of cotangents: computed where the arrays are, fetched together at the end."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FIELDS = ("norm", "min", "max", "zeros", "nan", "inf", "dead", "size", "slices")


@jax.jit
def measure(x: jax.Array) -> jax.Array:
    """The statistics of an array, as a vector of the numbers that ``FIELDS`` names.

    ``norm``, ``min`` and ``max`` are those of the finite entries, ``zeros``, ``nan`` and ``inf`` count entries, and
    ``dead`` counts the slices along the last axis that are all zero. Of complex numbers the absolute values are taken.
    """
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = abs(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    nan, finite = jnp.isnan(x), jnp.isfinite(x)
    is_zero = x == 0
    size = abs(jnp.where(finite, x, 0))
    # Divided by the largest, or the squares of small and of large numbers would be lost.
    largest = jnp.max(size, initial=0)
    scale = jnp.where(largest > 0, largest, 1)
    norm = scale * jnp.sqrt(jnp.sum((size / scale) ** 2))
    least = jnp.min(jnp.where(finite, x, jnp.inf), initial=jnp.inf)
    most = jnp.max(jnp.where(finite, x, -jnp.inf), initial=-jnp.inf)
    has_slices = x.ndim > 1 and x.size > 0
    dead = jnp.sum(jnp.all(is_zero, range(x.ndim - 1))) if has_slices else 0
    slices = x.shape[-1] if has_slices else 0
    counts = (jnp.sum(is_zero), jnp.sum(nan), jnp.sum(~finite & ~nan), dead, x.size, slices)
    return jnp.stack([norm, least, most, *(jnp.asarray(n, x.dtype) for n in counts)])


class Statistics(NamedTuple):
    """Statistics of one cotangent; of one inside a loop, of those of all iterations, one by one in ``iterations``.

    ``size`` is the number of entries and ``slices`` that of the slices along the last axis, none for a vector.
    ``norm``, ``min``, ``max`` and ``rms`` leave out what is not finite, and are None where nothing is left.
    """

    size: int
    norm: float
    min: float | None
    max: float | None
    rms: float | None
    zeros: float
    nan: int
    inf: int
    dead: int
    slices: int
    iterations: dict[str, list[float | None]] | None

    @property
    def nonfinite(self) -> int:
        return self.nan + self.inf

    @staticmethod
    def of(rows: np.ndarray) -> Statistics:
        """Statistics of an array from its vector, or from those of one array for each iteration."""
        table = rows.reshape(-1, len(FIELDS)).astype(np.float64)
        norms, leasts, mosts, zeros, nans, infs, deads, sizes, all_slices = table.T
        norm, size, slices = math.hypot(*norms), int(sizes.max(initial=0)), int(all_slices.max(initial=0))
        nan, inf = int(nans.sum()), int(infs.sum())
        finite = len(table) * size - nan - inf
        iterations = {
            "norm": numbers(norms),
            "min": numbers(leasts),
            "max": numbers(mosts),
            "zeros": numbers(zeros / max(size, 1)),
            "nonfinite": (nans + infs).astype(int).tolist(),
        }
        return Statistics(
            size=size,
            norm=norm,
            min=number(leasts.min(initial=np.inf)),
            max=number(mosts.max(initial=-np.inf)),
            rms=number(norm / math.sqrt(finite)) if finite else None,
            zeros=float(zeros.sum() / max(size * len(table), 1)),
            nan=nan,
            inf=inf,
            # A unit is dead where it is in every iteration.
            dead=int(deads.min(initial=slices)),
            slices=slices,
            iterations=iterations if rows.ndim > 1 else None,
        )

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "norm": number(self.norm), "nonfinite": self.nonfinite}


def number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def numbers(xs: np.ndarray) -> list[float | None]:
    return [number(x) for x in xs]
