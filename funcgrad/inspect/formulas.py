"""Rules as text: a rule's formulas, read from its source and written as in a textbook.

``lambda ct, x, y: mul(ct, div(y, x))`` reads ``ct * (y / x)``: operations are written as operators, helpers of one
expression are written out, and what only tells the compiler something is left out. A helper with a docstring says in
its first sentence what it computes; where it is the whole formula, that is what is shown.
"""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

from funcgrad._jax import Primitive
from funcgrad.inspect.printing import text
from funcgrad.inspect.syntax import syntax
from funcgrad.rules.rule import Formula, Joint, Rule

#: A formula that comes out longer than this is shown by its name.
LONGEST = 100


def formula_text(rule: Rule) -> list[str]:
    """The cotangents that a rule computes, as text.

    Args:
      rule: a rule of a table, such as ``funcgrad.rules.default[jax.lax.mul_p]``.

    Returns:
      One string for each operand, ``"0"`` for an operand without derivative; or a single one for all operands, where
      one function computes all cotangents; or none, for a rule without derivative.

    >>> from jax import lax
    >>> from funcgrad.rules import default
    >>> formula_text(default[lax.mul_p])
    ['ct * y', 'ct * x']
    >>> formula_text(default[lax.tan_p])
    ['ct * (1 + out**2)']
    """
    if isinstance(rule, Formula):
        return ["0" if s is None else text_of(s.function, aliases(rule)) for s in rule.signatures]
    if isinstance(rule, Joint):
        function = rule.signature.function
        result = None if summary(function) else read(function, aliases(rule))
        return [shown(x) for x in result] if isinstance(result, list) else [text_of(function, aliases(rule))]
    if rule.formula:
        return [rule.formula]
    return [text for part in parts(rule) for text in formula_text(part) if text != "0"]


def parts(rule: Rule) -> list[Rule]:
    """The rules that another one chooses between."""
    return [x for x in vars(rule).values() if isinstance(x, Rule)]


def aliases(rule: Rule) -> dict[str, str]:
    """What a rule saves under another name than that of the operand or output it is."""
    if not isinstance(rule, Formula | Joint):
        return {}
    texts = {name: text_of(s.function) for name, s in rule.derived.items()}
    return {name: text for name, text in texts.items() if text in rule.derived[name].names}


def is_type(name: str) -> bool:
    """Whether a parameter stands for a shape and a dtype, which take no memory."""
    return name.endswith(("_aval", "avals"))


def text_of(function: Callable, names: Mapping[str, str] | None = None) -> str:
    """What a function's docstring says it is, else its formula, else its name and its arguments.

    ``names`` are other names for arguments.
    """
    known = summary(function)
    if known:
        said = said_formula(function)
        return known if said is None else shown(said)
    result = read(function, names)
    if isinstance(result, ast.expr) and len(shown(result)) <= LONGEST:
        return shown(result)
    function = inspect.unwrap(function)
    parameters = inspect.signature(function).parameters.values()
    given = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    name = getattr(function, "__name__", "<lambda>")
    arguments = ", ".join(x for x in given if x != "active" and not is_type(x))
    return f"{'f' if name == '<lambda>' else name}({arguments})"


def summary(function: Callable) -> str:
    """The first sentence of a docstring."""
    doc = inspect.getdoc(inspect.unwrap(function)) if hasattr(function, "__code__") else None
    return "" if not doc else " ".join(doc.split("\n\n")[0].split()).partition(". ")[0].rstrip(".").replace("``", "")


def said_formula(function: Callable) -> ast.expr | None:
    """The formula that a docstring begins with, up to a comma and with ``^`` for powers; None where it is words."""
    try:
        said = ast.parse(summary(function).split(", ")[0].replace("^", "**"), mode="eval").body
    except SyntaxError:
        return None
    names = {node.id for node in ast.walk(said) if isinstance(node, ast.Name)}
    known = {*inspect.signature(function).parameters, "sqrt", "exp", "log"}
    return said if names <= known and isinstance(said, ast.BinOp | ast.UnaryOp | ast.Call) else None


def read(function: Callable, names: Mapping[str, str] | None = None) -> ast.expr | list[ast.expr] | None:
    """The expression that a function returns, a list of those it returns a tuple of, or None if that is not simple."""
    try:
        given: dict[str, ast.expr] = {name: ast.Name(known) for name, known in (names or {}).items()}
        return Reader(inspect.unwrap(function), given).result()
    except Unreadable:
        return None


def shown(node: ast.expr) -> str:
    """An expression as text. A type is called like the value that it is the type of."""
    return re.sub(r"_aval\b", "", text(node))


class Unreadable(Exception):
    """What is to be read is more than an expression."""


