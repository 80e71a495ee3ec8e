"""Building syntax trees from templates."""

from __future__ import annotations

import ast

import pytest

from funcgrad.inspect.printing import lines_of, text
from funcgrad.inspect.source.trees import assign, display, expression, name, packed


def test_names_of_a_template_stand_for_other_trees():
    assert text(expression("x * f(y)", x=expression("a + b"), y=name("c"))) == "(a + b) * f(c)"


def test_one_value_is_packed_as_it_is_and_several_as_a_tuple():
    assert [text(packed(list(map(name, names)))) for names in ("", "x", "xy")] == ["None", "x", "(x, y)"]


def test_an_assignment_to_nothing_is_the_value_alone():
    assert lines_of(assign([], name("f"))) == ["f"]
    assert lines_of(assign([name("x"), name("y")], name("f"))) == ["x, y = f"]


def test_trees_are_displays_and_a_whole_cotangent_is_itself():
    assert text(display({"a": [name("x"), None], "b": (name("y"),)})) == '{"a": [x, None], "b": (y,)}'
    items = {key: expression(f'ct_w["{key}"]') for key in "ab"}
    assert text(display(items)) == "ct_w"
    assert text(display({**items, "b": expression('ct_v["b"]')})) == '{"a": ct_w["a"], "b": ct_v["b"]}'
    assert text(display({key: expression(f'w["{key}"]') for key in "a"})) == '{"a": w["a"]}'


def test_other_containers_have_no_display():
    with pytest.raises(TypeError):
        display({1, 2})


def test_trees_are_standard_ones():
    assert ast.unparse(expression("x + y", x=name("z"))) == "z + y"
