"""The user's source as syntax trees."""

from __future__ import annotations

import ast
import inspect
from types import SimpleNamespace

import pytest

from funcgrad.inspect.syntax import parameters_of, statement_at, syntax


def decorated(function):
    return function


@decorated
def step(carry, x):
    h, (c, d) = carry
    h = h * x + c
    return (h, d), x


pair = [lambda x: x + 1, lambda x: (lambda y: y)(x)]
LINE = step.__code__.co_firstlineno


def frame(line: int, function: str = "step") -> SimpleNamespace:
    return SimpleNamespace(file_name=__file__, start_line=line, function_name=function)


def test_a_function_is_found_by_its_code():
    node = syntax(step)
    assert isinstance(node, ast.FunctionDef) and node.name == "step"
    assert syntax(len) is None


def test_lambdas_on_one_line_are_told_apart():
    assert [ast.unparse(syntax(f)) for f in pair] == ["lambda x: x + 1", "lambda x: (lambda y: y)(x)"]


def test_a_parameter_that_is_taken_apart_stands_for_its_parts():
    assert parameters_of(f"step at {__file__}:{LINE + 1}") == [["h", "c", "d"], ["x"]]
    assert parameters_of(f"other at {__file__}:{LINE + 1}") == parameters_of("step") == []


@pytest.mark.parametrize(
    ("offset", "text", "targets", "returns"),
    [
        (1, "def step(carry, x):", (), False),
        (2, "h, (c, d) = carry", ("h", "c", "d"), False),
        (3, "h = h * x + c", ("h",), False),
        (4, "return (h, d), x", (), True),
    ],
)
def test_a_statement_is_known_by_its_line(offset, text, targets, returns):
    found = statement_at(frame(LINE + offset))
    assert (found.text, found.targets, found.returns) == (text, targets, returns)


def test_a_value_is_where_it_stands():
    first, start, last, end = statement_at(frame(LINE + 3)).value
    (source,) = inspect.getsource(step).splitlines()[3:4]
    assert first == last == LINE + 3 and source[start:end] == "h * x + c"


def test_what_a_lambda_computes_is_not_assigned():
    assert statement_at(frame(LINE + 3, "<lambda>")).targets == ()


def test_a_file_that_is_not_there_has_no_statements():
    assert statement_at(SimpleNamespace(file_name="nowhere.py", start_line=1, function_name="f")) is None