#: Functions that are operators, and those that are known by a shorter name.
OPERATORS: dict[str, type[ast.operator] | type[ast.cmpop]] = {
    "eq": ast.Eq, "ne": ast.NotEq, "lt": ast.Lt, "le": ast.LtE, "gt": ast.Gt, "ge": ast.GtE, "bitwise_or": ast.BitOr,
    "bitwise_and": ast.BitAnd, "add": ast.Add, "sub": ast.Sub, "mul": ast.Mult, "div": ast.Div, "pow": ast.Pow,
    "integer_pow": ast.Pow,
}  # fmt: skip
SHORT = {"select": "where", "reduce_sum": "sum", "broadcast_in_dim": "broadcast", "convert_element_type": "convert"}
#: Functions that only say what type a constant or a value is to have, by the argument that counts.
CASTS = {
    "const": 1, "factor_of": 1, "full_like": 1, "convert": 0, "instantiated": 0, "zeros": None, "zeros_like": None,
    "zeros_for": None,
}  # fmt: skip
#: Parameters that do not change what is computed.
SETTINGS = {
    "accuracy", "precision", "preferred_element_type", "out_dtype", "sharding", "out_sharding", "dimensions",
    "weak_type",
}  # fmt: skip
#: What an expression may be made of.
READABLE = (
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare,
    ast.IfExp, ast.List, ast.Starred, ast.Call, ast.expr_context, ast.operator, ast.cmpop, ast.boolop, ast.unaryop,
)  # fmt: skip


def operation(op: ast.operator, left: ast.expr, right: ast.expr) -> ast.expr:
    """An operator's result, without the brackets around a sum in a sum and a product in a product."""
    match right:
        case ast.BinOp(left=ast.Constant(value=1), op=ast.Div(), right=ast.Call() as root) if isinstance(op, ast.Mult):
            return ast.BinOp(left, ast.Div(), root)
        case ast.BinOp(left=first, op=ast.Add() | ast.Sub() as second) if isinstance(op, ast.Add):
            return ast.BinOp(operation(op, left, first), second, right.right)
        case ast.BinOp(left=first, op=ast.Mult() as second) if isinstance(op, ast.Mult) and is_product(first):
            return ast.BinOp(operation(op, left, first), second, right.right)
    return ast.BinOp(left, op, right)


def is_product(node: ast.expr) -> bool:
    """Whether there is no division among the factors."""
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        node = node.left
    return not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div))


def negative(x: ast.expr) -> ast.expr:
    """The sign stands before the first factor."""
    if isinstance(x, ast.BinOp) and isinstance(x.op, ast.Mult | ast.Div):
        return ast.BinOp(negative(x.left), x.op, x.right)
    return ast.UnaryOp(ast.USub(), x)


