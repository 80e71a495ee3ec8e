"""What pullbacks hold on to, beside what JAX's hold, over the whole table of rules."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.extend.core import Primitive, jaxprs_in_params

import funcgrad as fg
from funcgrad.rules.control.calls import Effect, Refused
from tests.rules.examples import WITHOUT, Example, examples


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def has_derivative(rule) -> bool:
    return rule is not fg.rules.no_derivative and not isinstance(rule, Effect | Refused)


def test_every_rule_has_an_example_or_a_reason_for_none():
    primitives = {key: rule for key, rule in fg.rules.default.items() if isinstance(key, Primitive)}
    with_derivative = {primitive for primitive, rule in primitives.items() if has_derivative(rule)}
    shown = {example.primitive for example in examples}
    assert shown.isdisjoint(WITHOUT)
    assert {str(primitive) for primitive in with_derivative ^ (shown | set(WITHOUT))} == set()


def primitives_in(jaxpr) -> set:
    inside = [primitives_in(sub) for eqn in jaxpr.eqns for sub in jaxprs_in_params(eqn.params)]
    return {eqn.primitive for eqn in jaxpr.eqns}.union(*inside)


@pytest.mark.parametrize("example", examples, ids=str)
def test_example_applies_its_primitive(example):
    assert example.primitive in primitives_in(jax.make_jaxpr(example.function)(*example.args).jaxpr)


def bytes_held(vjp, example: Example, active: tuple[int, ...]) -> int:
    """The bytes of the arrays in the pullback, of the example with the operands ``active`` differentiated."""

    def pullback(*args):
        return vjp(example.along(active, args), *(args[i] for i in active))[1]

    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(pullback, *example.args)))


@pytest.mark.parametrize("example", [x for x in examples if x.order], ids=str)
def test_pullback_holds_no_more_than_in_jax(example):
    for active in {example.active, *((i,) for i in example.active)}:
        assert bytes_held(fg.vjp, example, active) <= bytes_held(jax.vjp, example, active), active


def test_bytes_are_counted_once_and_by_their_size():
    example = Example(jax.lax.mul_p, lambda x: x * x, (np.zeros(3),))
    assert bytes_held(fg.vjp, example, (0,)) == bytes_held(jax.vjp, example, (0,)) == 24
