"""Building syntax trees from templates: Python whose names stand for other trees."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from funcgrad.inspect.printing import text
from funcgrad.inspect.source.static import static_text


class Filling(ast.NodeTransformer):
    def __init__(self, parts: dict[str, ast.expr]):
        self.parts = parts

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.parts.get(node.id, node)


def expression(template: str, **parts: ast.expr) -> ast.expr:
    """A template with ``parts`` in the place of the names they are given by."""
    return Filling(parts).visit(ast.parse(template, mode="eval").body)


def static(value: Any) -> ast.expr:
    """An expression that evaluates to a parameter."""
    return expression(static_text(value))


def name(identifier: str) -> ast.expr:
    return ast.Name(identifier)


def packed(nodes: Sequence[ast.expr]) -> ast.expr:
    """One value as it is, several as a tuple, none as None."""
    if not nodes:
        return ast.Constant(None)
    return nodes[0] if len(nodes) == 1 else ast.Tuple(list(nodes))


def call(function: str, args: Sequence[ast.expr], **keywords: ast.expr) -> ast.expr:
    return ast.Call(expression(function), list(args), [ast.keyword(key, x) for key, x in keywords.items()])


def display(tree: Any) -> ast.expr:
    """A tree of expressions as dicts, lists and tuples. Raises ``TypeError`` where it has others."""
    if isinstance(tree, ast.expr):
        return tree
    if tree is None:
        return ast.Constant(None)
    if type(tree) is dict:
        items = {key: display(x) for key, x in tree.items()}
        return container_of(items) or ast.Dict([static(key) for key in items], list(items.values()))
    if type(tree) is list:
        return ast.List(list(map(display, tree)))
    if type(tree) is tuple:
        return ast.Tuple(list(map(display, tree)))
    raise TypeError(type(tree))


def container_of(items: Mapping[Any, ast.expr]) -> ast.expr | None:
    """The cotangent that all of these are the items of, None if there is none."""
    owners = {}
    for key, item in items.items():
        match item:
            case ast.Subscript(value=owner, slice=ast.Constant(value=own)) if own == key:
                owners[text(owner)] = owner
            case _:
                return None
    return next((x for known, x in owners.items() if len(owners) == 1 and known.startswith("ct_")), None)


def assign(targets: Sequence[ast.expr], value: ast.expr) -> ast.stmt:
    """An assignment to one target or to several; to none, the value alone."""
    return ast.Assign([packed(targets)], value) if targets else ast.Expr(value)


def function(
    identifier: str, parameters: Sequence[str], body: Sequence[ast.stmt], keywords: Sequence[str] = ()
) -> ast.FunctionDef:
    arguments = ast.arguments([], [ast.arg(x) for x in parameters], None, [ast.arg(x) for x in keywords], [], None, [])
    return ast.FunctionDef(identifier, arguments, list(body), [])
