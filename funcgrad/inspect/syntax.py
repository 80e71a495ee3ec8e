"""The syntax trees of functions, lambdas among them."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Sequence
from types import CodeType
from typing import Any


def syntax(function: Any) -> ast.Lambda | ast.FunctionDef | None:
    """The syntax tree of a function, None where its source is not to be had."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    nodes = functions_in("".join(linecache.getlines(code.co_filename, function.__globals__)))
    if code.co_name == "<lambda>":
        return lambda_of(code, [node for node in nodes if isinstance(node, ast.Lambda)])
    found = [node for node in nodes if isinstance(node, ast.FunctionDef) and is_source_of(node, code)]
    return found[0] if len(found) == 1 else None


@functools.lru_cache(maxsize=64)
def functions_in(source: str) -> list[ast.Lambda | ast.FunctionDef]:
    try:
        return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Lambda | ast.FunctionDef)]
    except SyntaxError:
        return []


def is_source_of(node: ast.FunctionDef, code: CodeType) -> bool:
    first = min([node.lineno, *(x.lineno for x in node.decorator_list)])
    return node.name == code.co_name and first == code.co_firstlineno


def lambda_of(code: CodeType, nodes: Sequence[ast.Lambda]) -> ast.Lambda | None:
    """The lambda of a code object: many may stand on one line, and it is the innermost that all instructions lie in."""
    spans = [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if None not in (line, end_line, column, end_column) and (line, column) != (end_line, end_column)
    ]
    around = []
    for node in nodes:
        start, end = span(node.body)
        if spans and all(start <= first and last <= end for first, last in spans):
            around.append((start, node))
    return max(around, key=lambda pair: pair[0])[1] if around else None


def span(node: ast.expr) -> Any:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
