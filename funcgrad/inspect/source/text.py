"""Python as text: expressions that know how tightly they bind, and statements broken to fit a line."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 100

OR, XOR, AND, SHIFT, ADD, MULTIPLY, UNARY, POWER, ATOM = range(1, 10)
TEST = 0


class Text(NamedTuple):
    """An expression, and the level of the operator that binds the loosest in it."""

    text: str
    level: int = ATOM

    def within(self, level: int) -> str:
        return self.text if self.level >= level else f"({self.text})"

    def __str__(self) -> str:
        return self.text


def binary(symbol: str, level: int, left: Text, right: Text) -> Text:
    """Operators group from the left, so a right operand of the same level is put in brackets."""
    if level == POWER:
        return Text(f"{left.within(ATOM)}**{right.within(UNARY)}", POWER)
    if level == TEST:
        return Text(f"{left.within(OR)} {symbol} {right.within(OR)}", TEST)
    return Text(f"{left.within(level)} {symbol} {right.within(level + 1)}", level)


def prefix(symbol: str, x: Text) -> Text:
    return Text(f"{symbol}{x.within(UNARY)}", UNARY)


def call(function: str, *args: object, **keywords: object) -> Text:
    given = [str(x) for x in args] + [f"{name}={value}" for name, value in keywords.items()]
    return Text(f"{function}({', '.join(given)})")


def tuple_of(items: Sequence[object]) -> str:
    return f"({', '.join(map(str, items))}{',' if len(items) == 1 else ''})"


def statement(text: str, indent: int) -> list[str]:
    """The lines of a statement, broken at brackets where it is longer than a line."""
    room = WIDTH - indent
    pad = " " * indent
    if len(text) <= room or not text.isascii():
        return [pad + text]
    try:
        node = ast.parse(text).body[0]
    except SyntaxError:  # the head of a block
        node = ast.parse(text + "\n    pass").body[0]
    return [pad + line if line else line for line in Breaker(text).lines(node, room)]


class Breaker:
    """Breaks one statement, given as a single line of ASCII."""

    def __init__(self, text: str):
        self.text = text

    def lines(self, node: ast.stmt, room: int) -> list[str]:
        match node:
            case ast.Assign(targets=[target], value=value):
                head = self.of(target)
                if len(head) + 20 > room and isinstance(target, ast.Tuple):
                    *names, last = self.exploded("(", target.elts, ")", room)
                    return [*names, *self.fitted(f"{last} = ", value, "", room)]
                return self.fitted(f"{head} = ", value, "", room)
            case ast.Return(value=ast.expr() as value):
                return self.fitted("return ", value, "", room)
            case ast.Expr(value=value):
                return self.fitted("", value, "", room)
            case ast.FunctionDef(args=args):
                return self.exploded(f"def {node.name}(", args.args, "):", room)
        return [self.text]

    def of(self, node: ast.AST) -> str:
        """The text of a node, the brackets around it included."""
        text = ast.get_source_segment(self.text, node) or ""
        if isinstance(node, ast.expr) and not isinstance(node, ast.Tuple):
            before, after = self.text[: node.col_offset], self.text[node.end_col_offset :]
            while before.endswith("(") and after.startswith(")") and is_group(before):
                before, after, text = before[:-1], after[1:], f"({text})"
        return text

    def fitted(self, head: str, node: ast.expr, tail: str, room: int) -> list[str]:
        """The lines of ``head``, an expression and ``tail``."""
        text = self.of(node)
        if len(head) + len(text) + len(tail) <= room:
            return [f"{head}{text}{tail}"]
        bracketed = text.startswith("(") and not isinstance(node, ast.Tuple) and node.col_offset > 0
        match node:
            case ast.Call(func=func, args=args, keywords=keywords):
                items = [*args, *keywords]
                if isinstance(func, ast.Call) or (isinstance(func, ast.Attribute) and not is_dotted(func)):
                    given = f"({', '.join(map(self.of, items))}){tail}"
                    broken = self.fitted(head, func, given, room)
                    if max(map(len, broken)) <= room:
                        return broken
                return self.exploded(f"{head}{self.of(func)}(", items, f"){tail}", room)
            case ast.Attribute(value=value, attr=attr):
                return self.fitted(head, value, f".{attr}{tail}", room)
            case ast.Subscript(value=value):
                rest = self.text[value.end_col_offset : node.end_col_offset].lstrip(")")
                return self.fitted(head, value, f"{rest}{tail}", room)
            case ast.Tuple(elts=elements):
                return self.exploded(f"{head}(", elements, f"){tail}", room, together=not head.startswith("return"))
            case ast.List(elts=elements):
                return self.exploded(f"{head}[", elements, f"]{tail}", room)
            case ast.Dict(keys=keys, values=values):
                lines = [f"{head}{{"]
                for key, value in zip(keys, values, strict=True):
                    lines += indented(self.fitted(f"{self.of(key) if key else ''}: ", value, ",", room - 4))
                return [*lines, f"}}{tail}"]
            case ast.BinOp() | ast.Compare():
                if bracketed or head or tail.strip(","):
                    return [f"{head}(", *indented(self.operands(node, room - 4)), f"){tail}"]
                *parts, last = self.operands(node, room)
                return [*parts, last + tail]
            case ast.UnaryOp(op=op, operand=operand):
                return self.fitted(f"{head}{'-' if isinstance(op, ast.USub) else '~'}", operand, tail, room)
        return [f"{head}{text}{tail}"]

    def operands(self, node: ast.BinOp | ast.Compare, room: int) -> list[str]:
        """A chain of operators of one level, an operand a line."""
        if isinstance(node, ast.Compare):
            symbol = self.between(node.left, node.comparators[0])
            right = self.fitted(f"{symbol} ", node.comparators[0], "", room)
            return [*self.fitted("", node.left, "", room), *right]
        levels = next((group for group in LEVELS if isinstance(node.op, group)), (type(node.op),))
        parts: list[list[str]] = []
        current: ast.expr = node
        while isinstance(current, ast.BinOp) and isinstance(current.op, levels):
            if parts and self.of(current).startswith("(") and self.of(current) != self.segment(current):
                break
            symbol = self.between(current.left, current.right)
            parts.append(self.fitted(f"{symbol} ", current.right, "", room))
            current = current.left
        parts.append(self.fitted("", current, "", room))
        return [line for part in reversed(parts) for line in part]

    def segment(self, node: ast.expr) -> str:
        return self.text[node.col_offset : node.end_col_offset]

    def between(self, left: ast.expr, right: ast.expr) -> str:
        return self.text[left.end_col_offset : right.col_offset].strip(" ()")

    def exploded(self, head: str, items: Sequence[ast.AST], tail: str, room: int, together: bool = True) -> list[str]:
        """The items on one line of their own, or if they do not fit, on one each."""
        if not items:
            return [f"{head}{tail}"]
        joined = ", ".join(map(self.of, items))
        if together and len(joined) + 4 <= room and not (len(items) == 1 and isinstance(items[0], ast.Tuple)):
            return [head, f"    {joined}", tail]
        lines = [head]
        for item in items:
            if isinstance(item, ast.keyword):
                lines += indented(self.fitted(f"{item.arg}=", item.value, ",", room - 4))
            elif isinstance(item, ast.expr):
                lines += indented(self.fitted("", item, ",", room - 4))
            else:
                lines.append(f"    {self.of(item)},")
        return [*lines, tail]


#: Operators that are broken together.
LEVELS = ((ast.Add, ast.Sub), (ast.Mult, ast.Div, ast.MatMult))


def indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def is_dotted(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def is_group(before: str) -> bool:
    """Whether the bracket that ``before`` ends with groups, and does not call."""
    rest = before[:-1].rstrip()
    return not rest or not (rest[-1].isalnum() or rest[-1] in "_)]")
