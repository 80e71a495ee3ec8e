"""The user's source: the statement that an operation belongs to, and the names it assigns to."""

from __future__ import annotations

import ast
import functools
import linecache
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


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
    found = statements_of(frame.file_name).get(frame.start_line)
    if found is not None and frame.function_name.endswith("<lambda>"):
        # What a lambda computes is not what the line around it assigns.
        return found._replace(targets=(), value=None, returns=False)
    return found


def statements_of(file: str) -> dict[int, Statement]:
    return parsed(file, "".join(linecache.getlines(file)))


@functools.lru_cache(maxsize=64)
def parsed(file: str, source: str) -> dict[int, Statement]:
    """The innermost statement by line."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, Statement] = {}
    # From the outside in, so that what is inside of a statement takes its lines over.
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            statement = statement_of(file, source, node)
            found.update(dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), statement))
    return found


def parameters_of(source: str) -> list[list[str]]:
    """The names of the values that a function takes, parameter by parameter.

    ``source`` is the function's name, file and line. A parameter that the function takes apart in a statement of its
    own, ``h, c = carry``, stands for the parts.
    """
    found = re.fullmatch(r"(.*) at (.*):(\d+)", source)
    if found is None:
        return []
    name, file, line = found.group(1).rpartition(".")[2], found.group(2), int(found.group(3))
    for node in functions_of("".join(linecache.getlines(file))):
        is_named = node.name == name if isinstance(node, ast.FunctionDef) else name == "<lambda>"
        if is_named and node.lineno <= line <= node.lineno + 8:
            parts = dict(taken_apart(node.body)) if isinstance(node.body, list) else {}
            return [parts.get(arg.arg, [arg.arg]) for arg in (*node.args.posonlyargs, *node.args.args)]
    return []


@functools.lru_cache(maxsize=64)
def functions_of(source: str) -> list[ast.FunctionDef | ast.Lambda]:
    try:
        return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    except (SyntaxError, ValueError):
        return []


def taken_apart(body: Sequence[ast.stmt]) -> Iterator[tuple[str, list[str]]]:
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Tuple() as target], value=ast.Name(id=name)):
                names = names_in(target)
                if names:
                    yield name, names


def names_in(target: ast.expr) -> list[str]:
    """The names in a tuple of them, however it nests; none if there is anything else."""
    match target:
        case ast.Name(id=name):
            return [name]
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            parts = [names_in(x) for x in elements]
            return [name for part in parts for name in part] if all(parts) else []
    return []


def statement_of(file: str, source: str, node: ast.stmt) -> Statement:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        lines = source.splitlines()[node.lineno - 1 : body[0].lineno - 1] or [source.splitlines()[node.lineno - 1]]
        text = " ".join(" ".join(lines).split())
        return Statement(file, node.lineno, text, (), None, False)
    text = " ".join((ast.get_source_segment(source, node) or "").split())
    value = getattr(node, "value", None)
    place = None
    if isinstance(value, ast.expr):
        place = (value.lineno, value.col_offset, value.end_lineno or 0, value.end_col_offset or 0)
    return Statement(file, node.lineno, text, targets_of(node), place, isinstance(node, ast.Return))


def targets_of(node: ast.stmt) -> tuple[str, ...]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]):
            return (name,)
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
            return (name,)
        case ast.Assign(targets=[ast.Tuple() as target]):
            return tuple(names_in(target))
    return ()
