"""Building syntax trees from templates, constants and parameters."""

from __future__ import annotations

import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad as fg
from funcgrad.inspect.printing import lines_of, text
from funcgrad.inspect.source.expressions import assign, display, expression, packed
from tests.inspect.source.sources import check


def test_names_of_a_template_stand_for_other_trees():
    assert text(expression("x * f(y)", x=expression("a + b"), y=ast.Name("c"))) == "(a + b) * f(c)"


def test_one_value_is_packed_as_it_is_and_several_as_a_tuple():
    assert [text(packed(list(map(ast.Name, names)))) for names in ("", "x", "xy")] == ["None", "x", "(x, y)"]


def test_an_assignment_to_nothing_is_the_value_alone():
    assert lines_of(assign([], ast.Name("f"))) == ["f"]
    assert lines_of(assign([ast.Name("x"), ast.Name("y")], ast.Name("f"))) == ["x, y = f"]


def test_trees_are_displays_and_a_whole_cotangent_is_itself():
    assert text(display({"a": [ast.Name("x"), None], "b": (ast.Name("y"),)})) == '{"a": [x, None], "b": (y,)}'
    items = {key: expression(f'ct_w["{key}"]') for key in "ab"}
    assert text(display(items)) == "ct_w"
    assert text(display({**items, "b": expression('ct_v["b"]')})) == '{"a": ct_w["a"], "b": ct_v["b"]}'
    assert text(display({key: expression(f'w["{key}"]') for key in "a"})) == '{"a": w["a"]}'


def test_other_containers_have_no_display():
    with pytest.raises(TypeError):
        display({1, 2})


def test_trees_are_standard_ones():
    assert ast.unparse(expression("x + y", x=ast.Name("z"))) == "z + y"


def test_small_constants_are_spelled_and_large_ones_packed():
    small, large = np.array([1.5, -2.0], np.float32), np.random.default_rng(0).normal(size=300).astype(np.float32)
    assert "jnp.array([1.5, -2.0], jnp.float32)" in check(lambda x: jnp.sum(x * small), jnp.ones(2))
    source = check(lambda x: jnp.sum(x * large), jnp.ones(300))
    assert "zlib.decompress" in source


def test_a_huge_constant_is_refused_with_advice():
    huge = np.random.default_rng(0).normal(size=2**19)
    with pytest.raises(ValueError, match=r"Pass it as an argument"):
        fg.backward_source(lambda x: jnp.sum(x * huge))(1.0)


def test_random_keys_can_be_constants():
    key = jax.random.key(3)
    check(lambda x: x * jax.random.normal(key), 2.0)
