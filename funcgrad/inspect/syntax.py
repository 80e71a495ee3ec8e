"""The syntax trees of functions, lambdas among them."""

from __future__ import annotations

import ast
import functools
import linecache
from typing import Any

def syntax(function: Any) -> ast.Lambda | ast.FunctionDef | None:
    """The syntax tree of a function, None where its source is not to be had."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    lines = linecache.getlines(code.co_filename, function.__globals__)
    found = [node for node in functions_in("".join(lines)) if is_source_of(node, code)]
    return found[0] if len(found) == 1 else None


@functools.lru_cache(maxsize=64)
def functions_in(source: str) -> list[ast.Lambda | ast.FunctionDef]:
    try:
        return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Lambda | ast.FunctionDef)]
    except SyntaxError:
        return []


def is_source_of(node: ast.Lambda | ast.FunctionDef, code: Any) -> bool:
    if isinstance(node, ast.FunctionDef):
        first = min([node.lineno, *(x.lineno for x in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    # Many lambdas may stand on one line: it is the one whose body, and no other's, the code computes.
    body = node.body
    span = (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset)
    return code.co_name == "<lambda>" and span in set(code.co_positions())
