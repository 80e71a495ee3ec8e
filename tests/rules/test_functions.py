"""Rules of whole functions: how a function is recognised, what its rule is given, and that it holds everywhere."""

from __future__ import annotations

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad.rules import RuleTable, formula, no_derivative
from tests.agreement import assert_same

X = np.array([[3.0, 0.0, 4.0], [1.0, 2.0, 2.0]], np.float32)
norm = jnp.linalg.norm


def table(rules):
    return fg.rules.default.override(rules)


@jax.jit
def quantise(x, bits=3):
    """Nothing is left of the derivative of this."""
    return jnp.round(x * 2.0**bits) / 2.0**bits


@functools.partial(jax.jit, static_argnames="power")
def powered(x, scale, *, power):
    return scale * x**power


@jax.jit
def affine(params, x):
    return x @ params["w"] + params["b"]


# Where it is recognised. The rule is of the shapes of one call: it fails, or gives another result, on a batch.

SHAPES: list = []


def normalised(ct, x, out):
    SHAPES.append((ct.shape, x.shape, out.shape))
    return 10 * ct * x / out


def rows(f):
    """A function of a matrix that calls f on each of its rows."""
    return {
        "plainly": lambda x: f(x[0]) + f(x[1]),
        "in jit": lambda x: jax.jit(lambda x: f(x[0]) + jax.jit(f)(x[1]))(x),
        "in checkpoint": lambda x: jax.checkpoint(f)(x[0]) + jax.checkpoint(f)(x[1]),
        "in scan": lambda x: lax.scan(lambda c, row: (c + f(row), None), 0.0, x)[0],
        "in while_loop": lambda x: lax.while_loop(
            lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] + f(x[s[0]])), (0, 0.0)
        )[1],
        "in cond": lambda x: lax.cond(x[0, 0] > 0, lambda x: f(x[0]) + f(x[1]), lambda x: 0.0, x),
        "in vmap": lambda x: jnp.sum(jax.vmap(f)(x)),
        "in vmap over the last axis": lambda x: jnp.sum(jax.vmap(f, in_axes=1)(x.T)),
        "in vmap of jit": lambda x: jnp.sum(jax.vmap(jax.jit(lambda row: f(row)))(x)),
        "in jit of vmap": lambda x: jnp.sum(jax.jit(jax.vmap(f))(x)),
        "in vmap of scan": lambda x: jnp.sum(
            jax.vmap(lambda row: lax.scan(lambda c, _: (c + f(row), None), 0.0, None, length=1)[0])(x)
        ),
        "in vmap of vmap": lambda x: jnp.sum(jax.vmap(jax.vmap(f, in_axes=1))(x.T[None])),
    }


RULES = table({norm: normalised})
EXPECTED = 10 * X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("where", rows(norm))
def test_a_function_is_recognised_wherever_it_is_called(where):
    f = rows(norm)[where]
    SHAPES.clear()
    np.testing.assert_allclose(fg.grad(f, rules=RULES)(X), EXPECTED, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(fg.grad(f, rules=RULES))(X), EXPECTED, rtol=1e-6)
    assert set(SHAPES) == {((), (3,), ())}
    np.testing.assert_allclose(fg.grad(f)(X), EXPECTED / 10, rtol=1e-6)


def test_the_gradient_may_be_batched_itself():
    gradient = jax.vmap(fg.grad(norm, rules=RULES))
    np.testing.assert_allclose(gradient(X), EXPECTED, rtol=1e-6)


def test_batched_and_shared_arguments_keep_apart():
    rules = table({jnp.clip: [None, lambda ct, arr, min: ct * (arr < min), lambda ct, arr, max: ct * (arr > max)]})

    def f(x, low, high):
        return jnp.sum(jax.vmap(jnp.clip, in_axes=(0, None, 0))(x, low, high))

    # Of three rows and three bounds each row has one: by shapes alone they could be either.
    x, high = jnp.full((3, 3), 5.0), jnp.array([4.0, 5.0, 6.0])
    x_ct, low_ct, high_ct = fg.grad(f, (0, 1, 2), rules=rules)(x, 5.5, high)
    assert x_ct.tolist() == [[0] * 3] * 3 and low_ct == 9 and high_ct.tolist() == [3, 0, 0]


