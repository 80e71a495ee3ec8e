"""Operations as expressions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import funcgrad as fg
from tests.agreement import squares
from tests.inspect.source.sources import check
from tests.rules.examples import examples as primitive_examples


@pytest.mark.parametrize("case", [e for e in primitive_examples if e.runs], ids=str)
def test_every_primitive_can_be_written_down(case):
    with jax.enable_x64(True):
        check(lambda *args: squares(case.function(*args)), *case.args, argnums=case.active, tolerance=1e-12)


def test_a_call_back_into_python_is_refused():
    def loss(x):
        return x * jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct((), jnp.float32), 2.0)

    with pytest.raises(NotImplementedError, match="pure_callback"):
        fg.backward_source(loss)(1.0)
