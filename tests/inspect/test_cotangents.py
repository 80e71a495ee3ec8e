"""Gradients with respect to named values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import funcgrad as fg

X = jnp.array([0.3, -0.7, 1.1])


def rest(h):
    return jnp.sum(jnp.sin(h) ** 2 * jnp.arange(1.0, 4.0))


def f(x):
    return rest(checkpoint_name(jnp.tanh(x), "hidden"))


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


WANTED = fg.grad(rest)(jnp.tanh(X))


@pytest.mark.parametrize("wrap", [lambda g: g, jax.jit], ids=["eager", "jit"])
class TestEagerAndJitted:
    def test_a_named_values_cotangent_is_the_gradient_with_respect_to_it(self, wrap):
        found = wrap(fg.cotangents(f, "hidden"))(X)
        assert list(found) == ["hidden"]
        assert_close(found["hidden"], WANTED)

    def test_inside_a_jitted_function(self, wrap):
        assert_close(wrap(fg.cotangents(jax.jit(f), "hidden"))(X)["hidden"], WANTED)

    def test_inside_a_checkpoint(self, wrap):
        assert_close(wrap(fg.cotangents(jax.checkpoint(f), "hidden"))(X)["hidden"], WANTED)

    def test_inside_a_scan_they_come_stacked(self, wrap):
        def looped(x):
            return rest(lax.scan(lambda c, _: (checkpoint_name(jnp.cos(c), "state"), None), x, None, length=4)[0])

        def after(state, n):
            for _ in range(n):
                state = jnp.cos(state)
            return rest(state)

        found = wrap(fg.cotangents(looped, "state"))(X)["state"]
        assert found.shape == (4, 3)
        state = X
        for i in range(4):
            state = jnp.cos(state)
            np.testing.assert_allclose(found[i], fg.grad(after)(state, 3 - i), rtol=1e-5)

    def test_that_do_not_depend_on_any_argument(self, wrap):
        weights = jnp.tanh(X)
        g = lambda n: rest(jax.jit(lambda w: checkpoint_name(w * 1.0, "w"))(weights)) * n  # noqa: E731
        assert_close(wrap(fg.cotangents(g, "w"))(2)["w"], 2 * WANTED)

    def test_under_vmap(self, wrap):
        found = wrap(jax.vmap(fg.cotangents(f, "hidden")))(jnp.stack([X, 2 * X]))["hidden"]
        assert_close(found[0], WANTED)
        assert found.shape == (2, 3)


def test_values_of_one_name_come_in_the_order_of_the_program():
    def twice(x):
        for scale in (2.0, 3.0):
            x = checkpoint_name(x * scale, "x")
        return jnp.sum(x)

    first, second = fg.cotangents(twice, "x")(X)["x"]
    assert (first[0], second[0]) == (3.0, 1.0)


def test_without_names_all_are_returned():
    def g(x):
        return checkpoint_name(f(x) * 2, "result")

    found = fg.cotangents(g)(X)
    assert list(found) == ["hidden", "result"] and found["result"] == 1


def test_in_the_branch_that_was_taken_and_in_a_while_loop():
    def g(x):
        x = lax.cond(x > 0, lambda x: checkpoint_name(x * 2, "branch"), lambda x: x, x)
        return lax.while_loop(lambda c: c[1] < 3, lambda c: (checkpoint_name(c[0] * 2, "state"), c[1] + 1), (x, 0))[0]

    found = fg.cotangents(g, "branch", "state")(1.0)
    assert found["branch"] == 8.0
    assert found["state"].tolist() == [4.0, 2.0, 1.0]


def test_a_cotangent_that_is_zero_is_an_array_of_zeros():
    g = lambda x: jnp.sum(jnp.round(checkpoint_name(x * 2, "x")))  # noqa: E731
    assert fg.cotangents(g, "x")(X)["x"].tolist() == [0, 0, 0]


def test_a_value_that_the_result_does_not_depend_on_has_a_cotangent_of_zero():
    def g(x):
        checkpoint_name(x * 2, "unused")
        return jnp.sum(x)

    assert fg.cotangents(g, "unused")(X)["unused"].tolist() == [0, 0, 0]


def test_a_result_that_is_no_scalar_counts_as_its_sum():
    g = lambda x: 2 * checkpoint_name(x, "x")  # noqa: E731
    assert fg.cotangents(g, "x")(X)["x"].tolist() == [2, 2, 2]


def test_auxiliary_output_is_left_alone():
    g = lambda x: (f(x), "aux")  # noqa: E731
    assert_close(fg.cotangents(g, "hidden", has_aux=True)(X)["hidden"], WANTED)


def test_rules_hold():
    through = fg.rules.default.override({lax.round_p: lambda ct: ct})
    g = lambda x: jnp.sum(jnp.round(checkpoint_name(x, "x")))  # noqa: E731
    assert fg.cotangents(g, "x", rules=through)(X)["x"].tolist() == [1, 1, 1]


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no value named 'hiden'.*'hidden'.*checkpoint_name\(x, 'hiden'\)"):
        fg.cotangents(f, "hiden")(X)


def test_names_are_strings():
    with pytest.raises(TypeError, match="strings, after the function"):
        fg.cotangents(f, 3)
