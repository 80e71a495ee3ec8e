"""Primitives that tell the compiler something about a value and leave its numbers alone."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad.rules.rule import formula, no_derivative


def representation(ct, x_aval):
    """ct in the dtype of x's cotangents: an extended dtype is another name for the bits of the one it is made of."""
    return lax.convert_element_type(ct, x_aval.to_ct_aval().dtype)


rules = {
    # tie(x, y) is y, computed after x.
    _jax.tie_p: formula(None, lambda ct: ct),
    _jax.stage_p: formula(lambda ct: ct),
    _jax.xla_metadata_value_p: formula(lambda ct: ct),
    _jax.to_edtype_p: formula(representation),
    _jax.from_edtype_p: formula(representation),
}
if _jax.dce_sink_p is not None:
    rules[_jax.dce_sink_p] = no_derivative
