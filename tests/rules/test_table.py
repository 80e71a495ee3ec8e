"""Rules as functions whose parameter names say what is saved, and the immutable table that holds them."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import ad

import funcgrad as fg
from funcgrad.rules import Rule, RuleTable, broadcasting, formula, joint, no_derivative
from funcgrad.rules.control.lean import split_lean
from tests.agreement import assert_same
from tests.primitives import primitive

V = np.array([0.5, -1.5, 2.0], np.float32)

triple_p = primitive("triple", lambda x: 3 * x)
scaled_p = primitive("scaled", lambda x, y, *, factor=1.0: factor * x * y)
both_p = primitive("both", lambda x, y: [x * y, x + y], multiple_results=True)


def with_rule(p, rule):
    return fg.rules.default.override({p: rule})


def saved(f, *args, rules):
    """What a pullback keeps."""
    return jax.tree.leaves(fg.vjp(f, *args, rules=rules)[1])


# What a rule may ask for.


def test_a_function_is_the_rule_of_the_first_operand():
    rules = with_rule(triple_p, lambda ct: 3 * ct)
    assert fg.grad(lambda x: jnp.sum(triple_p.bind(x)), rules=rules)(V).tolist() == [3, 3, 3]
    assert saved(triple_p.bind, V, rules=rules) == []


def test_a_sequence_of_functions_has_one_for_each_operand():
    rules = with_rule(scaled_p, [lambda ct, y: ct * y, None])
    f = lambda x, y: jnp.sum(scaled_p.bind(x, y))  # noqa: E731
    x_ct, y_ct = fg.grad(f, (0, 1), rules=rules)(V, V + 1)
    assert x_ct.tolist() == (V + 1).tolist() and y_ct.tolist() == [0, 0, 0]


def test_parameter_names_say_what_is_saved():
    x, y = V, V + 1
    f = scaled_p.bind
    keep = lambda rule, *args: [r.tolist() for r in saved(f, *args, rules=with_rule(scaled_p, rule))]  # noqa: E731
    assert keep([lambda ct: ct, None], x, y) == []
    assert keep([lambda ct, x: ct * x, None], x, y) == [x.tolist()]
    assert keep([lambda ct, y: ct * y, None], x, y) == [y.tolist()]
    assert keep([lambda ct, out: ct * out, None], x, y) == [(x * y).tolist()]
    assert keep([lambda ct, x_aval, y_aval, out_aval: ct, None], x, y) == []
    assert keep([lambda ct, y: ct * y, lambda ct, x, y: ct * x], x, y) == [x.tolist(), y.tolist()]


def test_only_what_the_active_operands_ask_for_is_saved():
    rules = with_rule(scaled_p, [lambda ct, y: ct * y, lambda ct, x: ct * x])
    assert [r.tolist() for r in saved(lambda x: scaled_p.bind(x, V + 1), V, rules=rules)] == [(V + 1).tolist()]
    assert [r.tolist() for r in saved(lambda y: scaled_p.bind(V, y), V + 1, rules=rules)] == [V.tolist()]


def test_keyword_parameters_are_the_parameters_of_the_primitive():
    seen = {}

    def rule(ct, *, factor):
        return ct * factor

    def everything(ct, **params):
        seen.update(params)
        return ct

    f = lambda x: jnp.sum(scaled_p.bind(x, 1.0, factor=5.0))  # noqa: E731
    assert fg.grad(f, rules=with_rule(scaled_p, rule))(V).tolist() == [5, 5, 5]
    fg.grad(f, rules=with_rule(scaled_p, everything))(V)
    assert seen == {"factor": 5.0}


def test_shapes_and_types_are_those_of_the_operands():
    seen = []

    def rule(ct, x_aval, y_aval, out_aval):
        seen.append((x_aval.shape, y_aval.dtype, out_aval.shape))
        return ct

    x, y = jnp.ones((2, 3)), jnp.ones(3, jnp.int32)
    fg.grad(lambda x: jnp.sum(scaled_p.bind(x, y)), rules=with_rule(scaled_p, rule))(x)
    assert seen == [((2, 3), jnp.int32, (2, 3))]


def test_other_names_are_computed_on_the_way_forward():
    rule = formula(lambda ct, big: lax.select(big, ct, 0 * ct), big=lambda x: lax.gt(x, np.float32(1)))
    rules = with_rule(triple_p, rule)
    (mask,) = saved(triple_p.bind, V, rules=rules)
    assert mask.dtype == bool and mask.tolist() == [False, False, True]
    assert fg.grad(lambda x: jnp.sum(triple_p.bind(x)), rules=rules)(V).tolist() == [0, 0, 1]


def test_a_broadcast_operand_gets_the_sum_from_the_table():
    rule = broadcasting(lambda ct, y: ct * y, lambda ct, x: ct * x)
    rules = with_rule(scaled_p, rule)
    for shapes in [((2, 3), ()), ((2, 3), (1, 3)), ((2, 1), (1, 3)), ((), (2, 3))]:
        x, y = (jnp.arange(1.0, 1 + np.prod(s, dtype=int)).reshape(s) for s in shapes)
        mine = fg.grad(lambda x, y: jnp.sum(scaled_p.bind(x, y)), (0, 1), rules=rules)(x, y)
        assert_same(mine, jax.grad(lambda x, y: jnp.sum(x * y), (0, 1))(x, y))


def test_a_joint_rule_has_all_operands_and_outputs():
    seen = []

    def rule(cts, xs, outs, avals, out_avals, active):
        seen.append((len(xs), len(outs), len(avals), len(out_avals), active, [ct is not None for ct in cts]))
        x, y = xs
        product_ct, sum_ct = [0 if ct is None else ct for ct in cts]
        return [product_ct * y + sum_ct, product_ct * x + sum_ct]

    rules = with_rule(both_p, joint(rule))

    def f(x, y, which):
        return jnp.sum(both_p.bind(x, y)[which] ** 2)

    def plain(x, y, which):
        return jnp.sum([x * y, x + y][which] ** 2)

    for which in (0, 1):
        mine = fg.grad(f, (0, 1), rules=rules)(V, V + 1, which)
        assert_same(mine, jax.grad(plain, (0, 1))(V, V + 1, which), 1e-6)
    fg.grad(f, 1, rules=rules)(V, V + 1, 0)
    assert seen == [
        (2, 2, 2, 2, (True, True), [True, False]),
        (2, 2, 2, 2, (True, True), [False, True]),
        (2, 2, 2, 2, (False, True), [True, False]),
    ]


def test_a_joint_rule_may_take_names_and_derived_values():
    rule = joint(lambda ct, y, large: [ct * y + large, None], large=lambda xs, out: out * 100)
    x_ct = fg.grad(lambda x: jnp.sum(scaled_p.bind(x, V)), rules=with_rule(scaled_p, rule))(V)
    np.testing.assert_allclose(x_ct, V + 100 * V * V, rtol=1e-6)


def test_a_rule_without_derivative_stops_the_cotangent():
    rules = with_rule(triple_p, no_derivative)
    f = lambda x: jnp.sum(triple_p.bind(x) + x)  # noqa: E731
    assert fg.grad(f, rules=rules)(V).tolist() == [1, 1, 1]
    assert "triple" in str(jax.make_jaxpr(lambda x: fg.value_and_grad(f, rules=rules)(x))(V))


def test_a_rule_of_ones_own_may_look_at_values():
    rules = with_rule(triple_p, lambda ct, x: ct * (5 if float(x) > 1 else 7))
    gradient = fg.grad(triple_p.bind, rules=rules)
    assert float(gradient(2.0)) == 5 and float(gradient(0.5)) == 7


def test_a_rule_works_under_every_transformation():
    rules = with_rule(triple_p, lambda ct, x: ct * jnp.cos(x))
    expected = np.cos(V)
    f = lambda x: jnp.sum(triple_p.bind(x))  # noqa: E731
    for g in (f, jax.jit(f), jax.checkpoint(f), lambda x: lax.scan(lambda c, a: (c + f(a), None), 0.0, x)[0]):
        np.testing.assert_allclose(fg.grad(g, rules=rules)(V), expected, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(fg.grad(g, rules=rules))(V), expected, rtol=1e-6)
    second = fg.grad(lambda x: jnp.sum(fg.grad(f, rules=rules)(x)), rules=rules)(V)
    np.testing.assert_allclose(second, -np.sin(V), rtol=1e-6)


def test_rules_are_for_one_call_and_reach_into_programs():
    layer = jax.jit(lambda x: jnp.round(2 * x))
    f = lambda x: jnp.sum(layer(x))  # noqa: E731
    straight = fg.rules.default.override({lax.round_p: lambda ct: ct})
    assert fg.grad(f)(V).tolist() == [0, 0, 0]
    assert fg.grad(f, rules=straight)(V).tolist() == [2, 2, 2]
    assert fg.grad(f)(V).tolist() == [0, 0, 0]


# Names that are refused.


WRONG = {
    "an unknown name": (lambda ct, w: ct, "'w' names nothing to save.*x, y, z, out.*keyword-only"),
    "a parameter that is not keyword-only": (lambda ct, x, factor: ct, "'factor' names nothing to save"),
    "no cotangent": (lambda x: x, "first parameter of a rule is the cotangent, ct"),
    "no parameter": (lambda: 0, "first parameter of a rule is the cotangent"),
    "all operands, outside a joint rule": (lambda ct, xs: ct, "'xs' names nothing to save"),
}


@pytest.mark.parametrize(("rule", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_rule_with_wrong_names_is_refused_when_it_is_made(rule, message):
    for make in (formula, broadcasting, lambda rule: with_rule(triple_p, rule)):
        with pytest.raises(TypeError, match=message):
            make(rule)


def test_the_refusal_shows_the_signature():
    def my_rule(ct, weights):
        return ct

    with pytest.raises(TypeError, match=r"my_rule\(ct, weights\)"):
        formula(my_rule)


def test_derived_values_are_made_of_what_is_there_on_the_way_forward():
    with pytest.raises(TypeError, match="'ct' names nothing to save"):
        formula(lambda ct, mask: ct, mask=lambda ct: ct)
    with pytest.raises(TypeError, match="'w' names nothing to save"):
        joint(lambda cts, mask: cts, mask=lambda w: w)


@pytest.mark.parametrize("rule", [3, "ct", None, {"x": 1}])
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(TypeError, match="a rule is a function, a sequence of functions"):
        with_rule(triple_p, rule)


# The table.


def test_override_makes_a_new_table_and_leaves_the_old():
    before = dict(fg.rules.default)
    rule = formula(lambda ct: ct)
    table = fg.rules.default.override({lax.round_p: rule, triple_p: rule})
    assert dict(fg.rules.default) == before and triple_p not in fg.rules.default
    assert table[lax.round_p] is rule and table[triple_p] is rule and len(table) == len(before) + 1
    assert table[lax.sin_p] is fg.rules.default[lax.sin_p]


def test_a_table_cannot_be_changed():
    with pytest.raises(TypeError):
        fg.rules.default[lax.sin_p] = no_derivative
    with pytest.raises(TypeError):
        del fg.rules.default[lax.sin_p]
    with pytest.raises(AttributeError):
        fg.rules.default.update({})


def test_a_table_is_a_mapping():
    table = RuleTable({lax.sin_p: no_derivative})
    assert list(table) == [lax.sin_p] and len(table) == 1 and lax.sin_p in table and lax.cos_p not in table
    assert table.get(lax.cos_p) is None and repr(table) == "RuleTable(1 primitives)"
    assert all(isinstance(rule, Rule) for rule in fg.rules.default.values())


def test_tables_of_the_same_rules_are_equal():
    rule = formula(lambda ct: ct)
    one, two = (fg.rules.default.override({lax.sin_p: rule}) for _ in range(2))
    assert one == two and hash(one) == hash(two) and one is two
    assert one != fg.rules.default and fg.rules.default.override({}) == fg.rules.default
    assert one != RuleTable(dict(one)) and one != dict(one)


def rounding(scale):
    return fg.rules.default.override({lax.round_p: lambda ct: scale * ct})


def test_tables_made_anew_share_what_was_made_of_programs():
    """A value of another type, or of another sign, is another."""
    layer = jax.jit(lambda x: jnp.round(x))
    scales = (2.0, 2, -0.0, 0.0)

    def splits():
        before = split_lean.cache_info().misses
        assert [float(fg.grad(layer, rules=rounding(scale))(0.4)) for scale in scales] == [2, 2, 0, 0]
        return split_lean.cache_info().misses - before

    assert splits() == 4 and splits() == 0
    assert len({id(table) for table in [*map(rounding, scales), *map(rounding, scales)]}) == 4


def test_rules_of_every_kind_made_anew_are_equal():
    default = fg.rules.default
    for make in (
        lambda: default.override({lax.sin_p: formula(lambda ct, half: half * ct, half=lambda x: x / 2)}),
        lambda: default.override({both_p: joint(lambda cts, y, *, factor: [cts[0], None])}),
        lambda: default.override({jnp.clip: lambda ct: ct, jnp.linalg.norm: {lax.sqrt_p: lambda ct: ct}}),
        lambda: default.override({jax.nn.relu: (lambda x: (x, None), lambda _, ct: (ct,))}),
        lambda: default.override({lax.while_p: fg.rules.While(slots=8)}),
        lambda: fg.rules.clipped(fg.rules.noisy(default, {lax.sin_p: 0.1}), {lax.log_p: 1.0}),
        lambda: fg.rules.in_bfloat16(fg.rules.nan_safe(default)),
    ):
        assert make() is make() and make() != default
    assert default.override({lax.while_p: fg.rules.While(slots=9)}) != default.override(
        {lax.while_p: fg.rules.While(8)}
    )
    assert fg.rules.clipped(default, {lax.log_p: 1.0}) != fg.rules.clipped(default, {lax.log_p: 2.0})


def test_a_subclass_of_a_rule_is_equal_to_itself_only():
    class Slower(fg.rules.While):
        def __init__(self, reason):
            super().__init__(8)
            self.reason = reason

    assert Slower("a") != Slower("a") and Slower("a") != fg.rules.While(8)


@pytest.mark.parametrize(
    "transform", [fg.grad, fg.value_and_grad, fg.jacrev, fg.hessian, fg.explain, fg.find_nonfinite]
)
def test_a_dict_is_no_table(transform):
    with pytest.raises(TypeError, match=r"whole table, but got a dict.*rules=fg.rules.default.override\("):
        transform(jnp.sin, rules={lax.sin_p: lambda ct: ct})(1.0)


def test_a_dict_is_no_table_for_the_others_either():
    match = r"whole table, but got a dict.*rules=fg.rules.default.override\("
    rules = {lax.sin_p: lambda ct: ct}
    with pytest.raises(TypeError, match=match):
        fg.vjp(jnp.sin, 1.0, rules=rules)
    with pytest.raises(TypeError, match=match):
        fg.hvp(jnp.sin, (1.0,), (1.0,), rules=rules)
    with pytest.raises(TypeError, match=match):
        fg.cotangents(jnp.sin, "a", rules=rules)(1.0)


# A primitive without a rule.


def test_a_missing_rule_names_the_primitive_the_line_and_the_remedy():
    def model(x):
        return jnp.sum(triple_p.bind(x))  # here

    def scanned(x):
        return lax.scan(lambda c, _: (c + jax.jit(model)(x), None), 0.0, None, length=2)[0]

    def chosen(x):
        return lax.cond(x[0] > 9, jnp.sum, lambda x: lax.while_loop(lambda s: s < 1.0, lambda s: s + model(x), 0.0), x)

    line = inspect.getsourcelines(model)[1] + 1
    forms = (model, jax.jit(model), jax.checkpoint(model), scanned, chosen)
    once = [fg.grad(f) for f in forms]
    twice = [jax.grad(lambda x: jnp.sum(fg.grad(model)(x))), fg.hessian(model), lambda x: fg.hvp(model, (x,), (x,))]
    for transform in (*once, *map(jax.jit, once), *twice):
        with pytest.raises(NotImplementedError) as caught:
            transform(V)
        message = str(caught.value)
        assert "no derivative rule for the primitive 'triple'" in message
        assert f"test_table.py:{line}" in message and "model" in message
        assert "rules=fg.rules.default.override({primitive: rule})" in message


def test_a_primitive_on_no_active_value_needs_no_rule():
    assert fg.grad(lambda x: x * jnp.sum(triple_p.bind(V)))(1.0) == 3.0


def test_the_fallback_is_for_primitives_that_only_jax_has_a_rule_for(monkeypatch):
    p = primitive("foreign_square", lambda x: x * x)
    assert p not in fg.rules.default.foreign()
    monkeypatch.setitem(ad.primitive_jvps, p, lambda xs, ts: (p.bind(*xs), 2 * xs[0] * ts[0]))
    assert p in fg.rules.default.foreign() and lax.sin_p not in fg.rules.default.foreign()
    assert fg.grad(p.bind)(3.0) == 6.0
    assert p not in fg.rules.default.override({p: lambda ct: ct}).foreign()
    without = RuleTable(dict(fg.rules.default))
    assert without.foreign() == []
    with pytest.raises(NotImplementedError, match="no derivative rule for the primitive 'foreign_square'"):
        fg.grad(p.bind, rules=without)(3.0)


def test_a_rule_of_one_of_jax_s_functions_yields_to_a_rule_of_a_primitive_in_it():
    flat = fg.rules.default.override({lax.sqrt_p: lambda ct, out: jnp.where(out > 0, 0.5 * ct / out, 0.0)})
    slope = lambda x, rules: fg.grad(lambda x: jnp.sum(jax.jit(jnp.linalg.norm)(x)), rules=rules)(x)  # noqa: E731
    assert np.isnan(slope(jnp.zeros(3), fg.rules.default)).all()
    assert (slope(jnp.zeros(3), flat) == 0).all() and (slope(jnp.zeros(3), fg.rules.nan_safe(flat)) == 0).all()
    np.testing.assert_allclose(slope(jnp.array([3e25, 4e25]), fg.rules.default), [0.6, 0.8], rtol=1e-6)
    other = flat.override({jnp.linalg.norm: lambda ct, x: ct * x})
    np.testing.assert_allclose(slope(jnp.array([3.0, 4.0]), other), [3, 4])
