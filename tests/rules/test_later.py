"""Primitives that only some releases of JAX have: agreement where they are, and a rule for each."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.rules import later
from tests.agreement import assert_agrees

X = np.array([0.3, 1.5, 2.0], np.float32)

functions = {
    "log2": lambda x: lax.log2(x),
    "one_minus_square": lambda x: lax.one_minus_square(x),
    "polynomial": lambda x: lax.polynomial(x, [x[0], 2.0, x, 0.5]),
}


def test_each_rule_agrees():
    for name in {str(p) for p in later.rules} & functions.keys():
        assert_agrees(lambda x, f=functions[name]: jnp.sum(f(x) * jnp.sin(x)), X, tolerance=1e-5)


def test_what_this_release_differentiates_has_a_rule():
    known = {p for p in _jax.foreign_jvps if str(p) in (*functions, "pbroadcast_dynamic")}
    assert known == set(later.rules)
