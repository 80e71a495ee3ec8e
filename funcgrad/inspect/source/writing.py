"""``backward_source``: a function's value and gradient as the source of a Python function."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from funcgrad._jax import Var
from funcgrad.inspect.printing import lines_of
from funcgrad.inspect.source import algebra, functions, indexing, loops, shapes, structured
from funcgrad.inspect.source.arguments import Arguments, leaf_names
from funcgrad.inspect.source.blocks import Block, Module
from funcgrad.inspect.source.dead_code import without_dead_code
from funcgrad.inspect.source.expressions import assign, constant_text, expression, function, name, static
from funcgrad.inspect.source.lifting import Lifter
from funcgrad.inspect.source.names import Namespace
from funcgrad.inspect.source.outline import outline
from funcgrad.inspect.source.packing import bundles_of, packings_of, unpacking
from funcgrad.inspect.source.program import Program, callers_first, calls_of
from funcgrad.inspect.source.simplify import simplify
from funcgrad.inspect.source.staging import stage
from funcgrad.rules import RuleTable
from funcgrad.rules import default as default_rules

#: The rewrites of each operation: of indexing before those of shapes, and of shapes before those of numbers.
FAMILIES = (indexing.REWRITES, shapes.REWRITES, algebra.REWRITES)
REWRITES = {name: sum((x.get(name, ()) for x in FAMILIES), ()) for family in FAMILIES for name in family}
#: What a source imports, where it uses it.
IMPORTS = {
    "base64": "import base64",
    "zlib": "import zlib",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "np": "import numpy as np",
    "lax": "from jax import lax",
    "primitives": "from jax.extend.core import primitives",
}


def backward_source(
    fun: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False, *, rules: RuleTable | None = None
) -> Callable[..., str]:
    """A function that returns the forward and backward pass of the scalar function ``fun`` as Python source.

    Args:
      fun: as for ``funcgrad.value_and_grad``, and ``argnums``, ``has_aux`` and ``rules`` too.

    Returns:
      A function of ``fun``'s arguments. The source it returns defines ``value_and_grad``, a function of the same
      arguments that returns what ``funcgrad.value_and_grad(fun, argnums, has_aux)`` does. It needs JAX alone, and is
      good for arguments of the structure, shapes and dtypes of those given. Arguments that are not arrays are held
      fixed.

    Raises:
      TypeError: as ``funcgrad.value_and_grad`` does.
      ValueError: ``fun`` uses an array of more than a mebibyte that is not among its arguments.
      NotImplementedError: ``fun`` uses what has no source, such as a call back into Python.

    >>> import jax.numpy as jnp
    >>> def loss(w, x):
    ...     return jnp.sum(jnp.tanh(w * x))
    >>> print(backward_source(loss)(0.5, jnp.ones(3)))
    import jax
    import jax.numpy as jnp
    <BLANKLINE>
    <BLANKLINE>
    @jax.jit
    def value_and_grad(w, x):
    ...
    """
    rules = default_rules if rules is None else rules

    def source(*args: Any, **kwargs: Any) -> str:
        staged = stage(fun, args, kwargs, rules, argnums, has_aux)
        root, constants = tidied(staged.jaxpr)
        arguments = Arguments(fun, args, kwargs, argnums, staged, root)
        return written(root, constants, arguments, getattr(fun, "__name__", "<function>"), has_aux)

    return source


def tidied(jaxpr: Any) -> tuple[Program, dict[Var, Any]]:
    """A jaxpr as the program that is written down, and the constants that are used in it."""
    lifter = Lifter(jaxpr)
    root = lifter.lift(jaxpr)
    without_dead_code(root)
    simplify(root, REWRITES)
    outline(root)
    used = {x for program in callers_first(root) for x in program.uses()}
    return root, {v: x for v, x in lifter.constants.items() if v in used}


def written(root: Program, constants: Mapping[Var, Any], arguments: Arguments, title: str, has_aux: bool) -> str:
    called = calls_of(root)
    programs = [p for p in callers_first(root)[::-1] if p in called]
    uses = root.uses()
    gradients = {v: leaf.place for v, leaf in arguments.gradients() if type(v) is Var and uses[v] == 1}
    places = {leaf.var: leaf.place for leaf in arguments.leaves}
    packings = packings_of(root, places, gradients, arguments.by_name), bundles_of(root)
    module = Module(programs, packings, list(constants), {**functions.WRITERS, **loops.WRITERS, **structured.WRITERS})
    main = value_and_grad(module, root, arguments, title, has_aux)
    shown = [assign([name(module.known[v])], expression(constant_text(x))) for v, x in constants.items()]
    body = [*shown, *module.definitions, main]
    used = {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    parts = [
        [line for module_name, line in IMPORTS.items() if module_name in used],
        [line for statement in shown for line in lines_of(statement)],
        *[lines_of(statement) for statement in (*module.definitions, main)],
    ]
    return "\n\n\n".join("\n".join(part) for part in parts if part) + "\n"


def value_and_grad(module: Module, root: Program, arguments: Arguments, title: str, has_aux: bool) -> ast.stmt:
    """The function that a source defines."""
    block = Block(module, root, Namespace([*module.names.taken, *arguments.positional, *arguments.keywords]), {})
    block.body.append(ast.Expr(ast.Constant(docstring(title, [arguments.positional[i] for i in arguments.wanted]))))
    unpack(block, arguments)
    name_results(block, arguments)
    body = block.statements()
    result = ast.Return(arguments.result(block.all_typed(root.outputs), has_aux))
    main = function("value_and_grad", arguments.positional, [*body, result], arguments.keywords)
    fixed = arguments.static_names()
    decorator = expression("jax.jit(static_argnames=names)" if fixed else "jax.jit", names=static(tuple(fixed)))
    main.decorator_list.append(decorator)
    return main


def docstring(title: str, names: Sequence[str]) -> str:
    of = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    plain = re.sub(r"[^\w<>.]", "", title)
    return f"The value of {plain} and its gradient with respect to {of}."


def unpack(block: Block, arguments: Arguments) -> None:
    """Take the leaves out of the arguments."""
    uses = Counter(block.uses)
    for eqn in block.program.equations:
        for group in block.module.packing(eqn.params["program"]).inputs if eqn.name == "call" else ():
            uses.subtract(eqn.inputs[i] for i in group.members)
    groups: dict[Any, list[tuple[str, ast.expr]]] = {}
    short = leaf_names([leaf.place for leaf in arguments.leaves])
    for leaf, hint in zip(arguments.leaves, short, strict=True):
        argument, path = leaf.place
        if not path:
            block.values[leaf.var] = name(argument)
            block.module.known[leaf.var] = argument
            block.module.given.add(leaf.var)
        elif not uses[leaf.var]:
            block.module.known[leaf.var] = hint
        else:
            block.hints[leaf.var] = hint
            pair = block.bind(leaf.var, None), leaf.expression()
            groups.setdefault((argument, str(path[:-1])), []).append(pair)
    for pairs in groups.values():
        block.body += unpacking(pairs)


def name_results(block: Block, arguments: Arguments) -> None:
    """Hints for the names of the value and of the gradients."""
    backward = {v for eqn in block.program.equations if eqn.backward for v in eqn.outputs}
    for var, leaf in arguments.gradients():
        if type(var) is Var and var in backward:
            block.hints.setdefault(var, f"ct_{block.module.known[leaf.var]}")
    value = block.program.outputs[0]
    if type(value) is Var:
        block.hints.setdefault(value, "value")