class Reader(ast.NodeTransformer):
    """Reads the source of one function; ``given`` are the expressions of arguments that do not go by their names."""

    def __init__(self, function: Any, given: dict[str, ast.expr] | None = None):
        node = syntax(function)
        if node is None:
            raise Unreadable
        self.node = node
        closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self.outside = {**vars(builtins), **function.__globals__}
        self.outside.update((name, cell.cell_contents) for name, cell in closure)
        names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        self.scope: dict[str, ast.expr] = {**{name: ast.Name(name) for name in names}, **(given or {})}

    def result(self) -> ast.expr | list[ast.expr]:
        return self.outcome(self.node.body) if isinstance(self.node, ast.Lambda) else self.run(self.node.body)

    def outcome(self, node: ast.expr) -> ast.expr | list[ast.expr]:
        match node:
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return [self.expression(x) for x in elements]
            case ast.BinOp(left=ast.List(elts=elements), op=ast.Add(), right=ast.BinOp(left=ast.List())):
                # [first, ...] + [None] * (how many others there are)
                return [self.expression(x) for x in elements]
        return self.expression(node)

    def run(self, statements: Sequence[ast.stmt]) -> ast.expr | list[ast.expr]:
        """What a block returns. Checks that raise are passed over."""
        for i, statement in enumerate(statements):
            match statement:
                case ast.Expr(value=ast.Constant()):
                    continue
                case ast.If(body=[ast.Raise()], orelse=[]):
                    continue
                case ast.Raise():
                    return ast.Name("none: an error")
                case ast.If(test=test, body=body, orelse=otherwise) if self.decided(test) is not None:
                    return self.run([*(body if self.decided(test) else otherwise), *statements[i + 1 :]])
                case ast.If(test=test, body=body, orelse=[]) if isinstance(body[-1], ast.Return):
                    branch = copy.copy(self)
                    branch.scope = dict(self.scope)
                    one, other = branch.run(body), self.run(statements[i + 1 :])
                    if isinstance(one, list) or isinstance(other, list):
                        raise Unreadable
                    return ast.IfExp(self.expression(test), one, other)
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.scope[name] = self.expression(value)
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                    names = [x.id for x in targets if isinstance(x, ast.Name)]
                    if not len(names) == len(targets) == len(values):
                        raise Unreadable
                    self.scope.update(zip(names, [self.expression(x) for x in values], strict=True))
                case ast.Return(value=ast.expr() as value):
                    return self.outcome(value)
                case _:
                    raise Unreadable
        raise Unreadable

    def decided(self, test: ast.expr) -> bool | None:
        """How a test of one of the settings comes out where it is left alone, None for any other test."""
        match test:
            case ast.Compare(left=ast.Name(id=name), ops=[ast.Is() | ast.IsNot() as op], comparators=[other]):
                if name in SETTINGS and name in self.scope:
                    is_none = isinstance(other, ast.Constant) and other.value is None
                    return is_none == isinstance(op, ast.Is)
        return None

    def known(self, node: ast.expr) -> Any:
        """The object that a name outside of the function stands for, None if there is none."""
        match node:
            case ast.Name(id=name) if name not in self.scope:
                return self.outside.get(name)
            case ast.Attribute(value=value, attr=attr):
                base = self.known(value)
                return None if base is None else getattr(base, attr, None)
        return None

    def expression(self, node: ast.expr) -> ast.expr:
        return self.visit(copy.deepcopy(node))

    def generic_visit(self, node: ast.AST) -> Any:
        match node:
            case ast.Compare(ops=[_, _, *_]) | ast.Subscript(slice=ast.Tuple()):
                raise Unreadable
            case _ if isinstance(node, READABLE):
                return super().generic_visit(node)
        raise Unreadable

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Constant(0) if node.value is None else node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.scope:
            return self.scope[node.id]
        value = self.known(node)
        return ast.Constant(value) if isinstance(value, int | float) else ast.Name(named(value, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        known = self.known(node)
        return self.generic_visit(node) if known is None else ast.Name(named(known, node.attr))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        return negative(self.visit(node.operand)) if isinstance(node.op, ast.USub) else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if not isinstance(node.op, tuple(OPERATORS.values())):
            raise Unreadable
        return operation(node.op, self.visit(node.left), self.visit(node.right))

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        chosen = self.decided(node.test)
        return self.generic_visit(node) if chosen is None else self.visit(node.body if chosen else node.orelse)

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        return ast.List([self.visit(x) for x in node.elts])

    def visit_Call(self, node: ast.Call) -> ast.expr:
        binds = isinstance(node.func, ast.Attribute) and node.func.attr == "bind"
        function = self.known(node.func.value if binds else node.func)  # type: ignore[attr-defined]
        args = [self.visit(x) for x in node.args]
        keywords = {k.arg: self.visit(k.value) for k in node.keywords if k.arg and k.arg not in SETTINGS}
        if function is None:
            written, func = None, self.visit(node.func)
        else:
            name = named(function, ast.unparse(node.func))
            written, func = self.written_out(function, name, args, keywords), ast.Name(SHORT.get(name, name))
        own = [ast.keyword(k, x) for k, x in keywords.items() if not (isinstance(x, ast.Name) and x.id == k)]
        return written or ast.Call(func, list(filter(is_value, args)), [k for k in own if is_value(k.value)])

    def written_out(
        self, function: Any, name: str, args: list[ast.expr], keywords: dict[str, ast.expr]
    ) -> ast.expr | None:
        """A call as operators, or as what the function returns; None if it is to be shown by the function's name."""
        if name in CASTS:
            at = CASTS[name]
            return ast.Constant(0) if at is None else args[at]
        if name in OPERATORS and len(args) == 2:
            op = OPERATORS[name]()
            return ast.Compare(args[0], [op], [args[1]]) if isinstance(op, ast.cmpop) else operation(op, *args)
        match name:
            case "neg":
                return negative(args[0])
            case "square":
                return ast.BinOp(args[0], ast.Pow(), ast.Constant(2))
            case "rsqrt":
                return ast.BinOp(ast.Constant(1), ast.Div(), ast.Call(ast.Name("sqrt"), args[:1], []))
        # JAX's and NumPy's functions are known by their names.
        package = getattr(function, "__module__", "").partition(".")[0]
        if not isinstance(function, FunctionType) or package in ("jax", "numpy"):
            return None
        said = said_formula(function)
        if said is None and summary(function):
            return None
        try:
            given = inspect.signature(function).bind_partial(*args, **keywords).arguments
            reader = Reader(function, {k: x for k, x in given.items() if isinstance(x, ast.expr)})
            result = reader.result() if said is None else reader.expression(said)
        except (TypeError, Unreadable):
            return None
        return result if isinstance(result, ast.expr) else None


def is_value(node: ast.expr) -> bool:
    """Whether an expression stands for more than a type."""
    return not (isinstance(node, ast.Name) and is_type(node.id))


def named(x: Any, otherwise: str) -> str:
    """What an object is called, ``otherwise`` if it has no name."""
    if isinstance(x, Primitive):
        return x.name
    return getattr(x, "__name__", otherwise).rpartition(".")[2] if not isinstance(x, ModuleType) else otherwise
