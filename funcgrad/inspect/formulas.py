"""Rules as text: a rule's formulas, read from its source and written as in a textbook.

``lambda ct, x, y: mul(ct, div(y, x))`` reads ``ct * (y / x)``: operations are written as operators, helpers of one
expression are written out, and what only tells the compiler something is left out. A helper with a docstring says in
its first sentence what it computes; where it is the whole formula, that is what is shown.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from funcgrad._jax import Primitive
from funcgrad.inspect.syntax import syntax
from funcgrad.rules.rule import Formula, Joint, Rule

__all__ = ["derived_text", "formula_text", "saved_names"]

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
        return [x.text for x in result] if isinstance(result, list) else [text_of(function, aliases(rule))]
    if rule.formula:
        return [rule.formula]
    return [text for part in parts(rule) for text in formula_text(part) if text != "0"]


def saved_names(rule: Rule) -> list[str]:
    """What a rule saves when all operands are active: operands and outputs by name, or what it computes to save it.

    >>> from jax import lax
    >>> from funcgrad.rules import default
    >>> saved_names(default[lax.mul_p]), saved_names(default[lax.neg_p])
    (['y', 'x'], [])
    """
    if isinstance(rule, Formula):
        names = [name for s in rule.signatures if s is not None for name in s.names]
    elif isinstance(rule, Joint):
        names = list(rule.names)
    else:
        names = [*rule.saved, *(name for part in parts(rule) for name in saved_names(part))]
    known = aliases(rule)
    return [name for name in dict.fromkeys(known.get(name, name) for name in names) if not is_type(name)]


def derived_text(rule: Rule) -> dict[str, str]:
    """What a rule computes on the way forward in order to save it, as text.

    >>> from jax import lax
    >>> from funcgrad.rules import default
    >>> derived_text(default[lax.max_p])
    {'x_wins': 'x == out', 'y_wins': 'y == out'}
    """
    if isinstance(rule, Formula | Joint):
        return {name: text_of(s.function) for name, s in rule.derived.items() if name not in aliases(rule)}
    return {name: text for part in parts(rule) for name, text in derived_text(part).items()}


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
        return known
    result = read(function, names)
    if isinstance(result, Text) and len(result.text) <= LONGEST:
        return result.text
    function = inspect.unwrap(function)
    parameters = inspect.signature(function).parameters.values()
    given = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    name = getattr(function, "__name__", "<lambda>")
    shown = ", ".join(x for x in given if x != "active" and not is_type(x))
    return f"{'f' if name == '<lambda>' else name}({shown})"


def summary(function: Callable) -> str:
    """The first sentence of a docstring."""
    doc = inspect.getdoc(inspect.unwrap(function)) if hasattr(function, "__code__") else None
    return "" if not doc else " ".join(doc.split("\n\n")[0].split()).partition(". ")[0].rstrip(".").replace("``", "")


def read(function: Callable, names: Mapping[str, str] | None = None) -> Text | list[Text] | None:
    """The expression that a function returns, a list of those it returns a tuple of, or None if that is not simple."""
    try:
        return Reader(inspect.unwrap(function), {name: Text(text) for name, text in (names or {}).items()}).result()
    except Unreadable:
        return None


# Expressions. A text has the level of the operator that binds the loosest in it.

TEST, OR, AND, NOT, COMPARE, BITS, ADD, DIVIDE, MULTIPLY, UNARY, POWER, ATOM = range(12)


class Text(NamedTuple):
    text: str
    level: int = ATOM
    #: Whether it stands for a shape and a dtype only.
    is_type: bool = False
    #: Of ``1 / x``, x.
    inverse: Any = None

    def within(self, level: int) -> str:
        return self.text if self.level >= level else f"({self.text})"


class Unreadable(Exception):
    """What is to be read is more than an expression."""


BINARY = {
    "or": ("or", OR), "and": ("and", AND), "eq": ("==", COMPARE), "ne": ("!=", COMPARE), "lt": ("<", COMPARE),
    "le": ("<=", COMPARE), "gt": (">", COMPARE), "ge": (">=", COMPARE), "bitwise_or": ("|", BITS),
    "bitwise_and": ("&", BITS), "add": ("+", ADD), "sub": ("-", ADD), "mul": ("*", MULTIPLY), "div": ("/", DIVIDE),
    "pow": ("**", POWER), "integer_pow": ("**", POWER),
}  # fmt: skip
OPERATORS = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow", ast.And: "and",
    ast.Or: "or", ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge",
}  # fmt: skip
TESTS = {ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}
#: Functions that are known by a shorter name.
SHORT = {"select": "where", "reduce_sum": "sum", "broadcast_in_dim": "broadcast", "convert_element_type": "convert"}
#: Functions that only say what type a constant or a value is to have, by the argument that counts.
CASTS = {"const": 1, "full_like": 1, "convert": 0, "instantiated": 0, "zeros": None, "zeros_like": None}
#: Parameters that do not change what is computed.
SETTINGS = {
    "accuracy", "precision", "preferred_element_type", "out_dtype", "sharding", "out_sharding", "dimensions",
    "weak_type",
}  # fmt: skip


def operation(name: str, left: Text, right: Text) -> Text:
    if name == "mul" and right.inverse is not None:
        name, right = "div", right.inverse
    symbol, level = BINARY[name]
    if level == POWER:
        return Text(f"{left.within(ATOM)}{symbol}{right.within(UNARY)}", POWER)
    if level <= BITS:
        inner = level if level < COMPARE else ADD
        return Text(f"{left.within(inner)} {symbol} {right.within(inner)}", level)
    # Only + and * may be regrouped.
    inner = {"sub": DIVIDE, "div": UNARY}.get(name, level)
    text = f"{left.within(min(level, DIVIDE))} {symbol} {right.within(inner)}"
    return Text(text, DIVIDE if level == MULTIPLY and left.level == DIVIDE else level)


def negative(x: Text) -> Text:
    return Text(f"-{x.within(DIVIDE)}", min(x.level, UNARY) if x.level >= DIVIDE else UNARY)


class Reader:
    """Reads the source of one function, given the texts of its arguments: their names where not said otherwise."""

    def __init__(self, function: Any, given: dict[str, Text] | None = None):
        node = syntax(function)
        if node is None:
            raise Unreadable
        self.node = node
        closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self.outside = {**vars(builtins), **function.__globals__}
        self.outside.update((name, cell.cell_contents) for name, cell in closure)
        names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        self.scope = {name: Text(name.removesuffix("_aval"), is_type=is_type(name)) for name in names}
        self.scope.update(given or {})

    def result(self) -> Text | list[Text]:
        if isinstance(self.node, ast.Lambda):
            return self.outcome(self.node.body)
        return self.run(self.node.body)

    def outcome(self, node: ast.expr) -> Text | list[Text]:
        match node:
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return [self.expression(x) for x in elements]
            case ast.BinOp(left=ast.List(elts=elements), op=ast.Add(), right=ast.BinOp(left=ast.List())):
                # [first, ...] + [None] * (how many others there are)
                return [self.expression(x) for x in elements]
        return self.expression(node)

    def run(self, statements: Sequence[ast.stmt]) -> Text | list[Text]:
        """What a block returns. Checks that raise are passed over."""
        for i, statement in enumerate(statements):
            match statement:
                case ast.Expr(value=ast.Constant()):
                    continue
                case ast.If(body=[ast.Raise()], orelse=[]):
                    continue
                case ast.Raise():
                    return Text("none: an error")
                case ast.If(test=test, body=body, orelse=otherwise) if self.decided(test) is not None:
                    return self.run([*(body if self.decided(test) else otherwise), *statements[i + 1 :]])
                case ast.If(test=test, body=body, orelse=[]) if isinstance(body[-1], ast.Return):
                    one, other = self.copy().run(body), self.run(statements[i + 1 :])
                    if isinstance(one, list) or isinstance(other, list):
                        raise Unreadable
                    return alternative(self.expression(test), one, other)
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

    def copy(self) -> Reader:
        other = object.__new__(Reader)
        other.node, other.outside, other.scope = self.node, self.outside, dict(self.scope)
        return other

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

    def expression(self, node: ast.expr) -> Text:
        match node:
            case ast.Constant(value=value):
                return Text("0" if value is None else repr(value))
            case ast.Name(id=name) if name in self.scope:
                return self.scope[name]
            case ast.Name(id=name):
                value = self.known(node)
                return Text(repr(value) if isinstance(value, int | float) else named(value, name))
            case ast.Attribute(value=value, attr=attr):
                known = self.known(node)
                if known is not None:
                    return Text(named(known, attr))
                return Text(f"{self.expression(value).within(ATOM)}.{attr}")
            case ast.Subscript(value=value, slice=index) if not isinstance(index, ast.Tuple):
                return Text(f"{self.expression(value).within(ATOM)}[{self.index(index)}]")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return negative(self.expression(operand))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Text(f"not {self.expression(operand).within(NOT)}", NOT)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATORS:
                return operation(OPERATORS[type(op)], self.expression(left), self.expression(right))
            case ast.BoolOp(op=op, values=values):
                texts = [self.expression(x) for x in values]
                return functools.reduce(functools.partial(operation, OPERATORS[type(op)]), texts)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
                return operation(OPERATORS[type(op)], self.expression(left), self.expression(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in TESTS:
                sides = [self.expression(x).within(ADD) for x in (left, right)]
                return Text(f" {TESTS[type(op)]} ".join(sides), COMPARE)
            case ast.IfExp(test=test, body=body, orelse=otherwise) if self.decided(test) is not None:
                return self.expression(body if self.decided(test) else otherwise)
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                return alternative(self.expression(test), self.expression(body), self.expression(otherwise))
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                return Text(f"[{', '.join(self.expression(x).text for x in elements)}]")
            case ast.Starred(value=value):
                return Text(f"*{self.expression(value).within(ATOM)}")
            case ast.Call():
                return self.call(node)
        raise Unreadable

    def index(self, node: ast.expr) -> str:
        if isinstance(node, ast.Slice):
            return ":".join("" if x is None else self.expression(x).text for x in (node.lower, node.upper))
        return self.expression(node).text

    def call(self, node: ast.Call) -> Text:
        binds = isinstance(node.func, ast.Attribute) and node.func.attr == "bind"
        function = self.known(node.func.value if binds else node.func)  # type: ignore[attr-defined]
        args = [self.expression(x) for x in node.args]
        keywords = {k.arg: self.expression(k.value) for k in node.keywords if k.arg and k.arg not in SETTINGS}
        if function is None:
            name = self.expression(node.func).within(ATOM)
        else:
            name = named(function, ast.unparse(node.func))
            written = self.written_out(function, name, args, keywords)
            if written is not None:
                return written
        shown = [x.text for x in args if not x.is_type]
        shown += [f"{k}={x.text}" for k, x in keywords.items() if x.text != k and not x.is_type]
        return Text(f"{SHORT.get(name, name)}({', '.join(shown)})")

    def written_out(self, function: Any, name: str, args: list[Text], keywords: dict[str, Text]) -> Text | None:
        """A call as operators, or as what the function returns; None if it is to be shown by the function's name."""
        if name in CASTS:
            at = CASTS[name]
            return Text("0") if at is None else args[at]
        if name in BINARY and len(args) == 2:
            return operation(name, *args)
        if name == "neg":
            return negative(args[0])
        if name == "square":
            return operation("pow", args[0], Text("2"))
        if name == "rsqrt":
            root = Text(f"sqrt({args[0].text})")
            return Text(f"1 / {root.text}", DIVIDE, inverse=root)
        if not is_ours(function) or summary(function):
            return None
        try:
            bound = inspect.signature(function).bind_partial(*args, **keywords).arguments
            result = Reader(function, {k: x for k, x in bound.items() if isinstance(x, Text)}).result()
        except (TypeError, Unreadable):
            return None
        return result if isinstance(result, Text) else None


def alternative(test: Text, chosen: Text, otherwise: Text) -> Text:
    return Text(f"{chosen.within(OR)} if {test.within(OR)} else {otherwise.text}", TEST)


def is_ours(function: Any) -> bool:
    """Whether a function may be written out: JAX's and NumPy's are known by their names."""
    package = getattr(function, "__module__", "").partition(".")[0]
    return isinstance(function, FunctionType) and package not in ("jax", "numpy")


def named(x: Any, otherwise: str) -> str:
    """What an object is called, ``otherwise`` if it has no name."""
    if isinstance(x, Primitive):
        return x.name
    return getattr(x, "__name__", otherwise).rpartition(".")[2] if not isinstance(x, ModuleType) else otherwise
