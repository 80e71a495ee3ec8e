"""Primitives that newer releases of JAX have, or differentiate, and older ones do not."""

from __future__ import annotations

import math
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad.rules.collectives import gather_to_source
from funcgrad.rules.numbers import const
from funcgrad.rules.plan import unbroadcast
from funcgrad.rules.rule import formula, joint


def polynomial(ct, xs, active, **params):
    """For c₀ + c₁ x + c₂ x² + ...: ct times its derivative, and ct times the powers of x."""
    x, *coefficients = xs
    x_ct = None
    if active[0] and coefficients[1:]:
        slope = _jax.polynomial_p.bind(
            x, *(lax.mul(const(c, k), c) for k, c in enumerate(coefficients[1:], 1)), **params
        )
        x_ct = unbroadcast(lax.mul(ct, slope), _jax.typeof(x))
    cts = [x_ct]
    for c, is_active in zip(coefficients, active[1:], strict=True):
        cts.append(unbroadcast(ct, _jax.typeof(c)) if is_active else None)
        ct = lax.mul(ct, x)
    return cts


found: dict[Any, Any] = {
    _jax.log2_p: formula(lambda ct, x: lax.mul(lax.div(ct, x), const(x, 1 / math.log(2)))),
    _jax.one_minus_square_p: formula(lambda ct, x: lax.mul(ct, lax.mul(const(x, -2), x))),
    _jax.polynomial_p: joint(polynomial),
    _jax.pbroadcast_dynamic_p: formula(
        lambda ct, y, *, axis_name: gather_to_source(ct, axis_name=axis_name, source=y), None
    ),
}

rules = {primitive: rule for primitive, rule in found.items() if primitive is not None}
