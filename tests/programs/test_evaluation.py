"""The one evaluator, and jitted calls spelled out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import jaxpr_as_fun

from funcgrad._jax import jit_p
from funcgrad.programs.evaluation import evaluate, inline_jits
from tests.agreement import assert_same

X = jnp.arange(3.0)


def primitives(program):
    return [eqn.primitive.name for eqn in program.eqns]


def test_a_program_is_what_its_function_is():
    program = jax.make_jaxpr(lambda x: (x + X, 1.0, x))(X)
    doubled, one, same = evaluate(program, X)
    assert_same((doubled, same), (X + X, X))
    assert float(one) == 1


def test_each_equation_is_run_as_is_said():
    program = jax.make_jaxpr(lambda x: lax.cos(lax.sin(x)))(X)
    seen = []

    def run(eqn, values):
        seen.append(eqn.primitive)
        return [-values[0]]

    assert_same(evaluate(program, X, run=run), [X])
    assert seen == [lax.sin_p, lax.cos_p]


def test_a_chain_of_ten_thousand_equations_is_ordinary():
    def f(x):
        for _ in range(10_000):
            x = lax.neg(x)
        return x

    assert_same(tuple(evaluate(jax.make_jaxpr(f)(1.0), 1.0, run=lambda eqn, values: [-values[0]])), (1.0,))


def test_calls_in_calls_are_spelled_out_with_their_constants_and_scopes():
    table = jnp.arange(4.0)
    inner = jax.jit(lambda x: x * 2 + table[1])
    outer = jax.jit(lambda x: (inner(x) + inner(x + 1), x, 3.0))

    def f(x):
        with jax.named_scope("here"):
            y, same, three = outer(x)
        return inner(y), same, three

    program = jax.make_jaxpr(f)(X)
    spelled = inline_jits(program)
    assert jit_p.name in primitives(program) and jit_p.name not in primitives(spelled)
    assert_same(tuple(evaluate(spelled, X)), tuple(evaluate(program, X)))
    assert_same(tuple(jax.jit(jaxpr_as_fun(spelled))(X)), tuple(evaluate(program, X)))
    scopes = {str(eqn.source_info.name_stack) for eqn in spelled.eqns if eqn.primitive is lax.mul_p}
    assert any("here" in scope for scope in scopes) and not all("here" in scope for scope in scopes)


def test_a_program_without_calls_is_itself():
    program = jax.make_jaxpr(lax.sin)(X)
    assert inline_jits(program) is program
