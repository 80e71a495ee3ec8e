"""Syntax trees as text: expressions with the brackets they need, and statements broken to fit a line."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

WIDTH = 100

TEST, OR, AND, NOT, COMPARE, BIT_OR, XOR, BIT_AND, SHIFT, ADD, MULTIPLY, UNARY, POWER, ATOM = range(14)
BINARY: dict[type, tuple[str, int]] = {
    ast.BitOr: ("|", BIT_OR), ast.BitXor: ("^", XOR), ast.BitAnd: ("&", BIT_AND), ast.LShift: ("<<", SHIFT),
    ast.Add: ("+", ADD), ast.Sub: ("-", ADD), ast.Mult: ("*", MULTIPLY), ast.Div: ("/", MULTIPLY),
    ast.MatMult: ("@", MULTIPLY), ast.And: ("and", AND), ast.Or: ("or", OR),
}  # fmt: skip
PREFIXES: dict[type, tuple[str, int]] = {ast.USub: ("-", UNARY), ast.Invert: ("~", UNARY), ast.Not: ("not ", NOT)}
COMPARISONS: dict[type, str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "is",
    ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip


class Comment(ast.stmt):
    """A line that is no code. A chapter has a blank line before it."""

    def __init__(self, text: str, chapter: bool = False):
        super().__init__()
        self.text, self.chapter = text, chapter


def text(node: ast.AST, level: int = TEST) -> str:
    """A node on one line, in brackets if an operator in it binds looser than ``level``."""
    own, result = leveled(node)
    return result if own >= level else f"({result})"


def leveled(node: ast.AST) -> tuple[int, str]:
    """A node's text, and the level of the operator that binds the loosest in it."""
    match node:
        case ast.Name(id=name) | ast.arg(arg=name):
            return ATOM, name
        case ast.Constant(value=value):
            return ATOM, quoted(value) if isinstance(value, str) else "..." if value is ... else repr(value)
        case ast.Attribute(value=value, attr=attr):
            return ATOM, f"{text(value, ATOM)}.{attr}"
        case ast.Subscript(value=value, slice=index):
            return ATOM, f"{text(value, ATOM)}[{unbracketed(index)}]"
        case ast.Call(func=func, args=args, keywords=keywords):
            return ATOM, f"{text(func, ATOM)}({listed([*args, *keywords])})"
        case ast.Tuple(elts=elements):
            return ATOM, f"({listed(elements)}{',' if len(elements) == 1 else ''})"
        case ast.List(elts=elements):
            return ATOM, f"[{listed(elements)}]"
        case ast.Dict(keys=keys, values=values):
            pairs = [f"{text(key)}: {text(x)}" for key, x in zip(keys, values, strict=True) if key is not None]
            return ATOM, f"{{{', '.join(pairs)}}}"
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return POWER, f"{text(left, ATOM)}**{text(right, UNARY)}"
        case ast.BinOp(left=left, op=op, right=right):
            symbol, level = BINARY[type(op)]
            # Operators group from the left.
            return level, f"{text(left, level)} {symbol} {text(right, level + 1)}"
        case ast.BoolOp(op=op, values=values):
            symbol, level = BINARY[type(op)]
            return level, f" {symbol} ".join(text(x, level) for x in values)
        case ast.UnaryOp(op=op, operand=operand):
            symbol, level = PREFIXES[type(op)]
            return level, f"{symbol}{text(operand, level)}"
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return COMPARE, f"{text(left, BIT_OR)} {COMPARISONS[type(op)]} {text(right, BIT_OR)}"
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            return TEST, f"{text(body, OR)} if {text(test, OR)} else {text(otherwise)}"
        case ast.Lambda(args=arguments, body=body):
            return TEST, f"lambda {', '.join(parameters(arguments))}: {text(body)}"
        case ast.Starred(value=value):
            return ATOM, f"*{text(value, ATOM)}"
        case ast.keyword(arg=name, value=value):
            return ATOM, f"{name}={text(value)}"
        case ast.Slice(lower=lower, upper=upper, step=step):
            ends = ":".join("" if x is None else text(x) for x in (lower, upper))
            return ATOM, ends if step is None else f"{ends}:{text(step)}"
    raise TypeError(f"{type(node).__name__} has no text")


def quoted(value: str) -> str:
    plain = value.isprintable() and not set('"\\') & set(value)
    return f'"{value}"' if plain else repr(value)


def listed(nodes: Iterable[ast.AST]) -> str:
    return ", ".join(map(text, nodes))


def unbracketed(node: ast.AST) -> str:
    """A node where a tuple needs no brackets."""
    return listed(node.elts) if isinstance(node, ast.Tuple) and len(node.elts) > 1 else text(node)


def parameters(arguments: ast.arguments) -> list[str]:
    keywords = [x.arg for x in arguments.kwonlyargs]
    return [x.arg for x in arguments.args] + (["*", *keywords] if keywords else [])


# Statements.


def printed(body: Sequence[ast.stmt], room: int = WIDTH) -> list[str]:
    """The lines of the statements of a function, a blank one around every function and before every chapter."""
    lines: list[str] = []
    for i, statement in enumerate(body):
        before = body[i - 1] if i else None
        code = next((x for x in body[i:] if not isinstance(x, Comment)), None)
        is_apart = any(isinstance(x, ast.FunctionDef) for x in (before, code)) or getattr(statement, "chapter", False)
        if is_apart and before is not None and not isinstance(before, Comment):
            lines.append("")
        lines += lines_of(statement, room)
    return lines