def test_ways_of_batching_keep_apart():
    """Both programs are of a square array."""
    x = jnp.arange(9.0).reshape(3, 3)
    f = lambda x: jnp.sum(jax.vmap(norm)(x)) + 2 * jnp.sum(jax.vmap(norm, in_axes=1)(x))  # noqa: E731
    expected = 10 * (x / jnp.linalg.norm(x, axis=1, keepdims=True) + 2 * x / jnp.linalg.norm(x, axis=0))
    np.testing.assert_allclose(fg.grad(jax.jit(f), rules=RULES)(x), expected, rtol=1e-5)


def test_every_transform_takes_the_rule():
    rules = table({norm: lambda ct, x: ct * x})
    x = X[0]
    assert fg.grad(norm, rules=rules)(x).tolist() == x.tolist()
    value, gradient = fg.value_and_grad(norm, rules=rules)(x)
    assert value == 5 and gradient.tolist() == x.tolist()
    assert fg.vjp(norm, x, rules=rules)[1](2.0)[0].tolist() == (2 * x).tolist()
    assert fg.jacrev(norm, rules=rules)(x).tolist() == x.tolist()
    assert fg.hessian(norm, rules=rules)(x).tolist() == np.eye(3).tolist()
    assert fg.hvp(norm, (x,), (x,), rules=rules).tolist() == x.tolist()


def test_the_second_derivative_is_that_of_the_formula():
    rules = table({norm: lambda ct, x, out: ct * jnp.sin(x) * out})
    x = X[1]
    inner = lambda x: jnp.sum(fg.grad(norm, rules=rules)(x))  # noqa: E731
    expected = np.cos(x) * 3 + np.sum(np.sin(x)) * np.sin(x) * 3
    np.testing.assert_allclose(fg.grad(inner, rules=rules)(x), expected, rtol=1e-5)
    np.testing.assert_allclose(fg.grad(jax.jit(inner), rules=rules)(x), expected, rtol=1e-5)


def test_a_custom_vjp_function_keeps_its_own_and_what_that_computes_has_the_rule():
    @jax.custom_vjp
    def f(x):
        return norm(x)

    f.defvjp(lambda x: (norm(x), x), lambda x, ct: (ct * norm(x) * x,))
    rules, x = table({norm: lambda ct, x: 5 * ct * x}), X[1]
    np.testing.assert_allclose(fg.grad(f, rules=rules)(x), 3 * x)
    twice = fg.grad(lambda x: jnp.sum(fg.grad(f, rules=rules)(x)), rules=rules)(x)
    np.testing.assert_allclose(twice, 3 + np.sum(x) * 5 * x)


def test_half_of_a_derivative_is_not_the_function():
    """The outer gradient has another rule for the function, but what it differentiates is a gradient."""

    @jax.jit
    def length(x):
        return jnp.sqrt(jnp.sum(x * x))

    x = X[1]
    inner = lambda x: jnp.sum(jnp.sin(fg.grad(length)(x)))  # noqa: E731
    outer = fg.grad(jax.jit(inner), rules=table({length: lambda ct: ct * np.nan}))(x)
    np.testing.assert_allclose(outer, fg.grad(inner)(x), rtol=1e-6)
    by_jax = lambda x: jnp.sum(jnp.sin(jax.grad(length)(x)))  # noqa: E731
    np.testing.assert_allclose(fg.grad(by_jax, rules=table({length: lambda ct: ct * np.nan}))(x), outer, rtol=1e-6)


def test_a_jitted_transformation_of_a_function_is_not_the_function():
    rules = table({norm: lambda ct, x: ct * x})
    f = jax.jit(jax.vmap(norm))
    assert fg.grad(lambda x: jnp.sum(f(x)), rules=rules)(X).tolist() == X.tolist()
    g = jax.jit(jax.grad(norm))
    assert_same(fg.grad(lambda x: jnp.sum(g(x)), rules=rules)(X[1]), fg.grad(lambda x: jnp.sum(g(x)))(X[1]))


