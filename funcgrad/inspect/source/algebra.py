"""Algebra that a person would not write down, as rewrites of single operations: functions, and a table of identities.

Each keeps the numbers: what is exact in floating point, up to the sign of a zero, and nothing else.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad._jax import Literal, Var
from funcgrad.inspect.source.program import Equation, dtype_of
from funcgrad.inspect.source.simplify import (
    Rewrite,
    Rule,
    Simplifier,
    instead,
    is_value,
    like,
    literal,
    same_type,
    value_key,
)

# What a number is, or becomes.

FOLDED: dict[str, Callable] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "sqrt": np.sqrt,
    "max": np.maximum, "min": np.minimum, "lt": np.less, "le": np.less_equal, "gt": np.greater, "eq": np.equal,
    "ge": np.greater_equal, "ne": np.not_equal, "not": np.logical_not, "square": np.square,
    "convert_element_type": np.asarray,
}  # fmt: skip
UNIFORM = ("add", "sub", "mul")


def folded(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Operations on numbers, and those in ``UNIFORM`` on arrays whose elements are all one number."""
    out = eqn.outputs[0].aval
    numbers = [x if (made := s.maker(x, "full")) is None else made.inputs[0] for x in eqn.inputs]
    if any(type(x) is not Literal for x in numbers) or (out.shape and eqn.name not in UNIFORM):
        return None
    with np.errstate(all="ignore"):
        value = literal(FOLDED[eqn.name](*[np.asarray(x.val) for x in numbers]), out)
    return instead(eqn, "full", value) if out.shape else Rewrite(value)


def scaled(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A constant times a constant times a value, where taking the constants together does not round."""
    x, y = eqn.inputs
    made = s.maker(y, "mul")
    if type(x) is not Literal or made is None or type(made.inputs[0]) is not Literal:
        return None
    first, second = x.val, made.inputs[0].val
    if not jnp.issubdtype(dtype_of(x), np.floating) or not (is_power_of_two(first) or is_power_of_two(second)):
        return None
    factor = literal(np.asarray(first) * np.asarray(second), x.aval)
    if not 1e-30 < abs(float(factor.val)) < 1e30:
        return None
    return instead(eqn, "mul", factor, made.inputs[1])


def is_power_of_two(x: Any) -> bool:
    return math.isfinite(float(x)) and abs(math.frexp(float(x))[0]) == 0.5


def powers(s: Simplifier, eqn: Equation) -> Rewrite | None:
    if eqn.params["y"] == 1:
        return Rewrite(eqn.inputs[0])
    return instead(eqn, "square", eqn.inputs[0]) if eqn.params["y"] == 2 else None


def triangle(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """Row numbers compared with column numbers."""
    x, y = eqn.inputs
    offset = 0
    shifted = s.maker(x, "add")
    if shifted is not None:
        numbers = [v for v in shifted.inputs if type(v) is Literal]
        if len(numbers) != 1:
            return None
        offset = int(numbers[0].val)
        x = next(v for v in shifted.inputs if type(v) is not Literal)
    rows, columns = s.maker(x, "iota"), s.maker(y, "iota")
    if rows is None or columns is None or rows.inputs or columns.inputs or len(eqn.outputs[0].aval.shape) != 2:
        return None
    if x.aval.shape != y.aval.shape or (rows.params["dimension"], columns.params["dimension"]) != (0, 1):
        return None
    return instead(eqn, "tri", offset=offset)


def mean(s: Simplifier, eqn: Equation) -> Rewrite | None:
    """A sum divided by the number of its terms."""
    x, y = eqn.inputs
    made = s.maker(x, "reduce_sum")
    if made is None or type(y) is not Literal or not s.only_use(x) or made.inputs[0].aval.dtype not in WIDE:
        return None
    count = math.prod(made.inputs[0].aval.shape[i] for i in made.params["axes"])
    if not is_value(y, count) or not same_type(eqn.outputs[0], x):
        return None
    return instead(eqn, "mean", made.inputs[0], **made.params)


#: Types in which ``jnp`` sums as ``lax`` does.
WIDE = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.complex64), np.dtype(np.complex128))


# Identities, as a table: expressions, and what is written instead of them.

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


REWRITES: dict[str, tuple[Rule, ...]] = {
    **dict.fromkeys(FOLDED, (folded, identity)),
    "mul": (folded, identity, scaled),
    "div": (folded, identity, mean),
    **dict.fromkeys(("add_any", "select_n"), (identity,)),
    "ge": (folded, triangle),
    "integer_pow": (powers,),
}
