"""Rules as text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad.inspect.formulas import derived_text, formula_text, saved_names
from funcgrad.rules import Formula, elementwise, formula, joint, no_derivative, special
from funcgrad.rules.elementwise import masked
from funcgrad.rules.numbers import const
from funcgrad.rules.table import as_rule
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
        (lax.asin_p, ["ct / sqrt((1 - x) * (1 + x))"]),
        (lax.logistic_p, ["ct * out * (1 - out)"]),
        (lax.erf_p, ["ct * (2 / sqrt(pi) * exp(-x**2))"]),
        (lax.clamp_p, ["where(below, ct, 0)", "where(inside, ct, 0)", "where(above, ct, 0)"]),
        (lax.stack_p, ["unstack(ct)"]),
        (lax.scatter_add_p, ["ct", "0", None]),
        (lax.slice_p, ["Put the cotangent back where it was taken from, zeros elsewhere"]),
        (lax.sign_p, []),
    ],
    ids=str,
)
def test_rule_reads_as_in_a_textbook(primitive, texts):
    got = formula_text(table[primitive])
    assert [text if expected else None for text, expected in zip(got, texts, strict=True)] == texts


# What is read is what is computed: the text, evaluated, gives what the rule gives.

evaluable = [
    x for x in examples
    if x.primitive in {**elementwise.rules, **special.error_functions} and isinstance(table[x.primitive], Formula)
]  # fmt: skip


@pytest.mark.parametrize("example", evaluable, ids=str)
def test_text_of_an_elementwise_rule_computes_its_pullback(example):
    with jax.enable_x64(True):
        out = example.function(*example.args)
        (jaxpr,) = jax.make_jaxpr(example.function)(*example.args).eqns
        names = {**vars(np), **vars(lax), "where": jnp.where, "nonzero": elementwise.nonzero, **jaxpr.params}
        names |= {"is_complex": elementwise.is_complex, "out": out, "HIGHEST": None, "convert": convert}
        names |= dict(zip("xyz", map(jnp.asarray, example.args), strict=False))
        rule = table[example.primitive]
        for name, text in derived_text(rule).items():
            derive = rule.derived[name]
            if " " in text and "^" not in text and not text.startswith("The "):
                names[name] = eval(text, names)
            else:
                params = {**jaxpr.params}
                names[name] = derive(*(names[n] for n in derive.names), params=params)
        ct = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
        _, pullback = fg.vjp(example.along(example.active, example.args), *(example.args[i] for i in example.active))
        for i, x_ct in zip(example.active, pullback(ct), strict=True):
            text = eval(formula_text(rule)[i], {**names, "ct": ct})
            text = jnp.asarray(text)
            if text.shape != x_ct.shape:
                text = text.sum(tuple(d for d in range(text.ndim) if x_ct.shape[d] == 1), keepdims=True)
            np.testing.assert_allclose(text, x_ct, rtol=1e-12, atol=1e-12)


def convert(x, new_dtype):
    return lax.convert_element_type(x, new_dtype)
