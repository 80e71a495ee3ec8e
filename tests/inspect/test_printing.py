"""Syntax trees as text."""

from __future__ import annotations

import ast

import pytest

from funcgrad.inspect.printing import WIDTH, Comment, lines_of, printed, text

EXPRESSIONS = [
    "a - (b - c) - d",
    "a * (b / c) / -d**2",
    "(-a)**2 + (a + b)**-c",
    "a @ b.T | c & ~d ^ e << f",
    "not (a or b) and c",
    "(a if b else c)[1:, ::2, None].at[..., 0]",
    "f(*xs, key=lambda x, y: x < (y == z))",
    '{"a": (1,), "b": [(), -1.5, None]}',
    "(a, b)[0]",
    "'a\"b'",
]


@pytest.mark.parametrize("source", EXPRESSIONS)
def test_text_is_as_short_as_it_can_be(source):
    assert text(ast.parse(source, mode="eval").body) == source


LONG = [
    f"x = {' + '.join(f'first_{i} * second_{i}' for i in range(9))}",
    f"return {', '.join(f'value_of_{i}' for i in range(12))}",
    f"function({', '.join(f'x_{i}=[{i}, 2]' for i in range(20))})",
    f"x = -g({', '.join(f'argument_{i}' for i in range(9))})[0].at[index].set(value)",
    f"({', '.join(f'name_{i}' for i in range(30))}) = f(x)",
    f"x = {{{', '.join(f'{i}: value_{i} == other_{i}' for i in range(9))}}}",
    f"def f({', '.join(f'parameter_{i}' for i in range(12))}, *, k):\n    return k",
    f"x = f('{'ab' * 100}')",
    f"x = ({' @ '.join(f'matrix_{i}' for i in range(12))})**2 if a else b",
]


@pytest.mark.parametrize("source", LONG)
def test_statements_are_broken_to_fit_and_stay_what_they_are(source):
    (node,) = ast.parse(source).body
    lines = lines_of(node)
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.IfExp):
        assert max(map(len, lines)) <= WIDTH < len(source) and len(lines) > 1
    assert ast.dump(ast.parse("\n".join(lines)).body[0]) == ast.dump(node)


def test_functions_and_chapters_have_blank_lines_around_them():
    (function,) = ast.parse("def f(x):\n    return x").body
    (statement,) = ast.parse("y = 1").body
    body = [statement, Comment("of f"), function, function, statement, Comment("Two", chapter=True), Comment("of f")]
    shown = printed([*body, function])
    f = ["def f(x):", "    return x"]
    assert shown == ["y = 1", "", "# of f", *f, "", *f, "", "y = 1", "", "# Two", "# of f", *f]


def test_long_comments_are_cut():
    (line,) = lines_of(Comment("word " * 40))
    assert len(line) <= WIDTH and line.endswith(" ...")


def test_what_is_no_expression_has_no_text():
    with pytest.raises(TypeError, match="Yield"):
        text(ast.Yield())