def test_a_function_of_the_same_name_is_another():
    @jax.jit
    def clip(x):
        return 3 * x

    rules = table({jnp.clip: lambda ct: ct * np.nan})
    assert fg.grad(clip, rules=rules)(1.0) == 3
    assert fg.grad(clip, rules=table({clip: lambda ct: ct}))(1.0) == 1


def made(scale):
    @jax.jit
    def scaled(x):
        return scale * x

    return scaled


class Scale:
    def __init__(self, scale):
        self.scale = scale

    def apply(self, x):
        return self.scale * x


def typed(line):
    """What a line that is typed at a prompt defines as ``a`` and ``b``."""
    space = {"jax": jax}
    exec(line, space)
    return space["a"], space["b"]


by_two, by_three = Scale(2.0), Scale(3.0)
ALIKE = {
    "on one line": (jax.jit(lambda x: x * 2.0), jax.jit(lambda x: x * 3.0)),
    "of one factory": (made(2.0), made(3.0)),
    "methods of two objects": (jax.jit(by_two.apply), jax.jit(by_three.apply)),
    "partials": [jax.jit(functools.partial(lambda k, x: k * x, k)) for k in (2.0, 3.0)],
    "typed on one line": typed("a, b = jax.jit(lambda x: x * 2.0), jax.jit(lambda x: x * 3.0)"),
    "around one another": (a := jax.jit(lambda x: 2.0 * x), jax.jit(lambda x, a=a: 1.5 * a(x))),
    "custom functions": [jax.custom_jvp(made(k)) for k in (2.0, 3.0)],
}  # fmt: skip
for custom in ALIKE["custom functions"]:
    custom.defjvp(lambda xs, ts, f=custom: (f(*xs), 7 * ts[0]))


@pytest.mark.parametrize("alike", ALIKE)
def test_functions_that_look_alike_keep_apart(alike):
    one, other = ALIKE[alike]
    ones, rules = jnp.ones(2), table({one: lambda ct: 100 * ct})
    expected = 7 if alike == "custom functions" else 150 if alike == "around one another" else 3
    for where, wrap in {
        "plainly": lambda f: f,
        "in jit": jax.jit,
        "in vmap": jax.vmap,
        "in jit of vmap": lambda f: jax.jit(jax.vmap(f)),
        "in scan": lambda f: lambda x: lax.scan(lambda c, x: (c, f(x)), 0, x)[1],
        "in checkpoint": jax.checkpoint,
        "in cond": lambda f: lambda x: lax.cond(x[0] > 0, f, lambda x: x, x),
    }.items():
        gradient = fg.grad(lambda x, one, other, w=wrap: jnp.sum(w(one)(x[0]) + w(other)(x[1])), rules=rules)
        got = gradient(jnp.stack([ones, ones]), one, other)
        assert got.tolist() == [[100] * 2, [expected] * 2], where


def test_a_function_that_is_jitted_twice_is_one():
    """JAX traces it once for both."""
    method = by_two.apply
    for first, second in [(jax.jit(plain := lambda x: 2.0 * x), jax.jit(plain)), (jax.jit(method), jax.jit(method))]:
        for key, called in [(first, second), (second, first)]:
            rules = table({key: lambda ct: 100 * ct})
            assert called in rules and fg.grad(called, rules=rules)(1.0) == 100
            assert fg.grad(lambda x, f=called: jnp.sum(jax.vmap(f)(x)), rules=rules)(jnp.ones(1)) == 100
        with pytest.raises(TypeError, match=r"two of the keys are the function .*jit a function of its own"):
            table({first: lambda ct: ct, second: lambda ct: 2 * ct})


def test_a_table_keeps_no_function_alive():
    function = made(2.0)
    rules = table({function: lambda ct: ct})
    fg.grad(function, rules=rules)(1.0)
    gone = weakref.ref(function._fun)
    del function
    gc.collect()
    assert gone() is None and len(rules.functions) == len(fg.rules.default.functions) + 1


def test_rules_are_for_one_call():
    f = jax.jit(lambda x: jnp.sum(quantise(x)))
    through = table({quantise: lambda ct: ct})
    assert fg.grad(f)(X).tolist() == np.zeros_like(X).tolist()
    assert fg.grad(f, rules=through)(X).tolist() == np.ones_like(X).tolist()
    assert fg.grad(f)(X).tolist() == np.zeros_like(X).tolist()
    twice = table({quantise: lambda ct: 2 * ct})
    assert fg.grad(f, rules=twice)(X).tolist() == (2 * np.ones_like(X)).tolist()


