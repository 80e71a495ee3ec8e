"""Straight-through estimators: what is flat almost everywhere passes the cotangent on as if it were the identity.

A comparison is a step of its difference, from 0 to 1: ``x > y`` passes the cotangent to x, and its negative to y. Its
output is a bool, of which nothing can be differentiated, until it is converted to a float; on the way there, from the
comparison to the conversion, the cotangent is the float's.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad.rules import elementwise
from funcgrad.rules.plan import unbroadcast
from funcgrad.rules.rule import Rule, broadcasting, formula


class Jump(Rule):
    """A comparison whose output has a slot, though it is a bool."""

    formula = "x: ct; y: -ct"

    def __init__(self, rises: bool):
        self.rises = rises

    def record(self, tape, primitive, primals, tracers, params, linear):
        out = tape.parent.process_primitive(primitive, tape.values(primals), params)
        static = tuple([t is not None for t in tracers])
        return tape.emit(self, primitive, params, static, (), tracers, out, carries=True)

    def pullback(self, node, cts):
        (ct,) = cts
        signs = [s for s, active in zip((self.rises, not self.rises), node.static, strict=True) if active]
        return [
            unbroadcast(lax.convert_element_type(ct if up else lax.neg(ct), aval.dtype), aval)
            for up, aval in zip(signs, node.avals, strict=True)
        ]


def convert_back(ct, x_aval):
    """ct, in the operand's dtype unless that is bool"""
    return ct if x_aval.dtype == np.bool_ else elementwise.convert_back(ct, x_aval)


identity = formula(lambda ct: ct)
rises, falls = Jump(True), Jump(False)

rules = {
    **dict.fromkeys([lax.round_p, lax.floor_p, lax.ceil_p, lax.sign_p], identity),
    **dict.fromkeys([lax.gt_p, lax.ge_p], rises),
    **dict.fromkeys([lax.lt_p, lax.le_p], falls),
    lax.convert_element_type_p: formula(convert_back),
    jnp.heaviside: broadcasting(lambda ct: ct, None),
}
