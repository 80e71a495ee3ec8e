"""What comes from JAX's private modules comes from two files, one of which is nothing but names."""

from __future__ import annotations

import ast
from pathlib import Path

import jax
import jax.ad_checkpoint
from jax.interpreters import ad, batching, partial_eval

import funcgrad
from funcgrad._jax import compat, names

PACKAGE = Path(funcgrad.__file__).parent
SEAM = {Path(names.__file__), Path(compat.__file__)}


def imported(node: ast.AST) -> list[str]:
    """The modules, and the names in them, that an import brings."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_private_names_are_imported_in_the_seam_only():
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path not in SEAM
        for node in ast.walk(ast.parse(path.read_text()))
        if any(f"{name}.".startswith(("jax._src.", "jaxlib.")) for name in imported(node))
    ]
    assert not found, f"private names of JAX's, to be imported in funcgrad/_jax/names.py: {', '.join(found)}"


def test_names_are_names_and_nothing_else():
    def is_name(node: ast.stmt) -> bool:
        renamed = isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)
        return renamed or isinstance(node, ast.Import | ast.ImportFrom)

    _docstring, *rest = ast.parse(Path(names.__file__).read_text()).body
    assert not [ast.unparse(node) for node in rest if not is_name(node)]


def test_what_is_public_is_not_taken_from_where_it_is_private():
    """Of the modules of JAX's that are imported with it; jax.extend takes longer than funcgrad."""
    public = (jax, jax.ad_checkpoint, jax.core, jax.custom_derivatives, jax.debug, jax.dtypes, jax.errors, jax.lax)
    public += (jax.numpy, jax.random, jax.ref, jax.sharding, jax.tree_util, ad, batching, partial_eval)
    # Public in some of the supported releases only.
    sometimes = {"name_p", "convert_constvars_jaxpr", "dce_sink_p"}
    found = {
        f"{name}: {module.__name__}.{alias}"
        for name, value in vars(names).items()
        if not name.startswith("_") and name not in sometimes | {"annotations"}
        for module in public
        for alias, other in vars(module).items()
        if other is value and not alias.startswith("_") and not isinstance(value, type(ast))
    }
    assert not found
