"""What depends on what in a program."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from funcgrad.programs.flow import Flow, fixpoint, independent_of, size, slice_program, with_outputs
from funcgrad.programs.in_place import is_large
from tests.agreement import assert_same

X = jnp.arange(3.0)


def program_of(f, *args):
    return jax.make_jaxpr(f)(*args)


def test_what_depends_on_no_varying_input_is_fixed():
    program = program_of(lambda w, x: (lax.sin(w), lax.cos(w) * x, 1.0), X, X)
    fixed = independent_of(program, [1])
    assert [type(v) is type(program.jaxpr.invars[0]) and v in fixed for v in program.jaxpr.outvars] == [
        True,
        False,
        False,
    ]


def test_a_slice_computes_what_is_wanted_and_nothing_else():
    program = program_of(lambda x: (lax.sin(x), lax.cos(lax.exp(x))), X)
    part = slice_program(program, program.jaxpr.outvars[1:])
    assert [eqn.primitive for eqn in part.eqns] == [lax.exp_p, lax.cos_p]
    given = slice_program(program, program.jaxpr.outvars[1:], [program.eqns[1].outvars[0]])
    assert [eqn.primitive for eqn in given.eqns] == [lax.cos_p]
    assert_same(tuple(jax.core.eval_jaxpr(given.jaxpr, given.consts, X, X)), (jnp.cos(X),))


def test_other_outputs_are_variables_of_the_program():
    program = program_of(lambda x: lax.cos(lax.exp(x)), X)
    middle = with_outputs(program, [program.eqns[0].outvars[0]])
    assert_same(tuple(jax.core.eval_jaxpr(middle.jaxpr, middle.consts, X)), (jnp.exp(X),))


def test_a_sum_of_ten_thousand_cotangents_has_as_many_terms():
    from jax.interpreters.ad import add_jaxvals_p

    def f(x):
        total = x
        for _ in range(9_999):
            total = add_jaxvals_p.bind(total, lax.neg(x))
        return total

    program = program_of(f, X)
    terms, sums = Flow(program).terms(len(program.eqns) - 1)
    assert (len(terms), len(sums)) == (10_000, 9_999)


@pytest.mark.parametrize("start", [(True, False, False), (False, True, False)])
def test_a_fixpoint_grows_until_nothing_is_added(start):
    after = lambda mask: (mask[0], mask[0] or mask[1], mask[1])  # noqa: E731
    assert fixpoint(start, after) == (start[0], True, True)


class Rules:
    @staticmethod
    def physical_element_aval(dtype):
        return jax.core.ShapedArray((2,), jnp.float32)


class Scale(type(jax.random.key(0).dtype).__base__):
    """A type of numbers that are two inside, and that has no size of its own."""

    name, type, _rules = "scale", jax.dtypes.extended, Rules


def test_a_value_of_an_extended_type_has_the_size_of_what_is_inside():
    scale = types.SimpleNamespace(aval=jax.core.ShapedArray((3,), Scale()))
    key = types.SimpleNamespace(aval=jax.typeof(jax.random.key(0, impl="threefry2x32")))
    assert not hasattr(Scale(), "itemsize") and size(scale) == 24 and size(key) == 8
    assert not is_large(scale) and not is_large(key)
