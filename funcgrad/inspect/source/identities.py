"""Algebraic identities as a table: expressions, and what is written instead of them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Literal, Var
from funcgrad.inspect.source.program import Equation, dtype_of
from funcgrad.inspect.source.simplify import Rewrite, Simplifier, is_value, like, literal, same_type, value_key

#: ``n`` and ``m`` stand for numbers, ``k`` for a negative one, and ``once(x)`` for what is used nowhere else.
IDENTITIES = {
    "add_any(x, y)": "x + y",
    "x * n": "n * x",
    "1 * x": "x",
    "-1 * x": "-x",
    "n * once(-x)": "-n * x",
    "once(-x) * y": "-(x * y)",
    "x * once(-y)": "-(x * y)",
    "x / 1": "x",
    "once(-x) / y": "-(x / y)",
    "x / once(-y)": "-(x / y)",
    "x + 0": "x",
    "0 + x": "x",
    "x + full(0)": "x",
    "full(0) + x": "x",
    "x + -y": "x - y",
    "-x + y": "y - x",
    "x + k": "x - -k",
    "x + once(k * y)": "x - -k * y",
    "once(k * x) + y": "y - -k * x",
    "x - 0": "x",
    "0 - x": "-x",
    "x - -y": "x + y",
    "--x": "x",
    "-once(x - y)": "y - x",
    "~~x": "x",
    "x != False": "x",
    "select_n(False, x, y)": "x",
    "select_n(True, x, y)": "y",
    "select_n(which, x, x)": "x",
    "select_n(x, False, True)": "x",
    "max(x, -inf)": "x",
    "min(x, inf)": "x",
    "min(n, once(max(m, x)))": "clip(x, m, n)",
}
OPERATIONS: dict[type, str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.NotEq: "ne", ast.USub: "neg",
    ast.Invert: "not",
}  # fmt: skip


def applied(node: ast.expr) -> tuple[str, list[ast.expr]] | None:
    """The operation that an expression is, and its operands; None for a name or a number."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() | ast.Name(id="inf")):
            return None
        case ast.UnaryOp(op=op, operand=x):
            return OPERATIONS[type(op)], [x]
        case ast.BinOp(left=x, op=op, right=y) | ast.Compare(left=x, ops=[op], comparators=[y]):
            return OPERATIONS[type(op)], [x, y]
        case ast.Call(func=ast.Name(id=name), args=args):
            return name, args
    return None


def number(node: ast.expr) -> Any:
    match node:
        case ast.UnaryOp(operand=x):
            return -number(x)
        case ast.Constant(value=value):
            return value
    return np.inf


def by_operation(identities: Mapping[str, str]) -> dict[str, list[tuple[list[ast.expr], ast.expr]]]:
    """For each operation the patterns of its operands, and what is written instead."""
    found: dict[str, list] = {}
    for source, result in identities.items():
        name, operands = applied(ast.parse(source, mode="eval").body) or ("", [])
        found.setdefault(name, []).append((operands, ast.parse(result, mode="eval").body))
    return found


KNOWN = by_operation(IDENTITIES)


def identity(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """The first identity of the table that makes an equation simpler."""
    for patterns, result in KNOWN.get(eqn.name, ()):
        match = Match(s, eqn)
        rewrite = match.rewrite(result) if match.operands(patterns, eqn) else None
        if rewrite is not None:
            return rewrite
    return None


class Match:
    """What the names in a pattern stand for, and the equations inside that were matched."""

    def __init__(self, s: Simplifier, eqn: Equation):
        self.s, self.eqn = s, eqn
        self.values: dict[str, Any] = {}
        self.matched: dict[str, Equation] = {eqn.name: eqn}

    def operands(self, patterns: Sequence[ast.expr], eqn: Equation) -> bool:
        orders = [eqn.inputs, eqn.inputs[::-1]] if eqn.name in ("max", "min") else [eqn.inputs]
        for order in orders:
            before = dict(self.values)
            if len(patterns) == len(order) and all(map(self.fits, patterns, order)):
                return True
            self.values = before
        return False

    def fits(self, pattern: ast.expr, x: Any) -> bool:
        match pattern:
            case ast.Call(func=ast.Name(id="once"), args=[inner]):
                return self.fits(inner, x) and self.s.only_use(x)
            case ast.Name(id="n" | "m" | "k") if type(x) is not Literal:
                return False
            case ast.Name(id="k") if not (jnp.issubdtype(dtype_of(x), np.floating) and x.val < 0):
                return False
            case ast.Name(id=name) if name != "inf":
                return value_key(self.values.setdefault(name, x)) == value_key(x)
        operation = applied(pattern)
        if operation is None:
            return type(x) is Literal and is_value(x, number(pattern))
        name, patterns = operation
        made = self.s.maker(x, name)
        if made is None or not self.operands(patterns, made):
            return False
        self.matched.setdefault(name, made)
        return True

    def rewrite(self, result: ast.expr) -> Rewrite | None:
        """The equations for a result, None if its type is another."""
        out = self.eqn.outputs[0]
        equations: list[Equation] = []
        value = self.built(result, equations, self.eqn)
        if not equations:
            return Rewrite(value) if same_type(value, out) else None
        last = equations[-1]
        if last.name in ("neg", "clip") and not same_type(last.inputs[0], out):
            return None
        last.outputs = last.all_outputs = [Var(out.aval)]
        return Rewrite(last.outputs[0], *equations)

    def built(self, node: ast.expr, equations: list[Equation], line: Equation | None = None) -> Any:
        """A value, computed by ``equations``: for the line of ``line``, or of the one of its name that was matched."""
        if isinstance(node, ast.Name):
            return self.values[node.id]
        name, operands = applied(node) or ("", [])
        inputs = [self.built(x, equations) for x in operands]
        if name == "neg" and type(inputs[0]) is Literal:
            return literal(-np.asarray(inputs[0].val), inputs[0].aval)
        shape = np.broadcast_shapes(*(x.aval.shape for x in inputs))
        var = Var(self.eqn.outputs[0].aval.update(shape=shape))
        equations.append(like(line or self.matched.get(name, self.eqn), name, inputs, var))
        return var