def test_a_function_is_one_node_that_saves_what_its_rule_names():
    out, pullback = fg.vjp(lambda x: quantise(jnp.sin(x)), X, rules=table({quantise: lambda ct, out: ct * out}))
    assert "2 operations" in repr(pullback)
    assert [leaf.tolist() for leaf in pullback.opaque_residuals] == [out.tolist()]


def test_a_custom_jvp_function_around_a_jitted_one_is_a_key():
    rules = table({jax.nn.relu: lambda ct, x: ct * x})
    relu = jax.nn.relu
    for f in (relu, jax.jit(relu), jax.vmap(relu), jax.checkpoint(relu)):
        assert fg.grad(lambda x, f=f: jnp.sum(f(x)), rules=rules)(-X).tolist() == (-X).tolist()


def test_a_method_is_a_key_by_its_class():
    class Layer:
        def __init__(self, scale):
            self.scale = scale

        @functools.partial(jax.jit, static_argnums=0)
        def apply(self, x):
            return self.scale * x

    rules = table({Layer.apply: [None, lambda ct: 5 * ct]})
    assert fg.grad(Layer(3.0).apply, rules=rules)(1.0) == 5
    with pytest.raises(TypeError, match=r"whatever object it is called on.*Use Layer.apply as the key"):
        table({Layer(3.0).apply: lambda ct: ct})


# What a rule is given.


def test_arguments_come_by_name_however_they_are_passed():
    seen = []

    def rule(ct, arr, min, max):
        seen.append((min is None, max is None))
        return ct

    rules = table({jnp.clip: rule})
    for call in (
        lambda x: jnp.clip(x, 0.0, 1.0),
        lambda x: jnp.clip(x, max=1.0),
        lambda x: jnp.clip(x, min=0.0),
        lambda x: jnp.clip(x, max=1.0, min=None),
        lambda x: x.clip(0.0),
    ):
        assert fg.grad(call, rules=rules)(3.0) == 1
    assert seen == [(False, False), (True, False), (False, True), (True, False), (False, True)]


def test_x_y_and_z_are_the_first_arguments_unless_they_are_names_of_others():
    rules = table({jnp.clip: [lambda ct, x, y, z: ct * (x + y + z), None, lambda ct, x, y_aval: ct * x]})
    assert fg.grad(jnp.clip, (0, 2), rules=rules)(1.0, 2.0, 3.0) == (6, 1)

    @jax.jit
    def swapped(y, x):
        return x - y

    rules = table({swapped: [lambda ct, x, y: ct * x, lambda ct, y: ct * y]})
    assert fg.grad(swapped, (0, 1), rules=rules)(2.0, 3.0) == (3, 2)


def test_an_argument_left_out_has_its_default():
    rules = table({jax.nn.leaky_relu: lambda ct, x, negative_slope: ct * negative_slope})
    np.testing.assert_allclose(fg.grad(jax.nn.leaky_relu, rules=rules)(1.0), 0.01)
    np.testing.assert_allclose(fg.grad(lambda x: jax.nn.leaky_relu(x, 0.3), rules=rules)(1.0), 0.3)


def test_derived_values_are_saved_in_place_of_arguments():
    rule = formula(lambda ct, big: jnp.where(big, ct, 0), big=lambda x: x > 1)
    for f in (quantise, jax.vmap(quantise)):
        out, pullback = fg.vjp(f, X, rules=table({quantise: rule}))
        (mask,) = jax.tree.leaves(pullback)
        assert mask.dtype == bool and pullback(out)[0].tolist() == np.where(X > 1, out, 0).tolist()


def test_a_pytree_arrives_as_its_leaves():
    params, x = {"w": jnp.eye(3) * 2, "b": jnp.ones(3)}, X[0]
    rules = table({affine: [lambda ct, params, x: (ct, jnp.outer(x, ct) * params[1].shape[0]), None]})
    gradient = fg.grad(lambda p: jnp.sum(affine(p, x)), rules=rules)(params)
    assert gradient["b"].tolist() == [1, 1, 1] and gradient["w"].tolist() == (3 * np.outer(x, np.ones(3))).tolist()


