"""What a rule of somebody else's gives is compared with what it was to give."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad.rules import formula, joint

X = jnp.linspace(0.5, 2, 4)


class Given(fg.rules.Rule):
    """A rule whose pullback is the function that it is given."""

    def __init__(self, give):
        self.give = give

    def record(self, tape, primitive, primals, tracers, params, linear):
        out = tape.evaluate(primitive, primals, params, linear)
        return tape.emit(self, primitive, params, None, (), tracers, out)

    def pullback(self, node, cts):
        return self.give(*cts)


def gradient(rule, primitive=lax.sin_p, f=lambda x: jnp.sum(lax.sin(x)), argnums=0, args=(X,), way=lambda g: g):
    return way(fg.grad(f, argnums, rules=fg.rules.default.override({primitive: rule})))(*args)


def line_of(function):
    return f"{__file__}:{inspect.unwrap(function).__code__.co_firstlineno}"


faults = {
    "shape": (lambda ct: ct[:2], ValueError, ["float32[4]", "float32[2]"]),
    "rank": (lambda ct: ct[0], ValueError, ["float32[4]", "type float32[]"]),
    "dtype": (lambda ct: ct.astype(jnp.bfloat16), ValueError, ["float32[4]", "bfloat16[4]"]),
    "kind": (lambda ct: ct.astype(int), ValueError, ["float32[4]", "int32[4]"]),
    "no array": (lambda ct: "ct", TypeError, ["float32[4]", "'ct'"]),
}
forms = {
    "a function": lambda f: f,
    "a sequence": lambda f: [f],
    "formula": lambda f: formula(f),
    "joint": lambda f: joint(lambda ct: [f(ct)]),
    "a class": lambda f: Given(lambda ct: [f(ct)]),
}


@pytest.mark.parametrize("way", [lambda g: g, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("form", forms)
@pytest.mark.parametrize("fault", faults)
def test_a_cotangent_of_another_type_is_refused(fault, form, way):
    if (fault, form) == ("no array", "formula"):
        form = "a function"  # compiled, where JAX says so first
    function, error, types = faults[fault]
    with pytest.raises(error) as raised:
        gradient(forms[form](function), way=way)
    assert [part for part in ("'sin'", "operand 0", __file__, *types) if part not in str(raised.value)] == []


@pytest.mark.parametrize("form", ["a function", "a sequence", "formula"])
def test_the_line_of_the_formula_is_named(form):
    def returns_too_few(ct):
        return ct[1:]

    with pytest.raises(ValueError, match="returns_too_few") as raised:
        gradient(forms[form](returns_too_few))
    assert line_of(returns_too_few) in str(raised.value)


@pytest.mark.parametrize("body", ["scan", "cond", "checkpoint", "jit"])
def test_so_it_is_inside_of_programs(body):
    programs = {
        "scan": lambda x: lax.scan(lambda c, y: (c, lax.sin(y)), 0.0, x)[1].sum(),
        "cond": lambda x: lax.cond(True, lambda x: lax.sin(x).sum(), jnp.sum, x),
        "checkpoint": lambda x: jax.checkpoint(lambda x: lax.sin(x).sum())(x),
        "jit": lambda x: jax.jit(lambda x: lax.sin(x).sum())(x),
    }
    with pytest.raises(ValueError, match="'sin'"):
        gradient(lambda ct: ct[None], f=programs[body])


@pytest.mark.parametrize("form", ["a function", "formula"])
def test_a_formula_that_returns_nothing_is_refused(form):
    with pytest.raises(TypeError, match=r"'sin'.*returned None for operand 0"):
        gradient(forms[form](lambda ct: None))


@pytest.mark.parametrize("form", ["joint", "a class"])
def test_none_is_zero_for_a_rule_of_all_operands(form):
    np.testing.assert_array_equal(gradient(forms[form](lambda ct: None)), np.zeros(4))


@pytest.mark.parametrize(
    "rule",
    [
        joint(lambda ct: [ct, ct]),
        joint(lambda ct: []),
        joint(lambda ct: ct),
        Given(lambda ct: []),
        Given(lambda ct: ct),
    ],
    ids=["two", "none", "no list", "a class's none", "a class's no list"],
)
def test_as_many_cotangents_as_operands_are_asked_for(rule):
    with pytest.raises(TypeError, match=r"'sin'.*1 (active )?operand"):
        gradient(rule)


def product(x, y):
    return jnp.sum(lax.mul(x, y))


def test_a_missing_formula_is_refused_where_its_operand_is_differentiated():
    rule = lambda ct, y: ct * y  # noqa: E731
    with pytest.raises(TypeError, match=r"'mul'.*operand 1, of type float32\[4\]") as raised:
        gradient(rule, lax.mul_p, product, 1, (X, X))
    assert line_of(rule) in str(raised.value)
    np.testing.assert_array_equal(gradient(rule, lax.mul_p, product, 0, (X, X)), X)


def test_none_in_its_place_is_for_no_derivative():
    cts = gradient([lambda ct, y: ct * y, None], lax.mul_p, product, (0, 1), (X, X))
    np.testing.assert_array_equal(cts, [X, np.zeros(4)])
    np.testing.assert_array_equal(gradient(formula(), lax.mul_p, product, 1, (X, X)), np.zeros(4))


def test_an_operand_that_is_never_differentiated_needs_no_formula():
    take = lambda ct, x_aval, *, slice_sizes, **_: jnp.ones(x_aval.shape) * jnp.sum(ct)  # noqa: E731
    f = lambda x: jnp.sum(x[jnp.array([0, 2])])  # noqa: E731
    np.testing.assert_array_equal(gradient(take, lax.gather_p, f), 2 * np.ones(4))


def test_what_was_broadcast_is_summed_back():
    rule = [lambda ct, y: ct * y, lambda ct, x: ct * x]
    args = (X[:, None], jnp.ones((1, 3)))
    expected = jax.grad(product, (0, 1))(*args)
    for got, right in zip(gradient(rule, lax.mul_p, product, (0, 1), args), expected, strict=True):
        np.testing.assert_allclose(got, right, 1e-6)


def test_a_cotangent_is_weak_where_its_operand_is():
    strong, weak = lambda ct: jnp.float32(2), lambda ct: 2.0
    assert gradient(strong, f=lax.sin, args=(1.0,)).weak_type
    assert not gradient(weak, f=lax.sin, args=(jnp.float32(1),)).weak_type


def test_a_rule_that_wraps_another_is_as_strict():
    rules = fg.rules.default.override({lax.sin_p: lambda ct: ct[:1]})
    with pytest.raises(ValueError, match="'sin'"):
        fg.explain(lambda x: jnp.sum(lax.sin(x)), rules=rules)(X)


def test_the_package_s_own_rules_are_not_looked_at():
    tables = (fg.rules.default, fg.rules.torch, fg.rules.straight_through)
    assert [key for table in tables for key in table if table.get(key).checked] == []
