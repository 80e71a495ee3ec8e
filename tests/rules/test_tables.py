"""The tables that ``fg.rules`` offers beside the default and PyTorch's, and the functions that make one of another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad as fg
from funcgrad.rules.tables.wrapping import fingerprint
from tests.agreement import assert_same

X = np.array([-1.25, 0.0, 0.7], np.float32)
ONES, ZEROS = [1.0] * 3, [0.0] * 3


def gradient(f, rules, x=X):
    """By both ways: run one by one, and compiled."""
    compute = fg.grad(lambda x: jnp.sum(f(x)), rules=rules)
    eager, compiled = compute(x), jax.jit(compute)(x)
    np.testing.assert_allclose(compiled, eager, rtol=1e-6)
    return eager.tolist()


# Straight through.

STEPS = {
    "round": (jnp.round, ONES),
    "round to tenths": (lambda x: jnp.round(x, 1), ONES),
    "floor": (jnp.floor, ONES),
    "ceil": (jnp.ceil, ONES),
    "trunc": (jnp.trunc, ONES),
    "sign": (jnp.sign, ONES),
    "heaviside": (lambda x: jnp.heaviside(x, 0.5), ONES),
    "above": (lambda x: 3.0 * (x > 0).astype(jnp.float32), [3.0] * 3),
    "below": (lambda x: (x < 0.5).astype(jnp.float32), [-1.0] * 3),
    "at least, times a number": (lambda x: 2.0 * (x >= 0), [2.0] * 3),
    "at most, of the other operand": (lambda x: 1.0 * jnp.less_equal(0.5, x), ONES),
    "above another of itself": (lambda x: 1.0 * (x > 2 * x), [-1.0] * 3),
    "above, broadcast": (lambda x: 1.0 * (x[None] > jnp.zeros((2, 1))), [2.0] * 3),
    "a fake quantiser": (lambda x: 0.1 * jnp.round(x / 0.1), ONES),
    "equal": (lambda x: 1.0 * (x == 0), ZEROS),
    "a chosen branch": (lambda x: jnp.where(x > 0, x, 0.0), [0.0, 0.0, 1.0]),
    "combined conditions": (lambda x: 1.0 * ((x > 0) & ~(x > 3)), ZEROS),
}  # fmt: skip


@pytest.mark.parametrize(("f", "expected"), STEPS.values(), ids=STEPS)
def test_steps_pass_the_cotangent_on(f, expected):
    np.testing.assert_allclose(gradient(f, fg.rules.straight_through), expected, rtol=1e-6)


def above(x):
    return (x > 0).astype(jnp.float32)


PROGRAMS = {
    "jit": jax.jit(above),
    "vmap": jax.vmap(above),
    "checkpoint": jax.checkpoint(above),
    "scan": lambda x: lax.scan(lambda c, a: (c + above(a), None), 0.0, x)[0],
    "cond on a comparison": lambda x: lax.cond(x[0] > 0, jnp.sin, above, x),
    "switch on a comparison": lambda x: lax.switch((x[0] > 0).astype(int), [above, jnp.sin], x),
    "while with a bool in its state": lambda x: lax.while_loop(
        lambda s: s[0] < 1, lambda s: (s[0] + 1, above(s[1]), s[1] > 0), (0, x, x > 0)
    )[1],
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_steps_pass_the_cotangent_on_inside_programs(program):
    assert gradient(program, fg.rules.straight_through) == ONES


def test_what_is_no_step_is_as_it_was():
    f = lambda x: jnp.sin(x) * jnp.maximum(x, 0.1) + (x * 2).astype(jnp.bfloat16).astype(jnp.float32)  # noqa: E731
    assert gradient(f, fg.rules.straight_through) == gradient(f, fg.rules.default)


def test_a_bool_output_still_has_no_cotangent():
    out, pullback = fg.vjp(lambda x: (x > 0, 2 * x), X, rules=fg.rules.straight_through)
    assert out[0].dtype == bool
    (x_ct,) = pullback((np.zeros(3, jax.dtypes.float0), X))
    assert x_ct.tolist() == (2 * X).tolist()


def test_a_quantiser_of_ones_own_is_a_key():
    @jax.jit
    def ternary(w):
        return jnp.where(jnp.abs(w) < 0.5, 0.0, jnp.sign(w)) * jnp.mean(jnp.abs(w))

    rules = fg.rules.straight_through.override({ternary: lambda ct: ct})
    assert gradient(ternary, rules) == ONES and gradient(ternary, fg.rules.straight_through) != ONES


# Saliency.


def test_guided_backpropagation_passes_what_is_positive_both_ways():
    x, ct = np.array([-1, -1, 2, 2], np.float32), np.array([-3, 3, -3, 3], np.float32)
    pull = lambda rules, f=jax.nn.relu: fg.vjp(f, x, rules=rules)[1](ct)[0].tolist()  # noqa: E731
    assert pull(fg.rules.default) == [0, 0, -3, 3]
    assert pull(fg.rules.guided_backpropagation) == [0, 0, 0, 3]
    assert pull(fg.rules.deconvnet) == [0, 3, 0, 3]
    for f in (jax.jit(jax.nn.relu), jax.vmap(jax.nn.relu), jax.checkpoint(lambda x: jax.nn.relu(x))):
        assert pull(fg.rules.guided_backpropagation, f) == [0, 0, 0, 3]
        assert pull(fg.rules.deconvnet, f) == [0, 3, 0, 3]


# Clipped and noisy cotangents.


def test_cotangents_of_the_named_rules_are_clipped():
    rules = fg.rules.clipped(fg.rules.default, {lax.log_p: 2.0, lax.dot_general_p: 0.5})
    x = np.array([0.1, 1.0, -0.25], np.float32)
    assert gradient(jnp.log, rules, x) == [2, 1, -2]
    assert gradient(jax.vmap(jnp.log), rules, x) == [2, 1, -2]
    assert gradient(jax.checkpoint(lambda x: 3 * jnp.log(x)), rules, x) == [2, 2, -2]
    np.testing.assert_allclose(gradient(lambda x: jnp.dot(x, x), rules, x), 2 * np.clip(x, -0.5, 0.5), rtol=1e-6)
    assert gradient(lambda x: x * 9, rules, x) == [9, 9, 9]


def test_a_function_with_a_rule_can_be_clipped():
    norm = jnp.linalg.norm
    table = fg.rules.default.override({norm: lambda ct, x: ct * x})
    rules = fg.rules.clipped(table, {norm: 0.5})
    np.testing.assert_allclose(gradient(norm, rules), np.clip(X, -0.5, 0.5))
    rows = fg.grad(lambda x: jnp.sum(jax.vmap(norm)(x)), rules=rules)(X[None])
    np.testing.assert_allclose(rows, np.clip(X, -0.5, 0.5)[None])


def test_noise_is_added_anew_to_each_cotangent_and_reproducibly():
    x = jnp.linspace(0, 1, 2000)
    rules = fg.rules.noisy(fg.rules.default, {lax.sin_p: 0.1})
    noise = lambda rules, f=jnp.sin: np.array(gradient(f, rules, x)) - np.cos(x)  # noqa: E731
    first = noise(rules)
    assert abs(first.std() - 0.1) < 0.01 and abs(first.mean()) < 0.01
    assert first.tolist() == noise(rules).tolist()
    assert np.corrcoef(first, noise(fg.rules.noisy(fg.rules.default, {lax.sin_p: 0.1}, seed=1)))[0, 1] < 0.2
    assert np.corrcoef(first, noise(rules, lambda x: 2 * jnp.sin(x)) - np.cos(x))[0, 1] < 0.2
    assert fingerprint(x) != fingerprint(x[::-1])
    steps = lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 2)[0]  # noqa: E731
    assert np.isfinite(gradient(steps, rules, x)).all()
    assert noise(fg.rules.noisy(fg.rules.default, {lax.sin_p: 0.0})).tolist() == noise(fg.rules.default).tolist()


def test_what_cannot_be_clipped_is_refused():
    with pytest.raises(TypeError, match=r"has no rule of its own for .*clip"):
        fg.rules.clipped(fg.rules.default, {jnp.clip: 1.0})
    with pytest.raises(ValueError, match=r"bound of a cotangent must be positive; got 0.0 for log"):
        fg.rules.clipped(fg.rules.default, {lax.log_p: 0.0})
    with pytest.raises(ValueError, match=r"scale of noise must not be negative; got -1.0 for log"):
        fg.rules.noisy(fg.rules.default, {lax.log_p: -1.0})


# Zeros that stay zero.

UNUSED = {
    "log": lambda x: jnp.where(x > 0, jnp.log(x), 0.0),
    "root": lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0),
    "quotient": lambda x: jnp.where(x > 0, 1 / x, 0.0),
    "power": lambda x: jnp.where(x > 0, x**0.3, 0.0),
    "overflow": lambda x: jnp.where(x < 80, jnp.exp(jnp.where(x > 0, x, 0.0) * 1e3), x),
    "atan2": lambda x: jnp.where(x > 0, jnp.arctan2(x, x), 0.0),
    "lgamma": lambda x: jnp.where(x > 0, jax.scipy.special.gammaln(x), 0.0),
    "a custom derivative": lambda x: jnp.where(x > 0, jax.scipy.special.xlogy(x, x), 0.0),
}


@pytest.mark.parametrize("f", UNUSED.values(), ids=UNUSED)
def test_a_zero_cotangent_stays_zero(f):
    safe = fg.rules.nan_safe(fg.rules.default)
    x = np.array([0.0, 0.5], np.float32)
    assert np.isnan(gradient(f, fg.rules.default, x)[0]) or "exp" in f.__code__.co_names
    result = gradient(f, safe, x)
    assert not np.isnan(result[0])
    np.testing.assert_allclose(result[1], fg.grad(f)(0.5), rtol=1e-5)


def test_what_is_safe_is_otherwise_the_same():
    f = lambda x: jnp.sin(x) * jnp.exp(x[::-1]) + jnp.sum(x) / (2 + x[:1])  # noqa: E731
    np.testing.assert_allclose(
        gradient(f, fg.rules.nan_safe(fg.rules.default)), gradient(f, fg.rules.default), rtol=1e-6
    )
    saved = [jax.tree.leaves(fg.vjp(f, X, rules=r)[1]) for r in (fg.rules.default, fg.rules.nan_safe(fg.rules.default))]
    assert_same(*saved)


# Tables made of tables.


def test_tables_combine():
    safe = fg.rules.nan_safe(fg.rules.torch)
    assert fg.grad(jnp.abs, rules=safe)(0.0) == 0
    assert fg.grad(lambda x: jnp.where(x > 0, jnp.log(x), jnp.abs(x)), rules=safe)(0.0) == 0
    clipped = fg.rules.clipped(fg.rules.straight_through, {lax.round_p: 0.5})
    assert fg.grad(jnp.round, rules=clipped)(0.3) == 0.5
    assert fg.rules.in_bfloat16(clipped).fallback is fg.rules.default.fallback


def test_tables_leave_what_they_are_made_of():
    before = dict(fg.rules.default)
    fg.rules.nan_safe(fg.rules.default), fg.rules.in_bfloat16(fg.rules.default)
    assert dict(fg.rules.default) == before
