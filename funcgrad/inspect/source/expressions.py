"""Syntax trees from templates, Python whose names stand for others, and parameters, constants and types as text."""

from __future__ import annotations

import ast
import base64
import enum
import functools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from funcgrad import _jax
from funcgrad.inspect.printing import text

#: Arrays of more numbers than this are written as compressed text.
LONGEST_ARRAY = 16
#: The bytes of arrays that a source may contain.
LARGEST_CONSTANT = 2**20


class Unprintable(Exception):
    """A value that no expression evaluates to."""


def dtype_text(dtype: Any) -> str:
    name = np.dtype(dtype).name
    return "jnp.bool_" if name == "bool" else f"jnp.{name}"


def scalar_text(value: Any) -> str:
    """A number as a Python literal."""
    x: Any = np.asarray(value)[()]
    dtype = np.asarray(value).dtype
    if dtype == np.bool_:
        return str(bool(x))
    if jnp.issubdtype(dtype, np.integer):
        return str(int(x))
    if jnp.issubdtype(dtype, np.complexfloating):
        return f"complex({scalar_text(x.real)}, {scalar_text(x.imag)})"
    if not np.isfinite(float(x)):
        return "jnp.nan" if float(x) != float(x) else "jnp.inf" if float(x) > 0 else "-jnp.inf"
    text = str(x)
    return text if any(c in text for c in ".en") else f"{text}.0"


def static_text(value: Any) -> str:
    """A parameter as an expression. Raises ``Unprintable`` for what is none, such as a function of the user's."""
    match value:
        case enum.Enum():
            return f"{owner_of(type(value))}.{value.name}"
        case None | bool() | int() | bytes() | str():
            return repr(value)
        case float() | complex() | np.generic():
            return scalar_text(value)
        case np.dtype():
            return dtype_text(value)
        case PartitionSpec():
            return f"jax.sharding.PartitionSpec({', '.join(map(static_text, value))})"
        case jax.sharding.Mesh() | jax.sharding.AbstractMesh():
            return mesh_text(value)
        case NamedSharding():
            return f"jax.sharding.NamedSharding({mesh_text(value.mesh)}, {static_text(value.spec)})"
        case tuple() if hasattr(value, "_fields"):
            fields = ", ".join(f"{name}={static_text(x)}" for name, x in zip(value._fields, value, strict=True))
            return f"{owner_of(type(value))}({fields})"
        case tuple():
            return f"({', '.join(map(static_text, value))}{',' if len(value) == 1 else ''})"
        case list():
            return f"[{', '.join(map(static_text, value))}]"
        case frozenset() | set():
            return f"{type(value).__name__}([{', '.join(sorted(map(static_text, value)))}])"
        case dict():
            return "{" + ", ".join(f"{static_text(k)}: {static_text(v)}" for k, v in value.items()) + "}"
        case type() if issubclass(value, np.generic):
            return dtype_text(value)
        case _jax.Primitive() if public_primitive(value) is not None:
            return str(public_primitive(value))
        case np.ndarray() | jax.Array():
            return array_text(np.asarray(value))
    if hasattr(value, "__dataclass_fields__"):
        given = [f"{name}={static_text(getattr(value, name))}" for name in value.__dataclass_fields__]
        return f"{owner_of(type(value))}({', '.join(given)})"
    return owner_of(value)


PLACES = ((lax, "lax"), (jax, "jax"), (jax.sharding, "jax.sharding"), (lax.linalg, "lax.linalg"), (jnp, "jnp"))


def owner_of(kind: Any) -> str:
    """Where JAX has a class or function, as it is reached from ``import jax``."""
    name = getattr(kind, "__name__", "")
    for module, where in PLACES:
        if getattr(module, name, None) is kind:
            return f"{where}.{name}"
    raise Unprintable(f"{kind!r}")


def mesh_text(mesh: Any) -> str:
    shape = tuple(mesh.axis_sizes)
    kinds = ", ".join(f"jax.sharding.AxisType.{kind.name}" for kind in mesh.axis_types)
    if isinstance(mesh, jax.sharding.AbstractMesh):
        return f"jax.sharding.AbstractMesh({shape}, {static_text(tuple(mesh.axis_names))}, axis_types=({kinds},))"
    numbers = [d.id for d in mesh.devices.flat]
    if numbers != list(range(len(numbers))):
        raise Unprintable(f"a mesh of the devices {numbers}, in this order")
    return f"jax.make_mesh({shape}, {static_text(tuple(mesh.axis_names))}, axis_types=({kinds},))"


def array_text(x: np.ndarray) -> str:
    """An array as an expression: its numbers, or where there are many, its bytes, compressed."""
    dtype = dtype_text(x.dtype) if x.dtype != jax.dtypes.float0 else "jax.dtypes.float0"
    if x.dtype == jax.dtypes.float0:
        return f"np.zeros({x.shape}, {dtype})"
    if x.size and (x == x.flat[0]).all():
        return f"jnp.full({x.shape}, {scalar_text(x.flat[0])}, {dtype})"
    if x.size <= LONGEST_ARRAY:
        return f"jnp.array({nested(x)}, {dtype})"
    packed = base64.b85encode(zlib.compress(np.ascontiguousarray(x).tobytes(), 9)).decode()
    data = f"zlib.decompress(base64.b85decode({packed!r}))"
    return f"jnp.array(np.frombuffer({data}, {dtype}).reshape({x.shape}))"


def nested(x: np.ndarray) -> str:
    return f"[{', '.join(nested(row) for row in x)}]" if x.ndim else scalar_text(x)


def constant_text(value: Any) -> str:
    aval = _jax.typeof(value)
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        data = np.asarray(jax.random.key_data(value))
        return f"jax.random.wrap_key_data({array_text(data)}, impl={str(jax.random.key_impl(value))!r})"
    x = np.asarray(value)
    if x.nbytes > LARGEST_CONSTANT and (x != x.flat[0]).any():
        raise ValueError(
            f"the function uses an array of shape {x.shape} and {x.nbytes / 2**20:.1f} MiB that is not among its "
            "arguments, and so would have to stand in the source. Pass it as an argument."
        )
    return array_text(x)


@functools.cache
def public_primitive(primitive: Any) -> str | None:
    """Where JAX has a primitive, as it is reached from the modules that a source may import; None if nowhere."""
    from jax.extend.core import primitives

    places: Iterable[tuple[Any, str]] = ((lax, "lax"), (lax.linalg, "lax.linalg"), (primitives, "primitives"))
    for module, where in places:
        for known, value in vars(module).items():
            if value is primitive:
                return f"{where}.{known}"
    return None


# Trees.


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