def test_a_broadcast_argument_gets_the_sum():
    rules = table({jnp.clip: [lambda ct: ct, lambda ct: ct]})
    low_ct = fg.grad(lambda low: jnp.sum(jnp.clip(X, low)), rules=rules)
    assert low_ct(0.0) == 6 and low_ct(np.zeros(3, np.float32)).tolist() == [2, 2, 2]


def test_without_derivative_the_cotangent_stops():
    rules = table({norm: no_derivative})
    assert fg.grad(lambda x: norm(x) + jnp.sum(x), rules=rules)(X).tolist() == np.ones_like(X).tolist()


def test_cotangents_have_the_dtype_to_which_the_operand_was_promoted():
    rules = table({jnp.clip: lambda ct: ct})
    gradient = fg.grad(lambda x: jnp.sum(jnp.clip(x, np.float32(0))), rules=rules)
    assert gradient(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


# Pairs, as custom_vjp takes them.


def forward(x, bits):
    return quantise(x, bits), (jnp.abs(x) <= 1, bits)


def backward(residuals, ct):
    inside, _ = residuals
    return jnp.where(inside, ct, 0), None


def test_a_pair_is_as_for_custom_vjp():
    custom = jax.custom_vjp(lambda x, bits: quantise(x, bits))
    custom.defvjp(forward, backward)
    rules = table({quantise: (forward, backward)})
    x = jnp.linspace(-2, 2, 5)
    for wrap in (lambda f: f, jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f)), jax.checkpoint):
        mine = fg.grad(lambda x, w=wrap: jnp.sum(w(lambda a: quantise(a, 4.0))(x) ** 2), rules=rules)(x)
        assert_same(mine, jax.grad(lambda x: jnp.sum(custom(x, 4.0) ** 2))(x))


def test_a_pair_has_pytrees_and_several_outputs():
    @jax.jit
    def both(params, x):
        return {"sum": params["a"] + x, "product": params["a"] * x}

    def fwd(params, x):
        (a,) = params
        return {"sum": a + x, "product": a * x}, (a, x)

    def bwd(residuals, ct):
        a, x = residuals
        return (ct["sum"] + 10 * x * ct["product"],), ct["sum"] + 10 * a * ct["product"]

    rules = table({both: (fwd, bwd)})
    f = lambda p, x: both(p, x)["product"]  # noqa: E731
    p_ct, x_ct = fg.grad(f, (0, 1), rules=rules)({"a": 2.0}, 3.0)
    assert p_ct["a"] == 30 and x_ct == 20
    batched = lambda p, x: jnp.sum(jax.vmap(f, in_axes=(None, 0))(p, x))  # noqa: E731
    p_ct, x_ct = fg.grad(batched, (0, 1), rules=rules)({"a": 2.0}, jnp.array([3.0, 4.0]))
    assert p_ct["a"] == 70 and x_ct.tolist() == [20, 20]


NONE_IN_A_PAIR = (lambda x, scale: (x * scale, scale), lambda scale, ct: (ct * scale, None))
NONE_FROM_A_FORMULA = (lambda ct, x, scale: ct * scale, lambda ct, x, scale: None)


@pytest.mark.parametrize("rule", [NONE_IN_A_PAIR, NONE_FROM_A_FORMULA], ids=["pair", "formula"])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_none_is_a_cotangent_of_zero(rule, shape):
    @jax.jit
    def scaled(x, scale):
        return x * scale

    rules = table({scaled: rule})
    x, scale = jnp.full(shape, 2.0), jnp.full(shape, 3.0)
    total = lambda x, scale: jnp.sum(scaled(x, scale))  # noqa: E731
    assert_same(fg.grad(total, (0, 1), rules=rules)(x, scale), (scale, 0 * x))
    assert_same(fg.grad(lambda x: total(x, x), rules=rules)(x), x)
    over_rows = lambda x, scale: jnp.sum(jax.vmap(scaled, (0, None))(jnp.stack([x, x]), scale))  # noqa: E731
    assert_same(fg.grad(over_rows, (0, 1), rules=rules)(x, scale), (2 * scale, 0 * x))


