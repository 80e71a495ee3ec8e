"""Primitives of other packages: the rules they bring for JAX are used, and said to be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import ad, batching

import funcgrad as fg
from tests.agreement import assert_agrees, assert_same
from tests.primitives import primitive

V = np.array([0.5, -1.5, 2.0], np.float32)

# y = 3 sin x: its JVP rule applies a primitive to the tangent, which has a transposition rule of its own.
wave_p = primitive("other_package_wave", lambda x: 3 * jnp.sin(x))
times_p = primitive("other_package_times", lambda t, x, *, factor: factor * t * x)
ad.primitive_jvps[wave_p] = lambda xs, ts: (
    wave_p.bind(*xs),
    times_p.bind(ad.instantiate_zeros(ts[0]), jnp.cos(xs[0]), factor=3.0),
)
ad.primitive_transposes[times_p] = lambda ct, t, x, *, factor: [times_p.bind(ct, x, factor=factor), None]
ad.primitive_jvps[times_p] = lambda xs, ts, *, factor: (
    times_p.bind(*xs, factor=factor),
    sum(
        (factor * t * other for t, other in zip(ts, xs[::-1], strict=True) if type(t) is not ad.Zero),
        start=jnp.zeros_like(xs[0]),
    ),
)
for p in (wave_p, times_p):
    batching.defvectorized(p)

# Two outputs, one of them an integer.
pair_p = primitive("other_package_pair", lambda x: [x * 2, jnp.argmax(x).astype(np.int32)], multiple_results=True)
ad.primitive_jvps[pair_p] = lambda xs, ts: (
    pair_p.bind(*xs),
    [2 * ad.instantiate_zeros(ts[0]), ad.Zero(jax.core.ShapedArray((), jax.dtypes.float0))],
)

forward_only_p = primitive("other_package_forward_only", lambda t: 2 * t)
ad.primitive_jvps[forward_only_p] = lambda xs, ts: (forward_only_p.bind(*xs), forward_only_p.bind(*ts))

linear_only_p = primitive("other_package_linear_only", lambda x: 5 * x)
ad.deflinear2(linear_only_p, lambda ct, x: [5 * ct])


def test_a_jvp_rule_of_another_package_is_transposed():
    assert_agrees(lambda x: jnp.sum(wave_p.bind(x) ** 2), V)
    assert_agrees(lambda x: jnp.sum(jax.jit(wave_p.bind)(x) ** 2), V)
    assert_agrees(lambda x: lax.scan(lambda c, a: (c + wave_p.bind(a * c), None), x[0], x)[0], V, second=False)


def test_a_linear_primitive_of_another_package_is_transposed():
    assert_agrees(lambda x: jnp.sum(linear_only_p.bind(x) ** 2), V)


def test_a_primitive_of_several_outputs_agrees():
    assert_agrees(lambda x: jnp.sum(pair_p.bind(x)[0] ** 2) * pair_p.bind(x)[1], V)


def test_a_rule_is_given_tuples(monkeypatch):
    p, seen = primitive("foreign_twice", lambda x: 2 * x), []

    def rule(primals, tangents):
        seen.append((type(primals), type(tangents)))
        return p.bind(*primals), 2 * tangents[0]

    monkeypatch.setitem(ad.primitive_jvps, p, rule)
    assert fg.grad(p.bind)(1.0) == 2 and seen == [(tuple, tuple)]


def test_zero_tangents_are_symbolic():
    seen = []
    p = primitive("other_package_product", lambda x, y: x * y)

    def jvp(xs, ts):
        seen.append([type(t) is ad.Zero for t in ts])
        return p.bind(*xs), ts[0] * xs[1]

    ad.primitive_jvps[p] = jvp
    assert fg.grad(lambda x: jnp.sum(p.bind(x, V)))(V).tolist() == V.tolist()
    assert seen == [[False, True]]


def test_the_table_says_what_it_leaves_to_jax():
    names = [str(p) for p in fg.rules.default.foreign()]
    assert {"other_package_wave", "other_package_times", "other_package_pair"} <= set(names)
    assert "sin" not in names


def test_a_rule_that_is_passed_comes_first():
    rules = fg.rules.default.override({wave_p: lambda ct: 100 * ct})
    assert wave_p not in rules.foreign()
    assert fg.grad(lambda x: jnp.sum(wave_p.bind(x)), rules=rules)(V).tolist() == [100] * 3


def test_a_primitive_with_a_jvp_rule_only_is_refused_by_name():
    with pytest.raises(NotImplementedError, match=r"(?s)other_package_forward_only.*override"):
        fg.grad(forward_only_p.bind)(1.0)
    with pytest.raises(NotImplementedError):
        jax.grad(forward_only_p.bind)(1.0)


def test_a_table_without_fallback_leaves_nothing_to_jax():
    alone = fg.rules.RuleTable(dict(fg.rules.default))
    with pytest.raises(NotImplementedError, match="no derivative rule for the primitive 'other_package_wave'"):
        fg.grad(lambda x: jnp.sum(wave_p.bind(x)), rules=alone)(V)


def test_vmap_and_forward_mode_over_the_gradient_agree():
    f = lambda x: jnp.sum(wave_p.bind(x) * x)  # noqa: E731
    mine, theirs = (jax.vmap(m.grad(f))(np.stack([V, 2 * V])) for m in (fg, jax))
    assert_same(mine, theirs, 1e-6)
    mine, theirs = (jax.jvp(m.grad(f), (V,), (V,)) for m in (fg, jax))
    assert_same(mine, theirs, 1e-6)
