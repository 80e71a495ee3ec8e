"""Operations, counted as XLA counts them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks.flops import count
from funcgrad.budgets.costs import flops

X, IMAGE, KERNEL = jnp.ones((8, 16)), jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 2, 6))

PROGRAMS = {
    "product": lambda: X @ X.T,
    "products": lambda: jnp.einsum("bij,bjk->bik", jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))),
    "convolution": lambda: lax.conv_general_dilated(
        IMAGE, KERNEL, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    ),
    "numbers": lambda: jnp.sin(X) * X + 1,
    "sum": lambda: jnp.sum(X, 1),
    "loop": lambda: lax.scan(lambda c, _: (jnp.tanh(c @ c), None), jnp.ones((16, 16)), None, length=10)[0],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_operations_are_those_of_the_compiled_program(name):
    f = PROGRAMS[name]
    # What does not depend on an argument is folded.
    program = jax.make_jaxpr(f)()
    compiled = jax.jit(lambda consts: jax.core.eval_jaxpr(program.jaxpr, consts)).lower(program.consts).compile()
    assert sum(map(flops, program.eqns)) == count(compiled.as_text())
