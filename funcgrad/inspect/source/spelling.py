"""Operations as expressions: each primitive has a template, the call or operator that a person would write for it.

In a template, ``x``, ``y`` and ``z`` are the operands, numbers among them as arrays of their type; ``a``, ``b`` and
``c`` are the same with numbers bare, for where they take the type of what they are combined with. ``*xs`` are all
operands, ``packed`` is all of them as one value, ``*alike`` is all of them broadcast to the result's shape, and
``first`` and ``second`` are the halves of them. What is in braces is evaluated when the source is written, given the
primitive's parameters and the types ``x_aval``, ``y_aval`` and ``out_aval``: an argument that comes to None, or to what
it is by default, is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad._jax import Literal
from funcgrad.inspect.source.expressions import Unprintable, call, expression, packed, public_primitive, static
from funcgrad.inspect.source.program import Equation, Program

#: What keywords are where they are left out, if not None.
DEFAULTS: dict[str, Any] = {
    "unit_diagonal": False, "left_side": False, "lower": False, "transpose_a": False, "conjugate_a": False,
    "pivoting": False, "full_matrices": True, "reverse": False, "tiled": False, "keepdims": False, "is_stable": True,
    "num_keys": 1, "feature_group_count": 1, "batch_group_count": 1, "indices_are_sorted": False,
    "unique_indices": False, "wrap_negative_indices": True, "check_vma": True,
}  # fmt: skip


class Names(Protocol):
    """What operations are written in terms of."""

    def bare(self, x: Any) -> ast.expr:
        """A value; a number as a Python literal."""
        ...

    def typed(self, x: Any) -> ast.expr:
        """A value; a number as an array of its type."""
        ...

    def function(self, program: Program, name: str, groups: int = 0, unused: int = 0) -> ast.expr:
        """The name of a function in the source that runs a program, on inputs one by one or in groups."""
        ...


#: A template, or a function that chooses one or writes the expression itself. ``BOUND`` is the primitive's.
Spelling = str | Callable[[Names, Equation], str | ast.expr]
BOUND = ""


def spelled(names: Names, eqn: Equation, spellings: Mapping[str, Spelling], each: Mapping[str, str]) -> ast.expr:
    """An equation as an expression: a value, or a tuple where the primitive has multiple results.

    The spellings in ``each`` are for each operand by itself.
    """
    try:
        if eqn.name in each:
            return packed([Template(names, eqn, [x]).filled(each[eqn.name]) for x in eqn.inputs])
        spelling = spellings.get(eqn.name, BOUND)
        chosen = spelling if isinstance(spelling, str) else spelling(names, eqn)
        if isinstance(chosen, ast.expr):
            return chosen
        if chosen == BOUND or eqn.params.get("accuracy") is not None:
            return bound(names, eqn)
        return Template(names, eqn, eqn.inputs).filled(chosen)
    except Unprintable as error:
        raise NotImplementedError(f"'{eqn.name}' cannot be written as source: it has the parameter {error}.") from None


def bound(names: Names, eqn: Equation) -> ast.expr:
    """What has no function of its own: its primitive, bound."""
    place = public_primitive(eqn.primitive)
    if place is None:
        raise NotImplementedError(f"'{eqn.name}' cannot be written as source: JAX has no public name for it.")
    given = {key: static(value) for key, value in eqn.params.items()}
    result = call(f"{place}.bind", [names.typed(x) for x in eqn.inputs], **given)
    is_list_of_one = eqn.primitive.multiple_results and len(eqn.outputs) == 1
    return expression("result[0]", result=result) if is_list_of_one else result


class Template(ast.NodeTransformer):
    """What stands for what in the template of an equation with some operands."""

    def __init__(self, names: Names, eqn: Equation, operands: list[Any]):
        self.names, self.eqn, self.operands = names, eqn, operands
        avals = [x.aval for x in operands]
        out = eqn.outputs[0].aval if eqn.outputs else None
        types = {**dict(zip(("x_aval", "y_aval"), avals, strict=False)), "out_aval": out}
        self.values = {**eqn.params, **types, "params": eqn.params, "function": names.function, **HELPERS}

    def filled(self, template: str) -> ast.expr:
        return self.visit(ast.parse(template, mode="eval").body)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        half = len(self.operands) // 2
        match node.id:
            case "x" | "y" | "z":
                return self.names.typed(self.operands["xyz".index(node.id)])
            case "a" | "b" | "c":
                numbers = all(type(x) is Literal for x in self.operands)
                return (self.names.typed if numbers else self.names.bare)(self.operands["abc".index(node.id)])
            case "packed":
                return packed(self.typed())
            case "first" | "second":
                return packed(self.typed()[:half] if node.id == "first" else self.typed()[half:])
        return node

    def visit_Starred(self, node: ast.Starred) -> Any:
        match node.value:
            case ast.Name(id="xs"):
                return self.typed()
            case ast.Name(id="alike"):
                return [self.alike(x) for x in self.operands]
            case ast.Set(elts=[code]):
                return [static(x) for x in self.value(code)]
        return self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> ast.expr | None:
        value = self.value(node.elts[0])
        return value if value is None or isinstance(value, ast.expr) else static(value)

    def visit_keyword(self, node: ast.keyword) -> ast.keyword | None:
        value = self.visit(node.value)
        is_default = isinstance(value, ast.Constant) and value.value == DEFAULTS.get(node.arg or "")
        return None if value is None or is_default else ast.keyword(node.arg, value)

    def typed(self) -> list[ast.expr]:
        return [self.names.typed(x) for x in self.operands]

    def alike(self, x: Any) -> ast.expr:
        """An operand for a function of ``lax``, which broadcasts scalars only."""
        shape = self.eqn.outputs[0].aval.shape
        given = self.names.typed(x)
        return given if x.aval.shape in (shape, ()) else call("jnp.broadcast_to", [given, static(shape)])

    def value(self, code: ast.expr) -> Any:
        return eval(compile(ast.Expression(code), "<template>", "eval"), self.values)


def short(values: Any) -> Any:
    """A single value instead of a sequence of one."""
    return values[0] if isinstance(values, tuple | list) and len(values) == 1 else values


def tuples(rows: Iterable[Iterable[Any]]) -> tuple:
    return tuple([tuple(map(int, row)) for row in rows])


def unless(default: int, values: Any) -> Any:
    """None for values that are all ``default``."""
    return None if values is None or set(np.ravel(values)) <= {default} else tuple(values)


def some_of(chosen: Any, everything: Iterable[Any]) -> Any:
    """None for what is all of something."""
    return None if chosen is None or set(chosen) == set(everything) else frozenset(chosen)


def limits(dtype: Any) -> tuple[Any, Any]:
    """The lowest and the highest number of a type."""
    if dtype == np.bool_:
        return False, True
    if jnp.issubdtype(dtype, np.floating):
        return -np.inf, np.inf
    return int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)


HELPERS = {f.__name__: f for f in (short, tuples, unless, some_of, limits)} | {"lax": lax, "np": np}