def test_a_pair_leaves_static_arguments_out():
    rules = table({powered: (lambda x, scale: (scale * x**3, x), lambda x, ct: (ct * x, None))})
    assert fg.grad(lambda x: powered(x, 2.0, power=3), rules=rules)(5.0) == 5


def test_a_pair_has_every_one_of_args():
    @jax.jit
    def total(*xs):
        return sum(xs)

    rules = table({total: (lambda *xs: (sum(xs), len(xs)), lambda n, ct: tuple(ct * i for i in range(n)))})
    assert fg.grad(total, (0, 2), rules=rules)(1.0, 2.0, 3.0) == (0, 2)


# Rules inside of a function.


def test_rules_may_hold_inside_of_a_function_only():
    rules = table({norm: {lax.sqrt_p: lambda ct: 7 * ct}})
    f = lambda x: norm(x) + jnp.sum(jnp.sqrt(x))  # noqa: E731
    x = X[1]
    np.testing.assert_allclose(fg.grad(f, rules=rules)(x), 7 * 2 * x + 0.5 / np.sqrt(x), rtol=1e-6)
    for where in ("in jit", "in scan", "in vmap", "in vmap of jit"):
        g = rows(norm)[where]
        np.testing.assert_allclose(fg.grad(g, rules=rules)(X), 14 * X, rtol=1e-6, err_msg=where)


def test_rules_inside_hold_at_any_depth_and_for_functions():
    deep = jax.jit(lambda x: jax.jit(lambda x: quantise(jnp.sin(x)))(x))
    rules = table({deep: {quantise: lambda ct: ct, lax.sin_p: lambda ct: 3 * ct}})
    assert fg.grad(deep, rules=rules)(0.4) == 3
    assert fg.grad(quantise, rules=rules)(0.4) == 0


# Keys and rules that are refused.

unjitted_jvp = jax.custom_jvp(lambda x: x)

REFUSED = {
    "a plain function": (jnp.std, "std: it is not itself jitted, so JAX sees only the operations inside it"),
    "a ufunc": (jnp.maximum, "maximum: it is not itself jitted"),
    "a function around a jitted one": (functools.wraps(norm)(lambda x: norm(x)), "norm: it is not itself jitted"),
    "a transformed function": (jax.vmap(norm), "it is not itself jitted"),
    "a custom_jvp function that is not jitted": (unjitted_jvp, "custom_jvp function that is not jitted"),
    "a partial": (functools.partial(jnp.clip, min=0), "is a partial.*Use clip itself"),
    "a function that is written out": (jnp.abs, "jitted with inline=True.*such as jax.lax.abs_p"),
    "a builtin": (jax.jit(abs), "no source location"),
    "a name": ("clip", "not itself jitted.*A key is a primitive"),
    "a class": (dict, "dict: it is not itself jitted"),
}


@pytest.mark.parametrize(("key", "message"), REFUSED.values(), ids=REFUSED)
def test_a_key_that_can_never_match_is_refused_with_the_reason(key, message):
    with pytest.raises(TypeError, match=f"a rule table has no place for .*{message}"):
        table({key: lambda ct: ct})


WRONG = {
    "fwd alone": (norm, (lambda x: (x, x),), r"\(fwd, bwd\), as for custom_vjp; bwd is missing"),
    "fwd and no bwd": (norm, (lambda x: (x, x), None), "bwd is missing"),
    "bwd alone": (norm, (None, lambda residuals, ct: ct), "fwd is missing"),
    "a fwd of other arguments": (norm, (lambda a, b: a, lambda r, ct: ct), r"function's arguments, without .*\(x\)"),
    "a bwd of other arguments": (norm, (lambda x: (x, x), lambda r: r), "bwd of a pair takes the residuals"),
    "an unknown name": (norm, lambda ct, weights: ct, "'weights' names nothing to save. In the rule of norm use"),
    "a static argument": (norm, lambda ct, axis: ct, "'axis' is a static argument of norm.*does not reach a rule"),
    "a static argument, keyword-only": (powered, lambda ct, *, power: ct, "'power' is a static argument of powered"),
    "a keyword-only name": (norm, lambda ct, *, x: ct, "'x' is keyword-only"),
    "a formula of a static argument": (norm, [lambda ct: ct, lambda ct: ct], "in its place the rule has None"),
    "too many formulas": (quantise, [lambda ct: ct] * 3, "takes 2 arguments, but its rule has 3 formulas"),
    "no rule": (norm, 3, "a rule of a function is a formula, a sequence of formulas"),
    "a joint rule": (norm, fg.rules.joint(lambda cts: cts), "a rule of a function is a formula"),
}  # fmt: skip


