"""Rules as text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from docs.generate_rules import derived_text, saved_names
from funcgrad.inspect.formulas import formula_text
from funcgrad.rules import Formula, elementwise, formula, joint, no_derivative, special
from funcgrad.rules.numbers import const, is_complex, nonzero
from funcgrad.rules.rule import as_rule
from tests.rules.examples import examples

table = fg.rules.default


@pytest.mark.parametrize(
    ("primitive", "texts"),
    [
        (lax.neg_p, ["-ct"]),
        (lax.mul_p, ["ct * y", "ct * x"]),
        (lax.div_p, ["ct / y", "-ct * out / y"]),
        (lax.exp_p, ["ct * out"]),
        (lax.tan_p, ["ct * (1 + out**2)"]),
        (lax.asin_p, ["ct / sqrt(1 - x**2)"]),
        (lax.logistic_p, ["ct * out * (1 - out)"]),
        (lax.erf_p, ["ct * (2 / sqrt(pi) * exp(-min(abs(x), 40)**2))"]),
        (lax.clamp_p, ["where(below, ct, 0)", "where(inside, ct, 0)", "where(above, ct, 0)"]),
        (lax.stack_p, ["unstack(ct)"]),
        (lax.dynamic_slice_p, ["dynamic_update_slice(0, ct, *starts)"]),
        (lax.slice_p, ["Put the cotangent back where it was taken from, zeros elsewhere"]),
        (lax.scan_p, ["the backward half of the body, scanned in reverse"]),
        (lax.sign_p, []),
    ],
    ids=str,
)
def test_rule_reads_as_in_a_textbook(primitive, texts):
    assert formula_text(table[primitive]) == texts


def test_operand_without_derivative_reads_zero():
    assert formula_text(table[lax.scatter_add_p])[:2] == ["ct", "0"]
    assert formula_text(no_derivative) == saved_names(no_derivative) == []


def test_every_rule_has_a_text_in_one_line():
    for primitive, rule in table.items():
        texts = [*formula_text(rule), *derived_text(rule).values()]
        assert texts or rule is no_derivative, primitive
        for text in texts:
            assert text and "\n" not in text and "lambda" not in text and "bind" not in text, primitive


# What is read is what is computed.

readable = [
    example
    for example in examples
    if isinstance(table[example.primitive], Formula)
    and example.primitive in {**elementwise.rules, **special.error_functions}
]


@pytest.mark.parametrize("example", readable, ids=str)
def test_text_of_an_elementwise_rule_evaluates_to_its_pullback(example):
    with jax.enable_x64(True):
        rule, out = table[example.primitive], example.function(*example.args)
        (eqn,) = jax.make_jaxpr(example.function)(*example.args).eqns
        names = {**vars(jnp), "nonzero": nonzero, "is_complex": is_complex, "complex": lambda x, y: x + 1j * y}
        names |= {
            "min": jnp.minimum,
            "clamp": lambda low, x, high: jnp.clip(x, low, high),
            "reduce_precision": lax.reduce_precision,
            "convert": lambda x, new_dtype: x.astype(new_dtype),
        }
        names |= {**eqn.params, **dict(zip("xyz", map(jnp.asarray, example.args), strict=False)), "out": out}
        for name, text in derived_text(rule).items():
            function = rule.derived[name].function
            names[name] = (
                function(names["x"], names[rule.derived[name].names[1]]) if function.__doc__ else eval(text, names)
            )
        names["ct"] = ct = jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype)
        _, pullback = fg.vjp(example.along(example.active, example.args), *(example.args[i] for i in example.active))
        for i, expected in zip(example.active, pullback(ct), strict=True):
            got = jnp.asarray(eval(formula_text(rule)[i], names))
            stretched = tuple([d for d in range(got.ndim) if got.shape[d] != expected.shape[d]])
            np.testing.assert_allclose(got.sum(stretched, keepdims=True), expected, rtol=1e-12, atol=1e-12)


# How it is written.


def half(ct):
    return lax.mul(ct, const(ct, 0.5))


def documented(ct, x):
    """Twice ct. And more words."""
    return lax.mul(ct, const(ct, 2))


def looping(ct, x, y_aval):
    for _ in range(3):
        ct = lax.mul(ct, x)
    return ct


def branching(ct, x, *, n):
    if n < 0:
        raise ValueError("negative")
    if n == 0:
        return ct
    twice = lax.add(x, x)
    return lax.sub(ct, lax.sub(twice, lax.neg(x)))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda ct, x: ct * (x + 1) ** 2, "ct * (x + 1)**2"),
        (lambda ct, x, y: lax.div(ct, lax.mul(x, y)), "ct / (x * y)"),
        (lambda ct, x, y: lax.mul(ct, lax.div(x, y)), "ct * (x / y)"),
        (lambda ct, x, y: lax.sub(ct, lax.add(x, y)), "ct - (x + y)"),
        (lambda ct, x: lax.mul(ct, lax.rsqrt(x)), "ct / sqrt(x)"),
        (lambda ct, x: lax.select(lax.bitwise_or(lax.gt(x, x), x), ct, ct), "where((x > x) | x, ct, ct)"),
        (lambda ct, x_aval: lax.reshape(ct, x_aval.shape), "reshape(ct, x.shape)"),
        (lambda ct, *, accuracy: ct if accuracy is None else lax.neg(ct), "ct"),
        (lambda ct: half(half(ct)), "ct * 0.5 * 0.5"),
        (lambda ct, x: documented(ct, x), "documented(ct, x)"),
        (documented, "Twice ct"),
        (looping, "looping(ct, x)"),
        (branching, "ct if n == 0 else ct - (x + x - -x)"),
        (lambda ct, x: sum(y for y in (ct, x)), "f(ct, x)"),
    ],
)
def test_function_reads(function, text):
    assert formula_text(as_rule(function)) == [text]


def test_constants_that_a_function_closes_over_are_written_out():
    half = 0.5
    assert formula_text(formula(lambda ct: ct * half)) == ["ct * 0.5"]


def test_lambdas_on_one_line_are_told_apart():
    rule = formula(lambda ct, x: ct * x, lambda ct, x: ct / x, None, lambda ct, x: ct - x)
    assert formula_text(rule) == ["ct * x", "ct / x", "0", "ct - x"]


def test_joint_rule_reads_by_operand_where_it_returns_a_tuple():
    assert formula_text(joint(lambda ct, xs: (ct, None))) == ["ct", "0"]
    assert formula_text(joint(lambda ct, xs: xs[1:])) == ["xs[1:]"]


def test_function_without_source_reads_by_its_name():
    names: dict = {}
    exec("def made(ct, x): return ct * x", names)
    assert formula_text(formula(names["made"])) == ["made(ct, x)"]


def test_saved_names_are_what_signatures_ask_for():
    assert saved_names(table[lax.mul_p]) == ["y", "x"]
    assert saved_names(table[lax.reshape_p]) == []
    assert saved_names(table[lax.dynamic_slice_p]) == ["starts"]
    assert saved_names(table[lax.sort_p]) == ["places"]
    assert saved_names(table[lax.linalg.svd_p]) == ["outs"]


def test_what_is_saved_under_another_name_reads_as_what_it_is():
    rule = formula(lambda ct, kept: ct * kept, kept=lambda x, out: out)
    assert formula_text(rule) == ["ct * out"] and saved_names(rule) == ["out"] and derived_text(rule) == {}