def lines_of(node: ast.stmt, room: int = WIDTH) -> list[str]:
    match node:
        case Comment(text=words):
            return [f"# {words if len(words) + 2 <= room else words[: room - 6] + ' ...'}"]
        case ast.Assign(targets=[target], value=value):
            head = unbracketed(target)
            above: list[str] = []
            if isinstance(target, ast.Tuple) and len(head) > room - 23 and len(head + text(value)) + 3 > room:
                above = exploded("(", target.elts, ")", room)
                head = above.pop()
            return [*above, *ended(f"{head} = ", value, room)]
        case ast.AugAssign(target=target, op=op, value=value):
            return fitted(f"{text(target)} {BINARY[type(op)][0]}= ", value, "", room)
        case ast.Return(value=ast.expr() as value):
            return ended("return ", value, room)
        case ast.Expr(value=ast.Constant(value=str() as words)):
            return [f'"""{words}"""']
        case ast.Expr(value=value):
            return fitted("", value, "", room)
        case ast.FunctionDef(name=name, args=arguments, body=body, decorator_list=decorators):
            first = exploded(f"def {name}(", parameters(arguments), "):", room, whole=True)
            return [*(f"@{text(x)}" for x in decorators), *first, *indented(printed(body, room - 4))]
    return [ast.unparse(node)]


def ended(head: str, node: ast.expr, room: int) -> list[str]:
    line = f"{head}{unbracketed(node)}"
    return [line] if len(line) <= room else fitted(head, node, "", room)


def fitted(head: str, node: ast.expr, tail: str, room: int, level: int = TEST) -> list[str]:
    """The lines of ``head``, an expression and ``tail``."""
    line = f"{head}{text(node, level)}{tail}"
    if len(line) <= room:
        return [line]
    match node:
        case ast.Call(func=func, args=args, keywords=keywords):
            if isinstance(func, ast.Call) or (isinstance(func, ast.Attribute) and not is_dotted(func)):
                broken = fitted(head, func, f"({listed([*args, *keywords])}){tail}", room, ATOM)
                if max(map(len, broken)) <= room:
                    return broken
            return exploded(f"{head}{text(func, ATOM)}(", [*args, *keywords], f"){tail}", room)
        case ast.Attribute(value=value, attr=attr):
            return fitted(head, value, f".{attr}{tail}", room, ATOM)
        case ast.Subscript(value=value, slice=index):
            return fitted(head, value, f"[{unbracketed(index)}]{tail}", room, ATOM)
        case ast.Tuple(elts=elements):
            return exploded(f"{head}(", elements, f"){tail}", room, together=not head.startswith("return"))
        case ast.List(elts=elements):
            return exploded(f"{head}[", elements, f"]{tail}", room)
        case ast.Dict(keys=keys, values=values):
            pairs = [fitted(f"{text(key)}: ", x, ",", room - 4) for key, x in zip(keys, values, strict=True) if key]
            return [f"{head}{{", *indented(line for pair in pairs for line in pair), f"}}{tail}"]
        case ast.BinOp() | ast.Compare():
            if head or tail.strip(",") or leveled(node)[0] < level:
                return [f"{head}(", *indented(operands(node, room - 4)), f"){tail}"]
            *parts, last = operands(node, room)
            return [*parts, last + tail]
        case ast.UnaryOp(op=op, operand=operand):
            return fitted(f"{head}{PREFIXES[type(op)][0]}", operand, tail, room, UNARY)
        case ast.Constant(value=str() as words):
            pieces = [quoted(words[i : i + room - 8]) for i in range(0, len(words), room - 8)]
            return [head + pieces[0], *pieces[1:-1], pieces[-1] + tail]
    return [line]


def operands(node: ast.expr, room: int) -> list[str]:
    """A chain of operators of one level, an operand a line."""
    if isinstance(node, ast.Compare):
        symbol = COMPARISONS[type(node.ops[0])]
        right = fitted(f"{symbol} ", node.comparators[0], "", room, BIT_OR)
        return [*fitted("", node.left, "", room, BIT_OR), *right]
    level = leveled(node)[0]
    parts: list[list[str]] = []
    while isinstance(node, ast.BinOp) and leveled(node)[0] == level:
        symbol = BINARY.get(type(node.op), ("**",))[0]
        parts.append(fitted(f"{symbol} ", node.right, "", room, level + 1))
        node = node.left
    parts.append(fitted("", node, "", room, level))
    return [line for part in reversed(parts) for line in part]


def exploded(
    head: str, items: Sequence[ast.AST | str], tail: str, room: int, together: bool = True, whole: bool = False
) -> list[str]:
    """The items on one line of their own, or if they do not fit, on one each; on the line of the rest if ``whole``."""
    joined = ", ".join(x if isinstance(x, str) else text(x) for x in items)
    if not items or (whole and len(head) + len(joined) + len(tail) <= room):
        return [f"{head}{joined}{tail}"]
    if together and len(joined) + 4 <= room and not (len(items) == 1 and isinstance(items[0], ast.Tuple)):
        return [head, f"    {joined}", tail]
    lines = [head]
    for item in items:
        match item:
            case ast.keyword(arg=name, value=value):
                lines += indented(fitted(f"{name}=", value, ",", room - 4))
            case ast.expr():
                lines += indented(fitted("", item, ",", room - 4))
            case _:
                lines.append(f"    {item},")
    return [*lines, tail]


def indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else line for line in lines]


def is_dotted(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)