@pytest.mark.parametrize(("key", "rule", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_rule_is_refused_when_the_table_is_made(key, rule, message):
    with pytest.raises(TypeError, match=message):
        table({key: rule})


def test_an_argument_without_formula_is_an_error_where_it_is_differentiated():
    rules = table({jnp.clip: lambda ct: ct})
    assert fg.grad(jnp.clip, rules=rules)(2.0, 0.0, 1.0) == 1
    with pytest.raises(TypeError, match=rf"rule of 'clip', .*{__file__}:\d+.* has no formula for 'max'.*or None where"):
        fg.grad(jnp.clip, 2, rules=rules)(2.0, 0.0, 1.0)


def test_a_closed_over_value_is_an_error_where_it_is_differentiated():
    def f(x, y):
        inner = jax.jit(lambda x: x * y)
        return fg.grad(lambda x: inner(x), rules=table({inner: lambda ct: 2 * ct}))(x)

    assert f(1.0, 3.0) == 2

    cell = [1.0]
    inner = jax.jit(lambda x: x * cell[0])

    def g(x):
        cell[0] = x
        return inner(x)

    with pytest.raises(TypeError, match="<lambda> closes over a value that is differentiated here"):
        fg.grad(g, rules=table({inner: lambda ct: 2 * ct}))(2.0)


MISSHAPEN = {
    "a cotangent of another shape": (lambda ct, x: ct * jnp.ones((4, 4)), ValueError, r"'x', of type float32\[2,3\]"),
    "more dimensions": (lambda ct, x: jnp.stack([ct * x] * 2), ValueError, r"a cotangent of type float32\[2,2,3\]"),
    "integers": (lambda ct, x: jnp.ones_like(x, int), ValueError, r"a cotangent of type int32\[2,3\]"),
    "another dtype": (lambda ct, x: (ct * x).astype(jnp.float16), ValueError, r"a cotangent of type float16\[2,3\]"),
    "a tuple": (lambda ct, x: (ct * x, ct * x), TypeError, "what is no array"),
    "a word": (lambda ct, x: "x", TypeError, "what is no array: 'x'"),
    "a fwd that returns the output alone": (
        (lambda x: jnp.sum(x), lambda r, ct: (ct,)), TypeError, r"a pair of \(out, residuals\)"),
    "a fwd with another output": ((lambda x: (x, x), lambda r, ct: (ct,)), TypeError, "what the function does"),
    "a bwd that returns no tuple": (
        (lambda x: (jnp.sum(x), x), lambda r, ct: ct * r), TypeError, "a tuple of a cotangent"),
    "a bwd that returns another dtype": (
        (lambda x: (jnp.sum(x), x), lambda r, ct: ((ct * r).astype(int),)), ValueError, r"'x', of type float32\[2,3\]"),
}  # fmt: skip


@pytest.mark.parametrize("way", [lambda g: g, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("rule", "error", "message"), MISSHAPEN.values(), ids=MISSHAPEN)
def test_a_rule_that_does_not_fit_says_which_it_is_and_where(rule, error, message, way):
    with pytest.raises(error, match=message) as raised:
        way(fg.grad(norm, rules=table({norm: rule})))(X)
    assert "the rule of 'norm'" in str(raised.value) and f"{__file__}:" in str(raised.value)


def test_formulas_are_for_one_output():
    two = jax.jit(lambda x: (x, x))
    with pytest.raises(TypeError, match=rf"'<lambda>', .*{__file__}:\d+.*one formula per argument.*Give a pair"):
        fg.grad(lambda x: two(x)[0], rules=table({two: lambda ct: ct}))(1.0)


def test_what_jax_forgot_how_it_was_batched_is_an_error():
    rules = table({norm: lambda ct, x: ct * x})
    program = jax.make_jaxpr(jax.vmap(norm))(X)
    gradient = fg.grad(lambda x: jnp.sum(jax.core.eval_jaxpr(program.jaxpr, program.consts, x)[0]), rules=rules)
    assert gradient(X).tolist() == X.tolist()
    jax.clear_caches()
    with pytest.raises(NotImplementedError, match=r"in a way that funcgrad cannot follow. Take the gradient inside"):
        gradient(X)


# The table.


def test_a_table_has_functions_among_its_keys():
    rule = formula(lambda ct: ct)
    one = table({jnp.clip: lambda ct: ct, lax.sin_p: rule})
    assert jnp.clip in one and jnp.clip not in fg.rules.default and quantise not in one
    assert one.get(jnp.clip) is one[jnp.clip] and one.get(quantise) is None and one.get(lax.sin_p) is rule
    assert one[lax.sin_p] is rule and len(one) == len(fg.rules.default) + 1
    functions = len(fg.rules.default.functions)
    assert repr(one) == f"RuleTable({len(fg.rules.default) - functions} primitives, {functions + 1} functions)"
    assert RuleTable(dict(one), one.fallback) == one and hash(one) == hash(RuleTable(dict(one)))
    assert one.override({norm: lambda ct: ct})[jnp.clip] is one[jnp.clip]


@jax.jit
def product(x, y):
    return x * y


@pytest.mark.parametrize("rule", [
    [lambda ct, x, y: ct * y.reshape(x.shape), lambda ct, x: ct * x.sum()],
    (lambda x, y: (x.sum() * y.reshape(x.shape), (x, y)), lambda saved, ct: (ct * saved[1].sum(), ct * saved[0].sum())),
], ids=["formulas", "pair"])  # fmt: skip
def test_a_rule_is_given_arrays_where_the_function_is_given_plain_numbers(rule):
    assert fg.grad(product, (0, 1), rules=fg.rules.default.override({product: rule}))(2.0, 3.0) == (3, 2)


@jax.jit
def of_the_second(x, y):
    return jnp.sin(y)


SHARED = {
    "nothing is batched": lambda x, y: jax.vmap(lambda x: of_the_second(y, y) * x)(x),
    "nothing is, in two batches": lambda x, y: jax.vmap(jax.vmap(lambda x: of_the_second(y, y)))(jnp.stack([x, x])),
    "what is batched does not matter": lambda x, y: jax.vmap(lambda x: of_the_second(x, y) * x)(x),
    "nor does it in the outer batch": lambda x, y: jax.vmap(lambda y: jax.vmap(lambda x: of_the_second(x, y))(x))(
        x * y
    ),
    "a sum of it": lambda x, y: jax.vmap(of_the_second, (0, None), None)(x, y),
}


@pytest.mark.parametrize("f", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("rule", [
    [None, lambda ct, y: ct * jnp.cos(y)],
    [None, lambda ct, y, x: ct * (jnp.cos(y) + 0 * x)],
    (lambda x, y: (jnp.sin(y), y), lambda y, ct: (None, ct * jnp.cos(y))),
], ids=["of y", "of x and y", "pair"])  # fmt: skip
def test_what_all_of_a_batch_share_is_counted_once(f, rule):
    x, y = jnp.array([0.1, 0.2, 0.3]), 0.7
    loss = lambda x, y: jnp.sum(f(x, y))  # noqa: E731
    expected = jax.grad(loss, (0, 1))(x, y)
    gradient = fg.grad(loss, (0, 1), rules=fg.rules.default.override({of_the_second: rule}))
    assert_same(gradient(x, y), expected, 1e-6)
    assert_same(jax.jit(gradient)(x, y), expected, 1e-6)


def test_so_it_is_for_functions_that_the_default_table_knows():
    x, y = jnp.array([0.1, 0.2, 0.3]), 0.7
    f = lambda y: jnp.sum(jax.vmap(lambda x: x * jnp.sinc(y) + jnp.i0(y) * jnp.hypot(y, y) + jax.nn.soft_sign(y))(x))  # noqa: E731
    assert_same(fg.grad(f)(y), jax.grad(f)(y), 1e-5)
