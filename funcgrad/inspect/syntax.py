"""The user's source as syntax trees: functions, lambdas among them, and the statements that operations belong to."""

from __future__ import annotations

import ast
import functools
import linecache
import re
from collections.abc import Iterator, Sequence
from types import CodeType
from typing import Any, NamedTuple


@functools.lru_cache(maxsize=64)
def nodes_of(source: str) -> list[ast.AST]:
    """All nodes of a module, from the outside in; none if it is no Python."""
    try:
        return list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return []


@functools.lru_cache(maxsize=64)
def functions_of(source: str) -> list[ast.Lambda | ast.FunctionDef]:
    return [node for node in nodes_of(source) if isinstance(node, ast.Lambda | ast.FunctionDef)]


def source_of(file: str, names: dict[str, Any] | None = None) -> str:
    return "".join(linecache.getlines(file, names))


# Functions.


def syntax(function: Any) -> ast.Lambda | ast.FunctionDef | None:
    """The syntax tree of a function, None where its source is not to be had."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    nodes = functions_of(source_of(code.co_filename, function.__globals__))
    if code.co_name == "<lambda>":
        return lambda_of(code, [node for node in nodes if isinstance(node, ast.Lambda)])
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == code.co_name]
    found = [
        node
        for node in functions
        if min([node.lineno, *(x.lineno for x in node.decorator_list)]) == code.co_firstlineno
    ]
    return found[0] if len(found) == 1 else None


def lambda_of(code: CodeType, nodes: Sequence[ast.Lambda]) -> ast.Lambda | None:
    """The lambda of a code object: many may stand on one line, and it is the innermost that all instructions lie in."""
    spans = [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if None not in (line, end_line, column, end_column) and (line, column) != (end_line, end_column)
    ]
    around = []
    for node in nodes:
        *start, end_line, end_column = span(node.body)
        if spans and all(tuple(start) <= first and last <= (end_line, end_column) for first, last in spans):
            around.append((start, node))
    return max(around, key=lambda pair: pair[0])[1] if around else None


def span(node: ast.expr) -> tuple[int, int, int, int]:
    """First line and column, last line and column."""
    return node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0


def parameters_of(description: str) -> list[list[str]]:
    """The names of the values that a function takes, parameter by parameter.

    ``description`` is the function's name, file and line. A parameter that the function takes apart in a statement of
    its own, ``h, c = carry``, stands for the parts.
    """
    found = re.fullmatch(r"(.*) at (.*):(\d+)", description)
    if found is None:
        return []
    name, file, line = found.group(1).rpartition(".")[2], found.group(2), int(found.group(3))
    for node in functions_of(source_of(file)):
        is_named = node.name == name if isinstance(node, ast.FunctionDef) else name == "<lambda>"
        if is_named and node.lineno <= line <= node.lineno + 8:
            parts = dict(taken_apart(node.body)) if isinstance(node.body, list) else {}
            return [parts.get(arg.arg, [arg.arg]) for arg in (*node.args.posonlyargs, *node.args.args)]
    return []


def taken_apart(body: Sequence[ast.stmt]) -> Iterator[tuple[str, list[str]]]:
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Tuple() as target], value=ast.Name(id=name)):
                names = names_in(target)
                if names:
                    yield name, names


def names_in(target: ast.AST) -> list[str]:
    """The names in a tuple of them, however it nests; none if there is anything else."""
    match target:
        case ast.Name(id=name):
            return [name]
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            parts = [names_in(x) for x in elements]
            return [name for part in parts for name in part] if all(parts) else []
    return []


# Statements.


class Statement(NamedTuple):
    """A simple statement, or the head of a compound one.

    ``targets`` are the names it assigns its value to, one for each part of it if it is a tuple, and ``value`` is where
    that value is: first line and column, last line and column.
    """

    file: str
    line: int
    text: str
    targets: tuple[str, ...]
    value: tuple[int, int, int, int] | None
    returns: bool


def statement_at(frame: Any) -> Statement | None:
    """The statement that a frame is in, None if its source is not to be had."""
    found = statements_of(frame.file_name, source_of(frame.file_name)).get(frame.start_line)
    if found is not None and frame.function_name.endswith("<lambda>"):
        # What a lambda computes is not what the line around it assigns.
        return found._replace(targets=(), value=None, returns=False)
    return found


@functools.lru_cache(maxsize=64)
def statements_of(file: str, source: str) -> dict[int, Statement]:
    """The innermost statement by line."""
    found: dict[int, Statement] = {}
    for node in nodes_of(source):
        if isinstance(node, ast.stmt):
            statement = statement_of(file, source, node)
            found.update(dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), statement))
    return found


def statement_of(file: str, source: str, node: ast.stmt) -> Statement:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        lines = source.splitlines()
        head = lines[node.lineno - 1 : body[0].lineno - 1] or [lines[node.lineno - 1]]
        return Statement(file, node.lineno, " ".join(" ".join(head).split()), (), None, False)
    text = " ".join((ast.get_source_segment(source, node) or "").split())
    value = getattr(node, "value", None)
    place = span(value) if isinstance(value, ast.expr) else None
    return Statement(file, node.lineno, text, targets_of(node), place, isinstance(node, ast.Return))


def targets_of(node: ast.stmt) -> tuple[str, ...]:
    match node:
        case ast.Assign(targets=[ast.Name() | ast.Tuple() as target]):
            return tuple(names_in(target))
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
            return (name,)
    return ()
