"""Programs as data."""

from __future__ import annotations

import numpy as np
import pytest
from jax.core import ShapedArray

from funcgrad._jax import Var
from funcgrad.inspect.source.program import Equation, Program, callers_first, calls_of, plain_name


def variables(count: int) -> list[Var]:
    return [Var(ShapedArray((), np.dtype(np.float32))) for _ in range(count)]


def test_uses_count_operands_outputs_and_what_programs_inside_capture():
    x, y, z = variables(3)
    body = Program("body", [], [], [x])
    program = Program("main", [x], [Equation("mul", [x, x], [y], {}), Equation("f", [], [z], {"body": body})], [y, z])
    assert program.uses() == {x: 3, y: 1, z: 1}


def test_free_are_the_variables_from_outside():
    x, y, z = variables(3)
    inner = Program("inner", [y], [Equation("add", [x, y], [z], {})], [z])
    assert inner.free() == {x}
    assert Program("outer", [x], [Equation("call", [x], [y], {"program": inner})], [y]).free() == set()


def test_programs_come_after_those_that_use_them_and_calls_are_found_in_all():
    (y,) = variables(1)
    leaf = Program("leaf", [])
    first, second = Equation("call", [], [], {"program": leaf}), Equation("call", [], [], {"program": leaf})
    middle = Program("middle", [], [first])
    root = Program("root", [], [Equation("call", [], [y], {"program": middle}), second])
    assert callers_first(root) == [root, middle, leaf]
    assert {p.name: [around.name for around, _ in found] for p, found in calls_of(root).items()} == {
        "middle": ["root"],
        "leaf": ["root", "middle"],
    }


@pytest.mark.parametrize(("name", "plain"), [("f", "f"), ("a.<locals>.f", "f"), ("<lambda>", "lambda"), (None, "")])
def test_names_of_functions_without_what_qualifies_them(name, plain):
    assert plain_name(name) == plain
