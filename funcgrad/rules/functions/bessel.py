"""The Bessel functions J_0, ..., J_v: J_n' = (J_n-1 - J_n+1) / 2, from values that are right near 0 too.

JAX's recurrence from high orders down overflows where z is small beside them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import bessel_jn

from funcgrad.rules.functions.points import Known, record_inside
from funcgrad.rules.functions.recognition import key_of
from funcgrad.rules.numbers import const, full_like
from funcgrad.rules.special import power_series

NEAR = 3.0
TERMS = 18


def small(z: Any, count: int) -> Any:
    """J_0, ..., J_count-1 by their power series."""
    half = lax.mul(z, const(z, 0.5))
    quarter = lax.neg(lax.square(half))

    def term(n: int) -> Any:
        coefficients = [1 / (math.factorial(k) * math.prod(range(n + 1, n + k + 1))) for k in range(TERMS)]
        leading = full_like(z, 1)
        for k in range(1, n + 1):
            leading = lax.mul(leading, lax.mul(half, const(z, 1 / k)))
        return lax.mul(leading, power_series(quarter, coefficients))

    return jnp.stack([term(n) for n in range(count)])


@functools.cache
def slopes_after(steps: int) -> Any:
    """The formula for a recurrence of so many steps."""

    def formula(ct: Any, z: Any, out: Any) -> Any:
        count = out.shape[0]
        near = lax.lt(lax.abs(z), const(z, NEAR))
        far = bessel_jn(lax.select(near, full_like(z, NEAR), z), v=count, n_iter=max(steps, count))
        values = jnp.where(near, small(lax.select(near, z, full_like(z, 0)), count + 1), far)
        below = jnp.concatenate([lax.neg(values[1:2]), values[: count - 1]])
        return jnp.sum(ct * (below - values[1:]) * const(z, 0.5), 0)

    return formula


@functools.cache
def after(steps: int) -> Known:
    return Known(bessel_jn, slopes_after(steps), None, None)


class Bessel(Known):
    def __init__(self) -> None:
        super().__init__(bessel_jn, slopes_after(50), None, None)

    def record(self, tape, primitive, primals, tracers, params, linear):
        length = next((e.params["length"] for e in params["jaxpr"].eqns if e.primitive is lax.scan_p), None)
        if length is None:
            return record_inside(tape, primitive, primals, tracers, params, linear)
        return after(length - 1).record(tape, primitive, primals, tracers, params, linear)


rules = {key_of(bessel_jn): Bessel()}
