"""Slopes of the incomplete gamma and beta functions in their parameters, by quadrature.

Both functions are probabilities, that a gamma or beta variable is less than x, of a density that is log-concave in
u = log t or logit t. The derivative of log density in a parameter has mean 0, so the slope is the integral of it over
either tail; the one that does not reach the mean is taken. With s ≥ 0 the distance from x in u, the density falls from
its value at x about as e^-s/w, and the trapezoidal rule is applied to v in s = w e^(v - e^-v): Takahasi and Mori,
"Double exponential formulas for numerical integration", 1974. Derivatives of a slope are those of its quadrature.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

Score = Callable[..., Any]


@functools.cache
def nodes(dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights of the quadrature over s ≥ 0 with w = 1."""
    step, start = (0.06, -3.7) if np.finfo(dtype).bits > 32 else (0.12, -3.0)
    v = np.arange(start, 9.0, step)
    s = np.exp(v - np.exp(-v))
    return s.astype(dtype), (step * s * (1 + np.exp(-v))).astype(dtype)


def integral(f: Callable[[Any], Any], width: Any) -> Any:
    """∫ f(s) ds over s ≥ 0, for an f, of s along a new first axis, that falls over a length of about ``width``."""
    width = lax.stop_gradient(width)
    s, weights = (x.reshape(-1, *[1] * width.ndim) for x in nodes(np.dtype(width.dtype)))
    return jnp.sum(f(width * s) * (width * weights), 0)


def fall(slope: Any, curvature: Any) -> Any:
    """One over the length of a fall that starts with a slope, and with a curvature that holds over a length of 1."""
    return slope + curvature / (1 + jnp.sqrt(curvature))


def gamma_tail(a: Any, x: Any, density: Any, score: Score) -> Any:
    """The integral over t < x of a density times ``score(log t - log x)``; over all t it is 0.

    The density is that of a gamma variable with parameter a, in log t; ``density`` is its value at x.
    """
    sign = jnp.where(x < a, -1, 1).astype(x.dtype)
    width = 1 / fall(jnp.abs(a - x), x)
    # To the right of a small x nothing falls until t is about 1.
    width = jnp.where(x < a, width, jnp.minimum(width, 1 + jnp.log1p(1 / x)))
    return (
        -sign * density * integral(lambda s: score(sign * s) * jnp.exp(a * sign * s - x * jnp.expm1(sign * s)), width)
    )


def beta_tail(a: Any, b: Any, x: Any, density: Any, score: Score) -> Any:
    """The integral over t < x of a density times ``score(log t - log x, log(1-t) - log(1-x))``; over all t it is 0.

    The density is that of a beta variable with parameters a and b, in logit t; ``density`` is its value at x.
    """
    n, left = a + b, x * (a + b) < a
    # To the right, t is 1 - t of the mirror image.
    near, own = jnp.where(left, x, 1 - x), jnp.where(left, a, b)
    width = 1 / fall(jnp.abs(a - n * x), n * x * (1 - x))
    width = jnp.minimum(width, jnp.log1p(near / (1 - near)) + 1 / own)

    def integrand(s: Any) -> Any:
        far = -jnp.log1p(near * jnp.expm1(-s))
        scores = score(jnp.where(left, far - s, far), jnp.where(left, far, far - s))
        return scores * jnp.exp(n * far - own * s)

    return jnp.where(left, 1, -1) * density * integral(integrand, width)
