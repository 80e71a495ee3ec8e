"""Looking at sources: what they define, and whether they are right and tidy."""

from __future__ import annotations

import ast
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import funcgrad as fg
from tests.agreement import assert_same


def run(source: str) -> Any:
    """The function that a source defines."""
    namespace: dict[str, Any] = {}
    exec(compile(source, "<generated>", "exec"), namespace)
    return namespace["value_and_grad"]


def strong(tree):
    """Arrays of types that are not weak: a source does not keep which are."""
    return jax.tree.map(lambda x: lax.convert_element_type(x, jnp.result_type(x)), tree)


def assert_gives(source: str, fun, *args, argnums=0, tolerance=1e-6, **options):
    """``source`` gives the value and the gradient that funcgrad does."""
    reference = fg.value_and_grad(fun, argnums, **options)
    generated = run(source)

    def both(*arrays: Any) -> Any:
        rest = iter(arrays)
        given = [x if isinstance(x, bool | str) else next(rest) for x in args]
        return strong(generated(*given)), strong(reference(*given))

    got, expected = jax.jit(both)(*(x for x in args if not isinstance(x, bool | str)))
    assert_same(jax.device_get(got), jax.device_get(expected), tolerance)


def check(fun, *args, argnums=0, tolerance=1e-6, **options) -> str:
    """The source of ``fun``, which was seen to be right and tidy."""
    source = fg.backward_source(fun, argnums, **options)(*args)
    assert_tidy(source)
    assert_gives(source, fun, *args, argnums=argnums, tolerance=tolerance, **options)
    return source


def assert_tidy(source: str) -> None:
    tree = ast.parse(source)
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {name.partition(".")[0] for name in modules} <= {"jax", "numpy", "base64", "zlib"}
    assert max(map(len, source.splitlines())) <= 100
    assert not re.search(r" $", source, re.MULTILINE)
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        assert unused(function) == set(), function.name


def unused(function: ast.FunctionDef) -> set[str]:
    """The names that a function assigns and nothing in it uses."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    loaded = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return {node.id for node in names if isinstance(node.ctx, ast.Store)} - loaded - {"_"}


def body_of(source: str, name: str = "value_and_grad") -> list[str]:
    """The statements of a function in a source, without comments and docstring."""
    found = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == name]
    return [ast.unparse(x) for x in found[0].body if not isinstance(x, ast.Expr)]


def code_of(source: str) -> str:
    """A source without its comments."""
    return "\n".join(line for line in source.splitlines() if not line.strip().startswith("#"))


def comments_of(source: str) -> list[str]:
    return [line.strip().removeprefix("# ") for line in source.splitlines() if line.strip().startswith("#")]
